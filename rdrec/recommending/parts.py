"""A file written in parts, any number of times stopped and gone on with: `OUTPUT.parts/` until `OUTPUT` is whole.

    parts = Parts(Path("tonight.parquet"), schema)
    with parts.open(settings, overwrite=False):  # refused where the folder was begun with other settings
        for number in parts.missing(count):
            parts.write(number, table)
        parts.assemble(count)

A part is whole or not there, and what is in it depends on the settings alone; so does the file, byte for byte.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rdrec.durable import fsync, whole_file, write_json
from rdrec.errors import UserError


SETTINGS_FILE = "settings.json"
# How a change is named where the setting itself is a hash.
HASHES = {
    "model_sha256": "the model",
    "dataset_fingerprint": "the dataset",
    "users_sha256": "the users",
    "exclude_sha256": "the items to exclude",
}


class Parts:
    """The parts of one output file; a part becomes a row group."""

    def __init__(self, output: Path, schema: pa.Schema):
        self.output, self.schema = output, schema
        self.folder = output.with_name(output.name + ".parts")

    @contextmanager
    def open(self, settings: dict, overwrite: bool) -> Iterator[None]:
        """Begin, or go on with what was begun with the same settings; the folder is ours until the `with` ends.

        Parameters
        ----------
        settings : dict
            All that the file's content depends on, as JSON has it.
        overwrite : bool
            Replace an output that is there, and drop parts of other settings.

        Raises
        ------
        UserError
            The output is there, or its parts are of other settings, and `overwrite` was not asked for; another run is
            at work; or the folder is none of ours.
        """
        record = self.folder / SETTINGS_FILE
        if self.output.is_dir():
            raise UserError(f"{self.output}: is a folder; name a file")
        if self.output.exists() and not record.is_file() and not overwrite:
            raise UserError(f"{self.output}: exists; name another --output, or add --overwrite to replace it")
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.folder}: another run is at work there; wait, or name another --output"
                ) from error
            self._begin(record, settings, overwrite)
            yield
        finally:
            os.close(handle)

    def _begin(self, record: Path, settings: dict, overwrite: bool) -> None:
        before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        if before == settings:
            return
        if before is None and any(self.folder.iterdir()):
            raise UserError(f"{self.folder}: holds something else; move it, or name another --output")
        if before is not None and not overwrite:
            name = next(name for name in settings | before if settings.get(name) != before.get(name))
            change = f"{name} was {before.get(name)!r} and is now {settings.get(name)!r}"
            raise UserError(
                f"{self.folder}: begun with other settings: "
                f"{f'{HASHES[name]} changed' if name in HASHES else change}; name another --output, or add --overwrite "
                "to begin anew"
            )
        self._empty()
        write_json(record, settings)

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def missing(self, count: int) -> list[int]:
        """Which of `count` parts are still to be written."""
        return [number for number in range(count) if not self.path(number).is_file()]

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part; from then on it is safe."""
        with whole_file(self.path(number)) as work:
            pq.write_table(table, work, compression="zstd")

    def assemble(self, count: int) -> None:
        """Put the parts together, one in memory at a time, give the file its name, and remove the parts."""
        whole = self.folder / "whole.parquet"
        with whole_file(whole) as work, pq.ParquetWriter(work, self.schema, compression="zstd") as writer:
            for number in range(count):
                writer.write_table(pq.read_table(self.path(number), partitioning=None))
        whole.replace(self.output)
        fsync(self.output.parent)
        self._empty()
        shutil.rmtree(self.folder)

    def _empty(self) -> None:
        """Remove all but the settings: killed meanwhile, the folder is still known as ours."""
        for path in self.folder.iterdir():
            if path.name != SETTINGS_FILE:
                path.unlink()
