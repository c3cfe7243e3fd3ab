"""Every plugin here is wrong in one way, and the check that is there for it says so by its name."""

import itertools
import random
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
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
    ImageInfo,
    Loss,
    Runtime,
    Split,
    TapStrategy,
)
from medfuse.core.errors import DataError
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

A = FeatureInfo("a", 3, (2, 2))
IMAGE = ImageInfo(1, (8, 8), (1.0, 1.0))


def failed(check, *given) -> set[str]:
    """Names of the checks that fail."""
    with pytest.raises(AssertionError) as caught:
        check(*given)
    return {line.strip().partition(": ")[0] for line in str(caught.value).splitlines()[1:]}


def planted(good: type, **members: Any) -> type:
    """`good` with one thing changed."""
    return type("Planted", (good,), {"__doc__": good.__doc__, "__module__": __name__, **members})


class Module(nn.Module):
    """A module with that forward pass and those parts."""

    def __init__(self, forward, **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *given):
        return self.run(self, *given)


# Fusion blocks, and what all plugins have in common


class Block(FusionBlock):
    """A projection.

    mixed: {use: block, inputs: [a], channels: 3}
    """

    channels: int = Field(3, ge=1, description="of the result")

    def plan(self, inputs):
        return FeatureInfo("block", self.channels, inputs[0].stride)

    def build(self, inputs):
        return nn.Conv2d(inputs[0].channels, self.channels, 1)


SHARED = nn.Conv2d(3, 3, 1)


def of_the_class(module, x):
    return SHARED(x)


def in_place(module, x):
    return x.mul_(2)


def two_cases(module, x):
    return torch.cat([x[:1], x[1:2]])


def centred_on_the_batch(module, x):
    return x - x.mean(0)


def down_and_up(module, x):
    return functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2)


def half_detached(module, x):
    return module.conv(x).detach() + module.conv.bias.sum()


def random_in_evaluation(module, x):
    return functional.dropout(x, 0.5, training=True)


def keeping_its_last(module, x):
    module.last = module.conv(x)
    return module.last


def listed(module, x):
    return module.listed[0](x)


def with_a_lambda():
    module = nn.Conv2d(3, 3, 1)
    module.register_forward_hook(lambda *_: None)
    return module


def with_weights_of_its_own_dice():
    module = nn.Conv2d(3, 3, 1)
    nn.init.constant_(module.weight, random.random())
    return module


@pytest.mark.parametrize(
    ("check", "build"),
    [
        ("planned equals real", lambda: nn.Conv2d(3, 4, 1)),
        ("planned equals real", lambda: nn.Conv2d(3, 3, 1, stride=2)),
        ("planned equals real", lambda: Module(lambda module, x: [x, x])),
        ("planned equals real at odd sizes", lambda: Module(down_and_up)),
        ("any batch", lambda: Module(two_cases)),
        ("any batch", lambda: Module(centred_on_the_batch)),
        ("inputs stay as they are", lambda: Module(in_place)),
        ("gradients reach every parameter and input", lambda: Module(half_detached, conv=nn.Conv2d(3, 3, 1))),
        ("every parameter is registered", lambda: Module(listed, listed=[nn.Conv2d(3, 3, 1)])),
        ("every parameter is registered", lambda: Module(of_the_class)),
        ("two blocks share nothing", lambda: Module(of_the_class)),
        ("two blocks share nothing", lambda: SHARED),
        ("evaluation is deterministic", lambda: Module(random_in_evaluation)),
        ("the same seed agrees", with_weights_of_its_own_dice),
        ("a copy agrees", lambda: Module(keeping_its_last, conv=nn.Conv2d(3, 3, 1))),
        ("an unpickled one agrees", with_a_lambda),
    ],
)
def test_a_faulty_block_is_caught(check, build):
    faulty = planted(Block, build=lambda self, inputs: build())
    assert check in failed(check_fusion_block, faulty(inputs=("a",)), [A])


def test_a_side_output_that_is_not_made_is_caught():
    faulty = planted(Block, side_outputs=lambda self, inputs: [A])
    assert "planned equals real" in failed(check_fusion_block, faulty(inputs=("a",)), [A])


class Undocumented(Block):
    __doc__ = Block.__doc__
    width: int = 3


class WithoutExample(Block):
    """A projection."""


class WithStaleExample(Block):
    """A projection.

    mixed: {use: block, inputs: [a], width: 3}
    """


class Drifting(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: n + 1 if isinstance(n, int) else n)] = Field(
        3, description="grows when it is read"
    )


