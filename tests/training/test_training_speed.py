"""What makes a training step fast must change no result: each piece against the plain way to compute the same."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from modeling_rdrec import RDRecForConditionalGeneration
from modeling_rdrec import head as head_module
from modeling_rdrec.head import head_cross_entropy
from rdrec.tasks import collator
from rdrec.tasks.collator import Collator, length_buckets
from rdrec.tasks.mixture import Row, TaskMixture
from rdrec.training import cpu
from rdrec.training.cpu import CPUDropout, ReLUDropout, keep_mask, speed_up
from rdrec.training.linear import FastLinear, use_fast_linear


@pytest.fixture
def step(sample_data, tokenizer):
    """A step's batches and their number of target tokens."""
    batch = Collator(tokenizer)(TaskMixture(sample_data, batch_size=64, seed=3).rows(2))
    return [group for _, group in batch["groups"]], batch["num_items"]


def step_gradients(model, groups, num_items):
    model.zero_grad()
    loss = sum(model(**group, num_items_in_batch=num_items).loss for group in groups)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def plain(group):
    return {name: tensor for name, tensor in group.items() if name != "target_places"}


# --- the whole step --------------------------------------------------------------------------------------------------


def test_a_fast_step_has_the_loss_and_gradients_of_a_plain_one(model, step):
    groups, num_items = step
    without_dropout(model).train()
    model.set_attn_implementation("eager")
    loss, gradients = step_gradients(model, [plain(group) for group in groups], num_items)
    names = set(model.state_dict())
    model.set_attn_implementation("sdpa")
    speed_up(model)
    assert model.config._attn_implementation == cpu.ATTENTION and set(model.state_dict()) == names
    fast_loss, fast_gradients = step_gradients(model, groups, num_items)
    torch.testing.assert_close(fast_loss, loss, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "relative_attention_num_buckets"):
            module.dropout = 0.0
    return model


def test_dropout_is_on_in_training_and_off_in_evaluation(model, step):
    groups, num_items = step
    with torch.no_grad():
        want = [model(**group, num_items_in_batch=num_items).loss for group in groups]
        speed_up(model)
        for group, loss in zip(groups, want):
            got = model.eval()(**group, num_items_in_batch=num_items).loss
            torch.testing.assert_close(got, loss, atol=1e-5, rtol=1e-5)
    model.train()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(step_gradients(model, groups, num_items)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_model_made_fast_saves_as_any_other(model, step, tmp_path):
    speed_up(model)
    model.save_pretrained(tmp_path)
    again = RDRecForConditionalGeneration.from_pretrained(tmp_path)
    assert cpu.ATTENTION not in (tmp_path / "config.json").read_text()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_mixed_precision_stays_near(model, step):
    groups, num_items = step
    speed_up(without_dropout(model).train())
    loss, _ = step_gradients(model, groups, num_items)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, gradients = step_gradients(model, groups, num_items)
    assert narrow.item() == pytest.approx(loss.item(), rel=0.01)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_a_training_step_never_waits_for_the_device(model, step):
    """Tensors of the device `meta` have no values: whatever looks at one raises."""
    groups, num_items = step
    model = model.to("meta").train()
    for group in groups:
        group = {name: tensor.to("meta") for name, tensor in group.items()}
        model(**group, num_items_in_batch=num_items).loss.backward()
    assert model.shared.weight.grad.device.type == "meta"


# --- its parts -------------------------------------------------------------------------------------------------------


def test_only_target_tokens_pass_the_head(model, step):
    groups, num_items = step
    for group in groups:
        assert torch.equal((group["labels"].flatten() != -100).nonzero()[:, 0], group["target_places"])
        whole, some = model(**plain(group)), model(**group)
        torch.testing.assert_close(some.loss, whole.loss)
        assert some.logits is None and whole.logits is not None
        summed = model(**group, num_items_in_batch=7).loss
        torch.testing.assert_close(summed, whole.loss * len(group["target_places"]) / 7)


@pytest.mark.parametrize("at_once", [1, 700, 10**6])
def test_loss_of_the_head_in_pieces(monkeypatch, at_once):
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE_ON_CPU", at_once)
    torch.manual_seed(0)
    states, weight = torch.randn(37, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
    targets = torch.randint(100, (37,))
    want = F.cross_entropy(states @ weight.T, targets, reduction="sum") / 7
    got = head_cross_entropy(states, weight, targets) / 7
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, (states, weight)), torch.autograd.grad(want, (states, weight))):
        torch.testing.assert_close(a, b)
    frozen = head_cross_entropy(states, weight.detach(), targets) / 7
    want = F.cross_entropy(states @ weight.T, targets, reduction="sum") / 7
    torch.testing.assert_close(torch.autograd.grad(frozen, states), torch.autograd.grad(want, states))


def test_a_head_that_an_adapter_wraps_is_used_as_it_is(model, step):
    groups, num_items = step
    want = model(**groups[0]).loss
    head = model.lm_head

    class Wrapped(torch.nn.Module):
        def forward(self, states):
            return 2 * head(states)

    model.lm_head = Wrapped()
    doubled = F.cross_entropy(
        2 * logits_at(model, groups[0], head), groups[0]["labels"].flatten()[groups[0]["target_places"]]
    )
    got = model(**groups[0]).loss
    torch.testing.assert_close(got, doubled)
    assert not torch.allclose(got, want)


