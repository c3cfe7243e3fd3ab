"""`medfuse export`: a trained network, with its preprocessing, as one file that other engines run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfuse.core.errors import MedfuseError
from medfuse.trained.loading import EXPORTED, load_trained, weights_file

if TYPE_CHECKING:
    from torch import Tensor, nn

Format = Literal["onnx", "openvino", "torch"]


def export_network(
    weights: Path, output: Path, *, kind: Format, best: bool = False, trust: str | Iterable[str] = ()
) -> str:
    """Write `output` (a file with the format's ending, or a folder) and say so.

    What was written is loaded again and held against the network on one window of noise; where it answers
    otherwise it is removed. Raises MedfuseError then, and OutputError where nothing can be written.
    """
    source = weights_file(weights, best=best)
    import torch

    from medfuse.core.device import disagreement

    trained = load_trained([source], device="cpu", trust=trust)
    network, image = trained.segmenter(), trained.plan.image
    facts = _facts(source, trained.hashes[0])
    path = _file(output, kind, str(facts["name"]))
    window = torch.randn((1, image.channels, *image.patch_size), generator=torch.Generator().manual_seed(0))
    _writer(kind)(network, window, path, facts)
    with torch.inference_mode():
        fault = disagreement(network(window), load_trained([path], device="cpu").networks[0](window))
    if fault:
        for part in {path, path.with_suffix(".bin") if kind == "openvino" else path}:
            part.unlink(missing_ok=True)
        raise MedfuseError(f"{path}: {fault}; export it to another format")
    return f"{path}: run it with `medfuse infer {path} --input … --output …`"


def _facts(source: Path, digest: str) -> dict[str, Any]:
    """What the weights file says, without its runtime, which may be a plugin; and which weights they are."""
    from medfuse.model.weights import load_weights

    _, facts = load_weights(source)
    return {**facts, "infer": {**facts["infer"], "runtime": None}, "weights": digest}


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
