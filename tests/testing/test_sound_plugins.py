"""Plugins that are unusual and right: the conformance suite has nothing to say about them."""

import os
from dataclasses import replace

import pytest
import torch
from planting import Module, each
from pydantic import BaseModel, ConfigDict, Field
from sound import CONVOLUTION, Block, Entropy, Small
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from medfuse.api import (
    ActivationLoss,
    AuxSchedule,
    Backbone,
    Case,
    Dataset,
    DatasetInfo,
    FeatureInfo,
    FusionBlock,
    ImageInfo,
    Runtime,
    Split,
    TapStrategy,
)
from medfuse.core.errors import DataError, ShapeError
from medfuse.testing import (
    check_activation_loss,
    check_aux_schedule,
    check_backbone,
    check_dataset,
    check_fusion_block,
    check_loss,
    check_runtime,
    check_tap_strategy,
)

A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 5, (2, 2))
THICK = FeatureInfo("t", 4, (2, 2, 1))
FLAT, SOLID = ImageInfo(2, (16, 16), (1.0, 1.0)), ImageInfo(1, (8, 8, 8), (1.0, 1.0, 3.0))


# ---- fusion blocks


class WithBatchNormAndDropout(Block):
    __doc__ = Block.__doc__

    def build(self, inputs):
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[inputs[0].dims](self.channels)
        conv = self.conv(inputs)
        return Module(self.forward, conv=nn.Sequential(conv, norm, nn.ReLU(inplace=True), nn.Dropout(0.3)))


class ReZero(Block):
    """What it adds is 0 to begin with (Bachlechner et al. 2021).

    mixed: {use: rezero, inputs: [a]}
    """

    def build(self, inputs):
        return Module(
            self.forward,
            conv=self.conv(inputs),
            first=self.conv(inputs[:1]),
            gate=nn.Parameter(torch.zeros(())),
        )

    @staticmethod
    def forward(module, *maps):
        return module.first(maps[0]) + module.gate * module.conv(torch.cat(maps, 1))


class Spectral(Block):
    """Weights of spectral norm 1, whose power iteration is a buffer.

    mixed: {use: spectral, inputs: [a]}
    """

    def build(self, inputs):
        return Module(self.forward, conv=parametrizations.spectral_norm(self.conv(inputs)))


class Positions(Block):
    """Adds sines of the position, computed anew for each size and kept for the last one.

    mixed: {use: positions, inputs: [a]}
    """

    def build(self, inputs):
        return Module(self.forward, conv=self.conv(inputs), cached={})

    @staticmethod
    def forward(module, *maps):
        x = module.conv(torch.cat(maps, 1))
        key = (tuple(x.shape[2:]), x.device, x.dtype)
        if key not in module.cached:
            module.cached.clear()
            module.cached[key] = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype).sin()
        return x + module.cached[key]


class MovesItsConstants(Block):
    """A constant that is no buffer, and is brought to where the map lies.

    mixed: {use: moving, inputs: [a]}
    """

    def build(self, inputs):
        return Module(self.forward, conv=self.conv(inputs), factor=torch.full((1,), 2.0))

    @staticmethod
    def forward(module, *maps):
        x = module.conv(torch.cat(maps, 1))
        return x * module.factor.to(x)


class DropsPaths(Block):
    """Stochastic depth, drawn from torch's generator for each case.

    mixed: {use: paths, inputs: [a]}
    """

    @staticmethod
    def forward(module, *maps):
        x = module.conv(torch.cat(maps, 1))
        if not module.training:
            return x
        return x * (torch.rand(len(x), *(1,) * (x.ndim - 1), device=x.device) < 0.8).to(x) / 0.8


class Attends(Block):
    """Attention among voxels, in float32 whatever it is given.

    mixed: {use: attends, inputs: [a]}
    """

    @staticmethod
    def forward(module, *maps):
        x = module.conv(torch.cat(maps, 1))
        tokens = x.flatten(2).transpose(1, 2).float()
        mixed = functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return x + mixed.transpose(1, 2).reshape(x.shape).to(x)


class Identity(FusionBlock):
    """Hands its input on.

    mixed: {use: identity, inputs: [a]}
    """

    def plan(self, inputs):
        if len(inputs) > 1:
            raise ShapeError("identity takes one input; name one")
        return inputs[0]

    def build(self, inputs):
        return nn.Identity()


class OfThree(Block):
    """Takes three channels and refuses others, in two dimensions alone.

    mixed: {use: of_three, inputs: [a]}
    """

    def plan(self, inputs):
        if inputs[0].channels != 3 or inputs[0].dims != 2:
            raise ShapeError("of_three takes 3 channels in 2-D; project first")
        return super().plan(inputs)


