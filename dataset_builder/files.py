"""Files: open a text file that may be gzip or zip, hash it, and name the reason when it is damaged.

    with open_text("reviews.csv.zip") as lines: ...

Compression is told from the first bytes, never from the name, so a renamed download still opens.
"""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rdrec.errors import DatasetError


GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"


def existing_file(path: str | Path) -> Path:
    """Return `path` as a Path; DatasetError when no file is there."""
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; check the path")
    return path


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes as they lie on disk (compressed files are hashed compressed)."""
    with open(existing_file(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(path: str | Path) -> dict[str, str]:
    """What `build_info.json` keeps of an input file: its name without folders, and its hash."""
    return {"file": Path(path).name, "sha256": sha256_of(path)}


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Open a plain, gzip or one-member zip file as text.

    Bytes that are not UTF-8 become U+FFFD, so one bad text never stops a build (the readers count them, and refuse
    them in an id). Newlines are left alone (`newline=""`), as the csv module asks.

    Raises
    ------
    DatasetError
        No such file, a zip of several members, or a damaged or truncated archive (also while reading on).
    """
    path = existing_file(path)
    with open(path, "rb") as probe:
        magic = probe.read(4)
    try:
        if magic.startswith(GZIP_MAGIC):
            with gzip.open(path, "rb") as stream:
                yield _as_text(stream)
        elif magic == ZIP_MAGIC:
            with zipfile.ZipFile(path) as archive:
                # macOS adds a shadow folder to every zip it makes; it holds no data.
                names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
                if len(names) != 1:
                    raise DatasetError(f"{path}: the zip holds {len(names)} files; give one that holds a single file")
                with archive.open(names[0]) as stream:
                    yield _as_text(stream)
        else:
            with open(path, "rb") as stream:
                yield _as_text(stream)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: damaged or truncated archive ({error}); download it again") from error


def numbered_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of every line that is not blank; the place names file and line for an error message."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{path} line {number}", line


def _as_text(stream: io.BufferedIOBase) -> TextIO:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
