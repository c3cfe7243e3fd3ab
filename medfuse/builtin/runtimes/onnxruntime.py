"""ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse.api import Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn


class OnnxRuntime(Runtime):
    """ONNX Runtime, in fp32. Needs `pip install 'medfuse[onnx]'`.

    runtime: {use: onnxruntime, provider: auto}
    """

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="what computes; auto: cpu for windows on the CPU, else cuda"
    )

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Export the network to ONNX, in a temporary folder, and load it."""
        from medfuse.model.onnx import runner, write

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write(model, example, path)
            return runner(path, example, self.provider)
