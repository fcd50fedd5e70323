"""The embedded sample: a made-up shop whose rule of purchase is known, and with it the best possible ranking.

`world.py` has the shop and the rule, `texts.py` its reviews, `ceiling.py` the best ranking, `build.py` the dataset.
"""
