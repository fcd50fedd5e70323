"""Texts on disk, processes, and Polars' counting: the dataset is, byte for byte, what reading it all in Python gave.

pytest tests/dataset_builder/test_text_steps.py
"""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataset_builder import DatasetError, build_tables, explanations
from dataset_builder.__main__ import parse
from dataset_builder.explanations import FeatureVocabulary
from dataset_builder.processes import processes
from dataset_builder.splits import draw_candidates
from dataset_builder.texts import TextFile


PIECES = (
    "The strap is|a great sound.|my heavy cord and|its|good|feels|the|I.|Mr. Smith|e.g.|approx. ten|***|--| - |and|but|"
    "so|don't|well-made|It's|&quot;quoted&quot;|<br />|3.5 dollars|did!Buy|wide,|works well!|\u2022 So am|caf\u00e9|"
    "na\u00efve|\u00b2the|e\u0301the|\u24d0the|isn\u2019t|\u0130t|\u212a|\ufffd|\U0001f600|and then it|which was|"
    "cheap,my|because they|the good feels and|poor battery (really)|love the soft strap|has|tuner?|\u3000|\x1c|U.S.A|"
    "\n|"
).split("|")


def odd_texts(count: int, seed: int) -> list[str]:
    """Texts of pieces on which the steps turn: marks, short forms, other alphabets, whitespace of all kinds."""
    draw = random.Random(seed)
    return [
        "".join(draw.choice(PIECES) + draw.choice(" \t ") * draw.randint(0, 1) for _ in range(draw.randint(0, 40)))
        for _ in range(count)
    ]


def odd_rows(seed: int = 5) -> list[dict]:
    """Reviews of 60 users and 40 items with `odd_texts`, repeats and users of few purchases among them."""
    draw = random.Random(seed)
    rows = [
        {
            "user": f"u{draw.randrange(60) if draw.random() < 0.95 else draw.randrange(60, 200)}",
            "item": f"i{min(draw.randrange(40), draw.randrange(40))}",
            "time": draw.randrange(1_300_000_000, 1_300_000_300),
            "text": text,
        }
        for text in odd_texts(900, seed)
    ]
    return rows + rows[:20]


def rationales_of(rows: list[dict], path: Path) -> Path:
    lines = [
        {"review_row": number, "user_preference": f"wants {number}", "item_attributes": f"is {number}", "teacher": "t"}
        for number in range(0, len(rows), 7)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def build(rows: list[dict], **options):
    return build_tables(
        lambda: iter(rows), domain="odd", num_negatives=5, min_core=3, source={}, progress=False, **options
    )


# Of the tables that version 37865b4 built, which read the reviews three times, row by row, and counted with `re`.
FINGERPRINTS = {
    False: "2469c4fd9198f514fa302aa18e9e2e43868b35968b42e66ffbe24579eb38e2be",
    True: "ae1f16f012d2771fb2231b87fa5258d499d6eb476364d5241a187e4f130ea557",
}


@pytest.mark.parametrize("distilled", [False, True])
def test_the_dataset_is_what_it_was_when_all_was_read_in_python(tmp_path, distilled, monkeypatch):
    rows = odd_rows()
    given = {"rationales": rationales_of(rows, tmp_path / "rationales.jsonl")} if distilled else {}
    whole = build(rows, **given)
    monkeypatch.setattr("dataset_builder.texts.BATCH_TEXTS", 64)
    in_batches = build(rows, **given)
    assert whole.info == in_batches.info
    assert whole.info["fingerprint"] == FINGERPRINTS[distilled]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(monkeypatch):
    monkeypatch.setattr("dataset_builder.texts.BATCH_TEXTS", 64)
    rows = odd_rows()
    assert build(rows, processes=2).info == build(rows).info


def test_words_are_counted_as_the_patterns_say():
    """Word for word what `re` finds: Polars has no lookahead, and calls other characters letters."""
    openers, closers = explanations._OPENERS, explanations._CLOSERS
    end = rf"(?= (?:{closers})\b| ?[.,;:!?)]|$)"
    heads = [re.compile(rf"\b(?:{openers}) {between}([a-z]{{3,}}){end}") for between in ("", "[a-z-]+ ")]
    texts = odd_texts(1500, seed=8)
    vocabulary, seen, found = FeatureVocabulary(), Counter(), Counter()
    for start in range(0, len(texts), 100):
        vocabulary.add(texts[start : start + 100])
    for text in texts:
        text = explanations.clean_text(text).lower()
        seen.update(set(re.findall(r"[a-z]+(?:['-][a-z]+)*", text)))
        found.update({word for head in heads for word in head.findall(text)})
    assert vocabulary.texts == len(texts) and vocabulary.seen == seen and vocabulary.heads == found
    assert len(found) > 10 and {"feels", "cord"} & set(found)


def test_words_are_the_same_with_and_without_marks():
    for text in odd_texts(500, seed=9):
        text = text.lower()
        for whole in (text, text.replace("'", " ").replace("-", " ")):
            assert explanations._words(whole) == explanations._WORD.findall(whole)


def test_counting_no_texts_counts_nothing():
    vocabulary = FeatureVocabulary()
    vocabulary.add([])
    vocabulary.add(["", "1 2 3"])
    assert vocabulary.texts == 2 and not vocabulary.seen and not vocabulary.heads and vocabulary.select() == {}


def test_texts_come_back_as_they_were_in_batches_that_are_bounded(monkeypatch):
    monkeypatch.setattr("dataset_builder.texts.BATCH_CHARACTERS", 1000)
    given = ["", "a", "x" * 5000, "caf\u00e9 \U0001f600"] * 10
    with TextFile() as written:
        for text in given:
            written.add(text)
        written.close()
        every = np.ones(len(given), dtype=bool)
        parts = list(written.parts(every))
        assert [text for _, part in parts for text in part.texts()] == given
        assert len(parts) > 9 and [start for start, _ in parts] == sorted({start for start, _ in parts})
        some = np.arange(len(given)) % 3 == 0
        assert [text for _, part in written.parts(some) for text in part.texts()] == given[::3]
        folder = Path(parts[0][1].path).parent
        assert folder.is_dir()
    assert not folder.exists()


def test_no_temporary_file_is_left_by_a_build_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DatasetError, match="min_core 3 drops every interaction"):
        build(odd_rows()[:5])
    assert not list(tmp_path.iterdir())


def end_abruptly(_: int) -> None:
    os._exit(1)


@pytest.mark.slow
def test_a_process_that_is_ended_from_outside_is_one_line():
    with pytest.raises(DatasetError, match="one of 2 processes was ended.*--processes 1"), processes(2) as run:
        list(run(end_abruptly, range(3)))


def test_the_number_of_processes_is_a_number_from_1(tmp_path):
    with pytest.raises(DatasetError, match="--processes 0: must be 1 or more"):
        build(odd_rows(), processes=0)
    options = parse(["build", "--reviews", "r", "--domain", "d", "--output", "o", "--processes", "2"])
    assert options.processes == 2


def test_candidates_do_not_depend_on_how_many_users_are_looked_at_together(monkeypatch):
    lengths = np.random.default_rng(0).integers(3, 9, size=50)
    items = np.concatenate([np.random.default_rng(user).permutation(30)[:n] + 1 for user, n in enumerate(lengths)])
    whole = draw_candidates(items, lengths, 30, 15, 0, "test")
    monkeypatch.setattr("dataset_builder.splits._BLOCK", 7)
    assert (draw_candidates(items, lengths, 30, 15, 0, "test") == whole).all()
