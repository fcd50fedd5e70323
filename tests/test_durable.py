"""Writing whole or not at all: what a failure leaves, and that everything reaches the disk in the right order."""

import os
import stat

import pytest

from rdrec import durable
from rdrec.durable import put_in_place, recover, replace_folder, whole_file, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails_midway(path):
    path.write_text("half")
    raise RuntimeError("disk full")


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    target = tmp_path / "a.json"
    write_json(target, {"é": 1})
    before = target.read_bytes()
    assert before == '{\n  "é": 1\n}\n'.encode()

    def fail(*given):
        raise OSError("disk full")

    if step != "write":
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (durable.Path, "replace")}[step], fail)
    with pytest.raises((OSError, RuntimeError), match="disk full"):
        with whole_file(target) as work:
            fails_midway(work) if step == "write" else work.write_text("new")
    assert target.read_bytes() == before and names(tmp_path) == ["a.json"]


def test_the_file_reaches_the_disk_before_its_name_and_the_name_after(tmp_path, monkeypatch):
    target, seen = tmp_path / "a.json", []

    def fsync(handle):
        what = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append((what, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(target, {})
    assert seen == [("file", False), ("folder", True)]


def test_a_folder_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    target = tmp_path / "checkpoint-last"
    replace_folder(target, lambda folder: (folder / "a").write_text("1"))
    with pytest.raises(RuntimeError):
        replace_folder(target, lambda folder: fails_midway(folder / "a"))
    monkeypatch.setattr(durable, "fsync", lambda path: None)
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "none", target)  # the second rename fails, the first is undone
    assert (target / "a").read_text() == "1" and names(tmp_path) == ["checkpoint-last"]


def test_an_interrupted_replacement_is_undone(tmp_path):
    target = tmp_path / "checkpoint-last"
    replace_folder(target, lambda folder: (folder / "a").write_text("1"))
    target.rename(tmp_path / ".checkpoint-last.replaced")  # killed between the two renames
    recover(target)
    assert (target / "a").read_text() == "1"
    target.rename(tmp_path / ".checkpoint-last.replaced")
    replace_folder(target, lambda folder: (folder / "a").write_text("2"))
    assert (target / "a").read_text() == "2" and names(tmp_path) == ["checkpoint-last"]
