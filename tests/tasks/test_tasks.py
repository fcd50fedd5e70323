"""The tasks: what a step's rows are, that they depend on seed and step alone, and that grouping changes no loss."""

import re

import numpy as np
import pytest
import torch

from dataset_builder.rationales import RATIONALE_TASKS
from rdrec.errors import DatasetError
from rdrec.tasks.collator import Collator
from rdrec.tasks.mixture import FAMILIES, TaskMixture, sample_negatives, share_out, validation_rows
from rdrec.tasks.wordings import WORDINGS


@pytest.fixture
def mixture(sample_data):
    return TaskMixture(sample_data, batch_size=64, seed=3)


def ids(kind, text):
    return [int(number) for number in re.findall(rf"\b{kind}_(\d+)", text)]


def test_a_step_has_the_shares_of_the_paper(mixture):
    """64 draws in equal quarters; a rationale draw gives a row a half, so up to 80 rows."""
    rows = mixture.rows(0)
    families = [row.family for row in rows]
    assert families == sorted(families, key=FAMILIES.index)
    assert [families.count(f) for f in ("explanation", "sequential", "topn")] == [16, 16, 16]
    assert 16 < families.count("rationale") <= 32
    assert {row.task for row in rows if row.family == "rationale"} == set(RATIONALE_TASKS)


def test_rows_depend_on_seed_and_step_alone(sample_data, mixture):
    later = mixture.rows(700)
    again = TaskMixture(sample_data, batch_size=64, seed=3)
    assert again.rows(700) == later and again.rows(0) == mixture.rows(0)
    assert TaskMixture(sample_data, batch_size=64, seed=4).rows(0) != mixture.rows(0)
    assert mixture.rows(1) != mixture.rows(0)