class Halves(Block):
    """A map at half the size, and the one before as a side output.

    mixed: {use: halves, inputs: [a]}
    """

    def plan(self, inputs):
        return FeatureInfo("half", self.channels, tuple(2 * s for s in inputs[0].stride))

    def side_outputs(self, inputs):
        return [FeatureInfo("whole", self.channels, inputs[0].stride)]

    @staticmethod
    def forward(module, *maps):
        whole = module.conv(torch.cat(maps, 1))
        pool = functional.avg_pool2d if whole.ndim == 4 else functional.avg_pool3d
        return [pool(whole, 2, ceil_mode=True), whole]


class Window(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(3, ge=1, description="of the window")


class Nested(Block):
    """With parameters of its parameters.

    mixed: {use: nested, inputs: [a], window: {size: 3}, rates: [1, 2], notes: {a: 1}}
    """

    window: Window = Field(Window(), description="of the filter")
    rates: tuple[int, ...] | None = Field(None, description="of dilation")
    notes: dict[str, float] = Field({}, description="for the reader")


class Frozen(Block):
    """A fixed random projection, frozen and saved.

    mixed: {use: frozen, inputs: [a]}
    """

    def build(self, inputs):
        return Module(self.forward, conv=self.conv(inputs).requires_grad_(False))


BLOCKS = [
    Block,
    WithBatchNormAndDropout,
    ReZero,
    Spectral,
    Positions,
    MovesItsConstants,
    DropsPaths,
    Attends,
    Halves,
    Nested,
    Frozen,
]


@pytest.mark.parametrize("inputs", [[A, B], [THICK]], ids=["flat", "solid"])
@each({block.__name__: block for block in BLOCKS})
def test_an_unusual_block_passes(fault, inputs):
    check_fusion_block(fault(inputs=[x.name for x in inputs]), inputs)


@pytest.mark.parametrize("plugin", [Identity(inputs=("a",)), OfThree(inputs=("a",))])
def test_a_block_that_refuses_what_it_cannot_take_passes(plugin):
    check_fusion_block(plugin, [A])


# ---- backbones


class Pyramid(Backbone):
    """Pools without parameters, at a stride that the patch and its voxels decide.

    encoder: {use: pyramid}
    """

    def features(self, image):
        pooled = tuple(2 if mm < 2 else 1 for mm in image.spacing_mm)
        return [
            FeatureInfo("stem", 4, (1,) * image.dims),
            FeatureInfo("pool", 4, pooled),
        ]

    def build(self, image):
        pooled = self.features(image)[1].stride
        pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[image.dims](pooled, ceil_mode=True)
        return nn.Sequential(
            dict_of(stem=CONVOLUTION[image.dims](image.channels, 4, 3, padding=1), pool=pool)
        )


def dict_of(**layers):
    from collections import OrderedDict

    return OrderedDict(layers)


class OfGrey(Pyramid):
    """Takes one channel, as its weights were trained on.

    encoder: {use: of_grey}
    """

    def features(self, image):
        if image.channels != 1:
            raise ShapeError(f"of_grey takes one channel, not {image.channels}; choose it with `view`")
        return super().features(image)


class WithAuxiliaryHead(Pyramid):
    """A head that runs and a layer that does not; it returns numbers, not maps.

    encoder: {use: headed}
    """

    def build(self, image):
        class Net(nn.Module):
            def __init__(self, trunk):
                super().__init__()
                self.stem, self.pool = trunk.stem, trunk.pool
                self.head, self.idle = nn.Linear(4, 7), nn.Linear(3, 3)

            def forward(self, x):
                return {"numbers": self.head(self.pool(self.stem(x)).flatten(2).mean(2)), "name": "net"}

        return Net(super().build(image))


@pytest.mark.parametrize(
    ("plugin", "image"),
    [
        (Pyramid(), FLAT),
        (Pyramid(), SOLID),
        (OfGrey(), replace(FLAT, channels=1)),
    ],
)
def test_an_unusual_backbone_passes(plugin, image):
    check_backbone(plugin, image)


# ---- tap strategies


class ByMethod(TapStrategy):
    """Hooks that are set for a call and removed after it.

    taps: {use: by_method, layers: [a]}
    """

    def attach(self, backbone, taps, image):
        return Listening(backbone, [tap.name for tap in taps])


class Listening(nn.Module):
    def __init__(self, network, names):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x):
        made, handles = {}, []
        try:
            for name in self.names:
                layer = self.network.get_submodule(name)
                handles.append(
                    layer.register_forward_hook(lambda _, __, y, name=name: made.update({name: y}))
                )
            self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        return {name: made[name] for name in self.names}


