"""Checkpoints of the reference implementation: read without running what they hold (`unpickle.py`), and written as ours
(`convert.py`). `convert_original_checkpoint.py` at the top is the script over them."""
