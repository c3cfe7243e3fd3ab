"""Others' libraries, imported so that they report to nobody and leave nothing in the home folder."""

from __future__ import annotations

import atexit
import importlib
import importlib.abc
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType

from medfuse.core.errors import OutputError
from medfuse.core.remembered import cache_folder

_TELEMETRY = ("openvino_telemetry",)
"""Packages that report to their makers. OpenVINO asks for this one when it is imported, and has an empty one
of its own in its stead."""

_UNUSED = {
    "nibabel": ("pydicom",),  # for DICOM in headers' extensions, which are not read here
    "openvino": ("openvino.tools.ovc",),  # which converts models of others, and reports it
}
"""What libraries import where it is installed, though nothing here asks for what it does: half of the time
that they take to import."""

_REFUSALS = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What tells ONNX Runtime, before it is imported, to send nothing and to keep no name for this machine in
~/.cache/Microsoft, and huggingface_hub, MLflow, Gradio (of Trackio) and wandb to say nothing of this machine.
Who has set it otherwise has asked for that."""


def stay_offline() -> None:
    """For a process of medfuse's own: what libraries import by themselves is told the same."""
    for name, value in {**_REFUSALS, **_folders()}.items():
        os.environ.setdefault(name, value)


def import_offline(package: str) -> ModuleType:
    """Import `package`. Raises ImportError. What is imported already stays as it is.

    The caches of matplotlib go where medfuse has its own.
    """
    if package in sys.modules:
        return importlib.import_module(package)  # which waits for another thread's import
    for name, value in _REFUSALS.items():
        os.environ.setdefault(name, value)
    with (
        _hidden(_TELEMETRY),
        _left_out(_UNUSED.get(package.partition(".")[0], ())),
        _environment(_folders()),
    ):
        return importlib.import_module(package)


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Imports of these packages fail, as if they were not installed."""
    before = {name: sys.modules.get(name) for name in packages}
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]  # None: import fails
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


@contextmanager
def _left_out(packages: tuple[str, ...]) -> Iterator[None]:
    """The same for this thread alone, of what nobody has imported yet: others may just be about to."""
    thread = threading.get_ident()

    class Refusing(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name in packages and threading.get_ident() == thread:
                raise ModuleNotFoundError(f"{name} is left out", name=name)

    refusing = Refusing()
    sys.meta_path.insert(0, refusing)
    try:
        yield
    finally:
        sys.meta_path.remove(refusing)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, where they have none, for as long as the block takes."""
    fresh = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            del os.environ[name]


def _folders() -> dict[str, str]:
    return {"MPLCONFIGDIR": _folder_for("matplotlib")}


@cache
def _folder_for(package: str) -> str:
    """Where a library may keep things; a folder that is gone with this process where there is no other."""
    with suppress(OutputError, OSError):
        folder = cache_folder() / package
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return str(folder)
    temporary = tempfile.mkdtemp(prefix="medfuse-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary
