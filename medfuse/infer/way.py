"""How a case is worked on: at what speed for how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medfuse.infer.windows import AxisName


@dataclass(frozen=True)
class Way:
    """How a case is worked on. `sweep`: the axis that rows of windows follow, chosen if None.

    `on_disk`: its image is. `shelved`: so are sums between two rows of windows. `roomy`: a GPU's memory is
    large enough for sums too.
    """

    batch_size: int = 1
    sums: Literal["float32", "float16"] = "float32"
    sweep: AxisName | None = None
    on_disk: bool = False
    shelved: bool = False
    roomy: bool = True

    def smaller(self) -> Way | None:
        """A way that needs less of a GPU's memory, if there is one."""
        if self.batch_size > 1:
            return replace(self, batch_size=self.batch_size // 2)
        return replace(self, roomy=False) if self.roomy else None

    def __str__(self) -> str:
        where = "" if self.roomy else " in main memory"
        disk = ", its image on disk" if self.on_disk else ""
        disk = ", its image and most sums on disk" if self.shelved else disk
        return f"batches of {self.batch_size}, {self.sums} sums{where}{disk}"
