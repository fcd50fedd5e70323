"""Linear layers whose float32 products on a CPU are oneDNN's, forward and back (`modeling_rdrec/fast_linear.py`).

use_fast_linear(model)           # until the model is gone
"""

import torch
from torch import nn

from modeling_rdrec.fast_linear import product, suits, works


# Layers of fewer weights lose more by the detour through Python than the faster product gains.
LEAST_WEIGHTS = 2**17


def use_fast_linear(model: nn.Module, least_weights: int = LEAST_WEIGHTS) -> None:
    """Make every plain `nn.Linear` without bias, if large enough, a `FastLinear`; parameters and names stay."""
    if works():
        for module in model.modules():
            if type(module) is nn.Linear and module.bias is None and module.weight.numel() >= least_weights:
                module.__class__ = FastLinear


class FastLinear(nn.Linear):
    """`nn.Linear` without bias whose float32 products on a CPU are oneDNN's, forward and back."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or not suits(states, self.weight):
            return super().forward(states)
        return _Linear.apply(states, self.weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight):
        ctx.save_for_backward(states, weight)
        return product(states, weight)

    @staticmethod
    def backward(ctx, gradient):
        states, weight = ctx.saved_tensors
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            of_states = product(gradient, weight.T)
        if ctx.needs_input_grad[1]:
            up, down = gradient.flatten(0, -2).T, states.flatten(0, -2).T
            # oneDNN is up to twice as fast with the shorter side first.
            of_weight = product(up, down) if len(up) <= len(down) else product(down, up).T
        return of_states, of_weight
