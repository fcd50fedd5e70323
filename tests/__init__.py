"""The tests: `make test`, or `pytest tests/test_X.py`."""
