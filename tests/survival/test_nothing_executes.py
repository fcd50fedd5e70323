"""No pickle is loaded: a live one is planted in every place that is read, and nothing goes off."""

import ast
import contextlib
import gzip
import io
import pickle
import shutil
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dataset_builder.item_texts import read_item_text
from dataset_builder.rationales import read_rationales
from dataset_builder.reviews import read_reviews
from dataset_builder.tables import load_tables
from rdrec.checkpoints import run_folder
from rdrec.checkpoints.loading import load_pretrained
from rdrec.errors import DatasetError, UserError
from rdrec.training.loop import train
from rdrec.training.recipe import Recipe
from tests.conftest import CHECKPOINT, ROOT, TINY_MODEL


# What others' code reads beside weights, or instead of them.
BESIDE = (
    *("pytorch_model.bin", "model.pt", "adapter_model.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin"),
    *("training_args.bin", "random_states_0.pkl", "rng_state.pth", "custom_checkpoint_0.pkl", "tokenizer.pkl"),
    *("flax_model.msgpack", "catalog.pkl"),
)


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint, to be changed."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


# --- the source ------------------------------------------------------------------------------------------------------


def pickles_of(source: str) -> list[str]:
    """Lines of a program that unpickle, or that unpack an archive onto the disk."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names = ("pickle", "_pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "tarfile")
            found += [one for one in modules if one.split(".")[0] in names]
        elif isinstance(node, ast.Attribute):
            unpickles = node.attr in ("load", "unsafe_load", "read_pickle") and _of(node, "torch", "yaml", "pd")
            unpacks = node.attr in ("extractall", "unpack_archive") or (node.attr == "extract" and _of(node, "archive"))
            found += [ast.unparse(node)] if unpickles or unpacks else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            if _of(node.func, "np", "numpy") and "allow_pickle=False" not in ast.unparse(node):
                found.append(ast.unparse(node))
    return found


def _of(node: ast.Attribute, *names: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in names


def test_one_file_alone_reads_pickles_and_it_runs_nothing():
    """Conversion reads the paper's checkpoints with an unpickler that imports and calls nothing of what they name."""
    rooms = ("modeling_rdrec", "dataset_builder", "rdrec", "metrics", "space", "studies", "examples", "benchmarks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")] + list(ROOT.glob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): pickles_of(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {"rdrec/conversion/unpickle.py": ["pickle"]}
    for hostile in ("from pickle import load", "torch.load('x')", "np.load('x')", "archive.extractall('.')"):
        assert pickles_of(hostile)


# --- a model's folder ------------------------------------------------------------------------------------------------


def test_what_lies_beside_a_model_is_not_read(folder, mine):
    for name in BESIDE:
        mine.plant(folder / name)
    model, tokenizer = load_pretrained(str(folder))
    model.recommend(tokenizer, history=[1, 2], user=1, k=3, internal_ids=True)
    assert not mine.went_off()


def test_pickled_weights_are_refused(folder, mine):
    (folder / "model.safetensors").unlink()
    mine.plant(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are not all there .*: get it anew") as refusal:
        load_pretrained(str(folder))
    assert "\n" not in str(refusal.value)
    # An honest pickle is one too.
    torch.save({"shared.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are not all there"):
        load_pretrained(str(folder))
    mine.plant(folder / "model.safetensors")
    with pytest.raises(UserError, match="its weights are damaged"):
        load_pretrained(str(folder))
    assert not mine.went_off()


def test_pickled_adapters_are_refused(tmp_path, mine):
    mine.plant(tmp_path / "lora" / "adapter_model.bin")
    (tmp_path / "lora" / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "base_model_name_or_path": "{CHECKPOINT.as_posix()}", "r": 2}}'
    )
    with pytest.raises(UserError, match="no adapter_model.safetensors; pickled weights are not read: save"):
        load_pretrained(str(tmp_path / "lora"))
    assert not mine.went_off()


@pytest.mark.parametrize(
    "name, read",
    [
        ("catalog_trie.npy", lambda tokenizer: tokenizer.catalog_trie()),
        ("catalog_transitions.npy", lambda tokenizer: tokenizer.transitions),
        ("catalog_evidence.npz", lambda tokenizer: tokenizer.evidence),
        ("catalog_pieces.npy", lambda tokenizer: tokenizer.item_pieces),
        ("catalog.json", lambda tokenizer: tokenizer.catalog),
        ("tokenizer.json", lambda tokenizer: tokenizer("user_1")),
        ("tokenizer_config.json", lambda tokenizer: tokenizer("user_1")),
        ("config.json", lambda tokenizer: tokenizer("user_1")),
    ],
)
def test_the_files_of_a_catalog_hold_no_objects(folder, mine, name, read):
    mine.plant(folder / name)
    with pytest.raises(ValueError):
        read(load_pretrained(str(folder))[1])
    assert not mine.went_off()


# --- a dataset's folder, and what is built from ----------------------------------------------------------------------


def test_a_dataset_of_pickles_is_refused(sample_dir, tmp_path, mine):
    folder = shutil.copytree(sample_dir, tmp_path / "dataset")
    for name in ("state.pkl", "catalog/train.pkl", "catalog/dataset_info.pkl"):
        mine.plant(folder / name)
    load_tables(folder)
    mine.plant(folder / "catalog" / "train.parquet")
    with pytest.raises(DatasetError, match="not a readable Parquet file"):
        load_tables(folder)
    mine.plant(folder / "build_info.json")
    with pytest.raises(DatasetError, match="build_info.json is damaged"):
        load_tables(folder)
    assert not mine.went_off()


def test_a_type_that_arrow_once_unpickled_stays_data(sample_dir, tmp_path, mine):
    """Arrow's Python extension types carried their class as a pickle in the file (CVE-2023-47248)."""
    folder = shutil.copytree(sample_dir, tmp_path / "dataset")
    path = folder / "catalog" / "train.parquet"
    table = pq.read_table(path, partitioning=None)
    said = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(mine),
    }
    fields = [field.with_metadata(said) if field.name == "raw_id" else field for field in table.schema]
    pq.write_table(pa.Table.from_arrays(table.columns, schema=pa.schema(fields)), path)
    assert load_tables(folder).catalog.column("raw_id").type == pa.string()
    assert not mine.went_off()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_reader_unpickles(tmp_path, mine, protocol):
    path = tmp_path / "reviews.json"
    content = pickle.dumps([{"user": "a", "item": "b", "timestamp": 1, "text": mine}], protocol)
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(content))
        with pytest.raises(DatasetError):
            list(read_reviews(path, skipped=Counter()))
        with pytest.raises(DatasetError):
            read_rationales(path, teacher="t", prompt="p", skipped=Counter())
        with contextlib.suppress(DatasetError):  # any text has lines of words
            read_item_text(path)
    assert not mine.went_off()


