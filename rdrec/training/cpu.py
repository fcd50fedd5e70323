"""What a training step on a CPU needs to be fast: dropout, attention, matrix products, and memory that is kept.

    speed_up(model)          # before the first step; changes how the model computes, not what

On a CPU torch draws a random number for each element of a dropout, one after another, which costs more than the
matrix products around it; attention with dropout or a learned position bias falls back to a form that passes over all
scores of a batch a dozen times; and freed memory goes back to the system, to be cleared page by page when the next
step asks for it.
"""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.t5.modeling_t5 import T5DenseActDense

from modeling_rdrec import RDRecForConditionalGeneration
from rdrec.memory import keep_freed_memory

from .linear import use_fast_linear


ATTENTION = "rdrec_cpu_training"
# Scores that are worked on at once, so that they stay in the cache: 8 MB in float32.
SCORES_AT_ONCE = 2**21


def speed_up(model: RDRecForConditionalGeneration) -> None:
    """Have a model train fast on the CPU: replaces its dropouts and, unless it is eager, its attention in training."""
    keep_freed_memory()
    use_fast_linear(model)
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CPUDropout
        if isinstance(module, T5DenseActDense) and isinstance(module.act, nn.ReLU):
            module.act, module.dropout = ReLUDropout(module.dropout.p), nn.Identity()
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention_forward)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def keep_mask(shape: torch.Size | tuple[int, ...], p: float) -> torch.Tensor:
    """1 with probability `1 - p`, else 0; float32 of the given shape, `p` to 1/65536.

    Sixteen random bits an element, four elements a draw of torch's default generator.
    """
    count = torch.Size(shape).numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return torch.ge(bits.view(shape), _threshold(p), out=torch.empty(shape))


def _threshold(p: float) -> int:
    return round(p * 2**16) - 2**15


class CPUDropout(nn.Dropout):
    """nn.Dropout with a cheaper mask; `p` is taken to 1/65536."""

    def _fast(self, states: torch.Tensor) -> bool:
        return self.training and self.p > 0 and states.device.type == "cpu" and not torch.compiler.is_compiling()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self._fast(states):
            return super().forward(states)
        # The multiplication keeps its mask for the way back and nothing else.
        return states * keep_mask(states.shape, self.p).mul_(1 / (1 - self.p)).to(states.dtype)


class _ReLUDropout(torch.autograd.Function):
    """dropout(relu(x)); its result alone tells on the way back what passed, so nothing else is kept."""

    @staticmethod
    def forward(ctx, states, p):
        ctx.scale = 1 / (1 - p)
        passed = states.relu().mul_(keep_mask(states.shape, p).mul_(ctx.scale))
        ctx.save_for_backward(passed)
        return passed

    @staticmethod
    def backward(ctx, gradient):
        (passed,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, passed, 0).mul_(ctx.scale), None


class ReLUDropout(CPUDropout):
    """The ReLU of T5's feed-forward layer and the dropout after it, in one."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self._fast(states) and torch.is_grad_enabled():
            return _ReLUDropout.apply(states, self.p)
        return super().forward(torch.relu(states))


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ + bias) with dropout, times v; in pieces of a few rows whose scores stay in the cache.

    What is kept for the way back is one tensor of probabilities, those that dropout took with a minus sign.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, p):
        rows, heads, queries, width = query.shape
        keys = key.shape[2]
        scale = 1 / (1 - p)
        kept = query.new_empty(rows, heads, queries, keys)
        output = query.new_empty(rows, queries, heads, width)
        for piece in _pieces(rows, heads * queries * keys):
            scores = torch.matmul(query[piece], key[piece].mT, out=kept[piece]).float()
            scores.add_(bias)
            if mask is not None:
                scores.add_(mask[piece])
            torch.softmax(scores, -1, out=scores)
            if p:
                # Half a unit off, the mask's sign is what dropout decides.
                scores.copysign_(keep_mask(scores.shape, p).sub_(0.5))
            if scores.dtype != kept.dtype:
                kept[piece] = scores
            seen = torch.matmul(kept[piece].clamp_min(0), value[piece])
            torch.mul(seen.transpose(1, 2), scale, out=output[piece])
        ctx.save_for_backward(query, key, value, kept, output)
        ctx.scale, ctx.bias_shape = scale, bias.shape
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, kept, output = ctx.saved_tensors
        rows, heads, queries, keys = kept.shape
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        of_bias = torch.zeros(ctx.bias_shape) if ctx.needs_input_grad[3] else None
        for piece in _pieces(rows, heads * queries * keys):
            up = gradient[piece].transpose(1, 2)
            signed = kept[piece]
            passed = signed.clamp_min(0).mul_(ctx.scale)
            of_value[piece] = torch.matmul(passed.mT, up)
            # The derivative of softmax needs the sum over keys of probability times gradient, which is this.
            dot = (up.float() * output[piece].transpose(1, 2).float()).sum(-1, keepdim=True)
            scores = (
                torch.matmul(up, value[piece].mT).float().mul_(passed).addcmul_(signed.abs().float(), dot, value=-1)
            )
            if of_bias is not None:
                of_bias += scores.sum_to_size(of_bias.shape)
            scores = scores.to(query.dtype)
            of_query[piece] = torch.matmul(scores, key[piece])
            of_key[piece] = torch.matmul(scores.mT, query[piece])
        return of_query, of_key, of_value, of_bias, None, None


def _pieces(rows: int, scores_a_row: int) -> list[slice]:
    size = max(1, SCORES_AT_ONCE // scores_a_row)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of T5 as transformers calls it (`AttentionInterface`); sdpa's where nothing is learned.

    Parameters
    ----------
    query, key, value : float `[batch, heads, queries or keys, d_kv]`
    attention_mask : bool `[batch or 1, 1, queries or 1, keys]`, optional
        True where a query may look; without it a decoder's own attention is causal.
    position_bias : float `[1, heads, queries, keys]`

    Returns
    -------
    float `[batch, queries, heads, d_kv]`, and None for the weights that sdpa does not give either
    """
    if not torch.is_grad_enabled() or query.device.type != "cpu" or torch.compiler.is_compiling():
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, position_bias=position_bias, **kwargs
        )
    if attention_mask is None and module.is_causal and query.shape[2] > 1:
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None]
    if attention_mask is not None:
        hidden = torch.zeros(attention_mask.shape).masked_fill_(~attention_mask, torch.finfo(torch.float32).min)
        attention_mask = hidden.expand(len(query), -1, -1, -1)
    return _Attention.apply(query, key, value, position_bias, attention_mask, dropout), None
