"""The files that travel to a model's repo run on strangers' machines (`trust_remote_code=True`): what they may do is
read from their source, as somebody who is asked to trust them would. Nothing is run."""

import ast

import pytest

from tests.conftest import ROOT


FILES = sorted((ROOT / "modeling_rdrec").glob("*.py"))
# Nothing here opens a connection, starts a program or unpickles. A module that is to be added belongs here only after
# the same question; those that are used for one name have it behind them.
STANDARD = {"collections", "contextlib", "copy", "functools", "json", "math", "os", "platform", "re", "threading"} | {
    *("pathlib", "typing", "warnings")
}
LIBRARIES = {"numpy", "torch", "transformers"}
# Beyond these, and why: `strict` validates the configuration (transformers' own are made with it), `Tokenizer` is what
# a transformers tokenizer holds, rebuilt when items are added.
SINGLE_NAMES = {("huggingface_hub.dataclasses", "strict"), ("tokenizers", "Tokenizer")}
# What may be taken of a module that could do more.
ONLY = {"os": {"PathLike", "path", "fsync", "replace"}, "platform": {"machine"}}
# The catalog's own files are opened by those that write them, and only the handler loads a model: from its own folder.
MAY_OPEN = {"catalog_trie.py", "evidence.py", "tokenization_rdrec.py"}
MAY_LOAD = {"handler.py"}
NAMES = {"eval", "exec", "compile", "__import__", "globals", "locals", "vars", "breakpoint", "input", "setattr"}
ATTRIBUTES = {
    *("environ", "environb", "getenv", "putenv", "system", "popen", "fork", "kill"),
    *("hub", "package", "jit", "serialization", "load_library", "cpp_extension", "ctypeslib", "DataSource", "memmap"),
    *("load_state_dict_from_url", "download_url_to_file", "cached_file", "hf_hub_download", "snapshot_download"),
    *("push_to_hub", "get_class_from_dynamic_module", "fromfile", "genfromtxt", "loadtxt", "import_module"),
    *("read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "touch", "rmdir", "chmod"),
    *("__globals__", "__builtins__", "__subclasses__", "__loader__", "__code__", "__getattribute__"),
}


def faults(source: str, name: str = "some.py") -> list[str]:
    """What a file does that remote code must not, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [f"{name} line {node.lineno}: {fault}" for fault in _faults_of(node, name)]
    return found


def _faults_of(node: ast.AST, name: str) -> list[str]:
    if isinstance(node, ast.Import):
        # Under another name a module could do unseen what is looked for below by its own.
        strange = [one.asname for one in node.names if one.asname and (one.name, one.asname) != ("numpy", "np")]
        unknown = [one.name for one in node.names if one.name.split(".")[0] not in STANDARD | LIBRARIES]
        return [f"imports {one}" for one in strange + unknown]
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level == 1 and f"{module}.py" in {path.name for path in FILES}:
            return []
        names = {one.name for one in node.names}
        if node.level or module.split(".")[0] not in STANDARD | LIBRARIES:
            return [f"imports {one} of {module}" for one in names if (module, one) not in SINGLE_NAMES]
        strange = names - ONLY[module] if module in ONLY else names & (ATTRIBUTES | {"*", "load", "save"})
        return [f"imports {one} of {module}" for one in strange]
    if isinstance(node, ast.Attribute):
        return _faults_of_attribute(node, name)
    if isinstance(node, ast.Name) and node.id in NAMES | ({"open"} if name not in MAY_OPEN else set()):
        return [f"uses {node.id}"]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        # A name out of a list is common; one that is put together is not.
        return (
            []
            if isinstance(node.args[1], ast.Constant | ast.Name | ast.Subscript)
            else ["getattr of a name that is put together"]
        )
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
        given = {one.arg: ast.unparse(one.value) for one in node.keywords}
        return [] if given.get("allow_pickle") == "False" else ["np.load without allow_pickle=False"]
    return []


def _faults_of_attribute(node: ast.Attribute, name: str) -> list[str]:
    whole = ast.unparse(node)
    few = ONLY.get(ast.unparse(node.value))
    if node.attr in ATTRIBUTES or (few is not None and node.attr not in few):
        return [f"uses {whole}"]
    if whole in ("torch.load", "torch.save", "np.lib", "numpy.load", "transformers.utils"):
        return [f"uses {whole}"]
    return [f"loads a model: {whole}"] if node.attr == "from_pretrained" and name not in MAY_LOAD else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_remote_code_does_only_what_it_says(path):
    assert faults(path.read_text(encoding="utf-8"), path.name) == []


def test_the_handler_loads_its_own_folder_and_nothing_else():
    loads = [
        ast.unparse(node)
        for node in ast.walk(ast.parse((ROOT / "modeling_rdrec" / "handler.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert len(loads) == 2 and all("(folder, " in call for call in loads)


@pytest.mark.parametrize(
    "hostile",
    [
        "import pickle",
        "import subprocess as math",
        "import socket",
        "import ctypes",
        "def late():\n    import urllib.request",
        "from requests import get",
        "import huggingface_hub",
        "from huggingface_hub import hf_hub_download",
        "from tokenizers import *",
        "from zipfile import ZipFile",
        "from os import environ",
        "from os import system as say",
        "from torch import load",
        "from transformers.utils import cached_file",
        "from ..rdrec import training",
        "import os\nos.environ['HF_TOKEN']",
        "import os\nos.getenv('HOME')",
        "import os\nos.execv('/bin/sh', [])",
        "import os as system\nsystem.popen('id')",
        "import platform\nplatform.processor()",
        "import torch\ntorch.load('weights.bin')",
        "import torch\ntorch.hub.load('a/b', 'c')",
        "import torch\ntorch.ops.load_library('evil.so')",
        "import torch as t\nt.load('weights.bin')",
        "import numpy as np\nnp.load('a.npy')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "import numpy as np\nnp.ctypeslib.load_library('evil', '.')",
        "eval('1')",
        "run = exec",
        "open('/etc/passwd')",
        "__import__('so' + 'cket')",
        "import os\ngetattr(os, 'sys' + 'tem')",
        "().__class__.__base__.__subclasses__()",
        "from transformers import AutoModel\nAutoModel.from_pretrained('somebody/else')",
        "from pathlib import Path\nPath('.env').read_text()",
    ],
)
def test_what_remote_code_must_not_do_is_found(hostile):
    assert faults(hostile)
