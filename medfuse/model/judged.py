"""That an engine answers as plain fp32 does, found out once for some weights, and remembered.

It is known again by all that it depends on: the network, its weights to the last bit and its code (see
model.identity), the engine and its options, the shape of the windows, this machine, and the versions of what
computes. Of anything else it is found out anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core.remembered import recall, remember

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILE = "judged.json"


class Judged:
    """Which engines were right for `model`, as it is now, and windows like `example`, on this machine."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        from medfuse.core.device import machine_facts, versions
        from medfuse.model.identity import contents

        self._about = [
            contents(model),
            [[*example.shape], str(example.dtype)],
            machine_facts(example.device),
            versions("medfuse", "torch", "openvino", "onnxruntime", "monai"),
        ]

    def was_right(self, option: Runtime) -> bool:
        """Whether it has answered such windows as the network does in fp32."""
        return recall(_FILE, self._key(option)) is True

    def remember(self, option: Runtime) -> None:
        """It has, just now."""
        remember(_FILE, self._key(option), True)

    def _key(self, option: Runtime) -> str:
        from medfuse.model.identity import code_of, digest

        plugin = [registry.name_of(option), option.model_dump(mode="json"), code_of([type(option)])]
        return digest([*self._about, plugin])
