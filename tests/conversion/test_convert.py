"""Conversion of the paper's checkpoints: equal answers from a module saved whole, and pickles that want to run code."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from modeling_rdrec import RDRecForConditionalGeneration, RDRecTokenizer
from rdrec.conversion.convert import convert
from rdrec.conversion.unpickle import Checkpoint, CheckpointError, Shell
from rdrec.errors import UserError


class Original(T5ForConditionalGeneration):
    """As the paper's code has it: a T5 with two tables and plain attributes, saved whole."""

    def init_prompt(self, tasks, length, device):
        self.prompts_per_task = length
        self.model_device = device
        self.prompt_embeddings = torch.nn.Embedding(tasks * length, self.config.d_model)
        self.whole_word_embeddings = torch.nn.Embedding(512, self.config.d_model)
        self.prompt_offset = torch.arange(length)


def pack(path, program: bytes, records: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED):
    """A file of torch.save's form with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", program)
        for name, content in (records or {}).items():
            archive.writestr(f"model/{name}", content)
    return path


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = Original(config)
    model.init_prompt(4, 2, torch.device("cpu"))
    return model.eval()


@pytest.fixture(scope="module")
def saved(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "model.pt"
    torch.save(original, path)
    return path


@pytest.mark.slow
def test_a_module_saved_whole_becomes_our_checkpoint(original, saved, tmp_path, shared_dir):
    record = convert(saved, tmp_path / "out", str(shared_dir / "t5_tokenizer"), 3)
    model = RDRecForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    config = model.config
    assert (config.num_tasks, config.prompt_length, config.num_layers, config.d_kv) == (4, 2, 2, 8)
    assert config.reference_padding and record.class_.endswith("Original")
    assert record.prompt_length == 2 and "/" not in record.tokenizer
    theirs, ours = original.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokenizer = RDRecTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["user_12 item_3"], return_tensors="pt")
    with torch.inference_mode():
        got = model(**batch, task_ids=torch.tensor([1]), labels=torch.tensor([[5, 1]])).logits
        words = original.whole_word_embeddings(batch["whole_word_ids"])
        prompt = original.prompt_embeddings(torch.arange(2) + 2)[None]
        embeds = torch.cat([prompt, original.shared(batch["input_ids"]) + words], dim=1)
        wanted = original(inputs_embeds=embeds, labels=torch.tensor([[5, 1]])).logits
    assert torch.allclose(got, wanted, atol=1e-5)
    assert json.loads((tmp_path / "out" / "conversion_record.json").read_text()) == record.as_dict()
    assert "pytorch_model.bin" not in os.listdir(tmp_path / "out")


@pytest.mark.slow
def test_a_state_dict_and_other_types_of_numbers(original, tmp_path, shared_dir):
    path = tmp_path / "state.pt"
    torch.save({name: value.to(torch.bfloat16) for name, value in original.state_dict().items()}, path)
    convert(path, tmp_path / "out", str(shared_dir / "t5_tokenizer"), 4)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert RDRecForConditionalGeneration.from_pretrained(tmp_path / "out").config.num_tasks == 2
    for name, value in held.items():
        assert torch.equal(value.float(), original.state_dict()[name].to(torch.bfloat16).float())


def test_views_and_shared_storages_are_read_as_they_are(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    given = {"a": whole, "b": whole.t(), "c": whole[1:3, ::2], "d": torch.zeros(0, 3), "e": torch.tensor(7)}
    torch.save(given, tmp_path / "t.pt")
    found = Checkpoint(tmp_path / "t.pt").state_dict()
    assert set(found) == set(given) and all(torch.equal(found[name], given[name]) for name in given)


class _Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker) -> dict[str, bytes]:
    """Programs that would leave `marker` behind, or change what runs later."""
    touch = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    # Protocol 2 has opcodes that the pickle module does not write by itself.
    return {
        "system": pickle.dumps(_Calls(os.system, command), 2),
        "exec": pickle.dumps(_Calls(exec, touch), 2),
        "eval in a dict": pickle.dumps({"w": _Calls(eval, touch)}, 4),
        "popen": pickle.dumps(_Calls(os.popen, command), 0),
        "import": pickle.dumps(_Calls(__import__, "antigravity"), 2),
        "getattr": pickle.dumps(_Calls(getattr, _Calls(__import__, "os"), "system"), 2),
        "torch.load": pickle.dumps(_Calls(torch.load, str(marker)), 2),
        "inst": f"(S'{command}'\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "newobj": f"\x80\x02cos\nsystem\nS'{command}'\n\x85\x81.".encode("latin-1"),
        "build a class": b"cbuiltins\nprint\n}S'x'\nI1\nsb.",
        "build a function": b"ctorch._utils\n_rebuild_tensor_v2\n}S'_make'\nI1\nsb.",
        "build slots": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'_make'\nI1\nstb.",
        "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.system\x93\x8c\x04true\x85R.",
        "allowed with wrong arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(S'a'\nI0\n(t(ttR.",
        "storage of a hostile form": b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000NK\x01tQ.",
    }


@pytest.mark.parametrize("name", list(hostile("x")))
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(tmp_path, name):
    marker = tmp_path / "marker"
    path = pack(tmp_path / "evil.pt", hostile(marker)[name])
    with pytest.raises(
        CheckpointError, match="evil.pt: (refused, nothing of it was run: |its pickle is damaged)"
    ) as error:
        Checkpoint(path).state_dict()
    assert not marker.exists() and "\n" not in str(error.value)


def test_a_name_alone_imports_nothing(tmp_path):
    import sys

    path = pack(tmp_path / "m.pt", b"\x80\x02cantigravity\nfly\n)\x81}X\x01\x00\x00\x00aK\x01sb.")
    root = Checkpoint(path).root
    assert isinstance(root, Shell) and root.kind == "antigravity.fly" and root.state == {"a": 1}
    assert "antigravity" not in sys.modules


def tensor_program(size=4, shape=(2, 2), stride=(2, 1), offset=0, key="0") -> bytes:
    """A pickle of {"w": tensor} with any numbers in it."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.persistent_id = lambda thing: thing if isinstance(thing, tuple) and thing[:1] == ("storage",) else None
    storage = ("storage", torch.FloatStorage, key, "cpu", size)
    pickler.dump({"w": _Calls(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {})})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"shape": (3, 2)}, "too short for its tensor"),
        ({"offset": 1}, "too short for its tensor"),
        ({"size": 5}, "too short for its tensor"),
        ({"shape": (10**12,), "stride": (0,)}, "too short for its tensor"),
        ({"shape": (-1, 2)}, "a tensor in it is malformed"),
        ({"stride": (1,)}, "a tensor in it is malformed"),
        ({"key": "1"}, "record 1 is missing"),
        ({"key": "../data.pkl"}, "record ../data.pkl is missing"),
    ],
)
def test_tensors_that_reach_beyond_their_bytes(tmp_path, changes, message):
    numbers = torch.arange(4.0)
    path = pack(tmp_path / "t.pt", tensor_program(**changes), {"data/0": numbers.numpy().tobytes()})
    if message is None:
        assert torch.equal(Checkpoint(path).state_dict()["w"], numbers.reshape(2, 2))
    else:
        with pytest.raises(CheckpointError, match=message):
            Checkpoint(path).state_dict()