class Lenient(Block):
    __doc__ = Block.__doc__
    model_config = ConfigDict(extra="ignore")


class Clamping(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: max(n, 1) if isinstance(n, int) else n)] = Field(
        3, ge=1, description="of nothing"
    )


class Mumbling(Block):
    __doc__ = Block.__doc__

    @model_validator(mode="before")
    @classmethod
    def _fits(cls, given: Any) -> Any:
        if isinstance(n := given.get("channels", 3), int) and n < 1:
            raise ValueError("that is too small")
        return given


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        ("every parameter is documented", Undocumented),
        ("the docstring has a line and an example", WithoutExample),
        ("its example is valid", WithStaleExample),
        ("its YAML reads back", Drifting),
        ("an unknown key is refused", Lenient),
        ("a value out of range is refused by name", Clamping),
        ("a value out of range is refused by name", Mumbling),
    ],
)
def test_a_faulty_parameter_is_caught(check, faulty):
    assert failed(check_fusion_block, faulty(inputs=("a",)), [A]) == {check}


# Backbones


class Network(Backbone):
    """Two convolutions.

    encoder: {use: network}
    """

    def features(self, image):
        return [FeatureInfo("fine", 4, (1, 1)), FeatureInfo("coarse", 8, (2, 2))]

    def build(self, image):
        return two_layers(in_turn, image.channels)


def in_turn(module, x):
    return module.coarse(module.fine(x))


def two_layers(forward, channels=1):
    fine, coarse = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    return Module(forward, fine=fine, coarse=coarse)


def declaring(*features: FeatureInfo) -> type:
    return planted(Network, features=lambda self, image: list(features))


def built(build) -> type:
    return planted(Network, build=lambda self, image: build())


FINE, COARSE = Network().features(IMAGE)


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        ("declared equals real", declaring(FeatureInfo("fine", 5, (1, 1)))),
        ("declared equals real", declaring(FeatureInfo("coarse", 8, (4, 4)))),
        ("has features, finest first", declaring(COARSE, FINE)),
        ("has features, finest first", declaring()),
        ("feature names are unique", declaring(FINE, FINE)),
        ("gradients are alive", built(lambda: two_layers(unrecorded))),
        (
            "gradients reach every parameter",
            planted(
                Network,
                features=lambda self, image: [COARSE],
                build=lambda self, image: two_layers(cut_between),
            ),
        ),
        ("inputs stay as they are", built(lambda: two_layers(image_in_place))),
        ("two networks share nothing", built(lambda: TWO_LAYERS)),
    ],
)
def test_a_faulty_backbone_is_caught(check, faulty):
    assert check in failed(check_backbone, faulty(), IMAGE)


def unrecorded(module, x):
    with torch.no_grad():
        return module.coarse(module.fine(x))


def cut_between(module, x):
    return module.coarse(module.fine(x).detach())


def image_in_place(module, x):
    return module.coarse(module.fine(x.div_(2)))


TWO_LAYERS = two_layers(unrecorded)


# Tap strategies


class Taps(TapStrategy):
    """Layers of a chain, run in turn.

    taps: {use: taps, layers: [a]}
    """

    def attach(self, backbone, taps, image):
        return Module(self.run, backbone=backbone, names=[tap.name for tap in taps])

    @staticmethod
    def run(module, x):
        made = {}
        for name, layer in module.backbone.named_children():
            made[name] = x = layer(x)
        return {name: made[name] for name in module.names}


def renamed(module, x):
    return {f"layer{name}": made for name, made in Taps.run(module, x).items()}


def rectified(module, x):
    return {name: made.relu() for name, made in Taps.run(module, x).items()}


def detached(module, x):
    return {name: made.detach() for name, made in Taps.run(module, x).items()}


def hoarded(module, x):
    module.kept = Taps.run(module, x)
    return module.kept


def by_closure(self, backbone, taps, image):
    kept = {}
    for tap in taps:
        layer = backbone.get_submodule(tap.name)
        layer.register_forward_hook(lambda _, __, made, name=tap.name: kept.update({name: made}))

    def run(module, x):
        kept.clear()
        module.backbone(x)
        return dict(module.kept)

    return Module(run, backbone=backbone, kept=kept)


@pytest.mark.parametrize(
    ("check", "members"),
    [
        ("makes what is asked for", {"run": staticmethod(renamed)}),
        ("equals the real outputs", {"run": staticmethod(rectified)}),
        ("gradients are alive", {"run": staticmethod(detached)}),
        ("nothing is kept", {"run": staticmethod(hoarded)}),
        ("a copy agrees", {"attach": by_closure}),
    ],
)
def test_a_faulty_tap_strategy_is_caught(check, members):
    assert check in failed(check_tap_strategy, planted(Taps, **members)())


