"""Float32 matrix products of linear layers through oneDNN, where that is the faster library.

    with torch.inference_mode(), fast_linear():
        model(**batch)
    use_fast_linear(model)           # for training: gradients too, and until the model is gone
    linear(states, weight)           # one product, without gradients

PyTorch gives float32 products on x86 processors to MKL, which on AMD's uses half of their vector width; oneDNN, which
is part of PyTorch too and does bfloat16 there, uses all of it. The operator is the one that torch.compile calls for
linear layers. It knows no gradients; `FastLinear` does.
"""

import contextlib
import functools
import platform

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _OneDNNLinear(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and not kwargs and _takes(*args):
            return _product(*args)
        return func(*args, **(kwargs or {}))


def fast_linear() -> contextlib.AbstractContextManager:
    """A context in which `F.linear`, and so `nn.Linear`, is as fast as can be, for work without gradients."""
    return _OneDNNLinear() if _works() else contextlib.nullcontext()


def use_fast_linear(model: nn.Module) -> None:
    """Make every plain `nn.Linear` without bias a `FastLinear`; parameters and their names stay as they are."""
    if _works():
        for module in model.modules():
            if type(module) is nn.Linear and module.bias is None:
                module.__class__ = FastLinear


def linear(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`states @ weight.T` as fast as can be, `[..., n]` and `[m, n]`, either of them a transposed view if need be."""
    return _product(states, weight) if _works() and _takes(states, weight) else F.linear(states, weight)


class FastLinear(nn.Linear):
    """`nn.Linear` without bias whose float32 products on a CPU are oneDNN's, forward and back."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or not _suits(states, self.weight):
            return super().forward(states)
        return _Linear.apply(states, self.weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight):
        ctx.save_for_backward(states, weight)
        return _product(states, weight)

    @staticmethod
    def backward(ctx, gradient):
        states, weight = ctx.saved_tensors
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            of_states = _product(gradient, weight.T)
        if ctx.needs_input_grad[1]:
            up, down = gradient.flatten(0, -2).T, states.flatten(0, -2).T
            # oneDNN is up to twice as fast with the shorter side first.
            of_weight = _product(up, down) if len(up) <= len(down) else _product(down, up).T
        return of_states, of_weight


def _takes(states, weight, bias=None) -> bool:
    return _suits(states, weight) and not torch.is_grad_enabled()


def _suits(states, weight) -> bool:
    return (
        states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and weight.layout == torch.strided
        and states.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _product(states, weight, bias=None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


@functools.cache
def _works() -> bool:
    """Whether this PyTorch has the operator, and it does what `F.linear` does: it is not part of the public API."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    states, weight = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(-2, 1, 8).view(2, 4)
    try:
        with torch.no_grad():
            return torch.allclose(_product(states, weight), F.linear(states, weight), atol=1e-6)
    except (AttributeError, RuntimeError, TypeError):
        return False
