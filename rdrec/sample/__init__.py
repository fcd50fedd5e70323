"""The embedded sample: a made-up shop whose rule of purchase is known, and with it the best possible ranking."""
