"""The formats that a model is handed on in: a row for each, and how one is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.sharing.text import source_text

if TYPE_CHECKING:
    from medfuse.sharing.model import SharedModel

VERSION = "1.0.0"
"""Of a model in formats that want one; medfuse knows of none."""

SharedKind = Literal["bundle", "huggingface", "mhub", "slicer", "docker"]


@dataclass(frozen=True)
class Format:
    """writer: the module that fills a folder. next: what to do with it.

    zipped: whether it is always a zip file, NAME-v1.0.0.zip in a folder.
    """

    writer: str
    next: str
    zipped: bool = False

    def load(self) -> Any:
        return import_module(f"medfuse.sharing.{self.writer}")


FORMATS: dict[SharedKind, Format] = {
    "bundle": Format("bundle", "run it as docs/README.md in it says, or by `medfuse infer {path} -i … -o …`"),
    "huggingface": Format("huggingface", "send it by `medfuse push {path} hub:OWNER/NAME`"),
    "mhub": Format("mhub", "README.md in it says how it becomes a model of MHub"),
    "slicer": Format("slicer", "README.md in it says where Slicer looks for it", zipped=True),
    "docker": Format("docker", "docker build {path}"),
}


def write_model(
    weights: Path,
    output: Path,
    *,
    kind: SharedKind,
    license: str = "",
    trust: str | Iterable[str] = (),
    overwrite: bool = False,
) -> Result:
    """The model of a weights file as a folder, or as a zip file where `output` ends in .zip; says so.

    Raises MedfuseError where the format cannot hold it, OutputError where something is there already.
    """
    from medfuse.sharing.described import describe
    from medfuse.sharing.folders import refuse_to_replace, write_shared
    from medfuse.sharing.licenses import spdx
    from medfuse.sharing.model import shared_model

    how = FORMATS[kind]
    if how.zipped and output.suffix != ".zip":
        output = output / f"{slug(describe(weights).name)}-v{VERSION}.zip"
    named = spdx(license) if license else ""
    refuse_to_replace(output, overwrite=overwrite)
    model = shared_model(weights, license=named, trust=trust)
    module = how.load()
    write: Callable[[Path, SharedModel], None] = module.write
    write_shared(output, lambda folder: write(folder, model), overwrite=overwrite)
    lines = [f"{output}: {how.next.format(path=typed(output))}"]
    told: Callable[[SharedModel], Sequence[str]] = getattr(module, "differences", lambda model: ())
    lines += told(model)
    lines += [f"it started from weights of others: {source_text(one)}" for one in model.description.sources]
    lines += model.description.notes
    if not model.description.license:
        lines.append("it has no licence, so that nobody else may use it: give one by --license")
    values = {
        "folder": output,
        "format": kind,
        "license": model.description.license,
        "weights": model.description.weights,
    }
    return Result("\n".join(lines), {**values, "notes": lines[1:]})


def slug(name: str, between: str = "-") -> str:
    """A name of small letters and digits."""
    return re.sub(r"[^a-z0-9]+", between, name.lower()).strip(between) or "model"
