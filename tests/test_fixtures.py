"""The committed dataset and checkpoint are what the code of today would make; `tests/fixtures/make.py` makes them."""

import pytest

from dataset_builder.tables import fingerprint, load_tables
from modeling_rdrec import RDRecForConditionalGeneration
from rdrec.sample.build import build_sample
from tests.conftest import CHECKPOINT


@pytest.mark.slow
def test_the_committed_dataset_is_the_embedded_sample(sample_dir, tmp_path):
    committed, built = load_tables(sample_dir), load_tables(build_sample(tmp_path / "sample"))
    assert fingerprint(committed) == fingerprint(built) and committed.info == built.info


def test_the_committed_weights_are_those_of_the_model(sample_data, tokenizer):
    model, report = RDRecForConditionalGeneration.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not any(report.values()), "run `python -m tests.fixtures.make`"
    assert model.config.vocab_size == len(tokenizer) and tokenizer.catalog == sample_data.raw_ids