# Schedules


class Schedule(AuxSchedule):
    """Ever the same.

    schedule: {use: schedule}
    """

    def weights(self, step, total_steps, heads):
        return [0.5] * heads


CALLS = itertools.count()


class Balance(nn.Module):
    def __init__(self, forward, heads):
        super().__init__()
        self.scale, self.run, self.heads = nn.Parameter(torch.ones(())), forward, heads

    def forward(self, losses):
        return self.run(self.scale, losses)

    def weights(self):
        return [1.0] + [0.5] * self.heads


def scaled(scale, losses):
    return (scale * losses).sum()


def weighed_by(weights) -> dict[str, Any]:
    return {"weights": lambda self, step, total_steps, heads: weights(step, heads)}


def balanced_by(forward) -> dict[str, Any]:
    return {"balance": lambda self, heads: Balance(forward, heads)}


@pytest.mark.parametrize(
    ("check", "members"),
    [
        ("weights are finite and not negative", weighed_by(lambda step, heads: [-step] * heads)),
        ("weights are finite and not negative", weighed_by(lambda step, heads: [float("nan")] * heads)),
        ("one weight per head", weighed_by(lambda step, heads: [0.5])),
        ("is a pure function", weighed_by(lambda step, heads: [next(CALLS)] * heads)),
        ("balances losses to a finite scalar", balanced_by(lambda scale, losses: scale * losses)),
        ("gradients reach every parameter and loss", balanced_by(lambda scale, losses: losses.sum())),
    ],
)
def test_a_faulty_schedule_is_caught(check, members):
    assert check in failed(check_aux_schedule, planted(Schedule, **members)())


# Losses


class Entropy(Loss):
    """Cross-entropy.

    loss: {use: entropy}
    """

    def build(self, classes):
        return Module(entropy)


def entropy(module, logits, target):
    return functional.cross_entropy(logits, target[:, 0])


def unreduced(module, logits, target):
    return functional.cross_entropy(logits, target[:, 0], reduction="none")


def upside_down(module, logits, target):
    return -entropy(module, logits, target)


def of_slices(module, logits, target):
    _, _, height, width = logits.shape
    return entropy(module, logits, target) / (height * width)


def of_three_classes(module, logits, target):
    return functional.cross_entropy(logits, target[:, 0], weight=torch.ones(3))


def naive(module, logits, target):
    return -logits.softmax(1).log().gather(1, target).mean()


def per_foreground_voxel(module, logits, target):
    costs = functional.cross_entropy(logits, target[:, 0], reduction="none")
    return costs[target[:, 0] > 0].mean()


def centring_logits(module, logits, target):
    return entropy(module, logits.sub_(logits.detach().mean()), target)


@pytest.mark.parametrize(
    ("check", "forward"),
    [
        ("a finite scalar with a gradient in 2-D", unreduced),
        ("a finite scalar with a gradient in 3-D", of_slices),
        ("a finite scalar with a gradient in 3-D", lambda module, *given: entropy(module, *given).detach()),
        ("any number of classes", of_three_classes),
        ("finite where background is alone", per_foreground_voxel),
        ("finite where logits are certain", naive),
        ("prefers what is right", upside_down),
        ("inputs stay as they are", centring_logits),
    ],
)
def test_a_faulty_loss_is_caught(check, forward):
    assert check in failed(check_loss, planted(Entropy, build=lambda self, classes: Module(forward))())


# Activation losses


class Small(ActivationLoss):
    """Mean square.

    small: {use: small, maps: [a], weight: 0.1}
    """

    def build(self, maps):
        return Module(mean_square)


def mean_square(module, x):
    return x.square().mean()


def of_four_voxels(module, x):
    return x.reshape(2, 3, 4, 4).square().mean()


@pytest.mark.parametrize(
    ("check", "forward"),
    [
        ("a finite scalar", lambda module, x: x.square().mean((1, 2, 3))),
        ("a finite scalar at odd sizes", of_four_voxels),
        ("any batch", of_four_voxels),
        ("gradients reach every parameter and a map", lambda module, x: x.detach().square().mean()),
        ("finite on dead maps", lambda module, x: x.square().mean().sqrt()),
        ("inputs stay as they are", lambda module, x: x.mul_(2).mean()),
    ],
)
def test_a_faulty_activation_loss_is_caught(check, forward):
    faulty = planted(Small, build=lambda self, maps: Module(forward))
    assert check in failed(check_activation_loss, faulty(maps=("a",), weight=0.1), [A])


