"""What a pipeline file says of its data: split, preprocessing, augmentation."""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from medfuse import registry
from medfuse.api import Augmentation
from medfuse.core.section import ConfigPath, Section
from medfuse.registry import AugmentationField

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
PatchSize = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]


class SplitSettings(Section):
    """Which cases train and which judge."""

    file: ConfigPath | None = Field(
        None, description="folds in nnU-Net's splits_final.json form; else the dataset's own"
    )
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0,
        description="the fold whose validation cases are held out; `all` trains on every labelled case and "
        "holds out none, so nothing is judged: cross-validation (`medfuse run FILE --folds all`) tells what "
        "to expect",
    )
    folds: int = Field(5, ge=2, description="number of folds where neither `file` nor the dataset gives any")
    seed: int = Field(12345, description="seed of the folds that medfuse draws (nnU-Net's)")
    group: str | None = Field(
        None,
        description="a regular expression for case names whose first group is the patient, such as "
        '"(.*)_scan"; cases of one patient stay on one side. A CSV column `patient` says the same',
    )
    stratify: bool = Field(
        False, description="drawn folds get as equal shares of each label, and of small and large foreground"
    )

    @field_validator("group")
    @classmethod
    def _has_a_group(cls, group: str | None) -> str | None:
        if group is None:
            return None
        try:
            groups = re.compile(group).groups
        except re.error as error:
            raise ValueError(f"{group!r} is no regular expression ({error}); mend it") from None
        if groups < 1:
            raise ValueError(f"{group!r} has no group; put brackets around the part that names the patient")
        return group


class PreprocessSettings(Section):
    """How cases are brought to one grid and scale. `auto` values come from the fingerprint."""

    spacing_mm: Auto | tuple[Positive, Positive, Positive] = Field(
        "auto", description="target spacing (x, y, z) in mm; two numbers for pictures"
    )
    pixel_mm: tuple[Positive, Positive] | None = Field(
        None, description="size of a pixel (x, y) in mm, of pictures whose file does not tell it; 1 if unset"
    )
    normalize: Auto | Literal["ct", "zscore", "none"] = Field(
        "auto",
        description="`ct` clips to foreground percentiles and standardises, `zscore` works per volume; "
        "auto: ct for channels named CT, else zscore",
    )
    tolerance_mm: float = Field(
        1e-3, ge=0, description="how far image and label grids may differ (spacing, origin, direction)"
    )

    @field_validator("spacing_mm", mode="before")
    @classmethod
    def _of_a_slice(cls, value: Any) -> Any:
        """Pictures are volumes of one slice of 1 mm."""
        return (*value, 1.0) if isinstance(value, list | tuple) and len(value) == 2 else value


INTENSITIES = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
"""What AugmentSettings changes without moving a voxel."""


class MonaiTransform(Section):
    """One of MONAI's array transforms: `use` is its class, the other keys are its arguments."""

    model_config = ConfigDict(extra="allow")

    use: str = Field(pattern=r"^[A-Za-z]\w*$", description="class in monai.transforms, such as RandBiasField")

    def plugin(self) -> Augmentation:
        """The same as a plugin."""
        made = registry.get(Augmentation.group, "monai")
        found = made.model_validate({"name": self.use, "parameters": self.model_extra or {}})
        assert isinstance(found, Augmentation)
        return found


class AugmentSettings(Section):
    """Random changes to training patches, after nnU-Net. A probability of 0 turns one off."""

    rotate: float = Field(0.2, ge=0, le=1, description="probability of a rotation")
    rotate_degrees: float = Field(30, ge=0, le=180, description="largest angle around each axis")
    scale: float = Field(0.2, ge=0, le=1, description="probability of scaling")
    scale_range: tuple[Positive, Positive] = Field((0.7, 1.4), description="smallest and largest factor")
    noise: float = Field(0.1, ge=0, le=1, description="probability of gaussian noise")
    blur: float = Field(0.2, ge=0, le=1, description="probability of gaussian blur")
    brightness: float = Field(
        0.15, ge=0, le=1, description="probability of a brightness factor of 0.75 to 1.25"
    )
    contrast: float = Field(0.15, ge=0, le=1, description="probability of a contrast factor of 0.75 to 1.25")
    low_resolution: float = Field(
        0.25, ge=0, le=1, description="probability of simulated low resolution, zoom 0.5 to 1"
    )
    gamma: float = Field(0.3, ge=0, le=1, description="probability of a gamma of 0.7 to 1.5")
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        (),
        description="axes along which half of the patches are mirrored; left and right differ in the body",
    )
    plugins: tuple[AugmentationField, ...] = Field((), description="further changes by plugins, in order")
    monai: tuple[MonaiTransform, ...] = Field(
        (),
        description="further changes by MONAI's transforms, in order: {use: RandBiasField, prob: 0.3}; "
        "those that move voxels move image and label alike",
    )

    def without_any(self) -> "AugmentSettings":
        """The same with nothing that ever changes a patch."""
        chances = dict.fromkeys(("rotate", "scale", *INTENSITIES), 0.0)
        return self.model_copy(update={**chances, "mirror": (), "plugins": (), "monai": ()})

    def moving(self) -> "AugmentSettings":
        """The same with nothing that changes intensities alone."""
        plugins = tuple(p for p in self.plugins if p.moves_voxels())
        monai = tuple(t for t in self.monai if t.plugin().moves_voxels())
        still = dict.fromkeys(INTENSITIES, 0.0)
        return self.model_copy(update={**still, "plugins": plugins, "monai": monai})

    def recolouring(self) -> "AugmentSettings":
        """The same without mirroring, and without plugins and transforms that move voxels."""
        plugins = tuple(p for p in self.plugins if not p.moves_voxels())
        monai = tuple(t for t in self.monai if not t.plugin().moves_voxels())
        return self.model_copy(update={"mirror": (), "plugins": plugins, "monai": monai})


class SampleSettings(Section):
    """Patches: their size, how many make a batch, where they are taken."""

    patch_size: Auto | PatchSize = Field(
        "auto", description="(x, y, z) in voxels; two numbers make a 2-D network"
    )
    batch_size: Auto | Count = Field("auto", description="patches per step")
    foreground: float = Field(
        0.33, ge=0, le=1, description="share of patches centred on a voxel of a random label"
    )
    workers: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto", description="loader processes; 0 loads in the training process"
    )