@pytest.mark.slow
def test_an_epoch_is_one_pass_over_the_explanations(sample_data, mixture):
    texts = sample_data.texts["train"]
    assert mixture.steps_per_epoch == -(-len(texts) // 16)
    seen = [row.target for step in range(mixture.steps_per_epoch) for row in mixture.rows(step)[:16]][: len(texts)]
    assert sorted(seen) == sorted(texts.explanation)


def test_sequential_rows_are_segments_of_the_training_part(sample_data, mixture):
    starts = set()
    for step in range(20):
        for row in mixture.rows(step):
            if row.task != "sequential":
                continue
            (user,), items = ids("user", row.prompt), [*ids("item", row.prompt), int(row.target)]
            train = sample_data.sequences[user - 1][:-2].tolist()
            start = train.index(items[0])
            assert train[start : start + len(items)] == items and 2 <= len(items) <= 21
            starts.add(start)
    assert len(starts) > 3


def test_histories_are_cut_to_the_most_recent(sample_data):
    mixture = TaskMixture(sample_data, batch_size=64, seed=3, max_history=2)
    lengths = {len(ids("item", row.prompt)) for row in mixture.rows(0) if row.task == "sequential"}
    assert lengths == {1, 2}


def test_topn_rows_hold_one_training_item_and_fresh_negatives(sample_data, mixture):
    first = {}
    for row in (row for step in range(60) for row in mixture.rows(step) if row.task == "topn"):
        (user,), items = ids("user", row.prompt), ids("item", row.prompt)
        train = set(sample_data.sequences[user - 1][:-2].tolist())
        assert len(items) == len(set(items)) == 100
        assert set(items) & train == {int(row.target)}
        places = first.setdefault(user, [])
        places.append(items)
    assert any(a != b for lists in first.values() for a, b in zip(lists, lists[1:]))


def test_negatives_of_clean_may_be_held_out_items_and_those_of_published_never(sample_data):
    """The paper's negatives avoid the test item, which gives it away (design, "What the reference does")."""

    def held_out_negatives(protocol):
        sample_data.protocol, before = protocol, sample_data.protocol
        try:
            mixture = TaskMixture(sample_data, batch_size=64, ratio=(0, 0, 0, 1), seed=3)
        finally:
            sample_data.protocol = before
        rows = [row for step in range(10) for row in mixture.rows(step)]
        return sum(
            bool(
                set(ids("item", row.prompt)) & set(sample_data.sequences[ids("user", row.prompt)[0] - 1][-2:].tolist())
            )
            for row in rows
        )

    assert held_out_negatives("clean") > 100
    assert held_out_negatives("published") == 0


def test_negatives_are_uniform_over_unseen_items():
    rng = np.random.default_rng(0)
    seen = np.array([1, 4, 5, 10])
    counts = np.zeros(11)
    for _ in range(3000):
        drawn = sample_negatives(rng, 10, seen, 3)
        assert len(set(drawn.tolist())) == 3
        counts[drawn] += 1
    assert counts[[0, *seen]].sum() == 0
    assert counts[[2, 3, 6, 7, 8, 9]] == pytest.approx(np.full(6, 1500), rel=0.1)
    with pytest.raises(DatasetError, match="only 6 items left"):
        sample_negatives(rng, 10, seen, 7)


@pytest.mark.slow
def test_no_training_row_shows_a_held_out_item_as_target_or_history(sample_data, mixture):
    """The leaks that `clean` closes: held-out interactions are no target, no history and no text of training."""
    for row in (row for step in range(mixture.steps_per_epoch) for row in mixture.rows(step)):
        users, items = ids("user", row.prompt), ids("item", row.prompt)
        if row.task in ("sequential", "topn"):
            held_out = set(sample_data.sequences[users[0] - 1][-2:].tolist())
            assert int(row.target) not in held_out
        if row.task == "sequential":
            assert not held_out & set(items)
        if row.task == "explanation":
            assert items[0] in sample_data.sequences[users[0] - 1][:-2]


def test_every_wording_has_the_fields_of_its_bare_form():
    for task, wordings in WORDINGS.items():
        fields = [set(re.findall(r"\{(\w+)\}", wording)) for wording in wordings]
        assert fields == [fields[0]] * len(fields), task
        assert len(set(wordings)) == len(wordings) >= 5


@pytest.mark.parametrize(
    ("ratio", "sizes", "counts"),
    [
        ((1, 1, 1, 1), (9, 9, 9, 9), [16, 16, 16, 16]),
        ((1, 1, 1, 1), (0, 9, 0, 9), [0, 32, 0, 32]),
        ((1, 2, 0, 1), (9, 9, 9, 9), [16, 32, 0, 16]),
        ((1, 1, 1, 0), (9, 9, 9, 9), [22, 21, 21, 0]),
    ],
)
def test_shares(ratio, sizes, counts):
    assert list(share_out(64, ratio, sizes).values()) == counts


@pytest.mark.parametrize(
    ("batch_size", "ratio", "sizes", "message"),
    [
        (64, (1, 1), (1, 1, 1, 1), "four numbers"),
        (64, (-1, 1, 1, 1), (1, 1, 1, 1), "four numbers"),
        (64, (1, 0, 1, 0), (0, 9, 0, 9), "none of its tasks has data"),
        (4, (100, 1, 1, 1), (9, 9, 9, 9), "too small"),
    ],
)
def test_bad_shares_are_named(batch_size, ratio, sizes, message):
    with pytest.raises(DatasetError, match=message):
        share_out(batch_size, ratio, sizes)


def test_validation_rows_are_held_out_and_bare(sample_data):
    rows = validation_rows(sample_data, seed=0)
    sequential = [row for row in rows if row.task == "sequential"]
    assert len(sequential) == len(sample_data.sequences)
    for row, sequence in zip(sequential, sample_data.sequences):
        assert int(row.target) == sequence[-2] and ids("item", row.prompt) == sequence[:-2][-20:].tolist()
        assert row.prompt.startswith("user_")
    few = validation_rows(sample_data, seed=0, max_samples=5)
    assert [sum(row.family == f for row in few) for f in ("explanation", "sequential", "topn")] == [5, 5, 5]
    assert few == validation_rows(sample_data, seed=0, max_samples=5)


@pytest.fixture
def step_rows(mixture):
    return mixture.rows(5)


def total_loss(model, batch):
    return sum(model(**group, num_items_in_batch=batch["num_items"]).loss for _, group in batch["groups"])


@pytest.mark.slow
def test_losses_of_groups_add_up_to_the_mixed_batch(model, tokenizer, step_rows):
    """Grouping by task, and sharing rows among processes, changes neither the loss nor its gradients."""
    targets = [tokenizer(row.target, truncation=True, max_length=20)["input_ids"] for row in step_rows]
    mixed = tokenizer([row.prompt for row in step_rows], padding=True, return_tensors="pt")
    width = max(map(len, targets))
    mixed["labels"] = torch.tensor([ids + [-100] * (width - len(ids)) for ids in targets])
    from modeling_rdrec import TASKS

    mixed["task_ids"] = torch.tensor([TASKS.index(row.task) for row in step_rows])
    want = model(**mixed).loss
    want.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    collator = Collator(tokenizer)
    for parts in ([slice(None)], [slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)]):
        model.zero_grad()
        loss = sum(total_loss(model, collator(step_rows, part)) for part in parts)
        assert loss.item() == pytest.approx(want.item(), abs=1e-5)
        loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_short_prompts_are_not_padded_to_long_ones(tokenizer, step_rows):
    groups = Collator(tokenizer)(step_rows)["groups"]
    lengths = {family: group["input_ids"].shape[1] for family, group in groups}
    assert list(lengths) == list(FAMILIES) and lengths["explanation"] < lengths["topn"] / 3
    for _, group in groups:
        assert len({len(tensor) for name, tensor in group.items() if name != "target_places"}) == 1


def test_reference_padding_is_one_mixed_batch_and_counts_padding(model, tokenizer, step_rows):
    batch = Collator(tokenizer, reference_padding=True)(step_rows)
    ((_, group),) = batch["groups"]
    assert len(group["labels"]) == len(step_rows) and batch["num_items"] == group["labels"].numel()
    model.config.reference_padding = True
    with torch.no_grad():
        assert total_loss(model, batch).item() == pytest.approx(model(**group).loss.item(), abs=1e-5)
        parts = [Collator(tokenizer, reference_padding=True)(step_rows, slice(n, None, 2)) for n in (0, 1)]
        assert sum(total_loss(model, part) for part in parts).item() == pytest.approx(
            total_loss(model, batch).item(), abs=1e-5
        )


def test_targets_are_cut(tokenizer, sample_data, step_rows):
    groups = Collator(tokenizer, max_target_length=4)(step_rows)["groups"]
    (cuts,) = [group["labels"] for family, group in groups if family == "explanation"]
    (whole,) = [
        group["labels"] for family, group in Collator(tokenizer)(step_rows)["groups"] if family == "explanation"
    ]
    assert cuts.shape[1] == 4
    for cut, row in zip(cuts.tolist(), whole.tolist()):
        want = [token for token in row if token != -100]
        want = want if len(want) <= 4 else [*want[:3], tokenizer.eos_token_id]
        assert [token for token in cut if token != -100] == want
