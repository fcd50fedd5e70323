"""Fixtures: the shared data, the embedded sample, a tiny checkpoint, and the loopback Hub.

The dataset and the checkpoint are committed in `tests/fixtures/`, where `make.py` writes them anew; this file is the
only place that reads them.
"""

import os
import sys
from pathlib import Path

import pytest


# No test reaches a hub; without this a path that is not there would be looked up on one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are so small that a second thread only waits: on a busy machine of two cores it costs eight times the time.
# Set before torch is imported; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).with_name("fixtures")
DATASET, CHECKPOINT = FIXTURES / "dataset", FIXTURES / "checkpoint"
TINY_MODEL = '{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}'


def launched_on(processes: int) -> list[str]:
    """The beginning of a command that runs a script on so many processes; `accelerate launch` would ask for MPI."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


@pytest.fixture(scope="session", autouse=True)
def one_core():
    """Training and evaluation in this process find one core, as OMP_NUM_THREADS has it; they would take them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout (data and parity figures that are not committed)."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared beside this checkout: its data and parity figures are not part of the repository")
    return path


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    """The embedded sample as a dataset folder. It is the committed one: copy it before you change it."""
    return DATASET


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub on the loopback, which this process and the ones it starts take for the real one."""
    from huggingface_hub import constants, hf_api

    from tests.fakes.hub_server import Account, HubServer

    tokens = {
        "hf_writer": Account("rdrec", orgs=("lab",)),
        "hf_reader": Account("rdrec", role="read"),
        "hf_other": Account("other"),
    }
    with HubServer(tmp_path / "hub", tokens) as server:
        as_if_set_before_the_import = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }
        for name, value in as_if_set_before_the_import.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # behind the functions that need no HfApi
        settings = {"ENDPOINT": server.url, "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1", "TOKEN": "hf_writer"}
        for name, value in settings.items():
            monkeypatch.setenv(f"HF_{name}", value)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.fixture
def no_proxy_no_token(monkeypatch):
    """The loopback is asked directly, and without the token of whoever runs the tests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def fixed_scores(monkeypatch):
    """A half is grounded when it says "strap"; no model is needed."""
    from rdrec.grounding import flags, policy

    def score(half):
        score, found = (0.9 if "strap" in half else 0.1, ()) if half else (0.0, ("empty",))
        return flags.HalfAudit(score, found, ())

    def audit_halves(reviews, halves, names, progress=False):
        return list(map(score, halves))

    monkeypatch.setattr(flags, "audit_halves", audit_halves)
    monkeypatch.setattr(policy, "audit_halves", audit_halves)


@pytest.fixture(scope="session")
def sample_data(sample_dir):
    from dataset_builder.tables import load_tables
    from rdrec.tasks.data import TaskData

    return TaskData(load_tables(sample_dir))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An untrained checkpoint of the sample's catalog: the committed weights, saved whole by today's code."""
    from rdrec.checkpoints.loading import load_pretrained

    model, tokenizer = load_pretrained(str(CHECKPOINT))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(tiny_checkpoint):
    from modeling_rdrec import RDRecTokenizer

    return RDRecTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture
def model(tiny_checkpoint):
    """A fresh copy of the tiny model, in evaluation mode."""
    from modeling_rdrec import RDRecForConditionalGeneration

    return RDRecForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()


def number_tokenizer(pieces):
    """A T5-style tokenizer of the given pieces, with `</s>` as token 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    from modeling_rdrec import RDRecTokenizer

    scored = [(piece, -1.0) for piece in ["<pad>", "</s>", "<unk>", *pieces]]
    backend = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return RDRecTokenizer(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def mixed_tokenizer():
    """Ids of one to five tokens, many of which begin others, as in T5's own vocabulary."""
    digits = [f"{n}" for n in range(10)]
    pieces = ["▁user_", "▁item_", "▁", *digits, *(f"▁{n}" for n in range(1, 10)), "▁12", "▁15", "23", "45", "200", "00"]
    return number_tokenizer(pieces)
