"""Backbones around another one, whose weights they hand through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import registry
from medfuse.api import Backbone, ImageInfo, Origin
from medfuse.core.errors import below
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import Tensor

WITHIN = "inner.backbone"
"""Where the other network stands in one that hands its features on, as those of `slices` and `view` do."""

Way = Literal["each", "repeat", "first"]
"""How an image of any number of channels is seen by a network of another number; see the backbone `view`."""


class Around(Backbone):
    """A backbone that has another one `of` it; what it says of weights is said of that one."""

    of: BackboneField = Field(description="the other backbone: its `use:` and parameters")

    def origin(self) -> Origin | None:
        with below("of"):
            return self.of.origin()

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        """As they are, for a network that has the layers of the other one by their names."""
        with below("of"):
            return self.of.weights(image)

    def pinned(self) -> Backbone:
        with below("of"):
            return self.model_copy(update={"of": self.of.pinned()})


def seen_by(backbone: Backbone, way: Way, channels: int) -> Backbone:
    """`backbone`, which takes images of so many channels, shown one of any number."""
    view = registry.get(Backbone.group, "view").model_validate(
        {"of": backbone, "channels": way, "sees": channels}
    )
    assert isinstance(view, Backbone)
    return view
