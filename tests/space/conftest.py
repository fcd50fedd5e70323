"""The Space as the tests meet it: its modules, a tiny model that reads anybody's history, and its recommender."""

import hashlib
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session", autouse=True)
def on_the_path():
    """`python space/app.py` finds the modules beside it, so these tests do, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "space")
        yield


@pytest.fixture(scope="session")
def decoder_checkpoint(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint as a model whose decoder reads the history, which is what is trained today."""
    folder = tmp_path_factory.mktemp("space") / "decoder"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"history": "decoder"}))
    return folder


@pytest.fixture(scope="session")
def retitled(sample_dir, tmp_path_factory):
    """A copy of the sample's dataset whose items have other titles: `retitled(lambda number, title: …)`."""

    def make(change):
        folder = tmp_path_factory.mktemp("space") / "retitled"
        shutil.copytree(sample_dir, folder)
        path = folder / "catalog" / "train.parquet"
        rows = pq.read_table(path)
        changed = [
            row | {"text": change(row["id"], row["text"])} if row["kind"] == "item" else row for row in rows.to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(changed, schema=rows.schema), path)
        # `datasets` takes tables of one name and fingerprint for the same.
        card = folder / "README.md"
        mark = hashlib.sha256(path.read_bytes()).hexdigest()
        card.write_text(re.sub("fingerprint [0-9a-f]+", f"fingerprint {mark}", card.read_text()))
        return folder

    return make


@pytest.fixture(scope="session")
def recommender_of(on_the_path):
    from answers import Recommender

    def make(model, dataset):
        settings = {"model": model, "dataset": dataset}
        return Recommender({kind: {"id": str(path)} for kind, path in settings.items()})

    return make


@pytest.fixture(scope="session")
def recommender(recommender_of, decoder_checkpoint, sample_dir):
    return recommender_of(decoder_checkpoint, sample_dir)
