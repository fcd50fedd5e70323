"""Read a file of `torch.save` without running anything it holds.

    checkpoint = Checkpoint("model.pt")
    checkpoint.root                            # what was saved: a module's Shell, or a dict of Tensor records
    checkpoint.state_dict()                    # name -> torch.Tensor

A pickle is a program: it imports names and calls them. Here it can import nothing. A name is one of the few that
rebuild tensors and plain containers, which stand for inert records of this module; or it is taken for a class of the
checkpoint (`T5ForConditionalGeneration` and its parts) and becomes an empty `Shell` that keeps its attributes and runs
no code of that class. A call of anything else ends the reading. Tensors are cut from the archive's bytes afterwards.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rdrec.errors import UserError


DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_DEPTH = 100  # modules within modules; more is no model


class CheckpointError(UserError):
    """A file that cannot be converted; the message is one line for the user."""


class Storage(NamedTuple):
    """Where a tensor's numbers lie: the archive's record, its type and how many numbers it has."""

    key: str
    dtype: torch.dtype
    size: int


class Tensor(NamedTuple):
    """A tensor that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Closed(type):
    """The type of shells: making one is allowed (by the pickle's own instruction), calling one is not."""

    def __call__(cls, *args, **kwargs):
        raise CheckpointError(f"it calls {cls.__name__}, which is neither a tensor nor a plain container")

    def __setattr__(cls, name, value):
        raise CheckpointError(f"it sets {name!r} on {cls.__name__}")


class Shell(metaclass=_Closed):
    """An object of a class that was not imported: `kind` is its name, `state` its attributes."""

    __slots__ = ("state",)

    def __new__(cls, *args):
        if args:
            raise CheckpointError(f"it makes {cls.__name__} with arguments, which no module needs")
        shell = object.__new__(cls)
        object.__setattr__(shell, "state", {})
        return shell

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise CheckpointError(f"the state of {self.kind} is no mapping of attributes")
        self.state.update(state)

    def __setattr__(self, name, value):
        raise CheckpointError(f"it sets {name!r} on {self.kind}")

    @property
    def kind(self) -> str:
        return type(self).__name__


class _Function:
    """One of the few things a checkpoint may call."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable):
        object.__setattr__(self, "_make", make)

    def __call__(self, *args):
        return self._make(*args)

    def __setattr__(self, name, value):
        raise CheckpointError(f"it sets {name!r} on a function")

    def __setstate__(self, state):
        raise CheckpointError("it changes a function")


def _tensor(storage, offset, size, stride, *rest) -> Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise CheckpointError("a tensor in it is malformed")
    if len(size) != len(stride):
        raise CheckpointError("a tensor in it is malformed")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data, *rest) -> Tensor:
    if not isinstance(data, Tensor):
        raise CheckpointError("a parameter in it is no tensor")
    return data


class _Dict(dict):
    """An OrderedDict; what is set on it besides its items (a state dict's versions) is dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


def _container(kind: type) -> Callable:
    return lambda items=(): kind(items)


def _device(*args) -> str:
    return ":".join(map(str, args))


CALLABLE: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "device"): _device,
    ("collections", "OrderedDict"): _container(_Dict),
    ("builtins", "set"): _container(set),
    ("builtins", "frozenset"): _container(frozenset),
    ("__builtin__", "set"): _container(set),
    ("__builtin__", "frozenset"): _container(frozenset),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CALLABLE:
            return _Function(CALLABLE[module, name])
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        # Whatever it is, it stays a name: no module is looked up.
        return _Closed(f"{module}.{name}", (Shell,), {"__slots__": ()})

    def persistent_load(self, saved: Any) -> Storage:
        if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] != "storage":
            raise CheckpointError("it names a storage of an unknown form")
        _, dtype, key, _, size = saved
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(size) is not int:
            raise CheckpointError("it names a storage of an unknown form")
        return Storage(key, dtype, size)


