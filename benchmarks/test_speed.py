"""What `speed.py` measures: that its reference plan is the reference's, and that it counts useful operations right.

It stands here, since tests import no benchmark. It reads the tests' committed checkpoint and dataset.
"""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from benchmarks.reference_plan import ReferencePlan
from dataset_builder.tables import load_tables
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration
from rdrec.checkpoints.loading import load_pretrained
from rdrec.tasks.data import TaskData
from rdrec.tasks.mixture import TaskMixture


FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"


@pytest.fixture
def loaded():
    return load_pretrained(str(FIXTURES / "checkpoint"))


@pytest.fixture
def model(loaded):
    return loaded[0].eval()


@pytest.fixture
def tokenizer(loaded):
    return loaded[1]


def test_the_reference_plan_answers_what_generate_does(model, tokenizer):
    prompts = ["user_3 item_10 item_20", "user_4 item_11 item_12"]
    plan = ReferencePlan(model, tokenizer)
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    want = model.generate(
        **batch,
        task_ids=torch.tensor([1, 1]),
        num_beams=20,
        num_return_sequences=15,
        max_length=50,
        early_stopping=True,
    )
    assert torch.equal(plan.recommend(prompts), want)
    texts = plan.explain(prompts)
    assert len(texts) == 6 and torch.equal(texts[0], texts[1]) and torch.equal(texts[1], texts[2])


def test_the_reference_plan_trains_on_one_padded_batch(model, tokenizer, monkeypatch):
    seen = []
    forward = RDRecForConditionalGeneration.forward
    monkeypatch.setattr(
        RDRecForConditionalGeneration, "forward", lambda self, **batch: seen.append(batch) or forward(self, **batch)
    )
    rows = TaskMixture(TaskData(load_tables(FIXTURES / "dataset")), batch_size=16, seed=3).rows(0)
    before = model.shared.weight.clone()
    ReferencePlan(model, tokenizer).train_step(rows)
    assert [len(batch["input_ids"]) for batch in seen] == [len(rows)]
    assert not torch.equal(model.shared.weight, before)


def test_useful_operations_are_those_of_a_row_without_padding():
    settings = speed.MODELS["small"]
    model = RDRecForConditionalGeneration(RDRecConfig(vocab_size=speed.VOCAB_SIZE, **settings)).eval()
    model.set_attn_implementation("eager")
    batch = {"input_ids": torch.ones(1, 40, dtype=torch.long), "labels": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, task_ids=torch.tensor([1]))
    assert 3 * counter.get_total_flops() == speed.useful_training_flops(settings, [(40, 5)])