class InTwoParts(TapStrategy):
    """Keeps the layers that it needs in a list, and forgets the network.

    taps: {use: parts, layers: [a]}
    """

    def attach(self, backbone, taps, image):
        return Parts([layer for _, layer in backbone.named_children()], {int(tap.name) for tap in taps})


class Parts(nn.Module):
    def __init__(self, layers, wanted):
        super().__init__()
        self.layers, self.wanted = nn.ModuleList(layers[: max(wanted) + 1]), wanted

    def forward(self, x):
        made = {}
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.wanted:
                made[str(number)] = x
        return made


@pytest.mark.parametrize("plugin", [ByMethod(), InTwoParts()])
def test_an_unusual_tap_strategy_passes(plugin):
    check_tap_strategy(plugin)


# ---- schedules


class OneAtATime(AuxSchedule):
    """The coarsest head first, then the next: the others have weight 0.

    schedule: {use: one_at_a_time}
    """

    def weights(self, step, total_steps, heads):
        active = heads - 1 - step * heads // total_steps
        return tuple(int(head == active) for head in range(heads))


class AveragingLosses(AuxSchedule):
    """Divides each loss by its running mean, which is a buffer.

    schedule: {use: averaging}
    """

    def weights(self, step, total_steps, heads):
        return [1.0] * heads

    def balance(self, heads):
        return Averaging(1 + heads)


class Averaging(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.register_buffer("mean", torch.ones(number))

    def forward(self, losses):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * losses.detach())
        return (losses / self.mean.clamp_min(1e-3)).sum()

    def weights(self):
        return (1 / self.mean.clamp_min(1e-3)).tolist()


@pytest.mark.parametrize("plugin", [OneAtATime(), AveragingLosses()])
def test_an_unusual_schedule_passes(plugin):
    check_aux_schedule(plugin)


# ---- losses


class Smoothed(Entropy):
    """With smoothed labels: a perfect prediction costs something.

    loss: {use: smoothed}
    """

    @staticmethod
    def forward(module, logits, target):
        return functional.cross_entropy(logits.float(), target[:, 0], label_smoothing=0.1) + 3


class Dice(Entropy):
    """Soft Dice of the foreground over the whole batch, from -1 to 0.

    loss: {use: batch_dice}
    """

    @staticmethod
    def forward(module, logits, target):
        p = logits.float().softmax(1)[:, 1:]
        t = functional.one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1)[:, 1:]
        axes = (0, *range(2, logits.ndim))
        return -((2 * (p * t).sum(axes) + 1e-3) / ((p + t).sum(axes) + 1e-3)).mean()


class Weighed(Entropy):
    """Classes weighed by how seldom they are in the batch.

    loss: {use: weighed}
    """

    @staticmethod
    def forward(module, logits, target):
        counts = torch.bincount(target.flatten(), minlength=logits.shape[1])
        weight = 1 / (counts + 0.1 * target.numel() / logits.shape[1])
        return functional.cross_entropy(logits.float(), target[:, 0], weight=weight)


class Focused(Entropy):
    """A focus that has no gradient of its own.

    loss: {use: focused}
    """

    @staticmethod
    def forward(module, logits, target):
        costs = functional.cross_entropy(logits.float(), target[:, 0], reduction="none")
        return ((1 - (-costs).exp()).detach() * costs).mean()


class Smooth(Entropy):
    """Cross-entropy, and smooth along the last axis.

    loss: {use: smooth}
    """

    def looks_at_places(self):
        return True

    @staticmethod
    def forward(module, logits, target):
        p = logits.float().softmax(1)
        rough = (p[..., 1:] - p[..., :-1]).abs().mean() if p.shape[-1] > 1 else 0
        return functional.cross_entropy(logits.float(), target[:, 0]) + 0.01 * rough


class Hinge(Entropy):
    """Flat where logits are right by a margin.

    loss: {use: hinge}
    """

    @staticmethod
    def forward(module, logits, target):
        right = logits.float().gather(1, target)
        others = logits.float().scatter(1, target, -torch.inf).amax(1, keepdim=True)
        return (1 + others - right).clamp_min(0).mean()


LOSSES = {loss.__name__: loss for loss in (Entropy, Smoothed, Dice, Weighed, Focused, Smooth, Hinge)}


@each(LOSSES)
def test_an_unusual_loss_passes(fault):
    check_loss(fault())


# ---- losses on activations


class Distilled(ActivationLoss):
    """The first map follows the second, which gets no gradient, through a projection.

    distilled: {use: distilled, maps: [a, b], weight: 0.5}
    """

    def build(self, maps):
        first, second = maps
        return Module(self.forward, project=CONVOLUTION[first.dims](first.channels, second.channels, 1))

    @staticmethod
    def forward(module, ours, theirs):
        made = functional.interpolate(module.project(ours), theirs.shape[2:]).float()
        return functional.mse_loss(made, theirs.detach().float())


