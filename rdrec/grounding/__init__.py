"""Grounding: is a rationale supported by its review? A score (`score.py`, fitted by `fit.py`), flags and the policy on
what is not (`audit.py`), and the report of a whole file (`report.py`)."""
