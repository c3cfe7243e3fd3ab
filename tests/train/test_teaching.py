"""What a student learns from its teacher: nothing where it agrees, the same whatever the temperature."""

import pytest
import torch
from torch import nn

from medfuse.builtin.activations.feature_matching import FeatureMatching
from medfuse.core.features import FeatureInfo
from medfuse.train.objective import Objective
from medfuse.train.teaching import Match, Teaching, divergence


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, of)
    return found


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_who_agrees_with_the_teacher_learns_nothing(regions, axes):
    logits = torch.randn(2, 3, *(4,) * axes, requires_grad=True)
    loss = divergence(logits, logits.detach().clone(), 2.0, regions=regions)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient(loss, logits).abs().max() < 1e-6


@pytest.mark.parametrize("regions", [False, True])
def test_disagreement_costs_and_its_gradient_leads_to_the_teacher(regions):
    logits, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    before = divergence(logits, teacher, 2.0, regions=regions)
    after = divergence(logits - 1.0 * gradient(before, logits), teacher, 2.0, regions=regions)
    assert before > after > 0


def test_the_divergence_is_the_mean_over_voxels_of_kullback_and_leibler():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    p, q = teacher.softmax(1), student.softmax(1)
    assert torch.allclose(divergence(student, teacher, 1.0), (p * (p / q).log()).sum(1).mean(), atol=1e-6)


def test_the_temperature_leaves_the_gradient_its_size():
    student, teacher = 0.01 * torch.randn(2, 3, 8, 8), 0.01 * torch.randn(2, 3, 8, 8)
    student.requires_grad_()
    cold, hot = (gradient(divergence(student, teacher, t), student).norm() for t in (1.0, 8.0))
    assert float(hot / cold) == pytest.approx(1, abs=0.05)


def test_a_region_is_two_classes_inside_and_outside():
    student, teacher = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    as_classes = [torch.cat([torch.zeros_like(z), z], 1) for z in (student, teacher)]
    assert torch.allclose(
        divergence(student, teacher, 3.0, regions=True), divergence(*as_classes, 3.0), atol=1e-6
    )


def test_logits_of_half_precision_are_compared_in_full():
    student, teacher = torch.randn(1, 2, 4, 4).bfloat16(), torch.randn(1, 2, 4, 4).bfloat16()
    assert divergence(student, teacher, 2.0).dtype == torch.float32


class Network(nn.Module):
    """image → logits, and one map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 2, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.asked: list[tuple[str, ...]] = []

    def forward(self, image, aux=(), maps=()):
        self.asked.append(maps)
        made = self.norm(self.inner(image))
        logits = self.head(made)
        return (logits, {}, dict.fromkeys(maps, made)) if maps else logits


def matching(student: int, teacher: int) -> nn.Module:
    loss = FeatureMatching(maps=("a", "b"), weight=1.0, distance="cosine")
    return loss.build([FeatureInfo("a", student, (1, 1)), FeatureInfo("b", teacher, (1, 1))])


def cross_entropy(logits, label):
    return nn.functional.cross_entropy(logits, label[:, 0])


BATCH = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 1, 8, 8))


def objective(teacher: Network, **settings) -> Objective:
    matches = [Match("mine", "its", matching(2, 5))]
    return Objective(cross_entropy, teaching=Teaching(teacher, matches=matches, **settings))


def test_student_and_projections_learn_and_the_teacher_stands_still():
    teacher, student = Network(5), Network(2)
    teacher.train()
    one = objective(teacher, weight=1.0, temperature=2.0, maps_weight=0.5)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    shown = one.teaching.look(BATCH[0])
    total, parts = one(student, *BATCH, {}, shown)
    total.backward()
    assert [*parts] == ["main", "teacher/probabilities", "teacher/mine"]
    assert total.item() == pytest.approx(
        (parts["main"] + parts["teacher/probabilities"] + 0.5 * parts["teacher/mine"]).item(), rel=1e-6
    )
    assert all(p.grad is not None for p in (*student.inner.parameters(), *one.learned().parameters()))
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not [name for name in one.learned().state_dict() if "inner" in name]


def test_what_weighs_nothing_is_not_asked_for():
    teacher = Network(5)
    one = objective(teacher, weight=1.0, temperature=2.0, maps_weight=0.0)
    student = Network(2)
    one(student, *BATCH, {}, one.teaching.look(BATCH[0]))
    assert teacher.asked == [()]
    assert student.asked == [()]
    silent = objective(Network(5), weight=0.0, temperature=2.0, maps_weight=0.0)
    assert not silent.teaching
    assert not [*silent.learned().parameters()]
