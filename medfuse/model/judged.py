"""That an engine clearly answers as plain fp32 does, found out once for some weights, and remembered.

It is known again by all that it depends on: the network, its weights to the last bit and its code, the engine
and its options, what is installed (see model.known), the shape of the windows, and this machine. Of anything
else, and of what cannot be known, it is found out anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfuse.api import Runtime
from medfuse.core.remembered import recall, remember

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILE = "judged.json"


class Judged:
    """Which engines were right for `model`, as it is now, and windows like `example`, on this machine."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        from medfuse.core.device import machine_facts
        from medfuse.model.known import known

        self._model = known(model)
        self._about = [[*example.shape], str(example.dtype), machine_facts(example.device)]

    def was_right(self, option: Runtime) -> bool:
        """Whether it has answered such windows as the network does in fp32."""
        key = self._key(option)
        return key is not None and recall(_FILE, key) is True

    def remember(self, option: Runtime) -> None:
        """It has, just now."""
        if (key := self._key(option)) is not None:
            remember(_FILE, key, True)

    def _key(self, option: Runtime) -> str | None:
        from medfuse.model.identity import digest
        from medfuse.model.known import known

        plugin = known(option)
        return None if None in (self._model, plugin) else digest([self._model, plugin, *self._about])
