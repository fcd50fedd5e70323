"""The embedded sample: the same world everywhere, its planted truth, its ceiling, and its folder.

pytest tests/sample/test_sample.py
"""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builder.tables import load_tables
from rdrec.errors import DatasetError
from rdrec.evaluation.baselines import hit_and_ndcg, rank_candidates, rank_sequential
from rdrec.grounding.policy import KEEP
from rdrec.sample.__main__ import main
from rdrec.sample.build import (
    DISTILLED_FILE,
    PLANTED_FILE,
    adopt,
    build_sample,
    export_reviews,
    make_world,
    planted_rationales,
    world_from_info,
)
from rdrec.sample.ceiling import ceiling_ranks
from rdrec.sample.world import HOBBIES, TRAITS


TEACHER_MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_sample(tmp_path_factory.mktemp("sample") / "built")


@pytest.fixture(scope="module")
def tables(folder):
    return load_tables(folder)


def histories(world):
    """Raw items of each user in the order of the file, which is the true order of purchase."""
    bought = {raw: [] for raw in world.user_ids}
    for row in world.rows:
        bought[row["reviewerID"]].append(row["asin"])
    return bought


@pytest.mark.slow
def test_same_seed_same_world_other_seed_other_world(world):
    assert make_world().rows == world.rows
    assert make_world(1).reviews_sha256() != world.reviews_sha256()


@pytest.mark.slow
def test_size_and_fields(world, tables):
    counts = tables.info["counts"]
    assert counts["users"] == 400 and counts["items"] == 240  # nothing falls out of the 5-core
    assert 9 <= counts["interactions"] / counts["users"] <= 12
    row = next(world.reviews())
    assert set(row) == {"reviewerID", "asin", "reviewText", "overall", "summary", "unixReviewTime"}
    times = [row["unixReviewTime"] for row in world.reviews()]
    assert times == sorted(times)


def test_nobody_buys_twice_and_some_days_hold_two_purchases(world):
    assert all(len(set(bought)) == len(bought) for bought in histories(world).values())
    days = Counter((row["reviewerID"], row["unixReviewTime"]) for row in world.rows)
    assert sum(count > 1 for count in days.values()) > 100


@pytest.mark.slow
def test_built_order_is_the_true_order(world, tables):
    raw = dict(zip(tables.catalog["id"].to_pylist()[400:], tables.catalog["raw_id"].to_pylist()[400:], strict=True))
    users = tables.catalog["raw_id"].to_pylist()[:400]
    truth = histories(world)
    for user, items in zip(
        tables.interactions["user"].to_pylist(), tables.interactions["items"].to_pylist(), strict=True
    ):
        assert [raw[item] for item in items] == truth[users[user - 1]]


def test_scores_are_the_law_of_the_purchases(world):
    bought = histories(world)
    user, items = next(iter(bought.items()))
    scores = world.scores(user, items[:3])
    assert np.isneginf(scores[[world.item_number(raw) for raw in items[:3]]]).all()
    assert np.exp(scores).sum() == pytest.approx(1.0)
    # Calibration: over all purchases, the probability given to rank-1 items must be how often they were bought.
    expected, seen, steps = 0.0, 0, 0
    for user, items in list(bought.items())[:150]:
        for step in range(len(items)):
            scores = world.scores(user, items[:step])
            expected += float(np.exp(scores.max()))
            seen += world.item_ids[int(scores.argmax())] == items[step]
            steps += 1
    assert abs(seen - expected) < 4 * np.sqrt(steps * 0.25)


def test_unknown_ids_are_named(world):
    with pytest.raises(DatasetError, match="item B000: not in the sample world"):
        world.scores(world.user_ids[0], ["B000"])
    with pytest.raises(DatasetError, match="user nobody"):
        world.scores("nobody", [])


def test_shipped_rationales_are_what_the_generator_plants(world):
    shipped = pq.read_table(PLANTED_FILE)
    assert shipped.replace_schema_metadata(None).equals(planted_rationales(world))
    assert shipped.schema.metadata[b"reviews_sha256"].decode() == world.reviews_sha256()
    assert PLANTED_FILE.stat().st_size < 200_000
    assert set(shipped["teacher"].to_pylist()) == {"planted-truth"} and set(shipped["prompt"].to_pylist()) == {
        "planted"
    }


