"""Checkpoints: loading (`loading.py`), the files of a run (`run_folder.py`), versions and cores (`environment.py`)."""
