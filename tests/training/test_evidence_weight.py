"""The weight of what an explanation is worth: chosen on validation, by features and likeness."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_rdrec.explaining import Candidates
from rdrec.tasks.data import Texts
from rdrec.training import evidence


LIKELY, TOLD = "this is a great choice for me", "the strap of this one is wide"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("the strap of this is a great choice", True),  # it is about the feature, and as like as the likely one
        ("this is a great choice for you", False),  # it is so like the likely one that the feature would cost too much
    ],
)
def test_a_feature_may_cost_a_tenth_of_the_likeness(monkeypatch, written, kept):
    def weigh(model, tokenizer, questions, *asked):
        amounts = {"likelihood": np.array([-1.0, -9.0]), "support": np.array([0.0, 1.0]), "match": np.zeros(2)}
        return [Candidates([LIKELY, TOLD], [-1, 3], **amounts, content=np.ones(2), known=None) for _ in questions]

    monkeypatch.setattr(evidence, "weigh", weigh)
    texts = Texts([1], [1], [written], ["strap"], [None], [None])
    model = SimpleNamespace(config=SimpleNamespace(evidence_weight=0.0))
    found = evidence.choose_evidence_weight(model, None, texts, seed=0)
    assert (model.config.evidence_weight > 0) == kept == (found["with"]["fmr"] == 100)
    assert found["weight"] == model.config.evidence_weight