def test_shipped_rationales_of_the_teacher_cover_every_review_and_tell_what_became_of_each_half(world):
    shipped = pq.read_table(DISTILLED_FILE)
    assert shipped.schema.metadata[b"reviews_sha256"].decode() == world.reviews_sha256()
    assert DISTILLED_FILE.stat().st_size < 500_000
    rows = shipped.to_pylist()
    assert [row["review_row"] for row in rows] == list(range(len(world.rows)))
    assert {row["teacher"] for row in rows} == {TEACHER_MODEL} and len({row["prompt"] for row in rows}) == 1
    for row in rows:
        for half in ("user_preference", "item_attributes"):
            choice, score = row[f"{half}_choice"], row[f"{half}_grounding"]
            assert (row[half] is None) == (choice == "left_empty") == (score is None)
            assert choice not in ("kept", "asked_again") or score >= KEEP
            assert choice != "own_sentence" or row[half] in world.rows[row["review_row"]]["reviewText"]


def test_rationales_tell_the_truth_that_the_review_gives_away(world):
    likings = {trait.liking: number for number, trait in enumerate(TRAITS)}
    for number, row in enumerate(world.rows):
        preference, attributes = world.rationales[number]
        user, item = world.user_number(row["reviewerID"]), world.item_number(row["asin"])
        text = row["reviewText"].lower()
        if attributes:
            told = [n for n, trait in enumerate(TRAITS) if trait.adjective in attributes]
            assert told and world.traits[item, told].all()
        if preference:
            likes, _, avoids = preference.partition("would rather avoid")
            for words, trait in likings.items():
                assert words not in likes or world.trait_taste[user, trait] > 0
                assert words not in avoids or world.trait_taste[user, trait] < 0
            hobby = list(HOBBIES)[world.hobby[item]]
            # A typo swaps two letters of a word, so letters are compared, not words.
            assert hobby not in preference or not Counter(hobby) - Counter(text)
    supported = [bool(any(halves)) for halves in world.rationales]
    assert 0.8 < np.mean(supported) < 0.95
    assert any(halves[0] is None and halves[1] for halves in world.rationales)


def test_noise_is_there(world):
    texts = [row["reviewText"] for row in world.rows]
    short = np.mean([len(text.split()) <= 2 for text in texts])
    assert 0.07 < short < 0.14
    assert len(set(texts)) > 0.7 * len(texts)
    assert {row["overall"] for row in world.rows} == {1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ceiling_stands_far_above_what_learns_nothing(tables, world, split):
    best = ceiling_ranks(world, tables, split)
    sequences = [np.array(items) for items in tables.interactions["items"].to_pylist()]
    candidates = tables.candidates[split]
    users, positives = (candidates[name].to_numpy() for name in ("user", "positive"))
    negatives = np.array(candidates["negatives"].to_pylist())

    def hr(method, task):
        if task == "sequential":
            ranks = rank_sequential(sequences, split, method, 240)
        else:
            ranks = rank_candidates(sequences, users, positives, negatives, method, 240, split=split)
        return hit_and_ndcg(ranks, [10])["hr@10"]

    best_hr = {task: hit_and_ndcg(ranks, [10])["hr@10"] for task, ranks in best.items()}
    assert 0.7 < best_hr["sequential"] < 0.9
    assert hr("random", "sequential") < 0.1 and hr("popularity", "sequential") < 0.15
    assert 0.5 < hr("transitions", "sequential") < best_hr["sequential"]
    for method in ("random", "popularity", "transitions"):
        assert hr(method, "topn") < best_hr["topn"] - 0.1
    assert {task: ranks.shape for task, ranks in best.items()} == {"sequential": (400,), "topn": (400,)}


def test_ceiling_refuses_another_split(tables, world):
    with pytest.raises(DatasetError, match="'validation' and 'test'"):
        ceiling_ranks(world, tables, "train")


def test_provenance_is_honest_and_catalog_has_words(tables):
    rows = [row for table in tables.rationales.values() for row in table.to_pylist() if row["provenance"]]
    assert {row["provenance"]["teacher"] for row in rows} == {TEACHER_MODEL}
    assert {row["provenance"]["item_attributes_choice"] for row in rows} >= {"kept", "own_sentence", "left_empty"}
    assert len(rows) > 3000
    assert all(
        text
        for kind, text in zip(*(tables.catalog[n].to_pylist() for n in ("kind", "text")), strict=True)
        if kind == "item"
    )


@pytest.mark.slow
def test_same_sample_is_kept_and_another_is_not_overwritten(folder, tmp_path):
    before = (folder / "build_info.json").stat().st_mtime_ns
    assert build_sample(folder) == folder
    assert (folder / "build_info.json").stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="--overwrite"):
        build_sample(folder, seed=1)


