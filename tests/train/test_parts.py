"""Budget, learning rate and objective as arithmetic; parts of a network that learn in their own way."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from medfuse import PipelineError
from medfuse.core.reporter import Reporter
from medfuse.train.budget import Budget
from medfuse.train.loop import fit
from medfuse.train.objective import Objective, shrink
from medfuse.train.optimizer import rate_factor
from medfuse.train.parts import Parts, part_problems, rate_rows, stays_frozen
from medfuse.train.settings import PartSettings, TrainSettings


def test_epochs_are_a_budget_of_steps():
    assert Budget.of(TrainSettings(epochs=3, steps_per_epoch=7)) == Budget(steps=21)


@pytest.mark.parametrize("budgets", [{}, {"epochs": 1, "steps": 2}])
def test_the_budget_is_given_once(budgets):
    with pytest.raises(ValueError, match="give the budget once"):
        TrainSettings(**budgets)


@pytest.mark.parametrize("decay", ["poly", "cosine"])
def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_nothing(decay):
    settings = TrainSettings(steps=1, decay=decay, warmup=0.1)
    rates = [rate_factor(t / 100, settings) for t in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_time_budget_counts_its_schedule_in_thousandths():
    assert Budget(seconds=60).schedule_step(0.5) == (500, 1000)
    assert Budget(seconds=60).schedule_step(1.0) == (999, 1000)


def test_a_shrunken_target_keeps_its_classes():
    label = torch.randint(0, 3, (1, 1, 9, 7))
    small = shrink(label, (5, 4))
    assert small.shape == (1, 1, 5, 4)
    assert set(small.unique().tolist()) <= set(label.unique().tolist())
    assert small.dtype == label.dtype


# ---- parts of the network


class Net(nn.Module):
    """An encoder with running statistics, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def settings(**parts) -> TrainSettings:
    return TrainSettings(steps=6, steps_per_epoch=2, decay="none", learning_rate=0.1, parts=parts)


def train(folder, model, parts, *, steps=6, seen=None, depths=None) -> Net:
    """`seen` gets the encoder's state at the end of each epoch."""

    def batches(start):
        for step in itertools.count(start):
            image = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(step))
            yield {"image": image, "label": (image > 0).long()}

    def look(_):
        if seen is not None:
            seen.append({k: v.clone() for k, v in model.encoder.state_dict().items()})
        return {}

    fit(
        model,
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=settings(**parts).model_copy(update={"steps": steps}),
        objective=Objective(lambda logits, label: nn.functional.cross_entropy(logits, label[:, 0])),
        batches=batches,
        validate=look,
        save=lambda *_: None,
        folder=folder,
        reporter=Reporter(quiet=True),
        depths=depths,
    )
    return model


def moved(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> set[str]:
    return {k for k in a if not torch.equal(a[k], b[k])}


def test_what_is_frozen_for_good_is_the_same_to_the_last_bit(tmp_path):
    model = train(tmp_path, net(), {"encoder.*": {"freeze": "always"}})
    assert moved(net().encoder.state_dict(), model.encoder.state_dict()) == set()
    assert moved(net().head.state_dict(), model.head.state_dict()) == {"weight", "bias"}


def test_what_is_frozen_for_a_while_moves_after_that_epoch(tmp_path):
    seen: list[dict[str, torch.Tensor]] = []
    model = train(tmp_path, net(), {"encoder.*": {"freeze": 2}}, seen=seen)
    assert moved(seen[0], net().encoder.state_dict()) == moved(seen[1], seen[0]) == set()
    assert moved(seen[2], seen[1]) == set(seen[1])
    assert model.encoder.training


def test_a_frozen_run_in_two_parts_ends_with_the_weights_of_one(tmp_path):
    parts = {"encoder.*": {"freeze": 2, "rate": 0.5}}
    whole = train(tmp_path / "whole", net(), parts)
    train(tmp_path / "parts", net(), parts, steps=3)
    resumed = train(tmp_path / "parts", net(), parts)
    assert moved(whole.state_dict(), resumed.state_dict()) == set()


def test_half_of_the_rate_is_half_of_the_first_step(tmp_path):
    whole = train(tmp_path / "whole", net(), {}, steps=1)
    half = train(tmp_path / "half", net(), {"head.*": {"rate": 0.5}}, steps=1)
    start = net().head.weight
    torch.testing.assert_close(half.head.weight - start, (whole.head.weight - start) / 2)
    assert torch.equal(half.encoder[0].weight, whole.encoder[0].weight)


def test_a_rate_of_nothing_changes_no_weight_but_statistics(tmp_path):
    model = train(tmp_path, net(), {"encoder.*": {"rate": 0}})
    assert moved(net().encoder.state_dict(), model.encoder.state_dict()) == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_a_module_is_in_eval_mode_where_all_of_it_is_frozen():
    model = net()
    Parts(model, settings(**{"encoder.1.*": {"freeze": 1}}).parts).enter(0)
    assert [m.training for m in model.encoder] == [True, False, True]
    Parts(model, settings(**{"encoder.*": {"freeze": "always"}}).parts).enter(9)
    assert not any(m.training for m in model.encoder.modules())
    assert model.training


def test_a_norm_without_weights_is_frozen_by_the_first_glob_that_matches_its_statistics():
    model = net()
    model.encoder.append(nn.BatchNorm2d(3, affine=False))
    for glob, first in (("encoder.*", False), ("encoder.1.*", True)):
        parts = Parts(model, settings(**{"encoder.0.*": {"rate": 2}, glob: {"freeze": 1}}).parts)
        for epoch, training in enumerate((first, True)):
            parts.enter(epoch)
            assert model.encoder[3].training is training
            assert model.encoder[2].training, "dropout has no statistics"


def test_the_first_glob_that_matches_counts():
    parts = settings(**{"*.bias": {"rate": 2}, "head.*": {"rate": 0.5}}).parts
    rest, biases, head = Parts(net(), parts).groups()
    assert [len(group["params"]) for group in (rest, biases, head)] == [2, 3, 1]
    assert [group["factor"] for group in (rest, biases, head)] == [1, 2, 0.5]


def test_a_glob_without_a_parameter_is_a_problem_at_its_key():
    with pytest.raises(PipelineError) as caught:
        Parts(net(), settings(**{"encodr.*": {}}).parts)
    (problem,) = caught.value.problems
    assert problem.path == ("train", "parts", "encodr.*")
    assert "no parameter has such a name; did you mean 'encoder.*'" in problem.message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encoder": {}}, "did you mean 'encoder.*'"),
        ({"*": {}, "head.*": {}}, "belongs to a glob before it"),
        ({"enc*": {"freeze": 3}, "*": {"freeze": "always"}}, "everything is frozen"),
    ],
)
def test_parts_that_cannot_be_meant_are_told(parts, message):
    (problem,) = part_problems(settings(**parts).parts, dict(net().named_parameters()))
    assert message in problem.message


