"""What a pipeline file says of its data: split, preprocessing, augmentation."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, field_validator, model_validator

from medfuse import registry
from medfuse.api import Augmentation
from medfuse.core.patients import patient_pattern
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
        return None if group is None else patient_pattern(group)


WINDOWS = ((-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0))
"""Of lung, soft tissue and bone, in HU."""


class WindowSettings(Section):
    """Windows of CT in HU, each scaled to 0 … 1: one, or several that become channels of their own."""

    window: tuple[float, float] | None = Field(None, description="least and most of one, such as [-160, 240]")
    windows: tuple[tuple[float, float], ...] | None = Field(
        None, min_length=1, max_length=16, description="least and most of each, one channel after the other"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "WindowSettings":
        if (self.window is None) == (self.windows is None):
            raise ValueError("give one of window, such as [-160, 240], and windows, a list of such")
        for key, low, high in ((self.kind, *one) for one in self.each):
            if low >= high:
                raise ValueError(f"{key}: {low:g} is not below {high:g}; give the least and the most in HU")
        return self

    @property
    def kind(self) -> str:
        """`window` or `windows`."""
        return "window" if self.window else "windows"

    @property
    def each(self) -> tuple[tuple[float, float], ...]:
        return self.windows or ((self.window,) if self.window else ())

    def __str__(self) -> str:
        texts = [f"[{low:g}, {high:g}]" for low, high in self.each]
        return f"{{window: {texts[0]}}}" if self.window else f"{{windows: [{', '.join(texts)}]}}"


def kind_of(normalize: str | WindowSettings) -> str:
    """A way to scale in one word."""
    return normalize.kind if isinstance(normalize, WindowSettings) else normalize


def _form(value: Any) -> str:
    return "windows" if isinstance(value, dict | WindowSettings) else "name"


Scaling = Annotated[
    Annotated[Literal["auto", "ct", "zscore", "unit", "symmetric", "window", "windows", "none"], Tag("name")]
    | Annotated[WindowSettings, Tag("windows")],
    Discriminator(_form),
]
"""What `preprocess.normalize` may be."""

_SCALING: TypeAdapter[Any] = TypeAdapter(Scaling)


def scaling(text: str) -> str | WindowSettings:
    """What a text stands for in a pipeline file: `unit`, `{window: [-160, 240]}`. Raises ValueError."""
    found: str | WindowSettings = _SCALING.validate_python(yaml.safe_load(text))
    return found


class PreprocessSettings(Section):
    """How cases are brought to one grid and scale. `auto` values come from the fingerprint."""

    spacing_mm: Auto | tuple[Positive, Positive, Positive] = Field(
        "auto", description="target spacing (x, y, z) in mm; two numbers for pictures"
    )
    pixel_mm: tuple[Positive, Positive] | None = Field(
        None, description="size of a pixel (x, y) in mm, of pictures whose file does not tell it; 1 if unset"
    )
    normalize: Scaling = Field(
        "auto",
        description="`ct` clips to foreground percentiles and standardises, `zscore` works per volume; "
        "`unit` brings 0.5 and 99.5 percentiles to 0 and 1, of the foreground in CT, else of each volume; "
        "`symmetric` 0.05 and 99.95 percentiles of each volume to -1 and 1; {window: [-160, 240]} a window "
        "of CT to 0 and 1; {windows: [[-1350, 150], [-160, 240], [-500, 1300]]} several, each in a channel "
        "of its own, and just `windows` these three; auto: what the weights of backbones were trained for, "
        "else ct for channels named CT, and zscore for others",
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


class CascadeSettings(Section):
    """How the second of two `stages` uses the first, which finds where the targets are."""

    targets: Literal["classes", "foreground"] = Field(
        "classes", description="what the first stage learns: the labels as they are, or all of them as one"
    )
    folds: Annotated[int, Field(ge=2, le=20)] = Field(
        3,
        description="parts of the training cases; the first stage is trained once without each, so that "
        "every case is seen by a network that has not learned from it. They share its minutes, and see new "
        "scans together",
    )
    shown: bool = Field(
        False, description="whether the second stage is shown the first one's label map beside the image"
    )
    may_lose: float = Field(
        0.001,
        ge=0,
        lt=1,
        description="share of a label's voxels, in the mean of the cases, that may lie where the second "
        "stage does not look; what looks least and keeps it is chosen on cases held out of the first",
    )
