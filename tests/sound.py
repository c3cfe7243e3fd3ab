"""A sound plugin of each contract, for tests to plant faults in."""

import torch
from planting import Module
from pydantic import Field
from torch import nn
from torch.nn import functional

from medfuse.api import (
    ActivationLoss,
    AuxSchedule,
    Backbone,
    Case,
    Dataset,
    DatasetInfo,
    FeatureInfo,
    FusionBlock,
    Loss,
    Runtime,
    TapStrategy,
)
from medfuse.core.errors import DataError

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


class Block(FusionBlock):
    """A projection.

    mixed: {use: block, inputs: [a], channels: 3}
    """

    channels: int = Field(3, ge=1, description="of the result")

    def plan(self, inputs):
        return FeatureInfo("block", self.channels, inputs[0].stride)

    def conv(self, inputs):
        return CONVOLUTION[inputs[0].dims](sum(x.channels for x in inputs), self.channels, 1)

    def build(self, inputs):
        return Module(self.forward, conv=self.conv(inputs))

    @staticmethod
    def forward(module, *maps):
        return module.conv(torch.cat(maps, 1))


class Network(Backbone):
    """Two convolutions.

    encoder: {use: network}
    """

    def features(self, image):
        return [FeatureInfo("fine", 4, (1, 1)), FeatureInfo("coarse", 8, (2, 2))]

    def build(self, image):
        return two_layers(image.channels, self.forward)

    @staticmethod
    def forward(module, x):
        return module.coarse(module.fine(x).relu())


def two_layers(channels, forward, **parts):
    fine, coarse = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    return Module(forward, fine=fine, coarse=coarse, **parts)


class Taps(TapStrategy):
    """Layers of a chain, run in turn.

    taps: {use: taps, layers: [a]}
    """

    def attach(self, backbone, taps, image):
        return Module(self.forward, backbone=backbone, names=[tap.name for tap in taps])

    @staticmethod
    def forward(module, x):
        made = {}
        for name, layer in module.backbone.named_children():
            made[name] = x = layer(x)
        return {name: made[name] for name in module.names}


class Schedule(AuxSchedule):
    """Falls along a line.

    schedule: {use: schedule}
    """

    def weights(self, step, total_steps, heads):
        return [0.5 * (1 - step / total_steps)] * heads


class Balance(nn.Module):
    """A trained scale for each loss (Kendall et al. 2018)."""

    def __init__(self, heads, forward=None):
        super().__init__()
        self.scale, self.run = nn.Parameter(torch.zeros(1 + heads)), forward or by_scale

    def forward(self, losses):
        return self.run(self, losses)

    def weights(self):
        return (-self.scale).exp().tolist()


def by_scale(module, losses):
    return ((-module.scale).exp() * losses + module.scale / 2).sum()


class Entropy(Loss):
    """Cross-entropy.

    loss: {use: entropy}
    """

    def build(self, classes):
        return Module(self.forward)

    @staticmethod
    def forward(module, logits, target):
        return costs(logits, target).mean()


def costs(logits, target):
    """Cross-entropy of every voxel."""
    return functional.cross_entropy(logits.float(), target[:, 0], reduction="none")


class Small(ActivationLoss):
    """Mean square.

    small: {use: small, maps: [a], weight: 0.1}
    """

    def build(self, maps):
        return Module(self.forward)

    @staticmethod
    def forward(module, *maps):
        return torch.stack([x.float().square().mean() for x in maps]).mean()


class Layout(Dataset):
    """NAME.nii beside NAME_label.nii.

    data: {use: layout, root: scans}
    """

    def read(self):
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set `data.root`")
        return self.info([self.case(path) for path in self.images()])

    def images(self):
        found = (p for p in self.root.glob("*.nii") if not p.name.startswith("."))
        return sorted(p for p in found if not p.stem.endswith("_label"))

    def case(self, path):
        return Case(path.stem, (path,), path.with_name(f"{path.stem}_label.nii"))

    def info(self, cases):
        return DatasetInfo(tuple(cases), {"background": 0, "liver": 1}, ("CT",))


class Plain(Runtime):
    """Torch as it is.

    runtime: {use: plain}
    """

    def prepare(self, model, example):
        return run_by(model.eval())


def run_by(model, after=lambda logits: logits, *, before=lambda windows: windows):
    def run(windows):
        with torch.inference_mode():
            return after(model(before(windows)))

    return run
