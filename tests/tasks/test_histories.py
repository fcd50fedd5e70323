"""Rows of a decoder that reads histories: whole users, negatives, what a model fitted on more may see, items' texts."""

import copy
from itertools import chain

import numpy as np
import pytest
import torch

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration
from rdrec.tasks.collator import Collator
from rdrec.tasks.mixture import SORTED_STEPS, HistoryRow, TaskMixture
from rdrec.tasks.vocabulary import train_tokenizer


HELD_OUT_WORD = "quetzal"


@pytest.fixture
def mixture(sample_data):
    return TaskMixture(sample_data, batch_size=20, ratio=(0, 1, 0, 0), seed=3, max_history=50, history="decoder")


def comparable(rows):
    return [(row.prompt, row.items.tolist()) if isinstance(row, HistoryRow) else row for row in rows]


def users_of(data, rows, cut=2):
    """Users of rows, counted from 0; no two of the sample bought the same."""
    owner = {tuple(items[: len(items) - cut].tolist()): user for user, items in enumerate(data.sequences)}
    assert len(owner) == len(data.sequences)
    return [owner[tuple(row.items.tolist())] for row in rows]


# --- a step's rows ---------------------------------------------------------------------------------------------------


def test_a_row_is_a_whole_user_and_names_nobody(sample_data, mixture):
    rows = mixture.rows(0)
    assert len(rows) == 20 and {row.prompt for row in rows} == {""} and {row.family for row in rows} == {"sequential"}
    users_of(sample_data, rows)
    short = TaskMixture(sample_data, 20, (0, 1, 0, 0), seed=3, max_history=3, history="decoder")
    for row, whole in zip(short.rows(0), rows):
        assert row.items.tolist() == whole.items[-4:].tolist()  # three to read, and what follows each


def test_top_n_has_no_rows_and_texts_keep_theirs(sample_data):
    mixture = TaskMixture(sample_data, batch_size=64, seed=3, history="decoder")
    assert mixture.draws["topn"] == 0 and all(mixture.draws[family] for family in ("explanation", "rationale"))
    assert {row.family for row in mixture.rows(1)} == {"explanation", "sequential", "rationale"}
    users = sum(len(items) >= 4 for items in sample_data.sequences)
    assert mixture.steps_per_epoch == users // mixture.draws["sequential"]


def test_each_user_comes_once_a_pass_and_nobody_is_left_out_for_ever(sample_data, mixture):
    steps = mixture.steps_per_epoch
    assert steps == len(sample_data.sequences) // 20
    left_out = []
    for turn in range(2):
        rows = [row for step in range(turn * steps, (turn + 1) * steps) for row in mixture.rows(step)]
        users = users_of(sample_data, rows)
        assert len(users) == len(set(users)) == steps * 20
        left_out.append(set(range(len(sample_data.sequences))) - set(users))
    odd = TaskMixture(sample_data, 30, (0, 1, 0, 0), seed=3, history="decoder", max_history=50)
    passes = [
        users_of(sample_data, [row for step in range(13 * turn, 13 * turn + 13) for row in odd.rows(step)])
        for turn in range(3)
    ]
    assert all(len(users) == len(set(users)) == 390 for users in passes)
    assert len(set(chain(*passes))) == 400


def test_users_of_similar_length_stand_in_one_step(sample_data):
    mixture = TaskMixture(sample_data, 10, (0, 1, 0, 0), seed=3, max_history=50, history="decoder")
    steps = [[len(row.items) for row in mixture.rows(step)] for step in range(mixture.steps_per_epoch)]
    # Within each run of sorted steps a step is a slice of its order: the ranges of two steps do not overlap.
    assert mixture.steps_per_epoch == 2 * SORTED_STEPS
    spread = np.mean([np.std(lengths) for lengths in steps])
    everybody = np.std([length for lengths in steps for length in lengths])
    assert everybody > 0 and spread < everybody / 3
    means = [np.mean(lengths) for lengths in steps]
    assert means != sorted(means)  # the steps themselves are shuffled


def test_rows_depend_on_seed_and_step_alone(sample_data):
    def make(seed=3):
        return TaskMixture(sample_data, 32, seed=seed, history="decoder", user_dropout=0.5, softmax_negatives=16)

    one, other = make(), make()
    later, negatives = comparable(one.rows(700)), one.negatives(700)
    for step in (699, 3, 700, 12):  # in any order, and again
        other.rows(step)
        other.negatives(step)
    assert comparable(other.rows(700)) == later and comparable(one.rows(700)) == later
    np.testing.assert_array_equal(other.negatives(700), negatives)
    assert comparable(make(4).rows(700)) != later and comparable(one.rows(701)) != later
    assert (make(4).negatives(700) != negatives).any() and (one.negatives(701) != negatives).any()


