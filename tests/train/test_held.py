"""Schedules and losses that break their contracts are told before training, and in it."""

import math
import random

import pytest
import torch
from clock import Clock
from torch import nn

from medfuse import AuxSchedule, Loss, MedfuseError, PluginError, ShapeError, registry
from medfuse.api import ActivationLoss, FeatureInfo
from medfuse.train import held_schedules
from medfuse.train.held_losses import Targets, activation_problems, loss_problems
from medfuse.train.held_schedules import head_weights, schedule_problems
from medfuse.train.objective import Objective

AT = ("model", "aux", "schedule")
CLASSES = Targets(3, 3)


def schedule(weights, balance=None) -> AuxSchedule:
    members = {"weights": lambda self, step, total, heads: weights(step, total, heads)}
    if balance:
        members["balance"] = lambda self, heads: balance(heads)
    return type("Planted", (AuxSchedule,), members)()


def told(found) -> str:
    (problem,) = found
    return str(problem)


@pytest.mark.parametrize("name", registry.names(AuxSchedule.group))
@pytest.mark.parametrize("total", [1, 2, 7, 1000, 300_000])
def test_schedules_that_come_with_medfuse_keep_their_contract(name, total):
    made = {"then": {"use": "constant"}} if name == "warmup" else {}
    assert schedule_problems(registry.get(AuxSchedule.group, name)(**made), total, 4, AT) == []


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lambda step, total, heads: [math.nan] * heads, "gives nan"),
        (lambda step, total, heads: [math.inf] * heads, "gives inf"),
        (lambda step, total, heads: [-0.5] * heads, "gives -0.5, -0.5, -0.5; a weight is finite and not"),
        (lambda step, total, heads: [0.5], "gives 1 weight, and wanted is one for each of 3"),
        (lambda step, total, heads: [0.5] * (heads + 1), "gives 4 weights"),
        (lambda step, total, heads: 0.5, "gives '0.5', and wanted are 3 numbers"),
        (lambda step, total, heads: None, "gives 'None'"),
        (lambda step, total, heads: [(-1) ** 0.5] * heads, "wanted are 3 numbers"),
        (lambda step, total, heads: ["0.5"] * heads, "wanted are 3 numbers"),
        (lambda step, total, heads: [b"1"] * heads, "wanted are 3 numbers"),
        (lambda step, total, heads: "1" * heads, "gives '111', and wanted are 3 numbers"),
        (lambda step, total, heads: bytes(heads), "wanted are 3 numbers"),
        (lambda step, total, heads: {0.1 * i: 1 for i in range(heads)}, "wanted are 3 numbers"),
        (lambda step, total, heads: {0.1 * i for i in range(heads)}, "wanted are 3 numbers"),
        (lambda step, total, heads: [1 / (step - 2)] * heads if step > 1 else [1] * heads, "ZeroDivision"),
        (lambda step, total, heads: [math.nan if step == total - 1 else 1] * heads, "at step 49 of 50"),
        (lambda step, total, heads: [math.nan if step == 23 else 1] * heads, "at step 23 of 50"),
        (lambda step, total, heads: [1 / (total - 1)] * heads, "at step 0 of 1 "),
        (lambda step, total, heads: [1.0, 0.5, 0.2, 0.1][:heads], "gives 4 weights, and wanted is one for"),
    ],
)
def test_a_schedule_that_silences_heads_is_told_with_its_name_and_moment(weights, said):
    line = told(schedule_problems(schedule(weights), 50, 3, AT))
    assert line.startswith("model.aux.schedule: aux schedule 'Planted' at step ")
    assert said in line


class Asked:
    """How often, and what is remembered of it."""

    def __init__(self) -> None:
        self.times, self.furthest, self.random = 0, 0, random.Random(1)

    def once_more(self, step: int) -> "Asked":
        self.times += 1
        self.furthest = max(self.furthest, step)
        return self


@pytest.mark.parametrize(
    "weight",
    [
        lambda asked: 1 / asked.times,
        lambda asked: asked.times % 2,
        lambda asked: asked.times % 3,
        lambda asked: min(1.0, asked.times / 20),
        lambda asked: float(asked.times > 5000),
        lambda asked: asked.furthest / 10_000,
        lambda asked: asked.random.random(),
    ],
)
def test_a_schedule_that_remembers_what_it_was_asked_is_told(weight):
    asked = Asked()
    line = told(
        schedule_problems(schedule(lambda step, t, n: [weight(asked.once_more(step))] * n), 50, 3, AT)
    )
    assert "when asked before; weights may depend on step, total_steps and heads alone" in line


