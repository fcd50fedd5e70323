"""python -m dataset_builder time_split: nothing after the moment trains or validates, and every reader understands."""

import numpy as np
import pytest

from dataset_builder.__main__ import main
from dataset_builder.build import build_tables
from dataset_builder.leaks import leaks
from dataset_builder.tables import load_tables, write_dataset
from dataset_builder.time_split import split_by_time
from rdrec.errors import DatasetError
from rdrec.publishing.contents import dataset_files
from rdrec.publishing.hub import PublishError
from rdrec.tasks.data import TaskData


@pytest.fixture(scope="module")
def sample(sample_dir):
    return load_tables(sample_dir)


@pytest.fixture(scope="module")
def split(sample):
    return split_by_time(sample)


def purchases(tables):
    """By raw user id: the raw item ids and times, oldest first."""
    raw = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
    return {
        raw["user", row["user"]]: ([raw["item", item] for item in row["items"]], row["timestamps"])
        for row in tables.interactions.to_pylist()
    }


def test_every_purchase_is_where_the_moment_puts_it(sample, split):
    moment = np.datetime64(split.info["source"]["test_from"], "s").astype(int)
    before, after = purchases(sample), purchases(split)
    tested = split.candidates["test"].num_rows
    everyone = [time for _, times in before.values() for time in times]
    assert 0.2 <= np.mean(np.array(everyone) >= moment) < 0.21
    assert 0 < tested < len(after) <= len(before)
    for number, (user, (items, times)) in enumerate(after.items()):
        early = sum(time < moment for time in before[user][1])
        assert early > 0
        is_tested = early >= 2 and early < len(before[user][1])
        assert is_tested == (number < tested)
        assert items == before[user][0][: early + is_tested] and times == before[user][1][: early + is_tested]
    assert all(min(before[user][1]) >= moment for user in before.keys() - after.keys())
    left = sum(len(items) for items, _ in after.values())
    skipped = split.info["skipped"]
    assert skipped["users_without_a_purchase_before"] == len(before) - len(after)
    gone = sum(len(before[user][0]) for user in before.keys() - after.keys())
    assert skipped["purchases_left_out"] == len(everyone) - left - gone


def test_what_trains_and_what_is_held_out(sample, split):
    data = TaskData(split)
    assert len(data.sequences) + len(data.untested) == len(data.raw_ids["user"]) == len(data.histories())
    users = split.interactions.to_pylist()
    moment = np.datetime64(split.info["source"]["test_from"], "s").astype(int)
    for user, trained in enumerate(data.histories("train+validation")):
        assert max(users[user]["timestamps"][: len(trained)], default=0) < moment
    assert [len(items) for items in data.histories()[len(data.sequences) :]] == list(map(len, data.untested))
    positives, negatives = data.candidates["test"]
    assert positives.tolist() == [items[-1] for items in data.sequences]
    bought = {user: items for user, (items, _) in purchases(sample).items()}  # later ones, too
    for user, drawn in zip(data.raw_ids["user"], negatives):
        assert not set(bought[user]) & {data.raw_ids["item"][item - 1] for item in drawn}
    assert data.candidates["validation"][0].tolist() == [items[-2] for items in data.sequences]
    audit = leaks(split)
    assert audit["texts"]["test"]["in_training"] == audit["texts"]["validation"]["in_training"] == 0
    assert audit["texts"]["test"]["interactions"] == len(data.sequences)


def test_a_text_stays_with_its_purchase(sample, split):
    def texts(tables):
        raw = {(row["kind"], row["id"]): row["raw_id"] for row in tables.catalog.to_pylist()}
        return {
            (raw["user", row["user"]], raw["item", row["item"]]): (row["explanation"], row["item_attributes"])
            for table in tables.rationales.values()
            for row in table.to_pylist()
        }

    before, after = texts(sample), texts(split)
    bought = {(user, item) for user, (items, _) in purchases(split).items() for item in items}
    assert after == {pair: text for pair, text in before.items() if pair in bought}


def test_from_the_command_line_with_a_day(sample_dir, tmp_path, capsys):
    assert main(["time_split", str(sample_dir), "--output", str(tmp_path / "split"), "--test_from", "2013-06-01"]) == 0
    printed = capsys.readouterr().out
    assert "users are tested, from 2013-06-01 on" in printed and "purchases left out" in printed
    split = load_tables(tmp_path / "split")
    assert main(["leaks", str(tmp_path / "split")]) == 0
    assert f"{split.candidates['test'].num_rows:,} test items" in capsys.readouterr().out
    assert main(["time_split", str(sample_dir), "--output", str(sample_dir), "--overwrite"]) == 2
    assert "that is the dataset itself" in capsys.readouterr().err
    for day, words in {"2013-13-01": "no day", "1999-01-01": "nobody has 2 purchases before 1999-01-01"}.items():
        assert main(["time_split", str(sample_dir), "--output", str(tmp_path / "none"), "--test_from", day]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_it_is_for_measuring_alone(split, tmp_path):
    folder = write_dataset(split, tmp_path / "split")
    with pytest.raises(DatasetError, match="not split before"):
        split_by_time(split)
    with pytest.raises(PublishError, match="a split by time, which is for measuring"):
        dataset_files(folder)
    with pytest.raises(DatasetError, match="a split by time, which is for measuring"):
        build_tables(lambda: iter([]), extend=folder, progress=False)


def test_purchases_without_times_cannot_be_split(shared_dir, tmp_path, capsys):
    folder = str(tmp_path / "toys")
    source = ["--reference", str(shared_dir / "data" / "toys"), "--domain", "toys"]
    main(["import", *source, "--output", folder])
    assert main(["time_split", folder, "--output", str(tmp_path / "split")]) == 2
    assert "its purchases have no times" in capsys.readouterr().err
