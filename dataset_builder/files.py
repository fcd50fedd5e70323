"""Files: find those of a folder, open what may be packed, tell the encoding, hash, and name the reason of a refusal.

    with open_text("reviews.csv.zip") as lines: ...

Packing (gzip, zip, zstd) and encoding (UTF-8, or UTF-16 and UTF-32 by their mark) are told from the first bytes, never
from the name, so a renamed download still opens.
"""

import codecs
import gzip
import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa

from rdrec.errors import DatasetError


GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PARQUET_MAGIC = b"PAR1"
# Kinds that people hand over and that hold no rows we could read, by their first bytes.
REFUSED = {
    b"BZh": "packed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "packed by xz; unpack it (unxz)",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"SQLite format 3": "an SQLite database; export its table as CSV",
    b"ORC": "an ORC file; save it as Parquet",
    b"Obj\x01": "an Avro file; save it as Parquet",
    b"\x80\x04\x95": "a pickle, which may run code when opened; save it as Parquet",
    b"%PDF": "a PDF; give the data as CSV or JSON lines",
    b"<!DOCTYPE": "a web page; give the file itself, not the page that links to it",
    b"<html": "a web page; give the file itself, not the page that links to it",
}
# Of a folder, files with these endings are data.
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item", ".parquet")
PACKED_SUFFIXES = (".gz", ".zip", ".zst")
NO_DATA = ("readme", "license", "licence")

# A mark of UTF-32 begins like one of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD = 4096  # bytes that kind and encoding are told from


def existing_file(path: str | Path) -> Path:
    """Return `path` as a Path; DatasetError when no file is there."""
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; check the path")
    return path


def data_files(path: str | Path) -> list[Path]:
    """The file itself, or the data files of a folder and the folders in it, by name.

    Left out are hidden files, those that begin with "_", read-me and licence files, other endings than those of data,
    and empty ones (some tools write a part for every worker).

    Raises
    ------
    DatasetError
        There is no such file or folder, or the folder holds no data file.
    """
    path = Path(path)
    if not path.is_dir():
        return [existing_file(path)]
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    found = [file for file in inside if _is_data(file.relative_to(path))]
    if not found:
        names = ", ".join(file.name for file in inside[:5]) or "nothing"
        raise DatasetError(f"{path}: no data file in this folder ({names}); they end in {', '.join(DATA_SUFFIXES)}")
    return [file for file in found if file.stat().st_size] or found


def _is_data(inside: Path) -> bool:
    if any(part.startswith((".", "_")) for part in inside.parts):
        return False
    name = inside.name.lower()
    is_part = name.startswith("part-") and "." not in name  # as Hadoop names them
    return (is_part or name.endswith(DATA_SUFFIXES + PACKED_SUFFIXES)) and not name.startswith(NO_DATA)


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes as they lie on disk (compressed files are hashed compressed)."""
    with open(existing_file(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(path: str | Path) -> dict[str, str]:
    """What `build_info.json` keeps of an input: its name without folders, and its hash.

    The hash of a folder is that of the names and hashes of its data files.
    """
    path = Path(path)
    if not path.is_dir():
        return {"file": path.name, "sha256": sha256_of(path)}
    lines = "".join(f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in data_files(path))
    return {"folder": path.resolve().name, "sha256": hashlib.sha256(lines.encode()).hexdigest()}


class _Unzstd(io.RawIOBase):
    """Arrow's zstd reader as a Python stream; what is wrong with the archive is a zlib.error, as gzip has it."""

    def __init__(self, stream: BinaryIO):
        self._stream = pa.CompressedInputStream(pa.PythonFile(stream), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, pa.ArrowInvalid) as error:
            raise zlib.error(" ".join(str(error).split())) from error
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_bytes(path: str | Path) -> Iterator[BinaryIO]:
    """Open a plain, gzip, zstd or one-member zip file and read what is packed in it.

    Raises
    ------
    DatasetError
        No such file, a zip of several members, or a damaged or truncated archive (also while reading on).
    """
    path = existing_file(path)
    try:
        with open(path, "rb") as stream:
            magic = stream.read(4)
            stream.seek(0)
            if magic.startswith(GZIP_MAGIC):
                with gzip.open(stream, "rb") as unpacked:
                    yield unpacked
            elif magic == ZSTD_MAGIC:
                with io.BufferedReader(_Unzstd(stream), 1 << 16) as unpacked:
                    yield unpacked
            elif magic == ZIP_MAGIC:
                with _open_zip(path, stream) as unpacked:
                    yield unpacked
            else:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: damaged or truncated archive ({error}); download it again") from error


def _open_zip(path: Path, stream: BinaryIO) -> BinaryIO:
    try:
        archive = zipfile.ZipFile(stream)  # holds nothing that must be closed: the file is the caller's
        return archive.open(_member(path, archive))
    except NotImplementedError as error:
        raise DatasetError(f"{path}: a zip that Python cannot unpack ({error}); unpack it and give the file") from error
    except DatasetError:
        raise
    except (OSError, ValueError, RuntimeError, struct.error) as error:  # what damage to a zip's own tables ends in
        raise zipfile.BadZipFile(str(error)) from error


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    # macOS adds a shadow folder to every zip it makes; it holds no data.
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    names = [one.filename for one in members]
    if "[Content_Types].xml" in names:
        raise DatasetError(f"{path}: an Excel workbook or another office document; save it as CSV")
    if len(members) != 1:
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        raise DatasetError(
            f"{path}: the zip holds {len(names)} files ({shown}); unpack it and give the one that is meant"
        )
    if members[0].flag_bits & 1:
        raise DatasetError(f"{path}: the zip is encrypted; unpack it and give the file")
    return members[0]


def head_of(path: str | Path, size: int = _HEAD) -> bytes:
    """The first bytes of what a file holds, unpacked."""
    with open_bytes(path) as stream:
        return stream.read(size)


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Open a file, packed or not, as text, in UTF-8 or the encoding that its mark names.

    Bytes that are no letters become U+FFFD, so one bad text never stops a build (the readers count them, and refuse
    them in an id). Newlines are left alone (`newline=""`), as the csv module asks.

    Raises
    ------
    DatasetError
        What `open_bytes` raises, and a file that holds no text.
    """
    encoding = _encoding(path, head_of(path))
    with open_bytes(path) as stream:
        yield io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")


def _encoding(path: str | Path, head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    for magic, what in REFUSED.items():
        if head.startswith(magic):
            raise DatasetError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise DatasetError(f"{path}: a tar archive; unpack it and give the file, or the folder, that is meant")
    if head.startswith((GZIP_MAGIC, ZIP_MAGIC, ZSTD_MAGIC)):
        raise DatasetError(f"{path}: packed twice; unpack it once")
    if head.startswith(PARQUET_MAGIC):
        raise DatasetError(f"{path}: Parquet, where text is needed; save it as JSON lines")
    if head.count(0) > len(head) // 10:
        raise DatasetError(
            f"{path}: no text, or UTF-16 without the mark that tells it; save it as UTF-8 "
            f"(iconv -f UTF-16LE -t UTF-8 {os.path.basename(path)} > NEW)"
        )
    return "utf-8-sig"


def numbered_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of every line that is not blank; the place names file and line for an error message."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{path} line {number}", line
