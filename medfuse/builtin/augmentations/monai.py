"""Any of MONAI's transforms that keep a patch's shape, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from medfuse import Augmentation, ImageInfo

if TYPE_CHECKING:
    from medfuse.api import Change


class Monai(Augmentation):
    """An array transform of monai.transforms: `name` is its class, `parameters` are its arguments.

    Those of `intensity` and of smooth fields change the image alone; those of `spatial`, and
    RandSmoothDeform, move image and label alike, the label by nearest voxels. `augment.monai` is the same in
    short.

        augment:
          plugins: [{use: monai, name: RandBiasField, parameters: {prob: 0.3}}]
    """

    name: str = Field(pattern=r"^[A-Za-z]\w*$", description="class, such as RandBiasField or RandAffine")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its arguments")

    def moves_voxels(self) -> bool:
        from medfuse.builtin.nets.monai_transforms import moves_voxels

        return moves_voxels(self.name)

    def build(self, image: ImageInfo) -> Change:
        from medfuse.builtin.nets.monai_axes import refuse_other_axes
        from medfuse.builtin.nets.monai_transforms import MonaiChange

        change = MonaiChange(self.name, self.parameters)
        refuse_other_axes(self.name, self.parameters, image.dims)
        return change
