"""`medfuse export`: a trained network, with its preprocessing, as one file that other engines run."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import UNFINISHED, claimed, make_folder, remove_leftovers, reported
from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.runs.overlap import overlap_for
from medfuse.sharing.clean import cleaned
from medfuse.sharing.described import ABOUT, describe
from medfuse.sharing.formats import FORMATS, SharedKind, write_model
from medfuse.sharing.licenses import spdx
from medfuse.sharing.model import quality_of
from medfuse.trained.loading import EXPORTED, load_trained, read_weights, weights_file

if TYPE_CHECKING:
    from torch import Tensor, nn

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "int8"]


def export_model(
    weights: Path,
    output: Path,
    *,
    kind: Format | SharedKind,
    precision: Precision = "fp32",
    data: Path | None = None,
    best: bool = False,
    license: str = "",
    trust: str | Iterable[str] = (),
    overwrite: bool = False,
) -> Result:
    """Write a network as one file, or a model as a folder of all that goes with it; says so."""
    how: dict[str, Any] = {"license": license, "trust": trust, "overwrite": overwrite}
    if precision == "int8" and kind not in IN_INT8:
        raise MedfuseError(
            f"--precision int8: is of --format {' and '.join(IN_INT8)}; leave it out of {kind}"
        )
    if kind in FORMATS:
        return write_model(weights_file(weights, best=best), output, kind=kind, **how)
    how |= {"precision": precision, "data": data}
    return export_network(weights, output, kind=cast(Format, kind), best=best, **how)


def export_network(
    weights: Path,
    output: Path,
    *,
    kind: Format,
    precision: Precision = "fp32",
    data: Path | None = None,
    best: bool = False,
    license: str = "",
    trust: str | Iterable[str] = (),
    overwrite: bool = False,
) -> Result:
    """Write `output` (a file with the format's ending, or a folder) and say so.

    What was written is loaded again and held against the network on one window of noise before it goes to its
    place; in int8, which only a network that passed its gate is written in, against what the gate saw, or by
    the gate itself on the run's cases (`data`: a pipeline file that says them). Raises MedfuseError where it
    answers otherwise, and OutputError where nothing can be written, or something is there already, unless
    `overwrite`.
    """
    named = spdx(license) if license else ""
    source = weights_file(weights, best=best)
    import torch

    from medfuse.core.device import disagreement

    trained = load_trained([source], device="cpu", trust=trust)
    if trained.before is not None:
        raise MedfuseError(
            f"{source}: is one of the two stages of a cascade, which are run from their folder"
        )
    network, image = trained.segmenter(), trained.plan.image
    facts = {**_facts(source, trained.hashes[0], named), **quality_of(trained)}
    if precision == "int8":
        from medfuse.verbs.export_int8 import Int8

        made_in: Int8 | None = Int8.of(source, network, data, trust)
        facts |= {"precision": "int8"}
    else:
        made_in = None
    path = _file(output, kind, str(facts["name"]))
    _refuse_to_replace(path, kind, overwrite)
    window = torch.randn((1, image.channels, *image.patch_size), generator=torch.Generator().manual_seed(0))
    with _aside(path) as made:
        if made_in:
            made_in.write(kind, trained, made, facts)
            fault = made_in.fault(kind, made)
        else:
            _writer(kind)(network, window, made, facts)
            with torch.inference_mode():
                fault = disagreement(network(window), load_trained([made], device="cpu").networks[0](window))
        if fault:
            raise MedfuseError(f"{path}: {fault}; export it to another format")
        _refuse_to_replace(path, kind, overwrite)
        with reported(path):
            for part in reversed(_parts(made, kind)):  # the .xml last, as it needs its .bin
                part.replace(path.with_suffix(part.suffix))
    said = f"{path}: run it with `medfuse infer {typed(path)} --input … --output …`"
    return Result(
        said,
        {"files": _parts(path, kind), "format": kind, "precision": precision, "weights": facts["weights"]},
    )


IN_INT8 = ("onnx", "openvino")
"""The formats that hold a network in int8."""


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file of that name in a hidden folder beside it, which is gone in the end."""
    remove_leftovers(make_folder(path.parent))
    folder = path.parent / f"{UNFINISHED}{secrets.token_hex(4)}"
    try:
        with reported(path):
            folder.mkdir()
        with claimed(folder):
            yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parts(path: Path, kind: Format) -> list[Path]:
    return [path, path.with_suffix(".bin")] if kind == "openvino" else [path]


def _refuse_to_replace(path: Path, kind: Format, overwrite: bool) -> None:
    there = [part for part in _parts(path, kind) if os.path.lexists(part)]
    if any(part.is_dir() for part in there):
        raise OutputError(f"{path}: a folder stands where a file is to be written; choose another --output")
    if there and not overwrite:
        raise OutputError(f"{there[0]}: is there already; choose another --output, or give --overwrite")


def _facts(source: Path, digest: str, license: str) -> dict[str, Any]:
    """What the weights file says, without its runtime, which may be a plugin; and which weights they are."""
    facts = cleaned(read_weights(source)[1])
    about = describe(source).model_copy(update={"license": license}).model_dump(mode="json")
    infer = {**facts["infer"], "runtime": None}
    if infer.get("overlap") == "auto":
        infer["overlap"] = overlap_for([source]) or USUAL_OVERLAP
    return {**facts, "infer": infer, "weights": digest, ABOUT: about}


def _file(output: Path, kind: Format, name: str) -> Path:
    ending = EXPORTED[kind]
    if output.suffix == ending:
        return output
    if output.suffix in EXPORTED.values():
        raise MedfuseError(f"--output {output}: --format {kind} makes a file that ends in {ending}")
    return output / f"{name}{ending}"


def _writer(kind: Format) -> Callable[[nn.Module, Tensor, Path, dict[str, Any]], None]:
    if kind == "onnx":
        from medfuse.model.onnx import write

        return write
    if kind == "torch":
        from medfuse.model.program import save

        return save
    from medfuse.model import openvino

    return lambda model, example, path, facts: openvino.save(openvino.convert(model, example), path, facts)