def test_files_that_are_no_checkpoint(saved, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(saved.read_bytes()[:-2000])
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.txt", "x")
    cases = {
        tmp_path / "none.pt": "no such file",
        cut: "not a file of torch.save, or cut off",
        empty: "it holds no data.pkl",
        pack(tmp_path / "bomb.pt", b"N.", compression=zipfile.ZIP_DEFLATED): "is compressed",
        pack(tmp_path / "none_in_it.pt", b"N."): "holds no state dict and no module",
        pack(tmp_path / "list.pt", b"(lp0\n."): "holds no state dict and no module",
        pack(tmp_path / "garbage.pt", b"\xff\xfe"): "its pickle is damaged",
        pack(tmp_path / "big.pt", b"N.", {"byteorder": b"big"}): "big-endian",
    }
    for path, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            Checkpoint(path).state_dict()


def test_models_that_are_not_the_papers_are_named(original, tmp_path, shared_dir):
    state = original.state_dict()
    tokenizer = str(shared_dir / "t5_tokenizer")

    def refuse(message, prompt_length=2, name=tokenizer, **changes):
        path = tmp_path / "m.pt"
        torch.save({k: v for k, v in {**state, **changes}.items() if v is not None}, path)
        with pytest.raises(UserError, match=message):
            convert(path, tmp_path / "out", name, prompt_length)
        assert not (tmp_path / "out").exists()

    refuse("no prompt_embeddings.weight, so no model of the reference", **{"prompt_embeddings.weight": None})
    refuse("8 soft-prompt vectors do not divide by 3: give --prompt_length", prompt_length=3)
    refuse("lm_head|head is not tied", **{"lm_head.weight": torch.ones(32128, 16)})
    refuse("differs from shared.weight", **{"encoder.embed_tokens.weight": torch.ones(32128, 16)})
    refuse("does not fit its configuration: extra.weight", **{"extra.weight": torch.ones(1)})
    refuse("does not fit its configuration", **{"encoder.final_layer_norm.weight": None})
    refuse(
        "pieces, the checkpoint has 100 embeddings",
        **{name: torch.ones(100, 16) for name in state if state[name].shape[0] == 32128},
    )
    refuse("none: no tokenizer there, or none that can be had from the Hub", name=str(tmp_path / "none"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(CheckpointError, match="full: not empty"):
        convert(tmp_path / "m.pt", tmp_path / "full", tokenizer, 2)
