"""The contracts: everything that a plugin author reads.

A plugin is a frozen pydantic model. Its fields are its YAML parameters, its docstring and
`Field(description=...)` are its reference page, and an entry point in one of the groups below gives it
its name. It imports torch inside `build` and the like, so that checking a pipeline stays fast.

    [project.entry-points."medfuse.fusion_blocks"]
    gated = "my_package:Gated"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, get_args

from pydantic import AfterValidator, Field

from medfuse.core.crew import BESIDE, WORKER, ended_by
from medfuse.core.errors import MedfuseError
from medfuse.core.features import FeatureInfo, ImageInfo, KnownTokens, TokenLayout
from medfuse.core.label_table import LabelSays
from medfuse.core.labels import LabelValue, outputs
from medfuse.core.named import NamedCode
from medfuse.core.names import matches
from medfuse.core.section import ConfigPath, Section, without_detours

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    Change = Callable[[Tensor, Tensor, np.random.RandomState], tuple[Tensor, Tensor]]

__all__ = [
    "ActivationLoss",
    "Augmentation",
    "AuxSchedule",
    "Backbone",
    "Case",
    "Command",
    "ConfigPath",
    "Crew",
    "Dataset",
    "DatasetInfo",
    "Engine",
    "FeatureInfo",
    "FusionBlock",
    "ImageInfo",
    "KnownTokens",
    "Loss",
    "NamedCode",
    "Origin",
    "Plugin",
    "Runtime",
    "Split",
    "TapStrategy",
    "TokenLayout",
    "TrackedRun",
    "Tracker",
    "Tracking",
]


class Plugin(Section):
    """Anything that a pipeline names with `use:`. `group` is its entry-point group."""

    group: ClassVar[str]

    def named_code(self) -> Iterable[NamedCode]:
        """Classes and functions that the parameters name, `package.module:name`, as `module` does. None by
        default, as most have no such parameter.

        Whoever writes a parameter writes what is run. From a weights file, which may be a stranger's, a
        network is made only where all of this is known to be harmless, or allowed by its user.
        """
        return ()


@dataclass(frozen=True)
class Origin:
    """Where weights come from that a backbone brings along, and what comes with them.

    source: what they are known by, such as `facebook/dinov2-small@REVISION`, a package and its version, or a
    file. license: as their publisher names it, "" where nothing is said. normalize: values of
    `preprocess.normalize` that they were trained for, the best first; () where any will do.
    """

    source: str
    license: str = ""
    normalize: tuple[str, ...] = ()


class Backbone(Plugin):
    """A network whose intermediate outputs can be tapped."""

    group: ClassVar[str] = "medfuse.backbones"

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        """What can be tapped, finest first. A feature's name is the path of the module that makes it.

        Raises ShapeError where the network cannot work on `image`.
        """
        raise NotImplementedError  # each plugin has its own

    def build(self, image: ImageInfo) -> nn.Module:
        """The network, with fresh weights: (batch, image.channels, *spatial) → anything."""
        raise NotImplementedError  # each plugin has its own

    def origin(self) -> Origin | None:
        """Where the weights come from that it brings along. None by default: it starts from fresh ones.

        Asked by `check` too, so it reads a configuration or metadata and no weights. Raises CheckpointError.
        """
        return None

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        """Those weights, by their names in the network that `build` makes. Raises CheckpointError.

        A training starts from them, and `model.transfer` of the same backbone comes on top.
        """
        return {}

    def pinned(self) -> Backbone:
        """The same, without need of anything but itself to build its network. Itself by default.

        A plugin that reads a configuration from a hub or a folder writes it into its parameters here: they
        are kept beside trained weights, which are then enough to infer anywhere.
        """
        return self


class TapStrategy(Plugin):
    """A way to take intermediate outputs out of a network."""

    group: ClassVar[str] = "medfuse.tap_strategies"

    layers: tuple[str, ...] = Field(
        (), description="layers to tap, by module path or glob; empty means those that the graph names"
    )
    align: Literal["middle", "start"] = Field(
        "middle",
        description="where a voxel of a map with stride s lies among the s voxels that it stands for: in "
        "their middle, or at their start, as strided convolutions leave it and whence it is then shifted",
    )

    def choose(self, layer: str, offered: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        """Those of `offered` that one of `layers` means: by their names, or by a glob. Raises ShapeError.

        Asked about what a backbone declares and, where none of that is meant, about all that its layers make.
        """
        return [feature for feature in offered if matches(feature.name, layer)]

    def further(
        self, chosen: Sequence[FeatureInfo], build: Callable[[], nn.Module], image: ImageInfo
    ) -> Sequence[FeatureInfo]:
        """Maps that `attach` can make besides those of layers; none by default. Raises ShapeError.

        They are called after a layer, as `blocks.5[attention]` is, and meant by no glob. `build` makes the
        network.
        """
        return ()

    def known_tokens(self) -> KnownTokens:
        """What the parameters say of how the network's tokens lie. Nothing by default: it is found out."""
        return KnownTokens()

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        """A module x → {feature name: Tensor}, what the layer makes for each of `taps`.

        It may keep `backbone` and change it: nobody else holds it. `image` is what the network will be
        given, so that a strategy can try the network out; it may be on the meta device. What a user should
        know of how it came out, such as what was left out, is in the module's `notes`, a line each: `check`
        shows them.
        Raises ShapeError, with the reason, where the strategy does not fit the network.
        """
        raise NotImplementedError  # each plugin has its own


