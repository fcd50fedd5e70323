"""Tasks: a built dataset (`data.py`) becomes training rows (`mixture.py`, worded by `wordings.py`) and tensors
(`collator.py`); `vocabulary.py` trains the pieces of a model that starts from none."""
