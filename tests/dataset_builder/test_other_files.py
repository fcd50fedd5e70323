"""Files as people have them: other units of time, ids as numbers, letters that cannot be read, last month's rationales.

Each of the inputs in ../shared/cases once gave a wrong result without a word; small ones of their kinds are made here.
"""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builder import DatasetError, build_tables
from dataset_builder.__main__ import summary
from dataset_builder.rationales import KEY_COLUMNS, review_key
from dataset_builder.reviews import read_reviews
from rdrec.distillation.responses import Completion
from rdrec.distillation.run import distill
from rdrec.distillation.settings import Settings
from tests.fakes.loopback import sentences

from .test_dataset_builder import ROW_2014, write_jsonl


@pytest.fixture
def cases(shared_dir):
    folder = shared_dir / "cases"
    if not folder.is_dir():
        pytest.skip("no ../shared/cases beside this checkout: these inputs are not part of the repository")
    return folder


def build_file(path, **options):
    return build_tables(path, domain="d", **({"num_negatives": 2, "min_core": 3, "progress": False} | options))


def read(rows, skipped=None):
    skipped = Counter() if skipped is None else skipped
    return list(read_reviews(lambda: iter([ROW_2014 | row for row in rows]), skipped=skipped))


def times_of(rows):
    return [review.timestamp for review in read(rows)]


# ---- time -------------------------------------------------------------------------------------------------------


SECONDS = [1_393_545_600, 1_393_545_660, 1_400_000_000]


@pytest.mark.parametrize("column", ["unixReviewTime", "timestamp", "reviewTime"])
@pytest.mark.parametrize(
    ("unit", "write"),
    [
        ("seconds", lambda second: second),
        ("seconds", lambda second: f"{second}.75"),
        ("milliseconds", lambda second: 1000 * second + 7),
        ("milliseconds", lambda second: str(1000 * second + 7)),
        ("microseconds", lambda second: 10**6 * second),
        ("nanoseconds", lambda second: 10**9 * second),
        ("dates", lambda second: f"{np.datetime64(second, 's')}Z"),
        ("dates", lambda second: str(np.datetime64(second, "s")).replace("T", " ")),
        ("dates", lambda second: np.datetime64(second, "s").astype("datetime64[ns]")),
        ("dates", lambda second: np.datetime64(second, "s").item()),
        ("dates", lambda second: str(np.datetime64(second, "s")).replace("-", "/").replace("T", " ")),
        ("dates", lambda second: f"{np.datetime64(second + 7200, 's')}.500+02:00"),
    ],
)
def test_every_column_may_hold_every_unit(column, unit, write):
    rows = [{"reviewerID": "u", "asin": "i", "reviewText": "x", column: write(second)} for second in SECONDS]
    times = {}
    found = list(read_reviews(lambda: iter(rows), skipped=Counter(), times=times))
    assert [review.timestamp for review in found] == SECONDS
    assert times == {column: unit}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (1_400_000_000, 1_400_000_000_000, "1400000000 in row 0 is in seconds, 1400000000000 in row 2 is in milli"),
        (1_400_000_000_000, 7, "in row 0 is in milliseconds, 7 in row 2 is in seconds; write all of them in one unit"),
        ("2014-02-28", 1_400_000_000, "'2014-02-28' in row 0 is a date, 1400000000 in row 2 is in seconds"),
    ],
)
def test_mixed_times_are_refused_with_both_rows(first, second, message):
    with pytest.raises(DatasetError, match="times of column 'unixReviewTime' are mixed: .*") as caught:
        times_of([{"unixReviewTime": time} for time in (first, 0, second)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_times_written_as_0_or_minus_1_are_of_any_unit():
    assert times_of([{"unixReviewTime": time} for time in (0, 1_400_000_000_000, -1)]) == [0, 1_400_000_000, -1]


def test_what_is_no_time_is_told_with_what_is_one(tmp_path):
    with pytest.raises(DatasetError, match=r"1 bad_time\); times may be seconds, milliseconds or dates"):
        times_of([{"unixReviewTime": "last week"}])
    path = write_jsonl(tmp_path / "r.jsonl", [{"user_id": "u", "asin": "i", "text": "x", "when": 5}])
    with pytest.raises(DatasetError, match="no column for the time; .*unixReviewTime, timestamp.*the values tell"):
        list(read_reviews(path, skipped=Counter()))


def test_the_unit_is_printed_and_recorded(tmp_path):
    rows = [
        ROW_2014
        | {"reviewerID": f"u{user}", "asin": f"i{item % 12}", "unixReviewTime": 1_393_545_600_000 + 1000 * item}
        for user in range(12)
        for item in range(user, user + 4)
    ]
    tables = build_file(write_jsonl(tmp_path / "r.jsonl", rows))
    note = "unixReviewTime in milliseconds, from 2014-02-28 to 2014-02-28"
    assert tables.info["notes"]["time"] == note and f"\n  time: {note}\n" in summary(tables)


@pytest.mark.parametrize("name", ["time_seconds.csv", "unix_time_ms.csv", "time_iso.csv"])
def test_times_of_the_cases(cases, name):
    expected = list(read_reviews(cases / "time_ms.csv", skipped=Counter()))
    assert list(read_reviews(cases / name, skipped=Counter())) == expected
    one, other = build_file(cases / name), build_file(cases / "time_ms.csv")
    assert one.info["fingerprint"] == other.info["fingerprint"]
    column, unit = {
        "time_seconds.csv": ("timestamp", "seconds"),
        "unix_time_ms.csv": ("unixReviewTime", "milliseconds"),
        "time_iso.csv": ("timestamp", "dates"),
    }[name]
    assert one.info["notes"]["time"].startswith(f"{column} in {unit}, from 2023-11-1")


# ---- ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("007", "007"),
        ("12.0", "12.0"),
        (" A b ", "A b"),
        ("Zo\u00eb", "Zo\u00eb"),
        (12, "12"),
        (12.0, "12"),
        (12.5, "12.5"),
        (12345678901234567890, "12345678901234567890"),
        (np.int32(12), "12"),
        (np.float32(12), "12"),
    ],
)
def test_ids_are_text_as_written_and_whole_numbers_without_a_point(value, expected):
    (review,) = read([{"reviewerID": value, "asin": value}])
    assert (review.user, review.item) == (expected, expected)


