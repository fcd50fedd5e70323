"""The softmax over sampled items: with all of them it is torch's cross-entropy, with some it estimates it."""

import pytest
import torch
from torch.nn import functional as F

from modeling_rdrec.head import sampled_cross_entropy


CLASSES = torch.arange(5, 45)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    states, table = (torch.randn(n, 8, generator=generator) for n in (9, 50))
    return states, table, CLASSES[torch.randint(len(CLASSES), (9,), generator=generator)]


def plain(states, table, targets):
    return F.cross_entropy(states @ table[CLASSES].T, targets - CLASSES[0], reduction="sum")


def test_with_all_classes_it_is_the_cross_entropy(rows):
    states, table, targets = rows
    for chosen in (states, table):
        chosen.requires_grad_()
    ours, wanted = sampled_cross_entropy(states, table, targets, CLASSES, len(CLASSES)), plain(*rows)
    torch.testing.assert_close(ours, wanted)
    for one, other in zip(torch.autograd.grad(ours, (states, table)), torch.autograd.grad(wanted, (states, table))):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_rows_own_target_among_the_negatives_does_not_count(rows):
    states, table, targets = rows
    one = slice(0, 1)
    without = CLASSES[CLASSES != targets[0]]
    got = [sampled_cross_entropy(states[one], table, targets[one], some, len(CLASSES)) for some in (CLASSES, without)]
    # 39 others, each counted once: the same softmax.
    torch.testing.assert_close(got[0], got[1])


def test_the_sampled_softmax_estimates_the_whole_one(rows):
    """The sum of exponentials has the right mean; so the loss, whose logarithm it is, comes close as samples grow."""
    states, table, targets = rows
    states = states * 0.5
    wanted = float(plain(states, table, targets))
    generator = torch.Generator().manual_seed(1)
    errors = {}
    for count in (10, 35):
        drawn = []
        for _ in range(2000):
            negatives = CLASSES[torch.randint(len(CLASSES), (count,), generator=generator)]
            drawn.append(float(sampled_cross_entropy(states, table, targets, negatives, len(CLASSES))))
        errors[count] = abs(sum(drawn) / len(drawn) - wanted) / wanted
    assert errors[35] < errors[10] < 0.1 and errors[35] < 0.03


def test_no_negatives_but_the_target_leave_no_loss(rows):
    states, table, targets = rows
    loss = sampled_cross_entropy(states[:1], table, targets[:1], targets[:1], len(CLASSES))
    assert float(loss) == 0
