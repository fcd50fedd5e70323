"""Evaluation: what a model is measured against and how its answers are scored."""
