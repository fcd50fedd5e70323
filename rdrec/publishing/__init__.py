"""Publishing: what goes into each repo (`contents.py`), its card (`cards.py`), the push itself (`hub.py`), the check of
what was pushed (`verify.py`). `push_to_hub.py` at the top is the script over them."""