def test_a_share_of_prompts_names_the_user(sample_data):
    for dropout, share in ((0.0, 1.0), (0.7, 0.3), (1.0, 0.0)):
        mixture = TaskMixture(sample_data, 40, (0, 1, 0, 0), seed=3, history="decoder", user_dropout=dropout)
        rows = [row for step in range(20) for row in mixture.rows(step)]
        assert np.mean([bool(row.prompt) for row in rows]) == pytest.approx(share, abs=0.05)
        for row in rows:
            if row.prompt:
                user = int(row.prompt.removeprefix("user_"))
                assert sample_data.sequences[user - 1][:-2][-21:].tolist() == row.items.tolist()


def test_negatives_are_of_the_whole_catalog_and_none_where_all_count(sample_data):
    def drawn(count):
        mixture = TaskMixture(sample_data, 32, seed=3, history="decoder", softmax_negatives=count)
        return [mixture.negatives(step) for step in range(300)]

    counts = np.bincount(np.concatenate(drawn(64)), minlength=241)
    assert counts[0] == 0 and len(counts) == 241 and counts[1:].min() > 0
    assert counts[1:] == pytest.approx(np.full(240, 80), rel=0.6)
    assert drawn(None)[0] is None and drawn(240)[0] is None and drawn(1000)[0] is None


# --- their tensors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(sample_data):
    tokenizer = train_tokenizer(["a sturdy strap"], vocab_size=1000, num_items=240)
    tokenizer.set_catalog(**sample_data.raw_ids)
    return tokenizer, RDRecConfig(
        **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        vocab_size=len(tokenizer),
        history="decoder",
        ids_are_pieces=True,
        dropout_rate=0.0,
    )


@pytest.mark.parametrize("kind", ["whole", "spelled"])
def test_every_item_is_a_target_and_the_ones_before_it_are_read(mixture, whole, tokenizer, kind):
    tokenizer, config = whole if kind == "whole" else (tokenizer, RDRecConfig(history="decoder"))
    rows = mixture.rows(4)
    batch = Collator(tokenizer, config=config)(rows)
    names = {str(row.items.tolist()) for row in rows}
    seen, targets = set(), 0
    for family, group in batch["groups"]:
        assert family == "sequential" and len(group["input_ids"]) == len(group["task_ids"]) == 1  # one prompt for all
        for place, labels in enumerate(group["labels"]):
            kept = labels[labels != -100]
            targets += len(kept)
            text = tokenizer.decode(kept, skip_special_tokens=False)
            items = text.replace("</s>", " ").split()
            seen.add(str([int(item) for item in items]))
            if kind == "spelled":
                marks = group["decoder_whole_word_ids"][place]
                number = torch.cumsum(labels == 1, 0) - (labels == 1).long() + 1
                inside = torch.where((labels == 1) | (labels == -100), 0, number)
                assert marks[0] == 0 and torch.equal(marks[1 : len(kept)], inside[: len(kept) - 1])
        assert len(group["target_places"]) == int((group["labels"] != -100).sum())
    assert seen == names and targets == batch["num_items"]


@pytest.mark.parametrize("sampled", [False, True])
def test_parts_of_a_step_add_up_to_it(mixture, whole, sampled):
    tokenizer, config = whole
    torch.manual_seed(0)
    model = RDRecForConditionalGeneration(config).train()
    collator, rows = Collator(tokenizer, config=config), mixture.rows(2)
    negatives = np.array([5, 9, 9, 200, 31]) if sampled else None

    def loss(*parts):
        batches = [collator(rows, part, negatives) for part in parts]
        for batch in batches:
            for _, group in batch["groups"]:
                items = tokenizer.batch_decode(group["negatives"][:, None])
                wanted = negatives.tolist() if sampled else range(1, 241)
                assert sorted(int(item) for item in items) == sorted(wanted) and group["num_classes"] == 240
        return sum(
            model(**group, num_items_in_batch=batch["num_items"]).loss
            for batch in batches
            for _, group in batch["groups"]
        )

    whole_loss = loss(slice(None))
    assert loss(slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)).item() == pytest.approx(
        whole_loss.item(), abs=1e-5
    )
    if not sampled:  # the mean over all items of all users, each after those before it, among the 240
        with torch.no_grad():
            total, count = 0.0, 0
            tokens = torch.tensor([tokenizer(str(item))["input_ids"][0] for item in range(1, 241)])
            for row in rows:
                inputs = torch.cat([torch.zeros(1, dtype=torch.long), tokens[row.items[:-1] - 1]])
                prompt = tokenizer([""], return_tensors="pt")
                logits = model(**prompt, task_ids=torch.tensor([1]), decoder_input_ids=inputs[None]).logits[0]
                total += torch.nn.functional.cross_entropy(
                    logits[:, tokens], torch.tensor(row.items) - 1, reduction="sum"
                ).item()
                count += len(row.items)
        assert whole_loss.item() == pytest.approx(total / count, abs=1e-5)


