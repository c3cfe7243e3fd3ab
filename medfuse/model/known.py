"""All that the answers of a network depend on, in a digest: what is remembered of it holds for nothing else.

Tensors, layers and their code are told by model.identity. To these come the attributes of its modules,
whatever they are, its hooks, the files of every package that any of it is of, and what is installed. Where an
attribute cannot be told, such as an open file, or code lies in no file, as in a notebook, there is no digest,
and nothing is remembered.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path, PurePath
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from medfuse.model.identity import contents, digest

_BY_VERSION = ("torch", "monai", "numpy")
"""Packages of many files, of which the version says which code they are. Of others the files say it."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Parameters, buffers and layers are told by `contents`, and hooks of a forward pass by themselves."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), PurePath)
_OF_TORCH = (torch.device, torch.dtype, torch.Size, torch.memory_format, torch.layout)


_MADE_BY_PYTHON = 1 << 9  # of a class's flags: Py_TPFLAGS_HEAPTYPE


@runtime_checkable
class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _UnknownError(Exception):
    """Something of which it cannot be told what it is."""


def known(value: Any) -> str | None:
    """The digest of a network, or of a plugin; None where there is something in it that cannot be told."""
    teller = _Teller()
    try:
        teller.tell(value)
        sources = [_source(package) for package in sorted(teller.packages)]
    except (_UnknownError, RecursionError, OSError, ValueError):
        return None
    return digest([teller.digest(), sources, _installed()])


