"""Readers of reviews, rationales and the paper's files: whatever the bytes, rows or one clear line, in bounded time."""

import gzip
import io
import json
import tracemalloc
import zipfile
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builder import fields, rows
from dataset_builder.paper_files import read_explanations, read_maps, read_sequences
from dataset_builder.rationales import read_rationales
from dataset_builder.reviews import read_reviews
from rdrec.errors import DatasetError
from tests.survival.conftest import few


GOOD = {"user": "u", "item": "i", "timestamp": 1_400_000_000, "text": "good"}


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("reviews.csv", content)
    return file.getvalue()


def reviews_of(source) -> list | None:
    """The reviews, or None where they are refused: in one line, that names the file."""
    skipped = Counter()
    try:
        found = list(read_reviews(source, skipped=skipped))
    except DatasetError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return None
    for one in found:
        assert one.user and one.item and isinstance(one.timestamp, int) and one.user == one.user.strip()
        (one.user + one.item + one.text).encode()  # can be written
    return found


STARTS = st.sampled_from(
    *[
        [
            b"",
            b"user,item,timestamp,text\n",
            b'{"user": "u", "item": ',
            b"[{",
            b"sep=",
            b"PAR1",
            b"\xff\xfe",
            b"user\titem\t",
        ]
    ]
)


@few
@given(STARTS, st.binary(max_size=200), st.sampled_from([bytes, gzip.compress, zipped, lambda one: one[:30]]))
@example(b"sep=", b'"\nuser"item"timestamp', bytes)
@example(b"sep=", b"\x00\nuser\x00item\x00timestamp\na\x00b\x00100000", bytes)
@example(b"user,item,timestamp\n", b'a,b,"1\n' * 30, bytes)
@example(b"[", b"9" * 5000 + b"]", bytes)
@example(b'[{"user": "u", "item": "i", "timestamp": 100000, "n": ', b"9" * 5000 + b"}]", bytes)
@example(b"", b'{"a":' * 100_000, bytes)
@example(b"", b"[" * 100_000, bytes)
@example(b"{'user': 'u', 'item': 0x", b"f" * 5000 + b", 'timestamp': 100000}", bytes)
@example(b"{'user': 'u', 'item': 'i', 'text': ", b"(" * 3000 + b")" * 3000 + b"}", bytes)
@example(b"user,item,timestamp\n", "\u200b,\u202e,1400000000\n".encode(), bytes)
@example(b"\x1f\x8b\x08", b"\x00" * 40, bytes)
@example(b"PK\x03\x04", b"\xff" * 60, bytes)
@example(b"\x28\xb5\x2f\xfd", b"\xff" * 60, bytes)
def test_any_bytes(tmp_path_factory, start, content, pack):
    path = tmp_path_factory.mktemp("reviews") / "reviews.bin"
    path.write_bytes(pack(start + content))
    reviews_of(path)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([10**400, 10**5000, -(10**5000), 2**63, 253402300800, -62135596801, 1e308, [[]], {}, b"a"]),
    st.text(st.characters(), max_size=20),  # lone surrogates too
    st.sampled_from(["", "\u200b", "a\nb", "é", "e\u0301", "\u202eabc", "\ud83d", "NaN", "x" * 200_000, "٣"]),
    st.sampled_from(["9999-12-31", "0000-00-00", "10000-01-01", "2014-02-30", "99991231", "02 30, 2014", "1e999"]),
)


@few
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "rating", "title"], VALUES)), max_size=4))
def test_any_values_beside_a_good_row(rows):
    found = reviews_of(lambda: iter([GOOD, *rows]))
    # A row's value is skipped, or the file is refused for an id that would be another's; nothing else is.
    assert found is None or (found[0].user, found[0].item) == ("u", "i")


@few
@given(VALUES)
@example([[[[]]]])
@example(float("nan"))
def test_any_value_alone(value):
    for read in (fields.text_of, fields.number_of, fields.time_of, fields.number_date):
        read(value)
    try:
        assert fields.id_of(value) == fields.id_of(value).strip()
    except DatasetError as error:
        assert "\n" not in str(error)


def test_lists_within_lists_are_no_text():
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert fields.text_of(deep) == ("", False) and fields.text_of(10**5000) == ("", False)
    with pytest.raises(DatasetError, match="more than 4,300 digits; write ids as text"):
        fields.id_of(10**5000)


@pytest.mark.parametrize("start", [b"[{", b'{"user": "'], ids=["array", "lines"])
def test_a_bomb_is_read_in_parts(tmp_path, monkeypatch, start):
    """What never ends and packs well: no more of it is in memory at once than the longest row may have."""
    monkeypatch.setattr(rows, "_LONGEST", 1 << 20)
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as bomb:
        bomb.write(start)
        for _ in range(24):
            bomb.write(b"x" * (1 << 20))
    tracemalloc.start()
    assert reviews_of(tmp_path / "bomb.gz") is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "bomb.gz").stat().st_size < 2**18 and peak < 12 * 2**20


HALVES = {"review_row": 0, "user_preference": "The user likes it.", "item_attributes": "It is loud."}
NUMBERS = st.sampled_from([10**400, -1, 0, 1, 0.5, True, None, "0.5", [], float("inf"), float("nan"), 2**70])


@few
@given(
    st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(HALVES, VALUES)), max_size=3),
    NUMBERS,
    st.binary(max_size=60),
)
@example([], 1, b'{"a":' * 100_000)
def test_rationales(tmp_path_factory, rows, score, tail):
    path = tmp_path_factory.mktemp("rationales") / "rationales.jsonl"
    known = {**HALVES, "user_preference_grounding": score, "flags": score}
    lines = [
        json.dumps({**known, **row}, default=str)
        for row in [{}, *rows]
        if not {10**5000, -(10**5000)} & {one for one in row.values() if isinstance(one, int)}
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n" + tail)
    try:
        found = read_rationales(path, teacher="t", prompt="p", skipped=Counter())
    except DatasetError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
    else:
        assert found[0]["user_preference"] == "The user likes it."


@few
@given(st.text("0123456789 -\n\u0663x", max_size=80) | st.binary(max_size=60).map(lambda one: one.decode("latin-1")))
@example("1 2 3 " + "9" * 30)
@example("9" * 30 + " 1 2 3")
@example("1 2 3 " + "9" * 5000)
def test_the_papers_sequences(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("paper") / "sequential.txt"
    path.write_text(content, encoding="utf-8")
    try:
        users, sequences = read_sequences(path)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert len(users) == len(sequences) and all(len(one) >= 3 for one in sequences)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"id2user": {"x": 1}, "id2item": {}}', "9" * 5000])
def test_the_papers_json(tmp_path, content):
    path = tmp_path / "datamaps.json"
    path.write_text(content)
    with pytest.raises(DatasetError) as refusal:
        read_maps(path)
    assert "\n" not in str(refusal.value)
    if content not in ("[]", "{}"):
        with pytest.raises(DatasetError):
            list(read_explanations(path))