NOTHING = [None, "", "  ", float("nan"), float("inf"), "nan", "NaN", "null", "None", "<NA>", True, ["u"], {"id": "u"}]


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_no_id_is_a_missing_row(nothing):
    skipped = Counter()
    found = read([{"reviewerID": nothing}, {"asin": nothing}, {}], skipped)
    assert [(review.row, review.user, review.item) for review in found] == [(2, "u", "i")]
    assert skipped == {"missing_user": 1, "missing_item": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"reviewerID": "a\xf6", ', "row 1, column 'reviewerID': 'a\ufffd' holds letters that cannot be read"),
        (b'{"reviewerID": "a\\ud83d", ', "row 1, column 'reviewerID': 'a\ufffd' holds letters that cannot be read"),
        (b'{"reviewerID": 9007199254740993.0, ', "row 1, column 'reviewerID': 9007199254740992.0 is a decimal number"),
    ],
)
def test_an_id_that_cannot_be_read_is_an_error_with_its_row(tmp_path, content, message):
    rest = b'"asin": "i", "unixReviewTime": 5, "reviewText": "x"}\n'
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"reviewerID": "a", ' + rest + content + rest)
    with pytest.raises(DatasetError) as caught:
        list(read_reviews(path, skipped=Counter()))
    assert f"{path}: {message}" in str(caught.value) and "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed


def shop(user="u{}"):
    """20 customers with 6 purchases each; `user` is how customers are named."""
    return [
        {
            "reviewerID": user.format(n),
            "asin": f"i{(3 * n + step) % 20}",
            "unixReviewTime": 1_400_000_000 + 86_400 * step,
            "reviewText": f"The strap of {n} is great for {step}.",
        }
        for n in range(20)
        for step in range(6)
    ]


def test_half_a_letter_in_a_text_stops_nothing(tmp_path):
    rows = shop()
    rows[0]["reviewText"] = "The strap is great \ud83d today."
    rows[1]["summary"] = "\udc00"
    tables = build_file(write_jsonl(tmp_path / "r.jsonl", rows))
    assert tables.info["skipped"]["undecodable_text"] == 2
    explanations = [text for split in tables.rationales.values() for text in split["explanation"].to_pylist()]
    assert "The strap is great \ufffd today." in explanations
    given = {"review_row": 0, "user_preference": "The user likes \ud83d straps.", "item_attributes": "It is wide."}
    tables = build_file(tmp_path / "r.jsonl", rationales=write_jsonl(tmp_path / "g.jsonl", [given]))
    assert sum(tables.info["counts"]["with_rationale"].values()) == 1


def test_numbers_that_would_name_one_customer_twice_are_one(tmp_path):
    rows = shop()
    written = [int, float, str, "{}.0".format]
    for place, row in enumerate(rows):
        row["reviewerID"] = written[place % 4](int(row["reviewerID"][1:]))
    mixed = build_file(write_jsonl(tmp_path / "mixed.jsonl", rows))
    plain = build_file(write_jsonl(tmp_path / "plain.jsonl", shop(user="{}")))
    assert mixed.info["fingerprint"] == plain.info["fingerprint"]
    decimal = build_file(write_jsonl(tmp_path / "decimal.jsonl", shop(user="{}.0")))
    assert set(decimal.catalog["raw_id"].to_pylist()[:20]) == {f"{n}.0" for n in range(20)}


def test_nan_is_null_in_the_cases(cases):
    skips = [Counter(), Counter()]
    one, other = (list(read_reviews(cases / f"ids_{n}.jsonl", skipped=s)) for n, s in zip(("nan", "null"), skips))
    assert one == other and skips[0] == skips[1] and skips[0]["missing_user"] == 20
    assert not {"nan", "None"} & {name for review in one for name in (review.user, review.item)}
    tables = build_file(cases / "ids_nan.jsonl")
    assert tables.info["fingerprint"] == build_file(cases / "ids_null.jsonl").info["fingerprint"]
    assert tables.info["skipped"]["missing_user"] == 20


