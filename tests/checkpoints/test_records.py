"""Records beside the weights: they come back as written, older and newer files load, broken ones are named."""

import json

import pytest

from rdrec.checkpoints.records import ConversionRecord, EvaluationResults, TrainingRecord
from rdrec.errors import UserError


DATASET = {"domain": "beauty", "protocol": "clean", "seed": 0, "counts": {"users": 1}, "fingerprint": "f"}
RESULTS = {"dataset": DATASET, "protocol": "clean", "split": "test", "results": {"topn": {"hr@1": 0.5}}}


def test_a_record_comes_back_as_it_was_written(tmp_path):
    conversion = ConversionRecord(source="m.pt", source_sha256="a", class_="model.Original", num_tasks=4)
    training = TrainingRecord(
        recipe={"seed": 1},
        dataset=DATASET | {"source": {"kind": "reviews"}},
        model={"parameters": 3},
        steps=2,
        best_step=1,
        best_validation_loss=1,
        minutes=0.1,
        tokens_per_second=9.0,
        processes=1,
        device="cpu",
        mixed_precision="no",
        versions={"torch": "2"},
    )
    for record in (conversion, training, EvaluationResults(**RESULTS, max_samples=3)):
        record.write(tmp_path / "record.json")
        assert type(record).read(tmp_path / "record.json") == record
    conversion.write(tmp_path / "record.json")
    # The order of keys in the file; `class` is no name that a field can have.
    expected = ["source", "source_sha256", "class", "tokenizer", "num_tasks", "prompt_length", "dataset", "versions"]
    assert list(json.loads((tmp_path / "record.json").read_text())) == expected


def test_files_of_older_and_newer_versions_load(tmp_path):
    path = tmp_path / "eval_results.json"
    path.write_text(json.dumps(RESULTS | {"of_a_later_version": 1}))
    found = EvaluationResults.read(path)
    assert found == EvaluationResults(**RESULTS) and found.exact is None and found.queries == {}
    assert EvaluationResults.find(tmp_path / "none.json") is None
    path.write_text(json.dumps({"source": "m.pt", "source_sha256": "a"}))
    assert ConversionRecord.read(path).dataset is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a JSON object"),
        ("{}", r"not a file that eval.py wrote \('dataset' is missing or of another kind\): make it again"),
        (json.dumps(RESULTS | {"results": 3}), "'results' is missing or of another kind"),
        (json.dumps(RESULTS | {"max_samples": "3"}), "'max_samples' is missing or of another kind"),
        (json.dumps(RESULTS | {"dataset": {}}), "'dataset' lacks some of domain, protocol"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "eval_results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        EvaluationResults.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    with pytest.raises(UserError, match="none.json: no such file"):
        EvaluationResults.read(tmp_path / "none.json")