# Datasets


class Layout(Dataset):
    """Two cases.

    data: {use: layout, root: scans}
    """

    def read(self):
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set `data.root`")
        return self.info([Case(n, (self.root / f"{n}.nii",), self.root / f"{n}_label.nii") for n in "ab"])

    @staticmethod
    def info(cases):
        return DatasetInfo(tuple(cases), {"background": 0, "liver": 1}, ("CT",))


@pytest.fixture
def scans(tmp_path) -> Path:
    for name in ("a", "a_label", "b", "b_label"):
        (tmp_path / f"{name}.nii").touch()
    return tmp_path


def read_as(**changes: Any):
    def info(cases):
        facts = {"cases": tuple(cases), "labels": {"background": 0, "liver": 1}, "channels": ("CT",)}
        return DatasetInfo(**{**facts, **changes})

    return {"info": staticmethod(info)}


@pytest.mark.parametrize(
    ("check", "members"),
    [
        ("has cases", read_as(cases=())),
        ("labels have values of their own", read_as(labels={"liver": 1, "tumour": 2})),
        ("labels have values of their own", read_as(labels={"background": 0, "liver": 1, "tumour": 1})),
        ("every file is there", read_as(test_cases=(Case("c", (Path("nowhere.nii"),)),))),
        ("splits part the cases", read_as(splits=(Split(("a", "b"), ("b",)),))),
        ("splits part the cases", read_as(splits=(Split(("a",), ("c",)),))),
        (
            "channels have files",
            {
                "info": lambda self, cases: DatasetInfo(
                    tuple(Case(c.name, c.images * 2, c.label) for c in cases),
                    {"background": 0, "liver": 1},
                    ("T1", "T2", "FLAIR"),
                )
            },
        ),
        (
            "cases have names of their own",
            {"info": lambda self, cases: Layout.info([cases[0], cases[0]])},
        ),
        (
            "reads the same again",
            {"info": lambda self, cases: Layout.info(cases[:: (-1) ** next(CALLS)])},
        ),
        ("blames a missing folder", {"read": lambda self: Layout.info([])}),
    ],
)
def test_a_faulty_dataset_is_caught(check, members, scans):
    assert check in failed(check_dataset, planted(Layout, **members)(root=scans))


# Runtimes


class Plain(Runtime):
    """Torch as it is.

    runtime: {use: plain}
    """

    def prepare(self, model, example):
        return runner(model.eval())


def runner(model, before=lambda windows: windows, after=lambda logits: logits):
    def run(windows):
        with torch.inference_mode():
            return after(model(before(windows)))

    return run


LAST: dict[str, nn.Module] = {}


def kept_by_all(model, example):
    LAST["model"] = model.eval()
    return lambda windows: runner(LAST["model"])(windows)


@pytest.mark.parametrize(
    ("check", "prepare"),
    [
        ("equals torch in 2-D", lambda model, example: runner(model.train())),
        ("equals torch in 3-D", lambda model, example: runner(model.eval(), after=lambda x: x.softmax(1))),
        (
            "any batch",
            lambda model, example: runner(model.eval(), lambda windows: windows.reshape(example.shape)),
        ),
        ("logits are floats without a graph", lambda model, example: model.eval()),
        (
            "logits are floats without a graph",
            lambda model, example: runner(model.eval(), after=lambda x: x.double()),
        ),
        ("inputs stay as they are", lambda model, example: runner(model.eval(), lambda x: x.add_(1e-3))),
        (
            "is deterministic",
            lambda model, example: runner(model.eval(), after=lambda x: x + 1e-3 * torch.rand_like(x)),
        ),
        ("two networks share nothing", kept_by_all),
    ],
)
def test_a_faulty_runtime_is_caught(check, prepare):
    faulty = planted(Plain, prepare=lambda self, model, example: prepare(model, example))
    assert check in failed(check_runtime, faulty())


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (check_fusion_block, (Block(inputs=("a",)), [A])),
        (check_backbone, (Network(), IMAGE)),
        (check_tap_strategy, (Taps(),)),
        (check_aux_schedule, (Schedule(),)),
        (check_aux_schedule, (planted(Schedule, **balanced_by(scaled))(),)),
        (check_loss, (Entropy(),)),
        (check_activation_loss, (Small(maps=("a",), weight=0.1), [A])),
        (check_runtime, (Plain(),)),
    ],
)
def test_without_its_fault_a_plugin_passes(check, given):
    check(*given)


def test_without_its_fault_a_dataset_passes(scans):
    check_dataset(Layout(root=scans))
