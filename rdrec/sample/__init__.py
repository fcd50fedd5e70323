"""The embedded sample: a made-up shop whose rule of purchase is known, so that the best possible ranking is known too."""
