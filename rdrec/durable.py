"""Files and folders written whole or not at all: a failure or a power cut leaves the old or the new, never a half.

A folder takes two renames; what is killed between them leaves the old one as `.NAME.replaced`, which the next write
there, or `recover`, gives its name back first.

    with whole_file(path) as work:
        pq.write_table(table, work)
    write_json(path, content)
    put_in_place(work_folder, target)

`modeling_rdrec/` travels alone and has its own few lines; the journal of distillation only ever grows.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


LEAST_FREE = 2**16  # bytes; a disk with less is full: what a library could not write was more


def fsync(path: Path) -> None:
    """Have a file's content, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether what went wrong in writing into a folder is that the disk, or the user's share of it, is full.

    Libraries raise errors of their own for it: some keep the system's words, torch does not.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(folder).free < LEAST_FREE


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a temporary name beside `target` to write to; at the end of the `with` the file takes its place."""
    # The process's number: two that write the same file must not mix what they write.
    work = target.with_name(f".{target.name}.writing-{os.getpid()}")
    try:
        yield work
        fsync(work)
        work.replace(target)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    fsync(target.parent)  # the new name must survive too


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text whole."""
    with whole_file(path) as work:
        work.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then put it in the place of `target`."""
    # One name for all processes: what a killed run left, which may be a large checkpoint, is cleared by the next.
    work = target.with_name(f".{target.name}.writing")
    recover(target)
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        write(work)
        put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def put_in_place(work: Path, target: Path) -> None:
    """Give a folder that is written to its end the name of `target`; see `recover` for a kill between the renames."""
    old = _name_of_old(target)
    for path in [*work.rglob("*"), work]:
        fsync(path)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        recover(target)
        raise
    fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Undo a `put_in_place` that was killed between its two renames: the old folder gets its name back."""
    old = _name_of_old(target)
    if old.exists() and not target.exists():
        old.rename(target)


def _name_of_old(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")