def logits_at(model, group, head):
    wrapped, model.lm_head = model.lm_head, head
    logits = model(**plain(group)).logits.flatten(0, 1)[group["target_places"]]
    model.lm_head = wrapped
    return logits


def test_keep_mask_keeps_what_it_should():
    torch.manual_seed(0)
    mask = keep_mask((999, 1001), 0.1)
    assert mask.dtype == torch.float32 and set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.9, abs=0.002)
    # Neighbours, which share a draw, are independent: so are all four places of one.
    for lag in (1, 2, 3, 4):
        both = (mask.flatten()[:-lag] * mask.flatten()[lag:]).mean().item()
        assert both == pytest.approx(0.81, abs=0.002)
    torch.manual_seed(0)
    assert torch.equal(keep_mask((999, 1001), 0.1), mask)


def test_dropout_scales_what_it_keeps_and_passes_the_same_back():
    states = torch.rand(400, 50) + 0.5
    for layer, expected in ((CPUDropout(0.25), states), (ReLUDropout(0.25), states)):
        leaf = states.clone().requires_grad_()
        output = layer(leaf)
        output.sum().backward()
        kept = output > 0
        torch.testing.assert_close(output[kept], (expected / 0.75)[kept])
        torch.testing.assert_close(leaf.grad, kept / 0.75)
        assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
        assert torch.equal(layer.eval()(states), expected)
    relu = ReLUDropout(0.25)
    assert relu(torch.full((5, 5), -1.0, requires_grad=True)).abs().sum() == 0


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("at_once", [1, 300, 10**6])
def test_attention_in_pieces_equals_the_formula(monkeypatch, p, at_once):
    monkeypatch.setattr(cpu, "SCORES_AT_ONCE", at_once)
    rows, heads, queries, keys, width = 5, 2, 6, 9, 4
    torch.manual_seed(0)
    query, key, value = (torch.randn(rows, heads, n, width, requires_grad=True) for n in (queries, keys, keys))
    bias = torch.randn(1, heads, queries, keys, requires_grad=True)
    mask = torch.rand(rows, 1, 1, keys) > 0.3
    mask[..., 0] = True
    inputs = (query, key, value, bias)

    module = torch.nn.Module()
    module.is_causal = False
    torch.manual_seed(1)
    got, weights = cpu.attention_forward(module, query, key, value, mask, dropout=p, position_bias=bias)
    assert weights is None
    torch.manual_seed(1)
    sizes = [len(range(rows)[piece]) for piece in cpu._pieces(rows, heads * queries * keys)]
    kept = torch.cat([keep_mask((size, heads, queries, keys), p) for size in sizes])
    scores = (query @ key.mT + bias).masked_fill(~mask, torch.finfo(torch.float32).min)
    want = ((scores.softmax(-1) * kept / (1 - p)) @ value).transpose(1, 2)
    torch.testing.assert_close(got, want)
    gradient = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, inputs, gradient), torch.autograd.grad(want, inputs, gradient)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_fast_linear_gives_the_gradients_of_a_linear_layer():
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 5, bias=False)
    states = torch.randn(3, 4, 7, requires_grad=True)
    want = layer(states)
    gradients = torch.autograd.grad(want.square().sum(), (states, layer.weight))
    holder = torch.nn.ModuleDict({"layer": layer, "biased": torch.nn.Linear(2, 2)})
    use_fast_linear(holder, least_weights=1)
    assert type(holder["biased"]) is torch.nn.Linear
    if type(layer) is not FastLinear:
        pytest.skip("this torch has no oneDNN for x86")
    got = layer(states)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got.square().sum(), (states, layer.weight)), gradients):
        torch.testing.assert_close(a, b)
    assert layer(states[:0]).shape == (0, 4, 5)


@pytest.mark.parametrize("lengths", [[5, 90, 7, 6, 88], [10] * 6, [3], [400, 1, 2, 200, 199, 3]])
def test_buckets_are_the_best_there_are(monkeypatch, lengths):
    monkeypatch.setattr(collator, "BATCH_COST", 20)

    def cost(parts):
        return sum(len(part) * max(part) + 20 for part in parts)

    ordered = sorted(lengths)
    cuts = range(1, len(lengths))
    best = min(
        cost([ordered[a:b] for a, b in zip((0, *chosen), (*chosen, len(lengths)))])
        for count in range(len(lengths))
        for chosen in combinations(cuts, count)
    )
    buckets = length_buckets(lengths)
    assert sorted(place for bucket in buckets for place in bucket) == list(range(len(lengths)))
    assert cost([[lengths[place] for place in bucket] for bucket in buckets]) == best
    longest = [max(lengths[place] for place in bucket) for bucket in buckets]
    assert longest == sorted(longest)


def test_rows_of_different_lengths_share_no_batch(tokenizer):
    rows = [
        Row("sequential", "user_1 " + " ".join(f"item_{n}" for n in range(1, count)), "7") for count in (2, 200, 3, 190)
    ]
    groups = Collator(tokenizer)(rows)["groups"]
    assert [family for family, _ in groups] == ["sequential"] * 2
    short, long = (group["input_ids"] for _, group in groups)
    assert len(short) == len(long) == 2 and short.shape[1] < long.shape[1] / 10