class Checkpoint:
    """A file of `torch.save` (torch 1.6 or newer), opened; `root` is what was saved.

    Raises
    ------
    CheckpointError
        No such file, another format, a damaged file, or a pickle that wants to run something.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{path}: no such file; check the path")
        try:
            self._archive = zipfile.ZipFile(self.path)
            names = [name for name in self._archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(names) != 1:
                raise CheckpointError(f"{path}: not a file of torch.save (it holds no data.pkl)")
            self._folder = names[0].removesuffix("data.pkl")
            order = f"{self._folder}byteorder"
            if order in self._archive.namelist() and self._record(order) != b"little":
                raise CheckpointError(f"{path}: saved on a big-endian machine, which is not read here")
            program = self._record(names[0])
        except zipfile.BadZipFile as error:
            raise CheckpointError(
                f"{path}: not a file of torch.save, or cut off ({error}); get it anew, or save it again with torch 1.6 "
                "or newer"
            ) from error
        try:
            self.root = _Unpickler(io.BytesIO(program)).load()
        except CheckpointError as error:
            raise CheckpointError(f"{path}: refused, nothing of it was run: {error}") from error
        except Exception as error:  # a pickle that is no pickle can fail in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path}: its pickle is damaged ({reason}); get it anew") from error

    def _record(self, name: str) -> bytes:
        # torch.save stores records as they are; a small file that unfolds to a huge one is none of its making.
        if self._archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{self.path}: record {name} is compressed, so no file of torch.save")
        return self._archive.read(name)

    def read(self, tensor: Tensor) -> torch.Tensor:
        """The numbers of a tensor, contiguous."""
        storage = tensor.storage
        try:
            content = bytearray(self._record(f"{self._folder}data/{storage.key}"))
        except (KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.path}: record {storage.key} is missing or damaged; get it anew") from error
        item = torch.empty(0, dtype=storage.dtype).element_size()
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
        empty = 0 in tensor.shape
        outside = not empty and (last >= storage.size or prod(tensor.shape) > storage.size)
        if len(content) != storage.size * item or outside:
            raise CheckpointError(f"{self.path}: record {storage.key} is too short for its tensor; get it anew")
        if empty:
            return torch.empty(tensor.shape, dtype=storage.dtype)
        flat = torch.frombuffer(content, dtype=storage.dtype)
        return flat.as_strided(tensor.shape, tensor.stride, tensor.offset).contiguous()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors by name: of a saved state dict, or of a saved module with all its parts.

        Raises
        ------
        CheckpointError
            What was saved is neither.
        """
        root = self.root
        if isinstance(root, dict):
            found = {name: value for name, value in root.items() if isinstance(value, Tensor)}
            if not found or not all(isinstance(name, str) for name in found):
                raise CheckpointError(f"{self.path}: holds no state dict and no module")
        elif isinstance(root, Shell) and "_modules" in root.state:
            found = dict(_tensors_of(root, "", 0))
        else:
            raise CheckpointError(f"{self.path}: holds no state dict and no module")
        return {name: self.read(tensor) for name, tensor in found.items()}


def _tensors_of(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of a module's shell and of its parts, as `state_dict` would name them."""
    if not isinstance(module, Shell) or depth > MAX_DEPTH:
        raise CheckpointError(f"{prefix or 'the module'}: not a module")
    held = {kind: module.state.get(kind) or {} for kind in ("_parameters", "_buffers", "_modules")}
    passing = module.state.get("_non_persistent_buffers_set") or set()
    if not all(isinstance(entries, dict) for entries in held.values()) or not isinstance(passing, set | list):
        raise CheckpointError(f"{prefix or 'the module'}: not a module")
    for kind in ("_parameters", "_buffers"):
        for name, value in held[kind].items():
            if isinstance(value, Tensor) and not (kind == "_buffers" and name in passing):
                yield f"{prefix}{name}", value
    for name, part in held["_modules"].items():
        if part is not None:
            yield from _tensors_of(part, f"{prefix}{name}.", depth + 1)