@pytest.mark.parametrize(
    ("freeze", "learns", "stays"),
    [("always", True, True), (3, True, False), (None, True, False), (None, False, True), (3, False, False)],
)
def test_what_stays_frozen_is_frozen_for_good_or_built_so(freeze, learns, stays):
    found = stays_frozen({"a.*": PartSettings(freeze=freeze)}, {"a.weight": learns, "b.weight": True})
    assert found == ({"a.weight"} if stays else set())


# ---- rates that fall with depth


class Deep(nn.Module):
    """Three layers below `backbones.encoder`, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict({"encoder": nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(3)))})
        self.head = nn.Conv2d(1, 2, 1)

    @property
    def encoder(self):
        return self.backbones["encoder"]

    def forward(self, x):
        return self.head(self.encoder(x))


DEPTHS = {f"backbones.encoder.{i}.{kind}": 2 - i for i in range(3) for kind in ("weight", "bias")}
DECAY = {"backbones.encoder.*": {"rate": 0.5, "layer_decay": 0.75}}


def deep() -> Deep:
    torch.manual_seed(0)
    return Deep()


def test_each_layer_has_the_rate_of_the_next_one_times_the_decay():
    groups = Parts(deep(), settings(**DECAY).parts, DEPTHS).groups()
    assert [group["factor"] for group in groups] == [1.0, 0.5, 0.5 * 0.75, 0.5 * 0.75**2]
    assert [len(group["params"]) for group in groups] == [2, 2, 2, 2]
    assert groups[1]["params"][0] is not groups[3]["params"][0]


def test_the_first_step_of_each_layer_is_as_much_smaller(tmp_path):
    start = deep().state_dict()
    plain = train(tmp_path / "a", deep(), {}, steps=1).state_dict()
    decayed = train(tmp_path / "b", deep(), DECAY, steps=1, depths=DEPTHS).state_dict()
    for name, value in start.items():
        factor = 0.5 * 0.75 ** DEPTHS[name] if name in DEPTHS else 1
        torch.testing.assert_close(
            decayed[name] - value, factor * (plain[name] - value), rtol=1e-4, atol=1e-7
        )


def test_a_run_with_layer_decay_in_two_parts_ends_with_the_weights_of_one(tmp_path):
    parts = {**DECAY, "head.*": {"freeze": 1}}
    whole = train(tmp_path / "whole", deep(), parts, depths=DEPTHS)
    train(tmp_path / "parts", deep(), parts, steps=3, depths=DEPTHS)
    resumed = train(tmp_path / "parts", deep(), parts, depths=DEPTHS)
    assert moved(whole.state_dict(), resumed.state_dict()) == set()


def test_rates_are_told_with_their_parameters():
    shapes = {name: tuple(p.shape) for name, p in deep().named_parameters()}
    parts = {"backbones.encoder.0.*": {"freeze": "always"}, **DECAY, "head.bias": {"rate": 2, "freeze": 3}}
    rows = rate_rows(settings(**parts).parts, shapes, DEPTHS, 0.1)
    assert rows == [
        ("all others", "2", "1", "0.1"),
        ("backbones.encoder.0.* (frozen)", "2", "0", "0"),
        ("backbones.encoder.*: backbones.encoder.2", "2", "0.5", "0.05"),
        ("backbones.encoder.*: backbones.encoder.1", "2", "0.375", "0.0375"),
        ("head.bias (after 3 epochs)", "2", "2", "0.2"),
    ]


def test_only_backbones_have_layers_in_a_row():
    (problem,) = part_problems(settings(**{"*": {"layer_decay": 0.5}}).parts, dict(deep().named_parameters()))
    assert problem.path == ("train", "parts", "*", "layer_decay")
    assert "this part has head.weight too; name a backbone" in problem.message


@pytest.mark.parametrize("decay", [0, 1.5, -1])
def test_a_decay_is_a_share(decay):
    with pytest.raises(ValueError, match="layer_decay"):
        settings(**{"backbones.encoder.*": {"layer_decay": decay}})