@pytest.mark.slow
def test_damaged_sample_is_not_taken_for_whole(tmp_path):
    folder = build_sample(tmp_path / "sample")
    catalog = pq.read_table(folder / "catalog" / "train.parquet")
    pq.write_table(catalog.slice(1), folder / "catalog" / "train.parquet")
    with pytest.raises(DatasetError, match="--overwrite"):
        build_sample(folder)
    build_sample(folder, overwrite=True)
    assert load_tables(folder).catalog.num_rows == catalog.num_rows


@pytest.mark.slow
def test_other_world_and_protocol(tmp_path):
    folder = build_sample(tmp_path / "other", protocol="published", world_seed=3)
    info = json.loads((folder / "build_info.json").read_text())
    assert info["protocol"] == "published"
    assert world_from_info(info).rows == make_world(3).rows
    assert info["source"]["rationales"] == "planted"
    with pytest.raises(DatasetError, match="rationales 'distilled': world 3 has planted"):
        build_sample(tmp_path / "none", world_seed=3, rationales="distilled")


@pytest.mark.slow
def test_planted_truth_can_be_had_instead(folder, tmp_path):
    planted = load_tables(build_sample(tmp_path / "planted", rationales="planted"))
    rows = [row for table in planted.rationales.values() for row in table.to_pylist() if row["provenance"]]
    assert {row["provenance"]["teacher"] for row in rows} == {"planted-truth"} and len(rows) > 3000
    distilled = load_tables(folder)
    assert planted.interactions.equals(distilled.interactions) and planted.catalog.equals(distilled.catalog)
    with pytest.raises(DatasetError, match="--overwrite"):
        build_sample(folder, rationales="planted")


def test_what_is_adopted_is_for_the_samples_reviews(world, tmp_path):
    assert export_reviews(world, tmp_path / "reviews.jsonl").read_text().count("\n") == len(world.rows)
    pq.write_table(pq.read_table(DISTILLED_FILE).slice(1), tmp_path / "part.parquet")
    before = DISTILLED_FILE.read_bytes()
    with pytest.raises(DatasetError, match="not one row a review of the sample"):
        adopt(tmp_path / "part.parquet", world)
    assert DISTILLED_FILE.read_bytes() == before


def test_world_from_info_refuses_what_is_no_sample(tables):
    assert world_from_info(tables.info).seed == 0
    with pytest.raises(DatasetError, match="only that one has a ceiling"):
        world_from_info({"domain": "beauty", "source": {"kind": "reviews"}})
    aged = tables.info["source"] | {"generator": 0}
    with pytest.raises(DatasetError, match="another version"):
        world_from_info({"domain": "sample", "source": aged})


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    assert main(["build", "--output", str(tmp_path / "s"), "--seed", "2"]) == 0
    out = capsys.readouterr().out
    assert "400 users, 240 items" in out and "best possible sequential: hr@1" in out
    assert load_tables(tmp_path / "s").info["seed"] == 2
    assert main(["export", str(tmp_path / "reviews.jsonl")]) == 0
    assert main(["adopt", str(tmp_path / "none.parquet")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.parquet'}: no such file; check the path\n"
