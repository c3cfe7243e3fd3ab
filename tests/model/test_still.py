"""What no loss teaches stands still, running statistics included."""

import copy

import pytest
import torch
from torch import nn

from medfuse.api import ActivationLoss, Backbone, FeatureInfo, ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.still import untaught
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
