"""Training: the recipe (`recipe.py`), the model to start from (`start.py`), the loop (`loop.py`), and what makes a step
fast on a CPU (`cpu.py`). `train.py` at the top is the script over them."""
