"""Float32 matrix products of linear layers through oneDNN, where that is the faster library.

    with torch.inference_mode(), fast_linear():
        model(**batch)
    linear(states, weight)           # one product, without gradients

PyTorch gives float32 products on x86 processors to MKL, which on AMD's uses half of their vector width; oneDNN, which
is part of PyTorch too and does bfloat16 there, uses all of it. The operator is the one that torch.compile calls for
linear layers. It knows no gradients; `FastLinear` of training does.
"""

import contextlib
import functools
import platform

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _OneDNNLinear(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and not kwargs and _takes(*args):
            return product(*args)
        return func(*args, **(kwargs or {}))


def fast_linear() -> contextlib.AbstractContextManager:
    """A context in which `F.linear`, and so `nn.Linear`, is as fast as can be, for work without gradients."""
    return _OneDNNLinear() if works() else contextlib.nullcontext()


def linear(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`states @ weight.T` as fast as can be, `[..., n]` and `[m, n]`, either of them a transposed view if need be."""
    return product(states, weight) if works() and _takes(states, weight) else F.linear(states, weight)


def _takes(states, weight, bias=None) -> bool:
    return suits(states, weight) and not torch.is_grad_enabled()


def suits(states, weight) -> bool:
    """Whether oneDNN can take a product."""
    return (
        states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and weight.layout == torch.strided
        and states.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def product(states, weight, bias=None) -> torch.Tensor:
    """oneDNN's product of what `suits`."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


@functools.cache
def works() -> bool:
    """Whether this PyTorch has the operator, and it does what `F.linear` does: it is not part of the public API."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    states, weight = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(-2, 1, 8).view(2, 4)
    try:
        with torch.no_grad():
            return torch.allclose(product(states, weight), F.linear(states, weight), atol=1e-6)
    except (AttributeError, RuntimeError, TypeError):
        return False
