"""From the fingerprint to numbers: spacing, patch size, batch size, normalisation, each with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from medfuse.api import DatasetInfo, ImageInfo
from medfuse.core.label_table import LabelEntry, LabelSays, entries_of
from medfuse.core.labels import LabelValue, from_json, map_values, outputs, united
from medfuse.core.text import by
from medfuse.core.topology import SMALLEST, plan_strides, total_stride
from medfuse.data.fingerprint import ChannelFacts, Fingerprint
from medfuse.data.focus import Focus
from medfuse.data.seen import Seen
from medfuse.data.settings import WINDOWS, PreprocessSettings, SampleSettings, WindowSettings, kind_of
from medfuse.data.usual import usual_of
from medfuse.quality.usual import Usual

PATCH_VOXELS = 64**3
"""Most voxels in an `auto` patch: about a second per training step on two CPU cores."""
BATCH_VOXELS = 3 * PATCH_VOXELS
"""About how many voxels an `auto` batch has."""
SMALLEST_BATCH, LARGEST_BATCH = 2, 32
BATCH_SHARE = 0.05
"""Most of all the dataset's voxels that one batch sees (nnU-Net's)."""
ANISOTROPIC = 3.0
"""Spacing ratio from which the coarse axis is treated on its own (nnU-Net's)."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Normalization:
    """How one channel is scaled.

    `ct`: clip to lower … upper, then (v - mean) / std, with numbers of the whole dataset. `window`: the same,
    which makes 0 … 1. `windows`: several, each of which makes an input of the network. `zscore`: mean and
    standard deviation of each volume, without margins that are 0 in all its channels (nnU-Net crops them).
    `nonzero_zscore`: of its voxels other than 0, which stay 0. `unit` and `symmetric`: percentiles of each
    volume become 0 and 1, or -1 and 1, and what is beyond them too.
    """

    kind: Literal["ct", "zscore", "nonzero_zscore", "none", "window", "windows", "unit", "symmetric"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    windows: tuple[tuple[float, float], ...] = ()

    @classmethod
    def window(cls, lower: float, upper: float) -> "Normalization":
        return cls("window", lower, upper, lower, upper - lower)

    @property
    def inputs(self) -> "tuple[Normalization, ...]":
        """How each input of the network is scaled that is made of the channel."""
        return tuple(Normalization.window(*ends) for ends in self.windows) or (self,)

    @property
    def is_fixed(self) -> bool:
        """Whether by numbers that are the same for each volume."""
        return self.kind in ("ct", "none", "window", "windows")


@dataclass(frozen=True)
class Advice:
    """A normalisation that something else than the data asks for, as pretrained weights do, and why."""

    normalize: str | WindowSettings
    reason: str


@dataclass(frozen=True)
class DataPlan:
    """Everything that turns a case into a network's input, and a network's output into label values.

    The network's class i is the i-th label in order of value (`values[i]`); class 0 is background. Where
    labels are regions (`region_order` is not empty), it has one logit for each of them instead, and none for
    the background. In a prepared label, `values[i]` is i, and `ignore` the number after the last.
    Per-axis tuples are (x, y, z); a `patch_size` of two numbers means 2-D, (x, y) slices.
    `pixel_mm`: of pictures whose file does not tell the size of a pixel.
    `before`: label values of an earlier stage's label map, each of which is one more input of the network.
    `focus`: which windows are run, by what an earlier stage finds; all where it is None.
    `reasons`: one sentence for each value that was `auto`. `seen`: what its cases were like, where known.
    `label_table`: codes and colours that the dataset says of labels. `usual`: what is usual among its cases,
    by which new ones are held to them, where known.
    """

    spacing_mm: Spacing
    patch_size: tuple[int, ...]
    batch_size: int
    channels: tuple[str, ...]
    normalization: tuple[Normalization, ...]
    labels: Mapping[str, LabelValue]
    reasons: Mapping[str, str]
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    pixel_mm: tuple[float, float] | None = None
    seen: Seen | None = None
    before: tuple[int, ...] = ()
    label_table: Mapping[str, LabelSays] = field(default_factory=dict)
    usual: Usual | None = None
    focus: Focus | None = None

    @property
    def is_second(self) -> bool:
        """Whether it is that of the second stage of a cascade."""
        return bool(self.before) or self.focus is not None

    @property
    def values(self) -> tuple[int, ...]:
        """Every value of the label maps but `ignore`, in order."""
        return map_values(self.labels.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of what each logit stands for: classes, background first; or regions."""
        return outputs(self.labels, self.region_order)

    @property
    def regions(self) -> tuple[tuple[int, ...], ...]:
        """The numbers that each region unites in a prepared label; empty where classes exclude each other."""
        return united(self.labels, self.region_order)

    @property
    def entries(self) -> tuple[LabelEntry, ...]:
        """The table of labels: value, code and colour of each but the background."""
        return entries_of(self.labels, self.label_table, self.region_order)

    @property
    def ignored(self) -> int | None:
        """The number of voxels that nobody annotated, in a prepared label."""
        return None if self.ignore is None else len(self.values)

    @property
    def image(self) -> ImageInfo:
        """What the network is given: of some normalisations, several channels for one of a file."""
        inputs = (
            len(self.channels) + sum(len(how.inputs) - 1 for how in self.normalization) + len(self.before)
        )
        return ImageInfo(inputs, self.patch_size, self.spacing_mm[: len(self.patch_size)])

    @property
    def normalize(self) -> "str | WindowSettings":
        """The `preprocess.normalize` that scales the same channels alike; `auto` where none does."""
        kinds = {how.kind.removeprefix("nonzero_") for how in self.normalization}
        if not kinds & {"window", "windows"}:
            return kinds.pop() if len(kinds) == 1 else "auto"
        first = next(how for how in self.normalization if how.kind in ("window", "windows"))
        wanted = (
            WindowSettings(windows=first.windows)
            if first.windows
            else WindowSettings(window=(first.lower, first.upper))
        )
        alike = (
            _windowed(name, self.channels, wanted) == (None if how.kind == "unit" else how)
            for name, how in zip(self.channels, self.normalization)
        )
        return wanted if all(alike) else "auto"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DataPlan":
        x, y, z = data["spacing_mm"]
        return cls(
            (x, y, z),
            tuple(data["patch_size"]),
            data["batch_size"],
            tuple(data["channels"]),
            tuple(_read_normalization(n) for n in data["normalization"]),
            from_json(data["labels"]),
            dict(data["reasons"]),
            tuple(data.get("region_order", ())),
            data.get("ignore"),
            (pixel[0], pixel[1]) if (pixel := data.get("pixel_mm")) else None,
            Seen.from_json(seen) if (seen := data.get("seen")) else None,
            tuple(data.get("before", ())),
            {name: LabelSays(**said) for name, said in data.get("label_table", {}).items()},
            Usual.from_json(usual) if (usual := data.get("usual")) else None,
            Focus.from_json(said) if (said := data.get("focus")) else None,
        )


def _read_normalization(said: Mapping[str, Any]) -> Normalization:
    windows = tuple((low, high) for low, high in said.get("windows", ()))
    return Normalization(**{**said, "windows": windows})


def make_plan(
    fingerprint: Fingerprint,
    info: DatasetInfo,
    preprocess: PreprocessSettings,
    sample: SampleSettings,
    advice: Advice | None = None,
) -> DataPlan:
    """What the settings say, and for each `auto` a value from the fingerprint, with its reason.

    `advice` counts before the fingerprint where `preprocess.normalize` is auto.
    """
    reasons: dict[str, str] = {}
    spacing = preprocess.spacing_mm
    if spacing == "auto":
        spacing, reasons["spacing_mm"] = target_spacing(fingerprint)
    shape = median_shape(fingerprint, spacing)
    patch = sample.patch_size
    if patch == "auto":
        flat = all(case.shape[2] == 1 for case in fingerprint.cases)
        sides = 2 if flat else 3  # pictures are for networks of two axes
        patch = plan_patch(shape[:sides], spacing[:sides], PATCH_VOXELS)
        reasons["patch_size"] = patch_reason(patch, shape, f"at most {PATCH_VOXELS:,} voxels")
    if sample.batch_size == "auto":
        batch, limit = plan_batch(patch, shape, len(fingerprint.cases), BATCH_VOXELS)
        reasons["batch_size"] = f"{SMALLEST_BATCH} to {LARGEST_BATCH} patches; here {limit}"
    else:
        batch = sample.batch_size
    normalization = []
    for channel in fingerprint.channels:
        advised = advice if preprocess.normalize == "auto" else None
        wanted = advised.normalize if advised else preprocess.normalize
        chosen, reason = _normalization(channel, info.channels, wanted)
        normalization.append(chosen)
        if preprocess.normalize == "auto":
            reasons[f"normalize.{channel.name}"] = f"{advised.reason}; {reason}" if advised else reason
    names = info.labels if info.region_order else info.outputs
    labels = {name: info.labels[name] for name in names}
    return DataPlan(
        spacing,
        tuple(patch),
        batch,
        info.channels,
        tuple(normalization),
        labels,
        reasons,
        info.region_order,
        info.ignore,
        preprocess.pixel_mm,
        Seen.of(fingerprint),
        label_table=info.label_table,
        usual=usual_of(fingerprint, labels, [how.is_fixed for how in normalization]),
    )


def target_spacing(fingerprint: Fingerprint) -> tuple[Spacing, str]:
    """The median; where one axis is far coarser in spacing and in voxels, its 10th percentile (nnU-Net)."""
    spacings = np.array([case.spacing_mm for case in fingerprint.cases])
    target = np.median(spacings, axis=0)
    shape = median_shape(fingerprint, _rounded(target))
    coarse = int(target.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    reason = "the median of all cases"
    if target[coarse] > ANISOTROPIC * target[others].max() and shape[coarse] * ANISOTROPIC < min(
        shape[a] for a in others
    ):
        finer = max(float(np.percentile(spacings[:, coarse], 10)), float(target[others].max()))
        reason += f"; on the coarse axis {'xyz'[coarse]} the 10th percentile, as it varies and slices are few"
        target[coarse] = finer
    return _rounded(target), reason


def _rounded(spacing: Sequence[float] | np.ndarray[Any, Any]) -> Spacing:
    x, y, z = (round(float(s), 6) for s in spacing)
    return x, y, z


def median_shape(fingerprint: Fingerprint, spacing: Spacing) -> tuple[int, int, int]:
    """Median size of the cases in voxels of `spacing`."""
    shapes = [resampled_shape(case.shape, case.spacing_mm, spacing) for case in fingerprint.cases]
    x, y, z = (round(float(n)) for n in np.median(shapes, axis=0))
    return x, y, z


_MOST_ROWS = 2.0**62  # of a spacing that is a mistake


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, int, int]:
    """Voxels per axis after resampling from `spacing` to `target` (mm)."""
    x, y, z = (max(1, round(min(n * s / t, _MOST_ROWS))) for n, s, t in zip(shape, spacing, target))
    return x, y, z


def plan_patch(shape: Sequence[int], spacing_mm: Sequence[float], most_voxels: float) -> tuple[int, ...]:
    """The median case's `shape`, cut where it is largest relative to it until within `most_voxels`.

    Each side is a multiple of what the network halves it by, which is planned anew with every cut (Isensee et
    al. 2021). `shape` and `spacing_mm` have two numbers for a 2-D patch.
    """
    patch = tuple(-(-n // step) * step for n, step in zip(shape, _steps(shape, spacing_mm)))
    while prod(patch) > most_voxels:
        largest_first = sorted(range(len(patch)), key=lambda a: (-patch[a] / shape[a], -patch[a]))
        cut = next((cut for axis in largest_first if (cut := _cut(patch, axis, spacing_mm))), None)
        if cut is None:
            break
        patch = cut
    return patch


def _cut(patch: tuple[int, ...], axis: int, spacing_mm: Sequence[float]) -> tuple[int, ...] | None:
    """The next smaller patch along `axis` that halves without rest; None where there is none."""
    half = max(1, _steps(patch, spacing_mm)[axis] // 2)  # the smaller one is halved at most once less often
    for n in range(patch[axis] - half, SMALLEST - 1, -half):
        cut = (*patch[:axis], n, *patch[axis + 1 :])
        steps = _steps(cut, spacing_mm)
        if n % steps[axis] == 0:
            return tuple(m // step * step for m, step in zip(cut, steps))
    return None


def _steps(patch: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    return total_stride(plan_strides(ImageInfo(1, tuple(patch), tuple(spacing_mm))))


def patch_reason(patch: Sequence[int], shape: Sequence[int], limit: str) -> str:
    """Why a patch is as large as it is: it covers the median case, or `limit` cut it."""
    shape = shape[: len(patch)]
    if all(p >= n for p, n in zip(patch, shape)):
        return f"covers the median case of {by(shape)} voxels; sides are multiples of what the network halves"
    share = prod(min(p, n) / n for p, n in zip(patch, shape))
    return f"{share:.{0 if share >= 0.01 else 1}%} of the median case of {by(shape)} voxels, cut to {limit}"


def plan_batch(patch: Sequence[int], shape: Sequence[int], cases: int, most_voxels: float) -> tuple[int, str]:
    """How many patches a step sees, and what limits them.

    As many as `most_voxels` allow and 5 % of all the dataset's voxels hold, but 2 at least.
    """
    limits = {
        "as many voxels as a step may have": int(most_voxels / prod(patch)),
        f"a batch sees at most {BATCH_SHARE:.0%} of all voxels": int(
            BATCH_SHARE * cases * prod(shape) / prod(patch)
        ),
        "the most that medfuse plans": LARGEST_BATCH,
    }
    limit = min(limits, key=limits.__getitem__)
    return (limits[limit], limit) if limits[limit] > SMALLEST_BATCH else (SMALLEST_BATCH, "the fewest")


def is_ct(channel: str) -> bool:
    """Whether a channel's name says that its values are absolute."""
    return channel.strip().lower() == "ct"


def counted_inputs(channels: Sequence[str], wanted: str | WindowSettings) -> int:
    """How many channels the network is given, of what a dataset names `channels`."""
    return sum(len(_windows(name, channels, wanted)) or 1 for name in channels)


def _windows(
    channel: str, channels: Sequence[str], wanted: str | WindowSettings
) -> tuple[tuple[float, float], ...]:
    """Those that one of `channels` is seen through: of several channels only CT is."""
    if len(channels) > 1 and not is_ct(channel):
        return ()
    if isinstance(wanted, WindowSettings):
        return wanted.each
    return {"window": WINDOWS[1:2], "windows": WINDOWS}.get(wanted, ())


def _windowed(channel: str, channels: Sequence[str], wanted: str | WindowSettings) -> Normalization | None:
    """How one of `channels` is scaled that is seen through windows."""
    windows = _windows(channel, channels, wanted)
    if kind_of(wanted) == "windows" and windows:
        return Normalization("windows", windows=windows)
    return Normalization.window(*windows[0]) if windows else None


def _normalization(
    channel: ChannelFacts, channels: Sequence[str], wanted: str | WindowSettings
) -> tuple[Normalization, str]:
    """The way that is `wanted`, or for `auto` the one that suits the channel; and why."""
    if windowed := _windowed(channel.name, channels, wanted):
        several = bool(windowed.windows)
        return windowed, (
            "windows of HU become 0 to 1, each in a channel" if several else "a window of HU becomes 0 to 1"
        )
    if isinstance(wanted, WindowSettings) or wanted in ("window", "windows"):
        wanted = "unit"
    kind = wanted if wanted != "auto" else "ct" if is_ct(channel.name) else "zscore"
    if kind == "ct":
        reason = (
            "CT has absolute units: clipped to the foreground's 0.5 and 99.5 percentiles, and standardised"
        )
        std = max(channel.std, 1e-8)
        return Normalization("ct", channel.lower, channel.upper, channel.mean, std), reason
    if kind == "unit" and is_ct(channel.name) and channel.lower < channel.upper:
        reason = "CT has absolute units: the foreground's 0.5 and 99.5 percentiles become 0 and 1"
        return Normalization.window(channel.lower, channel.upper), reason
    if kind == "unit":
        return Normalization("unit"), "0.5 and 99.5 percentiles of each volume become 0 and 1"
    if kind == "symmetric":
        return Normalization("symmetric"), "0.05 and 99.95 percentiles of each volume become -1 and 1"
    if kind == "none":
        return Normalization("none"), "values are left as they are"
    if channel.zeros > 0.25:
        reason = f"{channel.zeros:.0%} of voxels are exactly 0, no tissue: z-score of the others, per volume"
        return Normalization("nonzero_zscore"), reason
    return Normalization("zscore"), "its units differ between scans: z-score per volume"
