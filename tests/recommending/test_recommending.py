"""recommend.py on the tiny checkpoint: the file, whom it is for, killed and gone on with, several processes."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdrec.errors import UserError, exit_code
from rdrec.recommending import runner
from rdrec.recommending.ids import read_items, read_users
from rdrec.recommending.runner import Recommending
from rdrec.recommending.settings import RecommendingSettings
from tests.conftest import ROOT, launched_on


@pytest.fixture
def arguments(tiny_checkpoint, sample_dir, tmp_path):
    def make(**changes):
        settings = {"model": str(tiny_checkpoint), "dataset": str(sample_dir), "output": str(tmp_path / "out.parquet")}
        return RecommendingSettings(**{**settings, **changes})

    return make


@pytest.fixture
def some_users(tmp_path, tokenizer):
    """A file of five users, and their raw ids."""
    users = [tokenizer.to_raw("user", number) for number in (9, 3, 200, 4, 5)]
    (tmp_path / "users.txt").write_text("\n".join(users) + "\n")
    return str(tmp_path / "users.txt"), users


def flags(settings):
    names = ("model", "dataset", "output", "users", "users_a_part", "batch_size")
    return [word for name in names for word in (f"--{name}", str(getattr(settings, name))) if getattr(settings, name)]


@pytest.mark.slow
def test_all_users_are_answered_after_their_whole_history(arguments, tmp_path, sample_data, model, tokenizer):
    summary = Recommending(arguments(k=3, users_a_part=150)).run()
    assert summary.startswith(f"{tmp_path / 'out.parquet'}: 400 users; 400 answered in ") and "users/s" in summary
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert (
        file.schema_arrow.remove_metadata()
        == pa.schema([("user", pa.string()), ("items", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])
        and file.num_row_groups == 3
    )
    rows = file.read().to_pylist()
    assert [row["user"] for row in rows] == sample_data.raw_ids["user"]
    for number in (1, 160, 400):
        history = sample_data.sequences[number - 1].tolist()
        expected = model.recommend(tokenizer, history, user=number, k=3, internal_ids=True)
        row = rows[number - 1]
        assert row["items"] == [tokenizer.to_raw("item", item) for item in expected.items]
        assert row["scores"] == pytest.approx(expected.scores, abs=1e-4)
        assert not set(row["items"]) & {tokenizer.to_raw("item", item) for item in history}
    assert os.listdir(tmp_path) == ["out.parquet"]


@pytest.mark.slow
def test_users_items_to_leave_out_and_explanations(arguments, tmp_path, some_users, model, tokenizer, capsys):
    path, users = some_users
    Recommending(arguments(users=path, k=2, output=str(tmp_path / "before.parquet"))).run()
    taken = pq.read_table(tmp_path / "before.parquet")["items"].to_pylist()
    gone = {row[0] for row in taken}
    (tmp_path / "stock.csv").write_text(
        "amount,item\n" + "".join(f"0,{item}\n" for item in [*gone, "B0GONE", "B0GONE2"])
    )
    Recommending(arguments(users=path, exclude=str(tmp_path / "stock.csv"), k=2, explain=True)).run()
    assert (
        f"note: {tmp_path / 'stock.csv'}: {len(gone)} items are left out; 2 rows name none" in capsys.readouterr().err
    )
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["user"] for row in rows] == users
    for row in rows:
        assert len(row["items"]) == 2 and not set(row["items"]) & gone
        sentences = model.explain(tokenizer, user=[row["user"]] * 2, item=row["items"])
        assert row["explanations"] == sentences and all(isinstance(text, str) for text in sentences)


def test_where_everything_is_left_out_nothing_is_recommended(arguments, tmp_path, some_users, tokenizer):
    (tmp_path / "all.txt").write_text("\n".join(tokenizer.catalog["item"]))
    Recommending(arguments(users=some_users[0], exclude=str(tmp_path / "all.txt"), explain=True)).run()
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == 5 and all(row["items"] == row["scores"] == row["explanations"] == [] for row in rows)


# --- files of ids ----------------------------------------------------------------------------------------------------


@pytest.fixture
def numbers(tokenizer):
    """A tokenizer whose raw ids are numbers: "30" is the first one, "1" the last."""
    made = copy.copy(tokenizer)
    made.set_catalog(*([str(n) for n in range(30, 0, -1)] for _ in range(2)))
    return made


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "30\n\n  29 \r\n28\n30\n"),
        ("ids", "\ufeff30\n29\n28\n30"),
        ("ids.csv", "user\n30\n29\n28\n30\n"),
        ("ids.csv", "30\n29\n28\n30\n"),
        ("ids.csv", 'name,user\n"a,b",30\nc,29\n\nd, 28\ne,"30"\n'),
        ("ids.parquet", {"user": [30, 29, 28, 30]}),
        ("ids.parquet", {"user": [30.0, 29.0, 28.0, 30.0], "age": [1, 2, 3, 4]}),
        ("ids.parquet", {"id": ["30", " 29", "28", "30"]}),
    ],
)
def test_files_of_ids(tmp_path, numbers, name, content):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        pq.write_table(pa.table(content), path)
    assert read_users(str(path), numbers) == ([1, 2, 3], 1)


def test_items_that_the_catalog_lacks_are_counted(tmp_path, numbers):
    (tmp_path / "ids.txt").write_text("1\nx\n2\n31\n2\n")
    assert read_items(str(tmp_path / "ids.txt"), numbers) == ([29, 30], 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", "30\n\nnobody\n", "ids.txt line 3: unknown user 'nobody': not of the dataset, take it out"),
        ("ids.csv", "user\n30\n31\n", "ids.csv line 3: unknown user '31'"),
        ("ids.csv", "customer\n30\n", "ids.csv line 1: unknown user 'customer'"),
        ("ids.csv", "a,b\n30,1\n", "ids.csv: no column 'user' among a, b: name the one with the ids 'user'"),
        ("ids.csv", "a,user\n1,30\n2\n", "ids.csv line 3: user '' is no id"),
        ("ids.parquet", {"user": [30, 99]}, "ids.parquet row 2: unknown user 99"),
        ("ids.parquet", {"user": [30.0, float("nan")]}, "ids.parquet row 2: user nan is no id"),
        ("ids.parquet", {"user": ["30", None]}, "ids.parquet row 2: user None is no id"),
        ("ids.parquet", "PAR1 and no more", "ids.parquet: not a readable Parquet file"),
        ("ids.txt", "\n\n", "ids.txt: names no user: give one id a line"),
        ("ids.txt", None, "ids.txt: no such file"),
    ],
)
def test_a_user_that_cannot_be_answered_is_named(tmp_path, numbers, name, content, message):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        pq.write_table(pa.table(content), path)
    with pytest.raises(UserError) as raised:
        read_users(str(path), numbers)
    assert f"{tmp_path}/{message}" in str(raised.value)


# --- stopped and gone on with ----------------------------------------------------------------------------------------


def test_what_is_asked_must_be_the_same_to_go_on(arguments, tmp_path, some_users, monkeypatch):
    path, _ = some_users
    small = {"users": path, "users_a_part": 2, "batch_size": 2}
    answer, answered = Recommending._answer, []

    def interrupted(self, asked):
        answered.extend(asked)
        if len(answered) > 3:
            raise KeyboardInterrupt
        return answer(self, asked)

    monkeypatch.setattr(Recommending, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        Recommending(arguments(**small)).run()
    where = tmp_path / "out.parquet.parts"
    said = f"interrupted: 1 of 3 parts are done and kept in {where}; run the same command to go on"
    assert str(stopped.value) == said
    assert not (tmp_path / "out.parquet").exists()
    monkeypatch.setattr(Recommending, "_answer", answer)
    for change, message in (
        ({"k": 3}, "k was 10 and is now 3"),
        ({"explain": True}, "explain was False and is now True"),
        ({"users": None}, "the users changed"),
    ):
        with pytest.raises(UserError, match=f"begun with other settings: {message}; name another --output"):
            Recommending(arguments(**small | change)).run()
    # A list of items that names none of the catalog changes nothing.
    assert ", 2 were there; 3 answered" in Recommending(arguments(**small, exclude=path)).run()
    whole = (tmp_path / "out.parquet").read_bytes()
    Recommending(arguments(**small, output=str(tmp_path / "alone.parquet"))).run()
    assert (tmp_path / "alone.parquet").read_bytes() == whole
    with pytest.raises(UserError, match="out.parquet: exists; name another --output, or add --overwrite"):
        Recommending(arguments(**small)).run()
    Recommending(arguments(**small, k=3, overwrite=True)).run()
    assert [len(row) for row in pq.read_table(tmp_path / "out.parquet")["items"].to_pylist()] == [3] * 5


def test_another_model_or_another_run_in_the_same_place_is_refused(
    arguments, tmp_path, some_users, tiny_checkpoint, model, monkeypatch
):
    def begin(**changes):
        run = Recommending(arguments(users=some_users[0], **changes))
        with pytest.raises(KeyboardInterrupt, match="0 of 1 parts"):
            run.run()

    def stop(*_):
        with pytest.raises(UserError, match="out.parquet.parts: another run is at work there; wait, or name another"):
            with again.parts.open({}, overwrite=True):
                pass
        raise KeyboardInterrupt

    again = Recommending(arguments(users=some_users[0]))
    monkeypatch.setattr(Recommending, "_answer_parts", stop)
    copied = str(shutil.copytree(tiny_checkpoint, tmp_path / "copied"))
    begin()
    begin(model=copied)  # the same model in another folder
    model.prompt_embeddings.weight.data[0, 0] += 1
    model.save_pretrained(copied)
    with pytest.raises(UserError, match="the model changed"):
        begin(model=copied)
    begin(model=copied, overwrite=True)
    with pytest.raises(UserError, match="the model changed"):
        again.run()


def test_a_folder_of_somebody_else_is_left_alone(arguments, tmp_path):
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="out.parquet.parts: holds something else; move it, or name another --output"):
        Recommending(arguments(overwrite=True)).run()
    with pytest.raises(UserError, match="is a folder; name a file"):
        Recommending(arguments(output=str(tmp_path))).run()


def test_without_texts_there_is_nothing_to_explain_with(arguments, monkeypatch):
    load = runner.load_tables_of

    def without_texts(*given):
        tables = load(*given)
        tables.info["counts"]["rationales"] = dict.fromkeys(tables.info["counts"]["rationales"], 0)
        return tables

    monkeypatch.setattr(runner, "load_tables_of", without_texts)
    with pytest.raises(UserError, match="--explain: .* has no review texts"):
        Recommending(arguments(explain=True))


def test_an_interrupt_says_what_is_kept_in_one_line(capsys):
    def main():
        raise KeyboardInterrupt("interrupted: 1 of 3 parts are kept")

    assert exit_code(main) == 130 and capsys.readouterr().err == "error: interrupted: 1 of 3 parts are kept\n"


@pytest.mark.parametrize("change", [{"k": 0}, {"batch_size": 0}, {"users_a_part": 0}, {"mixed_precision": "int8"}])
def test_settings_without_sense_are_refused(arguments, change):
    with pytest.raises(UserError, match=f"--{next(iter(change))} "):
        arguments(**change)


@pytest.mark.slow
def test_killed_twice_and_stopped_it_ends_with_the_same_file(arguments, tmp_path):
    settings = arguments(users_a_part=4, batch_size=1)
    command = [sys.executable, str(ROOT / "recommend.py"), *flags(settings)]
    parts, output = tmp_path / "out.parquet.parts", tmp_path / "out.parquet"
    held = 0
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while len(list(parts.glob("part-*"))) <= held and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
        now = len(list(parts.glob("part-*")))
        assert held < now < 100 and not output.exists()
        held = now
    assert said.strip().splitlines()[-1].startswith(f"error: interrupted: {held} of 100 parts are done and kept in ")
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"400 users, {4 * held} were there; {400 - 4 * held} answered" in found.stdout
    # A process of its own, too: in this one other tests may have set how many threads compute.
    alone = flags(arguments(users_a_part=4, batch_size=1, output=str(tmp_path / "alone.parquet")))
    subprocess.run([*command[:2], *alone], capture_output=True, check=True)
    assert output.read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["alone.parquet", "out.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_write_the_file_of_one(arguments, tmp_path, processes):
    settings = arguments(users_a_part=30, output=str(tmp_path / "several.parquet"))
    found = subprocess.run(
        [*launched_on(processes), str(ROOT / "recommend.py"), *flags(settings)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("400 answered") == 1
    Recommending(arguments(users_a_part=30)).run()
    assert (tmp_path / "several.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


@pytest.mark.slow
def test_a_mistake_leaves_no_file_and_one_line(arguments, tmp_path):
    (tmp_path / "users.txt").write_text("nobody\n")
    settings = arguments(users=str(tmp_path / "users.txt"))
    found = subprocess.run(
        [sys.executable, str(ROOT / "recommend.py"), *flags(settings)], capture_output=True, text=True
    )
    assert found.returncode == 2 and "unknown user 'nobody'" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr and os.listdir(tmp_path) == ["users.txt"]