# --- what may be seen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fit_on", "cut"), [("train", 2), ("train+validation", 1), ("all", 0)])
@pytest.mark.parametrize("history", ["encoder", "decoder"])
def test_rows_hold_what_the_model_is_fitted_on_and_nothing_else(sample_data, fit_on, cut, history):
    data = copy.copy(sample_data)
    data.texts = marked(sample_data)
    mixture = TaskMixture(data, 64, seed=3, max_history=50, history=history, fit_on=fit_on)
    rows = [row for step in range(mixture.steps_per_epoch) for row in mixture.rows(step)]
    texts = {row.target for row in rows if row.task == "explanation"}
    words = {word for text in texts for word in text.split()}
    seen = {"validation": cut < 2, "test": cut < 1}
    assert {split: f"{HELD_OUT_WORD}-{split}" in words for split in seen} == seen
    rationales = " ".join(row.target for row in rows if row.family == "rationale")
    assert {split: f"{HELD_OUT_WORD}-{split}" in rationales for split in seen} == seen
    histories = [row for row in rows if isinstance(row, HistoryRow)]
    if history == "decoder":
        assert histories
        users_of(data, histories, cut)  # each is a user's sequence without the last `cut` items
    else:
        targets = {}
        for row in (row for row in rows if row.task == "sequential"):
            user = int(row.prompt.split("user_")[1].split()[0].strip(":,.?"))
            targets.setdefault(user, set()).add(int(row.target))
        for user, found in targets.items():
            assert found <= set(data.sequences[user - 1][: len(data.sequences[user - 1]) - cut].tolist())


def marked(data):
    """The texts, those of held-out splits with a word that stands nowhere else."""
    texts = copy.deepcopy(data.texts)
    for split in ("validation", "test"):
        for name in ("explanation", "user_preference", "item_attributes"):
            column = getattr(texts[split], name)
            column[:] = [text and f"{text} {HELD_OUT_WORD}-{split}" for text in column]
    return texts


def test_items_texts_never_use_held_out_reviews(sample_data):
    data = copy.copy(sample_data)
    data.texts = marked(sample_data)
    sources = ["catalog", "item_attributes", "explanation", "user_preference"]
    for fit_on, splits in {"train": [], "train+validation": ["validation"], "all": ["validation", "test"]}.items():
        texts = data.item_texts(sources, fit_on)
        found = {split for split in ("validation", "test") if any(f"{HELD_OUT_WORD}-{split}" in one for one in texts)}
        assert found == set(splits) and len(texts) == 240
    of_item = {item: [] for item in range(1, 241)}
    train = sample_data.texts["train"]
    for item, sentence in zip(train.item, train.explanation):
        of_item[item].append(sentence)
    assert data.item_texts(["explanation"]) == [" ".join(of_item[item]) for item in range(1, 241)]
    assert data.item_texts(["catalog"]) == [text or "" for text in sample_data.catalog_texts]
    assert data.item_texts(["none"]) == [""] * 240


def test_those_left_out_of_a_pass_are_not_the_longest(sample_data):
    """33 does not divide 400 users: over many passes the longest are left out as seldom as the others."""
    mixture = TaskMixture(sample_data, 33, (0, 1, 0, 0), seed=3, history="decoder")
    pool, steps = mixture.pools["sequential"], mixture.steps_per_epoch
    visits = dict.fromkeys(pool.tolist(), 0)
    passes = 60
    for step in range(passes * steps):
        for count in range(step * 33, (step + 1) * 33):
            visits[mixture._pool_entry("sequential", count)] += 1
    longest = sorted(visits, key=lambda user: -len(mixture.histories[user]))[: len(pool) // 20]
    share = steps * 33 / len(pool)
    assert np.mean([visits[user] for user in longest]) / passes == pytest.approx(share, abs=0.04)
