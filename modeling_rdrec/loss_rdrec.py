"""Cross-entropy over a large vocabulary without its logits: the head, the loss and both gradients, some rows at a time.

loss = head_cross_entropy(states, model.lm_head.weight, targets)

All logits of a step are the largest tensor of a small model by far (1,100 targets times 32,128 words are 140 MB).
Here a piece of them is made, turned into its gradient in place and used up before the next one.
"""

import torch

from .fast_linear import linear


# Logits that are held at once: on a CPU so many that they stay in its cache (16 MB), elsewhere a quarter of a GB.
LOGITS_AT_ONCE_ON_CPU, LOGITS_AT_ONCE_ELSEWHERE = 2**22, 2**26


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, targets, dtype):
        need_states, need_weight = ctx.needs_input_grad[:2]
        narrow = weight.to(dtype)
        of_states = torch.empty_like(states) if need_states else None
        of_weight = torch.zeros_like(weight) if need_weight else None
        loss = states.new_zeros((), dtype=torch.float32)
        at_once = LOGITS_AT_ONCE_ON_CPU if states.device.type == "cpu" else LOGITS_AT_ONCE_ELSEWHERE
        size = max(1, at_once // len(weight))
        for start in range(0, len(states), size):
            piece = states[start : start + size].to(dtype)
            answers = targets[start : start + size, None]
            scores = linear(piece, narrow).float()
            torch.log_softmax(scores, -1, out=scores)
            loss -= scores.gather(1, answers).sum()
            if not (need_states or need_weight):
                continue
            # The gradient of the logits: the probabilities, less 1 at the answer.
            scores.exp_().scatter_add_(1, answers, scores.new_full((1, 1), -1.0).expand_as(answers))
            slope = scores.to(dtype)
            if need_states:
                of_states[start : start + size] = linear(slope, narrow.T)
            if need_weight:
                of_weight += linear(slope.T, piece.T)
        ctx.save_for_backward(of_states, of_weight)
        return loss

    @staticmethod
    def backward(ctx, gradient):
        of_states, of_weight = ctx.saved_tensors
        return (
            None if of_states is None else of_states * gradient.to(of_states.dtype),
            None if of_weight is None else of_weight * gradient.to(of_weight.dtype),
            None,
            None,
        )


@torch.compiler.disable
def head_cross_entropy(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the cross-entropy of `states @ weight.T`, in float32; it can be differentiated once.

    Parameters
    ----------
    states : float `[targets, d_model]`
    weight : float `[vocab_size, d_model]`
        Of a head without bias.
    targets : LongTensor `[targets]`

    Returns
    -------
    float32 scalar
        Products are taken in autocast's type where it is on, sums and exponentials in float32.
    """
    if not torch.is_grad_enabled():  # or gradients would be made that nobody asks for
        states, weight = states.detach(), weight.detach()
    kind = states.device.type
    narrowed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return _HeadCrossEntropy.apply(
        states, weight, targets, torch.get_autocast_dtype(kind) if narrowed else states.dtype
    )