class FusionBlock(Plugin):
    """Several feature maps in, one out.

    Where `aligns` is true (the default) the graph brings every input to one grid before the block sees
    it, so `plan` and `build` get inputs of equal stride. A decoder sets it to False and gets them as
    they are. `overhangs` says that its maps are made without knowing the image's size, and may end before the
    far edge or beyond it, by less than the coarsest input's stride and their own: the graph crops them, or
    resizes what is too small. `adds_up` says that the result is the sum of the side outputs, brought to one
    grid linearly: where the main head stands on it, an auxiliary head on a side output is that same head, so
    that what is supervised is what is summed.
    """

    group: ClassVar[str] = "medfuse.fusion_blocks"
    aligns: ClassVar[bool] = True
    overhangs: ClassVar[bool] = False
    adds_up: ClassVar[bool] = False

    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="`image`, BACKBONE.LAYER, or other nodes; BACKBONE.* means every feature of it",
    )
    resample_to: str = Field(
        "finest",
        description="the grid that inputs are brought to: `finest`, `coarsest`, or one of the inputs",
    )
    resample: Literal["linear", "nearest"] = Field(
        "linear", description="how inputs are brought to that grid"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        """Channels and stride of the result: arithmetic, no tensors. Raises ShapeError."""
        raise NotImplementedError  # each plugin has its own

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        """Further maps that the block publishes, as NODE.NAME, finest first. None by default."""
        return ()

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        """A module taking one tensor per input (positional) and returning one tensor.

        Where there are side outputs it returns a list: the result, then each side output in order.
        """
        raise NotImplementedError  # each plugin has its own


class AuxSchedule(Plugin):
    """Weights of the auxiliary losses over time: a pure function of progress."""

    group: ClassVar[str] = "medfuse.aux_schedules"

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        """One weight per head, finite and ≥ 0, for `step` of 0 … total_steps - 1."""
        raise NotImplementedError  # each plugin has its own

    def balance(self, heads: int) -> nn.Module | None:
        """For weights that are learned: losses (1 + heads,), main first → total; else None, the default.

        Its parameters are trained with the network's. Its method `weights()` gives those of now, as 1 + heads
        numbers, for the log.
        """
        return None


class Loss(Plugin):
    """A loss on logits.

    Regions and voxels that nobody annotated are not its concern: of regions it sees each by itself, as two
    classes; of a batch with an ignore label it sees the annotated voxels alone, in a row:
    (1, classes, voxels, 1, 1).
    """

    group: ClassVar[str] = "medfuse.losses"

    def build(self, classes: int) -> nn.Module:
        """A module (logits (batch, classes, *spatial), target (batch, 1, *spatial) integer) → scalar."""
        raise NotImplementedError  # each plugin has its own

    def looks_at_places(self) -> bool:
        """Whether it matters where a voxel lies, as for distances. False by default.

        Such a loss gets batches whole; what nobody annotated is background in them, predicted with certainty.
        """
        return False


class Augmentation(Plugin):
    """A random change to training patches."""

    group: ClassVar[str] = "medfuse.augmentations"

    def moves_voxels(self) -> bool:
        """Whether the label changes with the image. False by default: then the label stays as it is."""
        return False

    def build(self, image: ImageInfo) -> Change:
        """A callable (image, label, random) → (image, label), of patches as `image` says.

        image: (channels, *patch_size) float32, label: (1, *patch_size) class indices, both of one patch and
        on the CPU; they keep their shapes. All chance comes from `random`, so that a patch is a function of
        the run's seed and its number. A label gets no value that it did not have: take the nearest voxel's.
        Raises ShapeError where it cannot work on `image`. It is pickled where loader processes are spawned.
        """
        raise NotImplementedError  # each plugin has its own


class ActivationLoss(Plugin):
    """A loss on inner maps themselves, while the network trains."""

    group: ClassVar[str] = "medfuse.activation_losses"

    maps: tuple[str, ...] = Field(
        min_length=1,
        description="BACKBONE.LAYER or nodes, as in `inputs`; BACKBONE.* means every feature of it",
    )
    weight: float = Field(ge=0, allow_inf_nan=False, description="weight in the total loss")

    def plan(self, maps: Sequence[FeatureInfo]) -> None:
        """Raises ShapeError where the loss cannot work on these maps."""

    def build(self, maps: Sequence[FeatureInfo]) -> nn.Module:
        """A module taking one tensor per map (positional), each on its own grid → scalar.

        Its parameters, if it has any, are trained with the network's and left behind afterwards.
        """
        raise NotImplementedError  # each plugin has its own


@dataclass(frozen=True)
class Case:
    """One scan: its image files (one per channel, or one with all), and its label if known.

    `patient` tells which cases are of one person, where that is known: they never both train and judge.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images, and its label if known."""
        return (*self.images, self.label) if self.label else self.images


@dataclass(frozen=True)
class Split:
    """Names of the cases that train a model, and of those that judge it: none where all of them train."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset's text files say; no image has been opened.

    labels: name → value, with background: 0; a region has a tuple of values. channels: their names, whose
    modality decides `auto` normalisation ("CT", or anything else for MR and the like). splits: folds the
    dataset comes with. region_order: where labels are regions, the value that is written for each of them,
    later ones over earlier ones. ignore: the value of voxels that nobody annotated. notes: what the folder
    holds beside its cases and is not used, in one line per kind; they are shown. label_table: codes and
    colours of labels, where the dataset says them.
    """

    cases: tuple[Case, ...]
    labels: Mapping[str, LabelValue]
    channels: tuple[str, ...]
    splits: tuple[Split, ...] = ()
    test_cases: tuple[Case, ...] = field(default=())
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    notes: tuple[str, ...] = ()
    label_table: Mapping[str, LabelSays] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a network has a logit for: regions, or all classes with the background first."""
        return outputs(self.labels, self.region_order)


class Dataset(Plugin):
    """A folder layout that medfuse can read as it is."""

    group: ClassVar[str] = "medfuse.datasets"

    root: Annotated[ConfigPath, AfterValidator(without_detours)] = Field(description="the dataset's folder")

    def read(self) -> DatasetInfo:
        """Cases, labels and channels from text files and file names. Raises DataError with every fault."""
        raise NotImplementedError  # each plugin has its own


class Runtime(Plugin):
    """Something that runs a trained network on windows."""

    group: ClassVar[str] = "medfuse.runtimes"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """A callable windows (batch, channels, *patch_size) → logits (batch, classes, *patch_size).

        `example` is one batch of windows on the device that will be used. Logits are fp32, or bf16 or fp16
        where that is how they were computed: it halves what they take. One thread at a time calls it.

        It may have an attribute `engine`: plain values such as {"precision": "bf16", "versions": {"tvm":
        "0.2"}} that say what it is, for manifest.json (`core.engine.Running` gives a function one).
        """
        raise NotImplementedError  # each plugin has its own

    def refuse(self, model: nn.Module) -> None:
        """Raises MedfuseError where it cannot run this network at all; asked before any work.

        It is then not chosen among others. By default nothing is refused.
        """

    def choices(self, device: torch.device) -> Sequence[Runtime]:
        """Runtimes that leave nothing open to a clock or a trial, one of which `prepare` ends with.

        A folder that was begun with one of them is finished with it. By default `precision: auto`, where
        there is such a field, is each kind of precision that it offers and the device has units for.
        """
        from medfuse.core.device import half_precisions

        if getattr(self, "precision", None) != "auto":
            return (self,)
        offered = get_args(type(self).model_fields["precision"].annotation)
        kinds = [kind for kind in ("fp32", *half_precisions(device)) if kind in offered]
        return tuple(self.model_copy(update={"precision": kind}) for kind in kinds)


@dataclass(frozen=True)
class TrackedRun:
    """A training as a tracker is told of it.

    key: the same whenever this training is carried on, and no other's. folder: the run's own; `shared` is the
    one around run folders, in which what a tracker keeps on this machine goes into a folder of its own. step:
    where training stands, 0 as it begins. parameters: every value of the pipeline, by its dotted name.
    """

    name: str
    key: str
    folder: Path
    shared: Path
    step: int
    parameters: Mapping[str, str | int | float | bool]


class Tracking(Protocol):
    """A run that a tracker has begun, or goes on with. One thread calls it, and waits for nothing else."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step, all of them finite. Steps rise, but for those that are done again."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """The end: what the held-out cases say, and files to keep with the run, such as its report."""

    def stop(self) -> None:
        """The process ends before that; the run may be carried on."""


class Tracker(Plugin):
    """A place that is told of trainings while they run, such as MLflow.

    What it raises is told in one line, and training goes on without it. It sends nothing over a network
    unless its parameters ask for that.
    """

    group: ClassVar[str] = "medfuse.trackers"

    def begin(self, run: TrackedRun) -> Tracking:
        """Begin a run there, or go on with the one that was begun with `run.key`."""
        raise NotImplementedError  # each plugin has its own


@dataclass(frozen=True)
class Command:
    """What each worker of an engine runs, `medfuse ARGUMENTS`, until there is nothing left for it to do.

    Workers know of cases by `folder` alone, which all of them see under this path; an engine may keep files
    in a folder of its own there, such as logs. device: as `--device`, for engines that give out GPUs.
    places: files and folders that the arguments name, as they name them, as far as that is known.
    """

    arguments: tuple[str, ...]
    folder: Path
    device: str = "auto"
    module: str = "medfuse"
    places: tuple[Path, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command line, for this Python."""
        return [sys.executable, "-m", self.module, *self.arguments]

    def variables(
        self, worker: str, *, cores: int | None = None, ends_with_this: bool = False
    ) -> dict[str, str]:
        """Of the environment of a worker of this name, which is to use so many cores.

        ends_with_this: whether it is a child of this process, which it is not to outlive.
        """
        told = {WORKER: worker}
        if cores is not None:
            told["OMP_NUM_THREADS"] = str(max(1, cores))
        if ends_with_this:
            told[BESIDE] = str(os.getpid())
        return told

    def ended(self, code: int, said: str) -> str:
        """Why a worker that ended with `code` did not do its work; "" where it did.

        Raises MedfuseError with its last line for code 2: a mistake of the user's, which the next would make.
        """
        return ended_by(code, said)


class Crew(Protocol):
    """Workers that an engine has started. One thread asks it, a few times a second, and waits for nothing."""

    def __len__(self) -> int:
        """How many go on, or wait to begin."""

    def ended(self) -> Sequence[tuple[str, str]]:
        """Name and reason of those that have ended before their work was done, since the last call.

        Raises MedfuseError where that was a mistake of the user's (see `Command.ended`).
        """

    def add(self) -> None:
        """One more, in place of one that has ended."""

    def end(self) -> None:
        """All of them end: in peace if they do so within seconds, by force then."""


class Engine(Plugin):
    """Where workers run: on this machine, or on those of a cluster.

    It knows nothing of cases. Each worker has a name, which no other has, and which it is told by
    `Command.variables`: what starts again after it was lost keeps it.
    """

    group: ClassVar[str] = "medfuse.engines"

    def ready(self) -> None:
        """Raises MedfuseError where it is plain that no worker can be started; asked before all else."""

    def start(self, command: Command, workers: int) -> Crew:
        """So many workers. Raises MedfuseError where there is nothing to start them on."""
        raise NotImplementedError  # each plugin has its own

    def printed(self, command: Command, workers: int) -> str:
        """What `--print` shows: a file by which others start `workers`, which take `--shard 0/N` … each."""
        raise MedfuseError("it starts its workers itself; leave --print out")
