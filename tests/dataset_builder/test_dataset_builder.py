"""The dataset builder: input formats, filters, ids, splits, candidates, explanations, folder layout, and each error.

pytest tests/dataset_builder/test_dataset_builder.py
"""

import csv
import gzip
import io
import itertools
import json
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder import (
    DatasetError,
    RDRecRationales,
    build_tables,
    load_tables,
    write_dataset,
)
from dataset_builder.__main__ import main
from dataset_builder.explanations import FeatureVocabulary, clean_text, pick, sentences
from dataset_builder.interactions import core, filter_interactions, first_interactions
from dataset_builder.reviews import read_reviews
from dataset_builder.splits import TEST, TRAIN, VALIDATION, draw_candidates, split_texts
from dataset_builder.tables import SCHEMAS, fingerprint


FEATURES = ("strap", "cable", "tuner", "finish", "neck", "battery")


def make_rows(n_users: int = 40, n_items: int = 30, per_user: int = 9, seed: int = 3) -> list[dict]:
    """Reviews in 2014 names, in shuffled order; every text names its user and item, so a leak can be traced."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for step, item in enumerate(rng.permutation(n_items)[:per_user]):
            feature = FEATURES[int(rng.integers(len(FEATURES)))]
            rows.append(
                {
                    "reviewerID": f"U{user:03d}",
                    "asin": f"B{item:03d}",
                    "reviewText": f"The {feature} is great for case {user} {item}. It came on Monday.",
                    "overall": 5.0,
                    "summary": "fine",
                    "unixReviewTime": 1_400_000_000 + 86_400 * step,
                }
            )
    return [rows[i] for i in rng.permutation(len(rows))]


ROWS = make_rows()


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def build(rows=None, **options):
    rows = ROWS if rows is None else rows
    options = {"domain": "test", "num_negatives": 10, "progress": False} | options
    return build_tables(lambda: iter(rows), **options)


# ---- reading ----------------------------------------------------------------------------------------------------


ROW_2014 = {"reviewerID": "u", "asin": "i", "reviewText": "Good strap.", "overall": 4.0, "unixReviewTime": 1393545600}
ROW_2018 = {
    "overall": 4.0,
    "vote": "3",
    "verified": True,
    "style": {"Color:": "red"},
    "reviewerID": "u",
    "asin": "i",
    "reviewText": "Good strap.",
    "reviewTime": "02 28, 2014",
}
ROW_2023 = {"rating": 4.0, "title": "t", "text": "Good strap.", "asin": "variant", "parent_asin": "i", "user_id": "u"}


@pytest.mark.parametrize(
    "row", [ROW_2014, ROW_2018, ROW_2023 | {"timestamp": 1393545600123}], ids=["2014", "2018", "2023"]
)
@pytest.mark.parametrize("layout", ["jsonl", "csv"])
@pytest.mark.parametrize("packing", ["plain", "gzip", "zip"])
def test_every_generation_layout_and_packing_reads_the_same(tmp_path, row, layout, packing):
    if layout == "jsonl":
        data = json.dumps(row).encode() + b"\n"
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, row)
        writer.writeheader()
        writer.writerow(row)
        data = text.getvalue().encode()
    path = tmp_path / "reviews.bin"  # the name tells nothing: the content decides
    if packing == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("reviews", data)
    else:
        path.write_bytes(gzip.compress(data) if packing == "gzip" else data)
    (review,) = read_reviews(path, skipped=Counter())
    assert (review.row, review.user, review.item, review.timestamp) == (0, "u", "i", 1393545600)
    assert (review.text, review.rating) == ("Good strap.", 4.0)


def test_bad_rows_are_counted_and_keep_the_row_numbers(tmp_path):
    path = write_jsonl(
        tmp_path / "r.json",
        [
            ROW_2014,
            "",
            "{not json",
            "[1]",
            ROW_2014 | {"reviewerID": None},
            ROW_2014 | {"asin": " "},
            ROW_2014 | {"unixReviewTime": "soon"},
            ROW_2014 | {"unixReviewTime": float("nan")},
            {k: v for k, v in ROW_2014.items() if k != "reviewText"},
            ROW_2014 | {"reviewText": "last"},
        ],
    )
    skipped = Counter()
    reviews = list(read_reviews(path, skipped=skipped))
    assert [(r.row, r.text) for r in reviews] == [(0, "Good strap."), (8, ""), (9, "last")]
    assert skipped == {"blank_row": 1, "malformed_row": 2, "missing_user": 1, "missing_item": 1, "bad_time": 2}


def test_csv_rows_of_another_width_are_counted_and_quoted_line_breaks_are_one_row(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        'reviewerID,asin,reviewText,unixReviewTime\nu,i,"one\ntwo, three",1\nu,j,too,many,5\nu,k,x\nv,i,y,2\n'
    )
    skipped = Counter()
    reviews = list(read_reviews(path, skipped=skipped))
    assert [(r.row, r.item, r.text) for r in reviews] == [(0, "i", "one\ntwo, three"), (3, "i", "y")]
    assert skipped == {"malformed_row": 2}


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(json.dumps(ROW_2014).encode().replace(b"Good", b"G\xf6\xf6d") + b"\n")
    skipped = Counter()
    (review,) = read_reviews(path, skipped=skipped)
    assert review.text == "G\ufffd\ufffdd strap."
    assert skipped == {"undecodable_text": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"reviewerID,asin,reviewText\nu,i,x\n", "no column for the time.*unixReviewTime"),
        (b"reviewerID,asin,unixReviewTime\nu,i,1\n", "no column for the text.*reviewText"),
        (b'{"asin": "i", "unixReviewTime": 1, "reviewText": "x"}\n', "no column for the user.*reviewerID, user_id"),
        (b'{"asin": "i", "unixReviewTime": 1, "reviewerID": "u"}\n', "no column for the text.*reviewText"),
        (b'[{"asin": "i"}]', "no column for the user.*'asin'"),
        (b"{bad\n{worse\n", r"not one good row of 2 \(2 malformed_row\)"),
        (gzip.compress(b'{"asin": "i"}' * 1000, mtime=0)[:-20], "damaged or truncated"),
        (b"PK\x03\x04 not really a zip", "damaged or truncated"),
    ],
)
def test_bad_files_are_one_line_errors(tmp_path, content, message):
    path = tmp_path / "reviews.bin"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_reviews(path, skipped=Counter(), needs=("text",)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_zip_of_two_members(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        list(read_reviews(tmp_path / "none.json", skipped=Counter()))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("b", "x")
    with pytest.raises(DatasetError, match="holds 2 files"):
        list(read_reviews(tmp_path / "two.zip", skipped=Counter()))


# ---- interactions -----------------------------------------------------------------------------------------------


def test_duplicates_keep_the_earliest_by_time_then_row():
    users = np.array([0, 0, 0, 1, 0])
    items = np.array([5, 5, 5, 5, 6])
    times = np.array([9, 3, 3, 1, 1])
    assert first_interactions(users, items, times).tolist() == [1, 3, 4]


def test_core_equals_a_naive_fixed_point():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 60, 400), rng.integers(0, 50, 400)
    pairs = sorted(set(zip(users.tolist(), items.tolist())))
    users, items = np.array(pairs).T
    left = set(pairs)
    while True:
        by_user, by_item = Counter(u for u, _ in left), Counter(i for _, i in left)
        after = {(u, i) for u, i in left if by_user[u] >= 5 and by_item[i] >= 5}
        if after == left:
            break
        left = after
    keep = core(users, items, 5, 5)
    assert 0 < len(left) < len(pairs)
    assert {p for p, k in zip(pairs, keep) if k} == left


def test_order_is_by_time_and_ties_by_row():
    times = np.array([5, 1, 5, 1])
    kept = filter_interactions(np.zeros(4, int), np.array([0, 1, 2, 3]), times, 1, Counter())
    assert kept.tolist() == [1, 3, 0, 2]


def test_users_under_three_are_dropped_at_a_small_core_and_counted():
    skipped = Counter()
    kept = filter_interactions(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1]), np.arange(5), 1, skipped)
    assert kept.tolist() == [0, 1, 2]
    assert skipped["user_under_3_interactions"] == 2


def test_nothing_left_names_the_core_that_would_keep_something():
    users, items = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    with pytest.raises(DatasetError, match="--min_core 3 would keep 9"):
        filter_interactions(users, items, np.arange(9), 5, Counter())
    with pytest.raises(DatasetError, match="no user has 3 items"):
        filter_interactions(np.array([0]), np.array([0]), np.array([0]), 5, Counter())
    with pytest.raises(DatasetError, match="must be 1 or more"):
        filter_interactions(users, items, np.arange(9), 0, Counter())


# ---- explanations -----------------------------------------------------------------------------------------------


def test_sentences_survive_lost_line_breaks_numbers_and_short_forms():
    text = clean_text("It fits, mine did!Buy this &amp; smile.<br />Costs 3.5 dollars vs. 9 in the U.S.A\n\nGood :)")
    assert text == "It fits, mine did!Buy this & smile. Costs 3.5 dollars vs. 9 in the U.S.A Good :)"
    assert sentences(text) == [
        "It fits, mine did!",
        "Buy this & smile.",
        "Costs 3.5 dollars vs. 9 in the U.S.A Good :)",
    ]


def test_long_sentences_are_cut_at_clauses():
    long = "I walked for an hour through the rain to the post office to fetch it, but the strap is wide and soft."
    assert sentences(long)[1] == "but the strap is wide and soft."


def test_features_are_noun_heads_that_are_neither_rare_ubiquitous_nor_opinions():
    vocabulary = FeatureVocabulary()
    for i in range(20):
        vocabulary.add(["The product is here." + (" The heavy strap is wide." if i % 5 == 0 else "")])
    vocabulary.add(["The zebra is here and we walked.", "A great cable. The perfect and the best."])
    vocabulary.add(["My cable is long and we walked."])
    features = vocabulary.select()
    assert set(features) == {"strap", "cable"}
    assert features["strap"] > features["cable"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Ordered on a Monday morning. The strap is wide. I love the soft strap.",
            ("I love the soft strap.", "strap"),
        ),
        ("My cable arrived on a Monday. We walked home on that day.", ("My cable arrived on a Monday.", "cable")),
        ("It works. We went to the sea and back home.", ("We went to the sea and back home.", "")),
        ("Works well.", ("Works well.", "")),
    ],
)
def test_pick_prefers_an_opinion_on_a_feature_then_a_feature_then_length(text, expected):
    assert tuple(pick(text, {"strap": 2.0, "cable": 1.0})) == expected


@pytest.mark.parametrize("text", ["", "  ", "Good.", "!!! 5/5", "and " * 60])
def test_pick_gives_nothing_where_there_is_no_sentence(text):
    assert pick(text, {"strap": 2.0}) is None


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "*" * LONG,
        "\u2022" * LONG,
        "word " * 30 + "." * LONG,
        "word " * 30 + "," * LONG,
        "." + '"' * LONG,
        "-" * LONG,
        "a. " * LONG,
        "the " + "a-" * LONG,
        "&" * LONG,
        "&#" + "9" * LONG + ";",
    ],
    ids=lambda text: f"{text[:2]}{text[-3:]}",
)
def test_text_steps_take_time_in_proportion_to_the_text(text):
    """Where the time grew with the square of the length, each of these took minutes: 60,000 asterisks took 23 s."""
    vocabulary = FeatureVocabulary()
    vocabulary.add([text])
    cleaned = clean_text(text)
    assert sum(map(len, sentences(cleaned))) <= len(cleaned)
    assert pick(f"The strap is great! {text}", {"strap": 1.0}).text == "The strap is great!"


def test_bullets_end_sentences_and_short_forms_do_not():
    text = "It is soft *** it is wide. Made by Mr. Smith and approx. ten others. \u2022 So am I. It* is *good*."
    assert sentences(text) == [
        "It is soft",
        "it is wide.",
        "Made by Mr. Smith and approx. ten others.",
        "So am I.",
        "It",
        "is *good*.",
    ]


# ---- splits and candidates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_text_splits_are_8_1_1_as_far_as_the_leak_allows(protocol):
    parts = np.zeros(1000, dtype=np.int8)
    parts[:30], parts[30:230] = TEST, VALIDATION
    splits = split_texts(parts, protocol, seed=0)
    sizes = [int((splits == s).sum()) for s in (TRAIN, VALIDATION, TEST)]
    if protocol == "published":
        assert sizes == [800, 100, 100]
        assert (splits[:230] == TRAIN).any()
    else:
        assert sizes == [700, 200, 100]
        assert (splits[:30] == TEST).all() and (splits[30:230] == VALIDATION).all()
    assert (splits == split_texts(parts, protocol, seed=0)).all()
    assert (splits != split_texts(parts, protocol, seed=1)).any()


def test_negatives_are_distinct_unseen_and_uniform():
    n_items, n_users = 40, 4000
    items = np.tile([1, 2, 3, 4], n_users)
    drawn = draw_candidates(items, np.full(n_users, 4), n_items, 9, seed=0, split="test")
    assert drawn.shape == (n_users, 9)
    assert all(len(set(row)) == 9 for row in drawn.tolist())
    counts = np.bincount(drawn.reshape(-1), minlength=n_items + 1)
    assert counts[:5].sum() == 0
    # 36 equally likely items, 1,000 draws expected of each; five standard deviations
    assert np.abs(counts[5:] - 1000).max() < 5 * np.sqrt(1000 * 27 / 36)
    other = draw_candidates(items, np.full(n_users, 4), n_items, 9, seed=0, split="validation")
    assert (drawn != other).any()


def test_negatives_may_use_up_the_catalog_and_no_more():
    items, lengths = np.tile([1, 2, 3], 5), np.full(5, 3)
    drawn = draw_candidates(items, lengths, 103, 100, seed=0, split="test")
    assert (np.sort(drawn, axis=1) == np.arange(4, 104)).all()
    with pytest.raises(DatasetError, match="--num_negatives 100"):
        draw_candidates(items, lengths, 103, 101, seed=0, split="test")
    with pytest.raises(DatasetError, match="all 3 items"):
        draw_candidates(items, lengths, 3, 1, seed=0, split="test")


# ---- the whole build --------------------------------------------------------------------------------------------


def raw_pairs(tables, table: pa.Table) -> set[tuple[str, str]]:
    names = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
    return {(names["user", row["user"]], names["item", row["item"]]) for row in table.to_pylist()}


def test_more_candidates_than_a_table_can_hold_are_refused(monkeypatch):
    monkeypatch.setattr("dataset_builder.assemble.MOST_IN_A_COLUMN", 399)
    with pytest.raises(DatasetError, match="--num_negatives 10: too many candidates for 40 users: give at most 9"):
        build()
    assert build(num_negatives=9).candidates["test"].num_rows == 40


def test_tables_keep_every_interaction_in_order():
    tables = build()
    names = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
    expected = {}
    for row in sorted(ROWS, key=lambda r: r["unixReviewTime"]):
        expected.setdefault(row["reviewerID"], []).append((row["asin"], row["unixReviewTime"]))
    got = tables.interactions.to_pylist()
    assert [row["user"] for row in got] == list(range(1, 41))
    assert {
        names["user", row["user"]]: [(names["item", i], t) for i, t in zip(row["items"], row["timestamps"])]
        for row in got
    } == expected
    for config, _, table in tables.parts():
        assert table.schema == SCHEMAS[config]
    kinds = [(row["kind"], row["id"]) for row in tables.catalog.to_pylist()]
    assert kinds == [("user", i) for i in range(1, 41)] + [("item", i) for i in range(1, 31)]


def test_candidates_are_the_last_two_items_and_unseen_negatives():
    tables = build()
    for split, back in (("validation", -2), ("test", -1)):
        rows = zip(tables.interactions.to_pylist(), tables.candidates[split].to_pylist())
        for owned, row in rows:
            assert row["user"] == owned["user"] and row["positive"] == owned["items"][back]
            assert len(set(row["negatives"])) == 10 and not set(row["negatives"]) & set(owned["items"])


def test_clean_lets_no_text_of_a_held_out_interaction_into_training_and_published_does():
    for protocol, leaks in (("clean", False), ("published", True)):
        tables = build(protocol=protocol)
        held_out = {(row["user"], item) for row in tables.interactions.to_pylist() for item in row["items"][-2:]}
        train = {(row["user"], row["item"]) for row in tables.rationales["train"].to_pylist()}
        assert bool(train & held_out) is leaks
        # and by the text itself, which names the raw pair it was written for
        for row in tables.rationales["train"].to_pylist():
            assert row["explanation"].startswith(f"The {row['feature']} is great for case")
        sizes = [tables.rationales[s].num_rows for s in ("train", "validation", "test")]
        assert sum(sizes) == len(ROWS) and min(sizes) >= len(ROWS) // 10


def test_published_ids_follow_first_appearance_and_clean_ids_do_not():
    for protocol, in_order in (("published", True), ("clean", False)):
        tables = build(protocol=protocol)
        seen = list(dict.fromkeys(itertools.chain(*tables.interactions["items"].to_pylist())))
        assert (seen == sorted(seen)) is in_order
        raw_users = tables.catalog["raw_id"].to_pylist()[:40]
        assert (raw_users == list(dict.fromkeys(row["reviewerID"] for row in ROWS))) is in_order


def test_same_seed_same_tables_other_seed_other_tables():
    assert fingerprint(build(seed=1)) == fingerprint(build(seed=1)) != fingerprint(build(seed=2))


def test_every_skip_is_counted():
    rows = [
        *ROWS,
        ROWS[0] | {"unixReviewTime": 1_500_000_000},  # again, later
        {"reviewerID": "lonely", "asin": "B000", "reviewText": "Alone here today.", "unixReviewTime": 1},
        ROWS[0] | {"unixReviewTime": "x"},
    ]
    rows[3] = ROWS[3] | {"reviewText": ""}
    rows[4] = ROWS[4] | {"reviewText": "Good."}
    tables = build(rows)
    assert tables.info["skipped"] == {
        "bad_time": 1,
        "below_core": 1,
        "duplicate_interaction": 1,
        "no_usable_sentence": 1,
        "without_text": 1,
    }
    counts = tables.info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (40, 30, len(ROWS))
    assert sum(counts["rationales"].values()) == len(ROWS) - 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rationales_join_on_the_review_row(tmp_path, kind):
    given = [
        {"review_row": 0, "user_preference": "The user  likes\nstraps.", "item_attributes": "The item is wide."},
        {"review_row": 7, "user_preference": "The user likes cables.", "item_attributes": None},
        {"review_row": 9, "user_preference": "", "item_attributes": ","},
        {"review_row": 7, "user_preference": "Again.", "item_attributes": "Again."},
    ]
    given[1] |= {"teacher": "own", "user_preference_grounding": 0.5}
    path = tmp_path / f"rationales.{kind}"
    if kind == "jsonl":
        write_jsonl(path, given)
    else:
        names = dict.fromkeys(itertools.chain(*given))
        pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in given]), path)
    tables = build(rationales=path, teacher="t5", prompt="v1")
    names = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
    found = {
        (names["user", row["user"]], names["item", row["item"]]): row
        for split in tables.rationales.values()
        for row in split.to_pylist()
        if row["provenance"] is not None
    }
    assert set(found) == {(ROWS[i]["reviewerID"], ROWS[i]["asin"]) for i in (0, 7)}
    first, second = (found[ROWS[i]["reviewerID"], ROWS[i]["asin"]] for i in (0, 7))
    assert (first["user_preference"], first["item_attributes"]) == ("The user likes straps.", "The item is wide.")
    assert (first["provenance"]["teacher"], first["provenance"]["prompt"]) == ("t5", "v1")
    assert second["item_attributes"] is None
    assert second["provenance"]["teacher"] == "own" and second["provenance"]["user_preference_grounding"] == 0.5
    assert tables.info["skipped"] == {"duplicate_rationale": 1, "empty_rationale": 1, "rationale_of_one_half": 1}
    assert sum(tables.info["counts"]["with_rationale"].values()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"review_row": 100_000, "user_preference": "a", "item_attributes": "b"}, "review_row 100000 is not among"),
        ({"review_row": -1, "user_preference": "a", "item_attributes": "b"}, "line 1: review_row -1"),
        ({"review_row": "1", "user_preference": "a", "item_attributes": "b"}, "line 1: review_row '1'"),
        ({"review_row": 1, "item_attributes": "b"}, "line 1: no 'user_preference'"),
        ("{oops", "line 1: not JSON"),
        ("[]", "line 1: not a JSON object"),
    ],
)
def test_bad_rationales_are_errors(tmp_path, line, message):
    with pytest.raises(DatasetError, match=message):
        build(rationales=write_jsonl(tmp_path / "r.jsonl", [line]))


def test_item_text_fills_the_catalog(tmp_path):
    path = tmp_path / "item_text.txt"
    path.write_text("B000 a  wide strap\nB001\nB999 unknown\n")
    tables = build(item_text=path)
    texts = {row["raw_id"]: row["text"] for row in tables.catalog.to_pylist()}
    assert texts["B000"] == "a wide strap" and texts["B001"] is None and texts["U000"] is None
    path.write_text("\n")
    with pytest.raises(DatasetError, match="no line with an item id"):
        build(item_text=path)


def test_unknown_protocol():
    with pytest.raises(DatasetError, match="clean, published"):
        build(protocol="dirty")


# ---- the folder -------------------------------------------------------------------------------------------------


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_written_folder_reads_back_and_is_the_same_bytes_again(tmp_path):
    tables = build()
    one, two = write_dataset(tables, tmp_path / "one"), write_dataset(build(), tmp_path / "deep" / "two")
    assert folder_bytes(one) == folder_bytes(two)
    back = load_tables(one)
    assert back.info == tables.info and fingerprint(back) == tables.info["fingerprint"]
    for (config, split, table), (_, _, other) in zip(tables.parts(), back.parts()):
        assert table.equals(other), (config, split)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "one"]  # no temporary folder is left


def test_load_dataset_and_builder_give_the_same_tables(tmp_path):
    reviews = write_jsonl(tmp_path / "reviews.json", ROWS)
    given = tmp_path / "rationales.jsonl"
    write_jsonl(given, [{"review_row": 0, "user_preference": "The user likes it.", "item_attributes": "It is wide."}])
    options = {"num_negatives": 10, "seed": 4, "teacher": "t"}
    tables = build_tables(reviews, domain="custom", rationales=given, progress=False, **options)
    folder = write_dataset(tables, tmp_path / "data")
    cache = str(tmp_path / "cache")
    for table in SCHEMAS:
        builder = RDRecRationales(
            cache_dir=cache, config_name="custom", reviews=str(reviews), rationales=str(given), table=table, **options
        )
        builder.download_and_prepare()
        built, loaded = builder.as_dataset(), datasets.load_dataset(str(folder), table, cache_dir=cache)
        assert list(built) == list(loaded)
        for split in built:
            assert built[split].features == loaded[split].features
            assert built[split][:] == loaded[split][:]
    default = datasets.load_dataset(str(folder), cache_dir=cache)
    assert "explanation" in default["train"].column_names


@pytest.mark.parametrize("table", SCHEMAS)
def test_load_dataset_sees_that_a_folder_was_built_anew(tmp_path, table):
    cache = str(tmp_path / "cache")
    one, other = build(seed=1), build([*ROWS[:-1], ROWS[-1] | {"reviewText": "The neck is fine."}], seed=2)
    expected = [{split: part for config, split, part in built.parts() if config == table} for built in (one, other)]

    def loaded(folder):
        return {
            k: v.with_format("arrow")[:] for k, v in datasets.load_dataset(str(folder), table, cache_dir=cache).items()
        }

    folder = write_dataset(one, tmp_path / "a" / "data")
    assert loaded(folder) == expected[0]
    write_dataset(other, folder, overwrite=True)
    assert loaded(folder) == expected[1]
    namesake = write_dataset(one, tmp_path / "b" / "data")
    assert loaded(namesake) == expected[0]


def test_builder_cache_depends_on_every_field_and_on_content(tmp_path):
    reviews = write_jsonl(tmp_path / "reviews.json", ROWS)

    def config_id(**options) -> str:
        options = {"config_name": "custom", "reviews": str(reviews)} | options
        return RDRecRationales(cache_dir=str(tmp_path / "cache"), **options).config_id

    ids = [config_id(), config_id(seed=1), config_id(protocol="published"), config_id(min_core=4)]
    ids += [config_id(table="catalog"), config_id(teacher="x")]
    write_jsonl(reviews, ROWS[:-1])
    ids.append(config_id())
    assert len(set(ids)) == len(ids)
    assert config_id() == ids[-1]


def test_builder_without_input_or_of_an_unknown_table(tmp_path):
    with pytest.raises(DatasetError, match="no input"):
        RDRecRationales(cache_dir=str(tmp_path), config_name="custom").download_and_prepare()
    with pytest.raises(DatasetError, match="choose one of rationales"):
        RDRecRationales(cache_dir=str(tmp_path), config_name="custom", table="reviews")


def test_write_refuses_what_is_not_ours_and_replaces_what_is(tmp_path):
    tables = build()
    folder = tmp_path / "data"
    folder.mkdir()
    write_dataset(tables, folder)  # an empty folder is fine
    with pytest.raises(DatasetError, match="--overwrite"):
        write_dataset(tables, folder)
    other = build(seed=9)
    write_dataset(other, folder, overwrite=True)
    assert load_tables(folder).info["fingerprint"] == other.info["fingerprint"]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("dear")
    with pytest.raises(DatasetError, match="not a built dataset"):
        write_dataset(tables, foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "dear"
    with pytest.raises(DatasetError, match="is a file"):
        write_dataset(tables, foreign / "thesis.txt")


def test_a_write_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    tables = build()
    folder = write_dataset(tables, tmp_path / "data")
    before = folder_bytes(folder)
    calls = itertools.count()

    def fail(*args, **kwargs):
        if next(calls) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tables, folder, overwrite=True)
    assert folder_bytes(folder) == before and [p.name for p in tmp_path.iterdir()] == ["data"]
    folder.rename(tmp_path / ".data.replaced")  # what a kill between the two renames leaves
    with pytest.raises(DatasetError, match="already holds a built dataset"):
        write_dataset(tables, folder)
    assert folder_bytes(folder) == before


def test_load_errors(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match="no build_info.json"):
        load_tables(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        load_tables(tmp_path / "none")
    folder = write_dataset(build(), tmp_path / "data")
    (folder / "catalog/train.parquet").write_bytes(b"junk")
    with pytest.raises(DatasetError, match="catalog/train.parquet: not a readable Parquet"):
        load_tables(folder)
    pq.write_table(pa.table({"kind": ["user"]}), folder / "catalog/train.parquet")
    with pytest.raises(DatasetError, match="no column 'id'"):
        load_tables(folder)
    pq.write_table(build(seed=9).catalog, folder / "catalog/train.parquet")  # whole, but of another build
    with pytest.raises(DatasetError, match="data: its tables were changed .* build or download it again"):
        load_tables(folder)
    (folder / "catalog/train.parquet").unlink()
    with pytest.raises(DatasetError, match="missing from the dataset"):
        load_tables(folder)
    info = json.loads((folder / "build_info.json").read_text())
    (folder / "build_info.json").write_text(json.dumps(info | {"format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        load_tables(folder)
    (folder / "build_info.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        load_tables(folder)


# ---- the command line -------------------------------------------------------------------------------------------


def test_command_line_builds_and_sums_up(tmp_path, capsys):
    reviews = write_jsonl(tmp_path / "reviews.json", [*ROWS, "{bad"])
    command = ["build", "--reviews", str(reviews), "--domain", "straps", "--output", str(tmp_path / "out")]
    assert main([*command, "--num_negatives", "10"]) == 0
    printed = capsys.readouterr().out
    assert "40 users, 30 items, 360 interactions" in printed and "malformed row: 1" in printed
    assert main(["info", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out in printed
    assert load_tables(tmp_path / "out").info["source"]["file"] == "reviews.json"


def test_command_line_errors_are_one_line_and_exit_2(tmp_path, capsys):
    assert main(["sample", "--output", "a b"]) == 2
    assert capsys.readouterr().err == "error: sample: has moved, run `python -m rdrec.sample build --output 'a b'`\n"
    assert main(["build", "--reviews", "none.json", "--domain", "d", "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("error: none.json: no such file")
    assert not (tmp_path / "out").exists()


# ---- real reviews -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_musical_instruments(shared_dir):
    folder = shared_dir / "data" / "musical_instruments"
    tables = build_tables(
        folder / "reviews.csv.zip",
        domain="musical_instruments",
        rationales=folder / "rationales.jsonl",
        teacher="SmolLM2-135M-Instruct",
        progress=False,
    )
    counts = tables.info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (1429, 900, 10261)
    rows = list(itertools.chain(*(t.to_pylist() for t in tables.rationales.values())))
    assert len(rows) > 0.99 * 10261 and sum(not row["feature"] for row in rows) < 0.05 * len(rows)
    assert all(row["feature"] in row["explanation"].lower() and "\n" not in row["explanation"] for row in rows)
    top = [word for word, _ in Counter(row["feature"] for row in rows).most_common(8)]
    assert {"sound", "price", "quality", "strings"} <= set(top)
    assert sum(counts["with_rationale"].values()) > 3300
    held_out = {(row["user"], item) for row in tables.interactions.to_pylist() for item in row["items"][-2:]}
    assert not held_out & {(row["user"], row["item"]) for row in tables.rationales["train"].to_pylist()}


def test_one_odd_json_row_does_not_decide_for_the_others(tmp_path):
    """Fields are looked for row by row: a first row that lacks one is a counted skip, not the format of the file."""
    path = tmp_path / "reviews.json"
    good = {"asin": "i", "reviewText": "x", "unixReviewTime": 5}
    rows = [good, {"reviewerID": "u", "asin": "i", "reviewTime": "01 2, 2014"}]
    rows += [{**good, "reviewerID": f"u{n}"} for n in range(3)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n" + "[" * 100_000)
    skipped = Counter()
    reviews = list(read_reviews(path, skipped=skipped))
    assert [review.row for review in reviews] == [1, 2, 3, 4]
    assert [review.timestamp for review in reviews[1:]] == [5, 5, 5]
    assert skipped == {"missing_user": 1, "malformed_row": 1}


def test_a_quote_left_open_is_named(tmp_path):
    path = tmp_path / "reviews.csv"
    lines = ["reviewerID,asin,reviewText,unixReviewTime", 'u,i,"open,1', *(f"u{n},i,x,1" for n in range(1500))]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match="a quote opened in line 2 is not closed"):
        list(read_reviews(path, skipped=Counter()))
