"""Journal: an append-only file of JSON lines. An answer counts once its line is on disk.

    with Journal(folder / "journal.jsonl") as journal:
        if journal.header is None:
            journal.begin({...})
        offsets = journal.append([{"key": "…", "text": "…"}, …])     # written and fsynced together

The first line is the header: the settings that all answers share. Each other line is one answer; its `key` names the
review text. A process killed in the middle of a write leaves a torn last line, which the next one to open the file
cuts off: it never counted. The file is locked while it is open; the lock dies with the process.
"""

import fcntl
import json
import os
import threading
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdrec.errors import UserError


FORMAT = 1


class Journal:
    """Open, lock, and read a journal, or create it.

    Attributes
    ----------
    header : dict or None
        None in a new journal.
    keys, offsets : array of uint64
        Of every answer that was there when it was opened: its key, and where its line begins.

    Raises
    ------
    UserError
        Another process holds it, it is of another format, or a line before the last is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise UserError(
                f"{self.path.parent}: another run is writing there; wait for it or name another --output"
            ) from None
        self._reader = open(self.path, "rb")  # noqa: SIM115
        self.header: dict[str, Any] | None = None
        self.keys, self.offsets = array("Q"), array("Q")
        self._end = 0
        self._writing = threading.Lock()
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with self._writing:  # a write in another thread ends first
            self._reader.close()
            os.close(self._file)  # and with it the lock
            self._file = -1

    def _scan(self) -> None:
        damaged: int | None = None
        for number, line in enumerate(self._reader, start=1):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
                key = int(entry["key"], 16) if number > 1 else None
                found = entry["format"] if number == 1 else FORMAT
            except (ValueError, TypeError, KeyError, RecursionError):
                damaged = number
                break
            if found != FORMAT:
                raise UserError(f"{self.path}: format {found}, this version reads {FORMAT}; name another --output")
            if key is None:
                self.header = entry
            else:
                self.keys.append(key)
                self.offsets.append(self._end)
            self._end += len(line)
        if damaged is None:
            return
        # Only the last write can be torn. Whole lines after a damaged one mean that something else went wrong.
        if any(_is_whole(line) for line in self._reader):
            raise UserError(
                f"{self.path} line {damaged}: damaged; delete that line to have its review asked again, then go on"
            )
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)

    def begin(self, settings: dict[str, Any]) -> None:
        """Write the header of a new journal."""
        header = {"format": FORMAT, "settings": settings}
        self._write(_line(header))
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive too
        finally:
            os.close(folder)
        self.header = header

    def append(self, entries: Iterable[dict[str, Any]]) -> list[int]:
        """Write answers and wait until they are on disk. Returns where each begins.

        Raises
        ------
        UserError
            The disk is full or failed. What was written before is intact, of these entries nothing is kept.
        """
        lines = [_line(entry) for entry in entries]
        offset = self._end
        self._write(b"".join(lines))
        offsets = []
        for line in lines:
            offsets.append(offset)
            offset += len(line)
        return offsets

    def _write(self, data: bytes) -> None:
        with self._writing:
            try:
                view, place = memoryview(data), self._end
                while view:
                    written = os.pwrite(self._file, view, place)
                    view, place = view[written:], place + written
                os.fsync(self._file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._file, self._end)
                raise UserError(
                    f"{self.path}: cannot be written ({error.strerror}); every answer before is safe, make room"
                ) from error
            self._end += len(data)

    def read(self, offset: int) -> dict[str, Any]:
        """The answer whose line begins at `offset`."""
        self._reader.seek(offset)
        return json.loads(self._reader.readline())


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