class _Teller:
    """Takes down values one after the other, each once, and which packages their code is of."""

    def __init__(self) -> None:
        self.packages: set[str] = set()
        self._hashed = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []  # so that no other value gets the address of one that was seen

    def digest(self) -> str:
        return self._hashed.hexdigest()

    def say(self, *words: Any) -> None:
        self._hashed.update(repr(words).encode())

    def code(self, of: Any) -> None:
        """That the code of a class or function is part of it."""
        module, name = getattr(of, "__module__", None), getattr(of, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _UnknownError
        self.say("code", module, name)
        package = module.partition(".")[0]
        if package not in sys.stdlib_module_names:
            self.packages.add(package)
        elif package == "__main__":
            raise _UnknownError

    def tell(self, value: Any) -> None:
        """Raises _UnknownError."""
        if isinstance(value, enum.Enum):
            self.code(type(value))
            self.say(value.name)
        elif type(value) in _PLAIN or isinstance(value, PurePath):
            self.say(type(value).__name__, value)
        elif isinstance(value, _OF_TORCH):
            self.say("torch", str(value))
        elif id(value) in self._seen:
            self.say("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._held.append(value)
            self._tell_new(value)

    def _tell_new(self, value: Any) -> None:
        for kinds, how in _WAYS:
            if isinstance(value, kinds):
                how(self, value)
                return
        if not all(kind.__flags__ & _MADE_BY_PYTHON for kind in type(value).__mro__[:-1]):
            raise _UnknownError  # of what is written in C nothing is seen from here
        self.code(type(value))
        self.tell(dict(_attributes(value)))

    def _tensor(self, value: torch.Tensor) -> None:
        if value.layout is not torch.strided or value.device.type == "meta":
            raise _UnknownError
        plain = value.detach().cpu().contiguous().flatten()
        self.say("tensor", tuple(value.shape), str(value.dtype))
        self._hashed.update(plain.view(torch.uint8).numpy().tobytes())

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        if value.dtype.hasobject:
            raise _UnknownError
        self.say("array", value.shape, str(value.dtype))
        self._hashed.update(np.ascontiguousarray(value).tobytes())

    def _module(self, value: nn.Module) -> None:
        """It and those below it, which are seen before anything else refers to them."""
        self.say("network", contents(value))
        found = [*value.modules()]
        for module in found:
            self._seen.setdefault(id(module), len(self._seen))
        self._held.append(found)
        for module in found:
            self.code(type(module))
            self.tell({key: told for key, told in vars(module).items() if key not in _OF_EVERY_MODULE})
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                self.tell([*hooks.values()])

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self.code(type(value))
        for key, inner in value.items():
            self.tell(key)
            self.tell(inner)
        self.say("end")

    def _list(self, value: Any) -> None:
        self.code(type(value))
        for inner in value:
            self.tell(inner)
        self.say("end")

    def _set(self, value: Any) -> None:
        self.code(type(value))
        if not all(isinstance(inner, str | int) for inner in value):
            raise _UnknownError  # others come in another order in each process
        self.say(sorted(map(repr, value)))

    def _function(self, value: types.FunctionType) -> None:
        self.code(value)
        self.tell(value.__defaults__)
        self.tell(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            try:
                self.tell(cell.cell_contents)
            except ValueError:  # nothing in it yet
                self.say("empty")

    def _method(self, value: types.MethodType) -> None:
        self.tell(value.__func__)
        self.tell(value.__self__)

    def _partial(self, value: functools.partial[Any]) -> None:
        self.say("partial")
        for part in (value.func, value.args, value.keywords):
            self.tell(part)

    def _built_in(self, value: types.BuiltinFunctionType) -> None:
        owner = value.__self__
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            raise _UnknownError
        self.say("built in", getattr(owner, "__name__", ""), value.__qualname__)

    def _fields(self, value: Any) -> None:
        self.code(type(value))
        for one in fields(value):
            self.say(one.name)
            self.tell(getattr(value, one.name, None))

    def _settings(self, value: BaseModel) -> None:
        self.code(type(value))
        for name in type(value).model_fields:
            self.say(name)
            self.tell(getattr(value, name))
        self.tell(value.model_extra)
        self.tell(value.__pydantic_private__)

    def _type(self, value: type) -> None:
        self.code(value)


_WAYS: tuple[tuple[Any, Callable[[_Teller, Any], None]], ...] = (
    (torch.Tensor, _Teller._tensor),
    (np.ndarray, _Teller._array),
    (np.generic, lambda teller, value: teller._array(np.asarray(value))),
    (nn.Module, _Teller._module),
    (type, _Teller._type),
    (BaseModel, _Teller._settings),
    (_Dataclass, _Teller._fields),
    (Mapping, _Teller._mapping),
    ((list, tuple), _Teller._list),
    ((set, frozenset), _Teller._set),
    ((range, slice), lambda teller, value: teller.say(repr(value))),
    (types.FunctionType, _Teller._function),
    (types.MethodType, _Teller._method),
    (functools.partial, _Teller._partial),
    (types.BuiltinFunctionType, _Teller._built_in),
)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Those of an object, of its slots too. Raises _UnknownError for one that has none of either."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    if not hasattr(value, "__dict__") and not slots:
        raise _UnknownError
    yield from sorted(vars(value).items()) if hasattr(value, "__dict__") else ()
    yield from ((name, getattr(value, name)) for name in slots if hasattr(value, name))


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


@cache
def _installed() -> list[str]:
    """All packages with their versions, by the names of their folders."""
    found: set[str] = set()
    for folder in sys.path:
        with suppress(OSError):
            found |= {
                name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info"))
            }
    return sorted(found)


@cache
def _source(package: str) -> tuple[Any, ...]:
    """What says which code a package is. Raises _UnknownError where it lies in no file."""
    if package in _BY_VERSION:
        return (package,)
    module = sys.modules.get(package)
    file, folders = getattr(module, "__file__", None) or "", [*getattr(module, "__path__", ())]
    if not folders and not Path(file).is_file():
        raise _UnknownError
    files = [path for folder in folders for path in _files(folder)] if folders else [file]
    return (package, *sorted((path, *_stamp(Path(path))) for path in files))


def _files(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "__pycache__":
                yield from _files(entry.path)
        elif entry.name.endswith((".py", ".so", ".pyd")):
            yield entry.path


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