class Contrasting(Small):
    """Cases of a batch are told apart by the means of their channels.

    apart: {use: contrasting, maps: [a], weight: 0.1}
    """

    @staticmethod
    def forward(module, *maps):
        means = torch.cat([x.float().flatten(2).mean(2) for x in maps], 1)
        rows = functional.normalize(means, dim=1, eps=1e-3)
        return torch.logsumexp((rows @ rows.T).flatten(), 0)


@pytest.mark.parametrize(
    ("plugin", "maps"),
    [
        (Distilled(maps=("a", "b"), weight=0.5), [A, B]),
        (Distilled(maps=("t", "u"), weight=0), [THICK, replace(THICK, name="u", channels=2)]),
        (Contrasting(maps=("a", "b"), weight=0.1), [A, B]),
    ],
)
def test_an_unusual_loss_on_maps_passes(plugin, maps):
    check_activation_loss(plugin, maps)


# ---- datasets


class Everything(Dataset):
    """4-D images, regions, unannotated voxels, patients, folds, and tests, from a list of names.

    data: {use: everything, root: scans}
    """

    def read(self):
        try:
            names = (self.root / "names.txt").read_text().split()
        except FileNotFoundError:
            raise DataError(f"{self.root}: has no names.txt; set `data.root`") from None
        cases = [Case(n, (self.root / n / "all.nii",), self.root / n / "seg.nii", n[0]) for n in names]
        return DatasetInfo(
            tuple(cases),
            {"background": 0, "whole": (1, 2, 4), "core": (2, 4)},
            ("T1", "T2"),
            splits=(Split(("p1", "p2"), ("q 1",)), Split(("q 1",), ("p2",))),
            test_cases=(Case("p9", (self.root / "p9.nii",)),) if (self.root / "p9.nii").exists() else (),
            region_order=(1, 4),
            ignore=255,
        )


class Newest(Dataset):
    """The file of each case that is listed last among its versions.

    data: {use: newest, root: scans}
    """

    def read(self):
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set `data.root`")
        cases = []
        for folder in sorted(os.scandir(self.root), key=lambda entry: entry.name):
            if folder.is_dir():
                *_, image = sorted(p for p in self.root.glob(f"{folder.name}/image_*") if p.name[0] != ".")
                cases.append(Case(folder.name, (image,), self.root / folder.name / "seg.nii"))
        return DatasetInfo(tuple(cases), {"background": 0, "all": 255}, ("photo",))


def test_a_dataset_with_everything_passes(tmp_path):
    for name in ("p1", "p2", "q 1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.nii").touch()
        (tmp_path / name / "seg.nii").touch()
    (tmp_path / "p9.nii").touch()
    plugin = Everything(root=tmp_path)
    (tmp_path / "names.txt").write_text("p1 p2")
    with pytest.raises(AssertionError, match="fold 0 names q 1, which is no case"):
        check_dataset(plugin)

    class Listed(Everything):
        __doc__ = Everything.__doc__

        def read(self):
            info = super().read()
            extra = Case("q 1", (self.root / "q 1/all.nii",), self.root / "q 1/seg.nii", "q")
            return replace(
                info,
                cases=(*info.cases, extra),
                splits=(Split(("p1", "p2"), ("q 1",)),),
                test_cases=(replace(info.test_cases[0], patient="r"),) if info.test_cases else (),
            )

    check_dataset(Listed(root=tmp_path))


def test_a_dataset_that_lists_folders_passes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("image_1.png", "image_2.png", "seg.nii"):
            (tmp_path / name / file).touch()
    check_dataset(Newest(root=tmp_path))


# ---- runtimes


class OneByOne(Runtime):
    """A window at a time, on a copy of the network in bf16.

    runtime: {use: one_by_one}
    """

    def prepare(self, model, example):
        import copy

        mine = copy.deepcopy(model).eval().bfloat16()

        @torch.inference_mode()
        def run(windows):
            return torch.cat([mine(one[None].bfloat16()) for one in windows])

        return run


class Padded(Runtime):
    """A scripted copy that takes batches of one size, which it fills up.

    runtime: {use: padded}
    """

    def prepare(self, model, example):
        import copy

        size = len(example)
        with torch.no_grad():
            traced = copy.deepcopy(model).eval().requires_grad_(False)

        def run(windows):
            short = -len(windows) % size
            filled = torch.cat([windows, windows.new_zeros(short, *windows.shape[1:])])
            made = torch.cat([traced(part) for part in filled.split(size)])
            return made[: len(windows)].half()

        return run


@pytest.mark.parametrize("plugin", [OneByOne(), Padded()])
def test_an_unusual_runtime_passes(plugin):
    check_runtime(plugin)