def test_int_and_float_are_one_customer_in_the_cases(cases):
    tables = build_file(cases / "ids_int_and_float.jsonl")
    assert sorted(tables.catalog["raw_id"].to_pylist()[:30]) == [str(n) for n in range(100, 130)]
    assert tables.info["counts"]["interactions"] == 180


def test_numbers_as_ids_in_the_cases(cases):
    found = list(read_reviews(cases / "ids_numeric.csv", skipped=Counter()))
    assert all(review.user.isdecimal() and review.item.isdecimal() for review in found)


# ---- rationales of other reviews ----------------------------------------------------------------------------------


def distilled(reviews, folder):
    """What distill.py writes of a reviews file, with a teacher whose answer depends on the review alone."""

    async def ask(messages, seed, temperature):
        review = messages[-1]["content"].split("<review>")[1].split("</review>")[0]
        return Completion(sentences(review), "stop", 9)

    settings = Settings(reviews=str(reviews), endpoint=["-"], model="m", prompt="published", output=str(folder))
    distill(settings, ask=ask, progress=False)
    return folder / "rationales.parquet"


def raw_rows(tables):
    """By raw user and item, the texts of each row."""
    names = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
    return {
        (names["user", row["user"]], names["item", row["item"]]): row
        for split in tables.rationales.values()
        for row in split.to_pylist()
    }


def test_rationales_follow_their_reviews_into_a_file_in_another_order(tmp_path):
    old, new = shop(), shop()[::-1]
    new[5]["reviewText"] = "The cable is another one."
    given = distilled(write_jsonl(tmp_path / "old.jsonl", old), tmp_path / "distilled")
    tables = build_file(write_jsonl(tmp_path / "new.jsonl", new), rationales=given)
    rows, texts = raw_rows(tables), {(row["reviewerID"], row["asin"]): row["reviewText"] for row in new}
    assert rows.pop((new[5]["reviewerID"], new[5]["asin"]))["user_preference"] is None
    assert len(rows) == len(old) - 1
    for pair, row in rows.items():
        assert f"1. {row['user_preference']}\n2. {row['item_attributes']}" == sentences(texts[pair])
    assert tables.info["skipped"]["rationale_of_no_review"] == 1 and "rationales" not in tables.info["notes"]


def test_rationales_may_name_their_reviews_and_no_row(tmp_path):
    rows = shop(user="{}")
    review = read([rows[7]])[0]
    line = review_key(review)._asdict() | {"user": 1, "user_preference": "The user likes it.", "item_attributes": None}
    given = write_jsonl(tmp_path / "given.jsonl", [line, line])
    tables = build_file(write_jsonl(tmp_path / "r.jsonl", rows), rationales=given)
    assert raw_rows(tables)["1", rows[7]["asin"]]["user_preference"] == "The user likes it."
    assert tables.info["skipped"]["duplicate_rationale"] == 1


def test_rationales_that_name_a_row_alone_are_noted_and_checked_where_they_can_be(tmp_path):
    reviews, longer = write_jsonl(tmp_path / "r.jsonl", shop()), write_jsonl(tmp_path / "s.jsonl", [*shop(), ROW_2014])
    table = pq.read_table(distilled(reviews, tmp_path / "distilled")).drop_columns(list(KEY_COLUMNS))
    given = tmp_path / "distilled" / "rationales.parquet"
    pq.write_table(table, given)
    tables = build_file(reviews, rationales=given)
    assert sum(tables.info["counts"]["with_rationale"].values()) == 120
    assert "\n  rationales: 120 of 120 joined by review_row alone" in summary(tables)
    with pytest.raises(
        DatasetError, match="distilled from a file of 120 reviews, this one has 121; run the distill.py"
    ):
        build_file(longer, rationales=given)
    (tmp_path / "distilled" / "distill_info.json").unlink()
    assert "joined by review_row alone" in build_file(longer, rationales=given).info["notes"]["rationales"]


def test_each_rationale_of_the_cases_stands_on_its_own_review(cases, tmp_path):
    given = distilled(cases / "last_month.jsonl", tmp_path / "distilled")
    before, after = (build_file(cases / f"{name}_month.jsonl", rationales=given) for name in ("last", "this"))
    reviews = {
        (review.user, review.item): review.text
        for review in read_reviews(cases / "this_month.jsonl", skipped=Counter())
    }
    known = 0
    for pair, row in raw_rows(after).items():
        if row["user_preference"] is not None:
            known += 1
            assert f"1. {row['user_preference']}\n2. {row['item_attributes']}" == sentences(reviews[pair])
    assert known == sum(before.info["counts"]["with_rationale"].values()) == 180
    assert len(raw_rows(after)) == 185  # one of the six new rows buys again what was bought before
