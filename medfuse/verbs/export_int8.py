"""A network that passed its gate as a file in int8: OpenVINO's as it was judged, ONNX judged once more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.model.gate import NETWORK, Gate, passed
from medfuse.trained.loading import load_trained

if TYPE_CHECKING:
    from torch import nn

    from medfuse.runs.source import Source
    from medfuse.trained.trained import Trained


@dataclass(frozen=True)
class Int8:
    """The gate of `weights`. `data`: a pipeline file that says its cases, where its run does not."""

    weights: Path
    gate: Gate
    data: Path | None
    trust: tuple[str, ...]

    @classmethod
    def of(cls, weights: Path, network: nn.Module, data: Path | None, trust: str | Iterable[str]) -> Int8:
        """Raises CheckpointError where the network has passed no gate."""
        return cls(weights, passed(network), data, (trust,) if isinstance(trust, str) else tuple(trust))

    def write(self, kind: str, trained: Trained, path: Path, facts: dict[str, Any]) -> None:
        """Raises MedfuseError without the packages for it, or where the run's cases are not there."""
        if kind == "openvino":
            from medfuse.model import openvino

            openvino.save(openvino.load(self.weights.parent / NETWORK)[0], path, facts)
            return
        from medfuse.model.onnx import write
        from medfuse.model.quantized import quantize_onnx
        from medfuse.runs.calibration import calibration

        source = self._source()
        cases = source.cases(source.split.train)
        windows = calibration(trained, cases, seed=self.gate.seed, reporter=Reporter()).windows
        change = partial(quantize_onnx, windows=windows, without=self.gate.kept)
        write(trained.segmenter(), windows[0], path, facts, change)

    def fault(self, kind: str, path: Path) -> str:
        """What is wrong with what was written, or nothing."""
        import torch

        from medfuse.model.int8 import SAME, share_alike, stored_windows
        from medfuse.model.quantized import decided
        from medfuse.runs.quantizing import judge_onnx

        if kind == "onnx":
            reasons = judge_onnx(self.weights, self._source(), path, self.gate, self.trust)
            return "; ".join(reasons)
        (run,) = load_trained([path], device="cpu").networks
        windows, labels = stored_windows(self.weights.parent)
        made = torch.cat([decided(run(window[None]), self.gate.kind) for window in windows])
        same = share_alike(made, labels)
        return "" if same >= SAME else f"its results change ({same:.1%} of the voxels in the same class)"

    def _source(self) -> Source:
        from medfuse.runs.source import source_of

        source = source_of(self.weights, self.data)
        if not source.split.validation:
            raise MedfuseError(f"{self.weights.parent}: holds no case out, which would judge it in int8")
        return source
