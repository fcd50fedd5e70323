"""The language-model head over a large vocabulary: log-probabilities of few tokens, and the loss, without all logits.

    head = Head(model)
    head.logits(states, tokens) - head.normalizers(states)[:, None]      # log-probabilities of `tokens`
    loss = head_cross_entropy(states, model.lm_head.weight, targets)     # with gradients, some logits at a time
    loss = sampled_cross_entropy(states, table, targets, negatives, classes)

All logits of a step are the largest tensor of a small model by far (1,100 targets times 32,128 words are 140 MB).
Here a piece of them is made and used up before the next one.
"""

import math

import torch
from torch.nn import functional as F

from .fast_linear import linear


# Logits of so many rows and columns stay in the cache of a CPU core while they are summed up.
BLOCK_ROWS, BLOCK_COLUMNS = 256, 2048
BEST_ROWS = 64  # where whole rows of logits are needed
# Logits that are held at once: on a CPU so many that they stay in its cache (16 MB), elsewhere a quarter of a GB.
LOGITS_AT_ONCE_ON_CPU, LOGITS_AT_ONCE_ELSEWHERE = 2**22, 2**26


class Head:
    """The model's language-model head, for log-probabilities of few tokens out of the whole vocabulary.

    A log-probability is a logit minus the log-sum-exp of all logits. The logits wanted are few; the others are only
    summed up, block by block, and never stored.

    Parameters
    ----------
    model : RDRecForConditionalGeneration
    among : LongTensor `[tokens]`, optional
        Normalize over these tokens alone. Default: the whole vocabulary.

    Raises
    ------
    ValueError
        For a head that is more than its weight, such as one with an adapter beside it.
    """

    def __init__(self, model, among: torch.Tensor | None = None):
        if not isinstance(model.lm_head, torch.nn.Linear):
            kind = type(model.lm_head)
            raise ValueError(f"lm_head is a {kind.__module__}.{kind.__name__}: merge adapters first")
        self.scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        self.weight = model.lm_head.weight
        self.dtype = self.weight.dtype
        device_type = self.weight.device.type
        if torch.is_autocast_enabled(device_type):
            self.dtype = torch.get_autocast_dtype(device_type)
        self.weight = self.weight.to(self.dtype)
        self.summed = self.weight if among is None else self.weight[among]
        self.cached = device_type == "cpu" and self.dtype == torch.float32

    def logits(self, hidden: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of `tokens` (LongTensor `[tokens]`; None: all) at each row of `hidden` `[rows, d_model]`: float32."""
        weight = self.weight if tokens is None else self.weight[tokens]
        return F.linear((hidden * self.scale).to(self.dtype), weight).float()

    def pair_logits(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logit of one token at each row: float32 `[rows]`."""
        return ((hidden * self.scale).float() * self.weight[tokens].float()).sum(1)

    def best(self, hidden: torch.Tensor, count: int, without: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The `count` most likely tokens at each row of `hidden` `[rows, d_model]`, but for the token `without`.

        Returns
        -------
        log_probabilities : Tensor float32 `[rows, count]`
        tokens : LongTensor `[rows, count]`
        """
        scores, tokens = [], []
        for rows in hidden.split(BEST_ROWS):
            log_probabilities = self.logits(rows).log_softmax(1)
            if without is not None:
                log_probabilities[:, without] = -torch.inf
            best, places = log_probabilities.topk(count, dim=1)
            scores.append(best)
            tokens.append(places)
        return torch.cat(scores), torch.cat(tokens)

    def normalizers(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-sum-exp over the vocabulary, or `among`, at each row of `hidden` `[rows, d_model]`: float32 `[rows]`."""
        hidden = (hidden * self.scale).to(self.dtype)
        if not self.cached:
            blocks = hidden.split(BLOCK_ROWS)
            return torch.cat([F.linear(rows, self.summed).float().logsumexp(1) for rows in blocks])
        blocks = self.summed.split(BLOCK_COLUMNS)
        sums = hidden.new_empty(len(hidden), len(blocks))
        for start in range(0, len(hidden), BLOCK_ROWS):
            rows = hidden[start : start + BLOCK_ROWS]
            for number, block in enumerate(blocks):
                logits = F.linear(rows, block)
                # log_softmax is a single fast kernel, and x - log_softmax(x) is the log-sum-exp.
                sums[start : start + len(rows), number] = logits[:, 0] - logits.log_softmax(1)[:, 0]
        return sums.logsumexp(1)


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
            right, highest = scores.gather(1, answers), scores.max(1, keepdim=True)
            torch.softmax(scores, -1, out=scores)
            # log p = logit - log-sum-exp, and of the highest logit p is never 0: one exponential a logit is enough.
            loss -= (right - highest.values + scores.gather(1, highest.indices).log()).sum()
            if not (need_states or need_weight):
                continue
            # The gradient of the logits: the probabilities, less 1 at the answer.
            scores.scatter_add_(1, answers, scores.new_full((1, 1), -1.0).expand_as(answers))
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


def sampled_cross_entropy(
    states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Sum over rows of the cross-entropy among each row's target and the negatives that all rows share, in float32.

    With uniformly drawn negatives the softmax over them, each counted `(num_classes - 1) / len(negatives)` times,
    estimates the one over all classes (sampled softmax, Jean et al., 2015). `num_classes` negatives are all classes.

    Parameters
    ----------
    states : float `[rows, d_model]`
    table : float `[vocab_size, d_model]`
        Output embeddings, not scaled further.
    targets : LongTensor `[rows]`
    negatives : LongTensor `[negatives]`
        Tokens to tell the targets from; a row's own target among them does not count. All classes come in rising order.
    num_classes : int
        Tokens that a target may be.
    """
    if len(negatives) >= num_classes:
        # All classes, each once and in order: their place in `negatives` is their number.
        return head_cross_entropy(states, F.embedding(negatives, table), torch.searchsorted(negatives, targets))
    right = (states * F.embedding(targets, table)).sum(-1, keepdim=True).float()
    wrong = (states @ F.embedding(negatives, table).T).float()
    wrong = wrong.masked_fill(negatives == targets[:, None], -torch.inf)
    wrong = wrong + math.log((num_classes - 1) / len(negatives))
    return (torch.cat([right, wrong], dim=1).logsumexp(1) - right[:, 0]).sum()
