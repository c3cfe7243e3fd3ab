"""What no loss teaches stands still, running statistics included."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medfuse.api import ActivationLoss, Backbone, FeatureInfo, ImageInfo
from medfuse.core.layout import lay_out
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.still import untaught
from medfuse.runs.doubts import still_doubts
from medfuse.train.parts import Parts
from medfuse.train.settings import PartSettings

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))


class Normed(Backbone):
    """A convolution with batch norm, one without weights of its own, and dropout."""

    frozen: bool = False

    def features(self, image):
        return [FeatureInfo("drop", 4, (1, 1))]

    def build(self, image):
        network = nn.Sequential()
        network.conv, network.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        network.bare, network.drop = nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5)
        return network.requires_grad_(not self.frozen)


class Detaching(ActivationLoss):
    """Teaches one of its maps alone."""

    taught: int = 0

    def build(self, maps):
        return Loss(self.taught)


class Loss(nn.Module):
    def __init__(self, taught: int) -> None:
        super().__init__()
        self.taught = taught

    def forward(self, *maps):
        return sum((x if i == self.taught else x.detach()).square().mean() for i, x in enumerate(maps))


class Failing(ActivationLoss):
    """Cannot be tried out."""

    def build(self, maps):
        raise RuntimeError("odd")


def graph(losses, *, teacher=None, nodes=None, aux=None):
    settings = {
        "backbones": {"student": Normed(), "teacher": teacher or Normed()},
        "fusion": {"seen": {"use": "concat", "inputs": ["teacher.drop"], "channels": 4}, **(nodes or {})},
        "head": {"input": "student.drop"},
        "activation_losses": losses,
        **({"aux": aux} if aux else {}),
    }
    return plan_graph(ModelSettings.model_validate(settings), IMAGE, 2)


MAPS = ("student.drop", "seen")
MATCH = {"use": "feature_matching", "maps": [*MAPS], "weight": 0.5}


@pytest.mark.parametrize(
    ("losses", "still"),
    [
        ({"m": MATCH}, {"teacher", "seen"}),
        ({"m": MATCH | {"distance": "cosine"}}, {"teacher", "seen"}),
        ({"m": MATCH | {"maps": [*reversed(MAPS)]}}, set()),
        ({"m": MATCH, "l": {"use": "l2", "maps": ["teacher.drop"], "weight": 0.1}}, {"seen"}),
        ({"m": MATCH, "l": {"use": "l2", "maps": ["seen"], "weight": 0.1}}, set()),
        ({"m": MATCH, "l": {"use": "l2", "maps": ["seen"], "weight": 0}}, {"teacher", "seen"}),
        ({"m": Detaching(maps=MAPS, weight=1)}, {"teacher", "seen"}),
        ({"m": Detaching(maps=MAPS, weight=1, taught=1)}, set()),
        ({"m": Detaching(maps=MAPS, weight=1, taught=9)}, {"teacher", "seen"}),
        ({"m": Failing(maps=MAPS, weight=1)}, set()),
    ],
)
def test_what_gets_no_gradient_is_known_beforehand(losses, still):
    assert untaught(graph(losses)) == still


def test_an_auxiliary_head_teaches():
    aux = {"heads": ["seen"], "schedule": {"use": "constant", "weight": 0.5}}
    assert untaught(graph({"m": MATCH}, aux=aux)) == set()


def statistics(model: Segmenter, part: str) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if f".{part}." in k}


def moved(model: Segmenter, part: str, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(v, before[k]) for k, v in statistics(model, part).items())


def step(model: Segmenter) -> None:
    logits, _, maps = model(torch.randn(2, 1, 16, 16), maps=MAPS)
    (logits.mean() + (maps["student.drop"] - maps["seen"].detach()).square().mean()).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def test_a_teacher_stands_still_whoever_sets_the_mode():
    model = build_segmenter(graph({"m": MATCH}))
    before = statistics(model, "teacher")
    step(model)
    model.eval()
    model.train()
    step(model)
    step(copy.deepcopy(model).train())
    Parts(model, {"backbones.student.*": PartSettings(freeze=1)}).enter(1)
    step(model)
    assert not moved(model, "teacher", before)
    assert not model.backbones["teacher"].training
    assert model.backbones["student"].training


def test_a_teacher_gives_the_same_for_the_same_image_while_the_student_drops_out():
    model, x = build_segmenter(graph({"m": MATCH})).train(), torch.randn(2, 1, 16, 16)
    first, second = (model(x, maps=MAPS)[2] for _ in range(2))
    assert torch.equal(first["seen"], second["seen"])
    assert not torch.equal(first["student.drop"], second["student.drop"])


def test_what_its_author_froze_stands_still():
    model = build_segmenter(
        graph({"l": {"use": "l2", "maps": ["seen"], "weight": 1}}, teacher=Normed(frozen=True))
    )
    before = statistics(model, "teacher")
    step(model)
    assert not moved(model, "teacher", before)
    assert not any(p.requires_grad for p in model.backbones["teacher"].parameters())


def test_what_is_taught_moves():
    model = build_segmenter(graph({"l": {"use": "l2", "maps": ["seen"], "weight": 1}}))
    before = statistics(model, "teacher")
    step(model)
    assert moved(model, "teacher", before)


def test_a_teacher_is_frozen_and_costs_no_graph():
    model = build_segmenter(graph({"m": MATCH}))
    assert not any(p.requires_grad for p in model.backbones["teacher"].parameters())
    assert all(p.requires_grad for p in model.backbones["student"].parameters())
    _, _, maps = model(torch.randn(2, 1, 16, 16), maps=MAPS)
    assert not maps["seen"].requires_grad
    assert maps["student.drop"].requires_grad


def test_another_loss_on_its_maps_thaws_a_teacher():
    aux = {"heads": ["teacher.drop"], "schedule": {"use": "constant", "weight": 0.5}}
    model = build_segmenter(graph({"m": MATCH}, aux=aux))
    assert all(p.requires_grad for p in model.backbones["teacher"].parameters())


NORMS = {
    "batch": nn.BatchNorm2d(4),
    "bare batch": nn.BatchNorm2d(4, affine=False),
    "instance": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "bare instance": nn.InstanceNorm2d(4, track_running_stats=True),
}


@pytest.mark.parametrize(
    "wrap", [lambda n: n, lambda n: {"use": "view", "of": n, "channels": {"a": [0]}}], ids=["plain", "view"]
)
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_what_train_parts_freezes_keeps_its_statistics_however_it_is_wrapped(norm, wrap):
    """In the layout of training too, in which instance norms are other ones."""
    settings = {
        "backbones": {"encoder": wrap(Holding(norm=norm))},
        "fusion": {"seen": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "seen"},
    }
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), IMAGE, 2))
    lay_out(model, 4, torch.channels_last)
    before = statistics(model, "encoder")
    parts = Parts(model, {"backbones.encoder.*": PartSettings(freeze=1)})
    parts.enter(0)
    for _ in range(2):
        model(torch.randn(2, 1, 16, 16)).mean().backward()
        model.eval()
        model.train()
    assert not moved(model, "encoder", before)
    parts.enter(1)
    model(torch.randn(2, 1, 16, 16))
    assert moved(model, "encoder", before)


def adapted(backbone):
    return {"use": "lora", "of": backbone, "on": ["conv"], "rank": 1}


BESIDE = {"*.conv.*": PartSettings(rate=0.5), "backbones.encoder.*": PartSettings(freeze="always")}
"""One layer of the encoder learns, and all else in it is frozen."""


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize(("wrap", "parts"), [(lambda n: n, BESIDE), (adapted, {})], ids=["parts", "lora"])
def test_the_statistics_of_a_frozen_norm_stay_whatever_learns_beside_it(norm, wrap, parts):
    settings = {"backbones": {"encoder": wrap(Holding(norm=norm))}, "head": {"input": "encoder.norm"}}
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), IMAGE, 2))
    lay_out(model, 4, torch.channels_last)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    Parts(model, parts).enter(0)
    model.eval()
    model.train()
    logits = model(torch.randn(2, 1, 16, 16))
    assert any(p.requires_grad for p in model.backbones["encoder"].parameters())
    assert logits.requires_grad
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


class Holding(Backbone):
    """Two convolutions and a norm with running statistics."""

    norm: Any = None

    def features(self, image):
        return [FeatureInfo("norm", 4, (1, 1))]

    def build(self, image):
        network = nn.Sequential()
        network.conv, network.mix = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        network.norm = copy.deepcopy(self.norm)
        return network


def test_what_stands_still_is_told_and_a_teacher_that_knows_nothing_is_doubted():
    settings = {
        "backbones": {"student": Normed(), "teacher": Normed()},
        "head": {"input": "student.drop"},
        "activation_losses": {"m": MATCH | {"maps": ["student.drop", "teacher.drop"]}},
    }
    given = {"teacher": {"weights": "teacher.pt"}}

    def lines(**more):
        model = ModelSettings.model_validate(settings | more)
        return [*still_doubts(SimpleNamespace(model=model), plan_graph(model, IMAGE, 2))]

    still, doubt = lines()
    assert still.startswith("backbone teacher: no loss teaches it, so it stands still")
    assert doubt.startswith("warning: backbone teacher stands still with fresh weights")
    assert lines(transfer=given) == [still]
    assert lines(activation_losses={"l": {"use": "l2", "maps": ["teacher.drop"], "weight": 1}}) == []