@pytest.mark.parametrize("layers", [0, 2])
def test_a_slow_schedule_is_tried_for_a_while_and_told_once(layers, caplog, monkeypatch):
    calls = []
    monkeypatch.setattr(held_schedules, "time", clock := Clock())

    def slow(step, total, heads):
        clock.now += 0.3
        calls.append(step)
        return [1.0] * heads

    tried = schedule(slow)
    for _ in range(layers):
        tried = registry.get(AuxSchedule.group, "warmup")(then=tried)
    assert schedule_problems(tried, 50, 3, AT) == []
    assert clock.now < 15
    assert {0, 25, 49} <= {*calls}
    (line,) = caplog.messages
    assert "aux schedule 'Planted' takes 0.3 s a call" in line
    assert "not at the others" in line


def test_faults_of_a_slow_schedule_are_told_all_the_same(monkeypatch):
    monkeypatch.setattr(held_schedules, "time", clock := Clock())

    def slow(step, total, heads):
        clock.now += 60
        return [math.nan] * heads

    assert "gives nan" in told(schedule_problems(schedule(slow), 50, 3, AT))


def test_a_schedule_that_prepares_itself_for_long_is_tried_everywhere(caplog, monkeypatch):
    monkeypatch.setattr(held_schedules, "time", clock := Clock())

    def prepares(step, total, heads):
        clock.now = max(clock.now, 200.0)
        return [math.nan if step == 23 else 1] * heads

    assert "at step 23 of 50" in told(schedule_problems(schedule(prepares), 50, 3, AT))
    assert not caplog.messages


def test_the_whole_course_of_a_long_training_is_looked_at():
    late = schedule(lambda step, total, heads: [math.nan if step > 0.99 * total else 1] * heads)
    assert "gives nan" in told(schedule_problems(late, 1_000_000, 2, AT))


def test_a_schedule_may_refuse_other_numbers_of_heads_in_words():
    def three(step, total, heads):
        if heads != 3:
            raise ShapeError("made for three heads")
        return [1, 2, 3]

    assert schedule_problems(schedule(three), 50, 3, AT) == []
    assert "made for three heads" in told(schedule_problems(schedule(three), 50, 2, AT))


def test_a_schedule_inside_another_is_blamed_at_its_own_place():
    bad = schedule(lambda step, total, heads: [math.nan] * heads)
    warm = registry.get(AuxSchedule.group, "warmup")(then=bad)
    line = told(schedule_problems(warm, 50, 3, AT))
    assert line.startswith("model.aux.schedule.then: aux schedule 'Planted'")


class Balance(nn.Module):
    def __init__(self, total, weights):
        super().__init__()
        self.total, self.weights = total, weights

    def forward(self, losses):
        return self.total(losses)


@pytest.mark.parametrize(
    ("total", "weights", "said"),
    [
        (lambda x: x.sum() * math.nan, lambda: [1, 1, 1], "gives nan"),
        (lambda x: x.detach().sum(), lambda: [1, 1, 1], "without gradient"),
        (lambda x: x, lambda: [1, 1, 1], "gives 3, and wanted is one number"),
        (lambda x: x.sum(), lambda: [1, 1], "gives 2 weights"),
        (lambda x: x.sum(), lambda: [1, -1, 1], "finite and not below 0"),
    ],
)
def test_a_learned_balance_is_held_too(total, weights, said):
    made = schedule(lambda step, t, heads: [1] * heads, lambda heads: Balance(total, weights))
    assert said in told(schedule_problems(made, 1, 2, AT))


def test_what_holds_beyond_the_course_is_its_end():
    falling = schedule(lambda step, total, heads: [1 - step / total] * heads)
    assert head_weights(falling, 500, 10, 2) == head_weights(falling, 9, 10, 2)


def test_training_stops_at_a_weight_that_is_none():
    late = schedule(lambda step, total, heads: [math.nan if step == 7 else 1] * heads)
    objective = Objective(lambda logits, label: logits.mean(), ("inner",), late)
    assert objective.weights(6, 10) == {"inner": 1}
    with pytest.raises(PluginError, match=r"aux schedule 'Planted' at step 7 of 10 for 1 head: gives nan"):
        objective.weights(7, 10)


# ------------------------------------------------------------------------------------------- losses


def loss(function, places=False) -> Loss:
    class Module(nn.Module):
        def forward(self, logits, target):
            return function(logits, target)

    members = {"build": lambda self, classes: Module(), "looks_at_places": lambda self: places}
    return type("Planted", (Loss,), members)()


