"""Checkpoints: loading (`loading.py`), file names (`files.py`), what is recorded beside the weights (`records.py`), the
folder of a run while it trains (`run_folder.py`), versions and cores (`environment.py`)."""
