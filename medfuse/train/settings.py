"""What a pipeline file says of training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medfuse.core.section import ConfigPath, Section

Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class PartSettings(Section):
    """How some of the parameters learn."""

    rate: float = Field(1.0, ge=0, allow_inf_nan=False, description="factor of the learning rate")
    freeze: Count | Literal["always"] | None = Field(
        None, description="epochs for which they stay as they are, or `always`"
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="of a backbone: factor of the rate from each layer to the one before it, such as 0.75, "
        "so that the first move least (BEiT, Bao et al. 2022); layers are blocks, and what runs after the "
        "last of them has the rate itself",
    )


class PseudoLabelSettings(Section):
    """Confident predictions as the labels of cases without one (Lee 2013; FixMatch, Sohn et al. 2020)."""

    teacher: Annotated[Literal["self"] | ConfigPath, Field(union_mode="left_to_right")] = Field(
        "self",
        description="self: the running mean of the weights where `average` is on, else the network as it is; "
        "or the folder of another run, or its weights",
    )
    trust: tuple[str, ...] | None = Field(
        None, description="packages of which a teacher that was not trained here may name code, as `--trust`"
    )
    cases: Literal["test", "unlabelled", "both"] = Field(
        "both", description="the dataset's test cases, its training cases without a label, or both"
    )
    confidence: float = Field(
        0.9, gt=0, le=1, description="softmax probability above which a voxel counts; at 1 none does"
    )
    weight: Amount = Field(0.5, description="weight of the loss, beside the 1 of the main loss")
    begin: Share = Field(0.3, description="share of training before the first pseudo-label")
    ramp: Share = Field(0.2, description="share of training over which the weight then rises from 0")
    heads: tuple[str, ...] = Field(
        ("main",), min_length=1, description="heads that learn from them: `main`, or names of auxiliary heads"
    )
    share: float = Field(
        0.5, gt=0, le=1, description="share of steps that have a batch of unlabelled patches too"
    )


class TeacherSettings(Section):
    """Distillation: a trained network, from which this one learns besides labels (Hinton et al. 2015).

    It looks at the same patches, without gradient, and is no part of what is saved.
    """

    run: ConfigPath = Field(
        description="the run that teaches, or its weights; of a cross-validation's folder, the same fold"
    )
    weight: float = Field(
        1.0,
        ge=0,
        description="weight of the divergence from its probabilities, beside the 1 of the main loss; with 0 "
        "here and for maps nothing is learned from it, and images are still scaled as for it",
    )
    temperature: float = Field(
        2.0, gt=0, le=100, description="logits are divided by it first, which shows what is next likely"
    )
    maps: Literal["auto"] | dict[str, str] = Field(
        "auto",
        description="which maps are drawn to which, as `mine: its`; auto: at each stride that both have, "
        "those of one name, or the last ones; {}: none",
    )
    maps_weight: float = Field(0.2, ge=0, description="weight of the loss of each pair of maps")
    distance: Literal["squared", "cosine"] = Field(
        "cosine", description="between maps: squared error, or angle between the channels of a voxel"
    )
    unseen: bool = Field(
        False,
        description="say that no held-out case trained the teacher, where its folder does not tell, as of a "
        "model from elsewhere",
    )
    trust: tuple[str, ...] | None = Field(
        None, description="packages of which a teacher that was not trained here may name code, as `--trust`"
    )


class RegionSettings(Section):
    """Changes of intensity in one region, each with its probability per patch, as in `augment`."""

    noise: Share = Field(0.0, description="probability of gaussian noise")
    blur: Share = Field(0.0, description="probability of gaussian blur")
    brightness: Share = Field(0.0, description="probability of a brightness factor of 0.75 to 1.25")
    contrast: Share = Field(0.0, description="probability of a contrast factor of 0.75 to 1.25")
    gamma: Share = Field(0.0, description="probability of a gamma of 0.7 to 1.5")
    strength: float = Field(1.0, gt=0, le=3, description="how far the changes go, as a factor of the above")


class GuidedSettings(Section):
    """Augmentation that differs where a map of the network, as it is now, is high.

    Below `train` and not `augment`: the network is in the training process, not in those that load patches.
    """

    map: str = Field(description="the tap or node whose mean |activation| over channels decides")
    percentile: float | None = Field(None, ge=0, le=100, description="high: above this percentile of a patch")
    threshold: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="high: above this mean |activation|"
    )
    inside: RegionSettings | None = Field(None, description="changes of intensity where it is high")
    outside: RegionSettings | None = Field(None, description="changes of intensity elsewhere")
    erase: Share = Field(0.0, description="probability that the high region is set to its mean")
    deform: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="largest random displacement of the high region, image and label, in voxels of the "
        "finest axis",
    )
    every: Count = Field(1, description="steps from one changed batch to the next")
    begin: Share = Field(0.1, description="share of training before the first, as a fresh map means nothing")

    @model_validator(mode="after")
    def _complete(self) -> "GuidedSettings":
        if (self.percentile is None) == (self.threshold is None):
            raise ValueError("say what is high once: give percentile or threshold")
        if not (self.inside or self.outside or self.erase or self.deform):
            raise ValueError("nothing is changed; give inside, outside, erase or deform")
        return self


class FrozenMapsSettings(Section):
    """Training on a finite set of patches, of which the maps of what is frozen are computed once and kept."""

    views: Count | Literal["auto"] = Field(
        "auto",
        description="random views of each patch (flips, rotations, intensities, as `augment` says), drawn "
        "once; auto: 8, or as many as are computed in a fifth of the budget",
    )
    patches: Count | Literal["auto"] = Field(
        "auto",
        description="places in the training cases, which take turns; rounded up to whole batches; auto: as "
        "many as cover the cases and, times `views`, are computed in a fifth of the budget; one of each case "
        "at least",
    )
    precision: Literal["fp16", "fp32"] = Field(
        "fp16", description="of kept maps; fp32 keeps each bit, in twice the space"
    )
    keep: bool = Field(
        True, description="false: nothing is kept, and what is frozen runs at each step, on the same patches"
    )
    folder: ConfigPath | None = Field(
        None, description="where maps are kept; `frozen_maps`, beside the run folders, if not given"
    )


class TrainSettings(Section):
    """Optimiser, learning rate, budget and precision."""

    epochs: Count | None = Field(None, description="budget: epochs of `steps_per_epoch` steps")
    steps: Count | None = Field(None, description="budget: steps")
    minutes: Amount | None = Field(None, description="budget: minutes of training, validation included")
    steps_per_epoch: Count = Field(250, description="steps between two validations")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd with Nesterov momentum 0.99, or AdamW")
    learning_rate: Amount | Literal["auto"] = Field(
        "auto", description="peak value; auto: 0.01 for sgd, 0.001 for adamw"
    )
    weight_decay: float = Field(3e-5, ge=0, description="L2 penalty (decoupled in AdamW)")
    decay: Literal["poly", "cosine", "none"] = Field(
        "poly", description="learning rate over the budget; poly has power 0.9"
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the budget over which the learning rate rises from 0"
    )
    parts: dict[str, PartSettings] = Field(
        default_factory=dict,
        description="parameters, as globs such as `backbones.encoder.*`; the first that matches one counts",
    )
    pseudo_labels: PseudoLabelSettings | None = Field(
        None, description="learning from cases without a label; off where not given"
    )
    teacher: TeacherSettings | None = Field(
        None, description="distillation: a trained network that teaches this one; off where not given"
    )
    guided: GuidedSettings | None = Field(
        None, description="augmentation that the network's own maps guide; off where not given"
    )
    frozen_maps: FrozenMapsSettings | None = Field(
        None,
        description="a finite set of patches, and the maps of what is frozen computed once for each; off "
        "where not given",
    )
    clip: float = Field(12.0, ge=0, description="largest gradient norm; 0 for no clipping")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is then validated and saved; 0: off",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where a probe finds it right and faster"
    )
    deterministic: bool = Field(
        False,
        description="the same seed gives the same weights to the last bit on one machine: kernels of fixed "
        "order, fp32 where `precision` is auto, as a clock would decide; a budget in minutes still has one",
    )
    state_every: Count | None = Field(
        None,
        description="steps between two training states, from which a stopped run carries on; a minute where "
        "not given; the end of an epoch has one too",
    )
    compile: bool = Field(False, description="torch.compile the network; falls back, saying why")
    checkpointing: Literal["auto"] | bool = Field(
        "auto",
        description="compute maps inside of blocks again in the backward pass rather than keep them: less "
        "memory, more time, the same gradients; auto: where a step would not fit the device",
    )
    accumulate: Literal["auto"] | Count = Field(
        "auto",
        description="parts of a batch that go through the network one after the other, so that a step takes "
        "the memory of one; the loss is that of the whole batch, statistics of batch norms those of a part; "
        "auto: 1, or as many as the device needs beside `checkpointing`",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    validation_cases: Annotated[int, Field(ge=0)] = Field(
        8,
        description="held-out cases looked at after each epoch, or as often as a tenth of `minutes` allows; "
        "the final evaluation uses all",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainSettings":
        if sum(v is not None for v in (self.epochs, self.steps, self.minutes)) != 1:
            raise ValueError(
                "give the budget once: one of epochs, steps or minutes; on the command line "
                "`--set train.minutes=null` takes out one that the file has"
            )
        return self