def cross_entropy(logits, target):
    return nn.functional.cross_entropy(logits, target[:, 0].long())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda logits, target: logits.mean() * math.nan, "gives nan"),
        (lambda logits, target: (logits - logits).sum() / (target > 0).sum() / 0, "gives nan"),
        (lambda logits, target: cross_entropy(logits, target) / (target > 0).any(), "on background alone"),
        (lambda logits, target: logits.mean((2, 3)), "gives 2×3, and wanted is one number"),
        (lambda logits, target: logits.mean().item(), "gives float, and wanted is one number"),
        (lambda logits, target: logits.mean().detach(), "without gradient"),
        (lambda logits, target: (logits * 0).sum(), "no gradient to what it is given"),
        (lambda logits, target: (logits - logits.detach()).square().sum().sqrt(), "gradient"),
        (lambda logits, target: logits[:, 7].mean(), "IndexError"),
    ],
)
def test_a_loss_that_would_end_training_is_told(function, said):
    line = told(loss_problems(loss(function), CLASSES, (16, 16), ("loss",), all_of_them=False))
    assert line.startswith("loss: loss 'Planted' on logits of 2×3×16×16")
    assert said in line


@pytest.mark.parametrize(
    "targets",
    [CLASSES, Targets(2, 4, ((1, 2, 3), (3,))), Targets(3, 3, ignored=3), Targets(1, 2, ((1,),), ignored=2)],
)
def test_a_sound_loss_is_sound_on_classes_regions_and_where_nobody_annotated(targets):
    for places in (False, True):
        sound = loss(cross_entropy, places)
        assert loss_problems(sound, targets, (16, 16), ("loss",), all_of_them=False) == []


def test_a_loss_is_shown_no_more_classes_than_there_are():
    def refuses(logits, target):
        assert int(target.max()) < logits.shape[1]
        return cross_entropy(logits, target)

    for targets in (CLASSES, Targets(3, 3, ignored=3)):
        assert loss_problems(loss(refuses), targets, (8, 8), ("loss",), all_of_them=False) == []


def test_a_loss_inside_a_sum_is_blamed_at_its_own_place():
    bad = loss(lambda logits, target: logits.mean() * math.nan)
    terms = registry.get(Loss.group, "sum")(terms=({"use": "dice_ce"}, bad))
    line = told(loss_problems(terms, CLASSES, (16, 16), ("loss",), all_of_them=False))
    assert line.startswith("loss.terms[1]: loss 'Planted'")


def test_arguments_of_monais_losses_are_tried():
    made = registry.get(Loss.group, "monai")(name="DiceLoss", parameters={"reduction": "none"})
    assert "one number" in told(loss_problems(made, CLASSES, (16, 16), ("loss",), all_of_them=False))


@pytest.mark.parametrize("name", [n for n in registry.names(Loss.group) if n not in ("sum", "monai")])
@pytest.mark.parametrize("targets", [CLASSES, Targets(2, 4, ((1, 2, 3), (3,)), ignored=4)])
def test_losses_that_come_with_medfuse_keep_their_contract(name, targets):
    made = registry.get(Loss.group, name)()
    assert loss_problems(made, targets, (16, 16, 8), ("loss",), all_of_them=True) == []


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x.mean() / 0, "gives"),
        (lambda x: x, "one number"),
        (lambda x: x.mean().detach(), "gradient"),
    ],
)
def test_a_loss_on_maps_that_would_end_training_is_told(function, said):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    made = type("Planted", (ActivationLoss,), {"build": lambda self, maps: Module()})
    found = activation_problems(made(maps=("a",), weight=1), [FeatureInfo("a", 4, (2, 2))], ("here",))
    assert said in told(found)


@pytest.mark.parametrize("given", [torch.ones(2), 1.0, None])
def test_training_names_the_loss_that_is_no_number(given):
    objective = Objective(lambda logits, label: given)
    with pytest.raises(MedfuseError, match=r"training: the loss gives .* wanted is one number"):
        objective(lambda image: image, torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4), {})


def test_training_stops_where_nothing_could_be_learned():
    objective = Objective(lambda logits, label: logits.mean().detach())
    with pytest.raises(MedfuseError, match="the loss has no gradient"):
        objective(lambda image: image, torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4), {})


def test_fixed_weights_weigh_the_main_loss_and_are_multiplied_with_the_schedule():
    def model(image, aux=()):
        logits = image.requires_grad_()
        return logits, dict.fromkeys(aux, 10 * logits)

    constant = registry.get(AuxSchedule.group, "constant")(weight=0.5)
    for schedule_, factor in ((None, 1), (constant, 0.5)):
        objective = Objective(lambda x, _: x.mean(), ("a", "b"), schedule_, fixed=(2.0, 0.3, 0.0))
        weights = objective.weights(0, 1)
        assert weights == {"a": pytest.approx(factor * 0.3), "b": 0}
        total, parts = objective(model, torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4), weights)
        assert total.item() == pytest.approx(2 + factor * 0.3 * 10)
        assert [*parts] == ["main", "a"]