def test_a_python_literal_is_read_and_not_run(tmp_path, mine):
    path = tmp_path / "reviews.json"
    call = f"__import__('os').mkdir({str(mine.folder)!r})"
    path.write_text(
        "{'user': 'a', 'item': 'b', 'timestamp': 1, 'text': 'good'}\n"
        f"{{'user': 'a', 'item': 'c', 'timestamp': 2, 'text': {call}}}\n"
        f"{{'user': 'a', 'item': 'd', 'timestamp': 2, **{call}}}\n"
    )
    skipped = Counter()
    assert [one.item for one in read_reviews(path, skipped=skipped)] == ["b"] and skipped["malformed_row"] == 2
    assert not mine.went_off()


def test_archives_write_nothing(tmp_path):
    """A member that names a way out of the folder is read where it lies: nothing is ever unpacked onto the disk."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    for name in ("../../out.csv", "/tmp/rdrec-out.csv", "..\\..\\out.csv", "a/../../out.csv"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, "user,item,timestamp\nx,y,100000\n")
        (inside / "reviews.zip").write_bytes(packed.getvalue())
        assert [one.user for one in read_reviews(inside / "reviews.zip", skipped=Counter())] == ["x"]
    packed = io.BytesIO()
    pq.write_table(pa.table({"user": ["x"], "item": ["y"], "timestamp": [100000]}), packed)
    with zipfile.ZipFile(inside / "reviews.zip", "w") as archive:  # Parquet needs a file to jump in
        archive.writestr("../../out.parquet", packed.getvalue())
    assert [one.user for one in read_reviews(inside / "reviews.zip", skipped=Counter())] == ["x"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["reviews.zip"]


# --- a checkpoint to resume from -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(sample_dir, tmp_path_factory):
    """A run that can be gone on with, and its settings."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    settings = dict(dataset=str(sample_dir), output_dir=str(folder), model_config=TINY_MODEL, report_to="none")
    settings |= dict(train_batch_size=12, max_train_steps=1, save_steps=1, max_eval_samples=4, history="encoder")
    train(Recipe(**settings))
    return folder, settings


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "optimizer.bin",
        "random_states_0.pkl",
        "pytorch_model.bin",
        "scheduler.bin",
        "custom_checkpoint_0.pkl",
        "custom_checkpoint_1.pkl",
    ],
)
def test_a_hostile_checkpoint_to_resume_from_runs_nothing(stopped, tmp_path, mine, name):
    folder, settings = stopped
    run = shutil.copytree(folder, tmp_path / "run")
    mine.plant(run / run_folder.LAST / name)
    if name == "pytorch_model.bin":
        (run / run_folder.LAST / "model.safetensors").unlink()
    with contextlib.suppress(Exception):  # refused in whatever way, or not read at all
        train(Recipe(**settings | dict(output_dir=str(run), resume_from_checkpoint="last")))
    assert not mine.went_off()
