"""Pseudonyms: raw ids of users, which are personal data, replaced in what is published; who is who stays here.

    pseudonyms = Pseudonyms.of_file(Path("users.json"))       # the file may not be there yet
    tables, files = pseudonyms.of_dataset(tables, files)
    files = pseudonyms.of_model(files)
    pseudonyms.write()                                        # before anything is sent

A pseudonym is the HMAC-SHA256 of a raw id under a random salt, so that nobody without the file can tell or try who it
is, while the same file gives the same pseudonyms to a model, its dataset and next month's push.
"""

import hashlib
import hmac
import io
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.tables import INFO_FILE, Tables, fingerprint
from rdrec.checkpoints.records import read_json
from rdrec.durable import whole_file

from .hub import Files, PublishError


CATALOG_FILES = {"model": "catalog.json", "dataset": "catalog/train.parquet"}
DIGITS = 32  # of the hash, hexadecimal: 128 bits, which no two users share


class Pseudonyms:
    """The pseudonyms of one file.

    Parameters
    ----------
    path : Path
        JSON: `{"salt": hexadecimal, "users": {raw id: pseudonym}}`. Whoever has it knows who is who.
    salt : bytes
    users : dict of str to str
        Of earlier pushes.
    """

    def __init__(self, path: Path, salt: bytes, users: dict[str, str]):
        self.path, self.salt, self.users = path, salt, dict(users)

    @classmethod
    def of_file(cls, path: Path) -> "Pseudonyms":
        """What a file of earlier pushes holds, or a new salt where there is none.

        Raises
        ------
        UserError
            For a file that is no such map, over which nothing is written.
        """
        if not path.exists():
            return cls(path, secrets.token_bytes(32), {})
        kept = read_json(path)
        salt, users = kept.get("salt"), kept.get("users")
        if not isinstance(salt, str) or not re.fullmatch("[0-9a-f]{64}", salt) or not isinstance(users, dict):
            raise PublishError(f"--pseudonyms {path}: no map of pseudonyms: name another, or a new file")
        return cls(path, bytes.fromhex(salt), users)

    def of_users(self, raw_ids: Iterable[str]) -> list[str]:
        """The pseudonym of each user; all of them are kept for `write`."""
        made = [(raw, hmac.new(self.salt, raw.encode(), hashlib.sha256).hexdigest()[:DIGITS]) for raw in raw_ids]
        self.users |= dict(made)
        return [pseudonym for _, pseudonym in made]

    def of_dataset(self, tables: Tables, files: Files) -> tuple[Tables, Files]:
        """The tables and files of a dataset's repo under pseudonyms; its `build_info.json` names what it was made of.

        Its fingerprint is another one, as its catalog is; `pseudonyms_of` is that of the dataset on this machine, which
        the records of models trained there have.
        """
        catalog = tables.catalog
        is_user = [kind == "user" for kind in catalog["kind"].to_pylist()]
        raw_ids = catalog["raw_id"].to_pylist()
        users = iter(self.of_users(raw for raw, one in zip(raw_ids, is_user) if one))
        column = pa.array([next(users) if one else raw for raw, one in zip(raw_ids, is_user)], pa.string())
        place = catalog.column_names.index("raw_id")
        info = {**tables.info, "pseudonyms_of": tables.info["fingerprint"]}
        made = replace(tables, catalog=catalog.set_column(place, "raw_id", column), info=info)
        info["fingerprint"] = fingerprint(made)
        parquet = io.BytesIO()
        pq.write_table(made.catalog, parquet, compression="zstd")
        told = (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode()
        return made, {**files, CATALOG_FILES["dataset"]: parquet.getvalue(), INFO_FILE: told}

    def of_model(self, files: Files) -> Files:
        """The files of a model's repo under pseudonyms."""
        path = files.get(CATALOG_FILES["model"])
        if path is None:
            return files
        catalog = json.loads(path.read_text(encoding="utf-8"))
        catalog["user"] = self.of_users(catalog["user"])
        return {**files, CATALOG_FILES["model"]: json.dumps(catalog, ensure_ascii=False).encode()}

    def write(self) -> None:
        """Write the map whole, for its owner's eyes alone."""
        kept = {"salt": self.salt.hex(), "users": self.users}
        with whole_file(self.path) as work:
            work.touch(mode=0o600)
            work.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
