"""Training: the recipe (`recipe.py`), the model to start from (`setup.py`), the loop (`loop.py`), the files of a run
(`checkpoints.py`). `train.py` at the top is the script over them."""
