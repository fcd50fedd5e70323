"""Grounding: is a rationale supported by its review?

`score.py` scores a half (its weights are from `fit.py`), `flags.py` flags it, `policy.py` acts on both, `report.py`
sums up a whole file, and `python -m rdrec.grounding` audits one.
"""
