"""The loop, on a network of one convolution."""

import math
from collections.abc import Generator

import pytest
import torch
from clock import Clock
from lightning_fabric import Fabric
from torch import nn

from medfuse import CheckpointError, MedfuseError, registry
from medfuse.core.reporter import Reporter
from medfuse.train.log import read_rows
from medfuse.train.loop import fit
from medfuse.train.objective import ActivationTerm, Objective
from medfuse.train.settings import TrainSettings


def batches(start: int) -> Generator[dict[str, torch.Tensor], None, None]:
    step = start
    while True:
        image = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        yield {"image": image, "label": (image > 0).long()}
        step += 1


def cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, label[:, 0])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 1)


def train(
    folder,
    model,
    *,
    steps,
    validate=lambda model: {"dice": 0.5},
    save=lambda *_: None,
    objective=None,
    **settings,
):
    return fit(
        model,
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(steps=steps, steps_per_epoch=5, **settings),
        objective=objective or Objective(cross_entropy),
        batches=batches,
        validate=validate,
        save=save,
        folder=folder,
        reporter=Reporter(quiet=True),
    )


def test_the_loss_falls(tmp_path):
    train(tmp_path, network(), steps=60, learning_rate=0.1)
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_in_two_parts_ends_with_the_weights_of_one(tmp_path, average):
    whole, parts = network(), network()
    train(tmp_path / "whole", whole, steps=20, decay="none", average=average)
    train(tmp_path / "parts", parts, steps=10, decay="none", average=average)
    resumed = network()
    train(tmp_path / "parts", resumed, steps=20, decay="none", average=average)
    assert torch.equal(whole.weight, resumed.weight)
    assert not torch.equal(whole.weight, parts.weight)


def test_a_finished_run_trains_no_further(tmp_path):
    train(tmp_path, network(), steps=5)
    again = network()
    assert train(tmp_path, again, steps=5).step == 5


def test_rows_of_lost_steps_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1}\n{"step": 900, "loss": 2}\n{"st')
    train(tmp_path, network(), steps=5)
    assert max(row["step"] for row in read_rows(tmp_path / "metrics.jsonl")) <= 5


def test_the_best_weights_are_saved_when_dice_rises(tmp_path):
    scores, kinds = iter([0.5, 0.7, 0.6]), []
    train(
        tmp_path,
        network(),
        steps=15,
        validate=lambda _: {"dice": next(scores)},
        save=lambda kind, _, facts: kinds.append((kind, facts["step"])),
    )
    assert [step for kind, step in kinds if kind == "best"] == [5, 10]
    assert [step for kind, step in kinds if kind == "last"] == [5, 10, 15]


def test_the_average_is_what_is_validated(tmp_path):
    model, seen = network(), []
    train(
        tmp_path,
        model,
        steps=5,
        average=0.99,
        validate=lambda m: seen.append(m.weight.clone()) or {"dice": 1},
    )
    assert not torch.equal(seen[-1], model.weight)


def test_a_loss_that_is_not_a_number_stops_with_a_remedy(tmp_path):
    with pytest.raises(MedfuseError, match=r"not a number at step 1; look at .* lower train\.learning_rate"):
        train(tmp_path, network(), steps=20, objective=Objective(lambda logits, _: logits.sum() * math.nan))


def test_a_training_state_of_another_model_is_named(tmp_path):
    train(tmp_path, network(), steps=5)
    with pytest.raises(CheckpointError, match=r"training_state\.pt: is the training state of another model"):
        train(tmp_path, nn.Conv2d(1, 3, 1), steps=10)


@pytest.mark.parametrize("minutes", [0.01, 1e-9])  # the second is over before the first step
def test_a_budget_in_minutes_ends(tmp_path, minutes):
    result = fit(
        network(),
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(minutes=minutes),
        objective=Objective(cross_entropy),
        batches=batches,
        validate=lambda _: {},
        save=lambda *_: None,
        folder=tmp_path,
        reporter=Reporter(quiet=True),
    )
    assert result.seconds >= 60 * minutes
    assert result.step > 0


@pytest.mark.parametrize("saving", [0.0, 0.7])  # with 0.7 the time runs out while weights are saved
def test_validation_takes_no_more_than_its_share_of_a_budget_in_minutes(tmp_path, monkeypatch, saving):
    clock, looks, saved = Clock(), [], []
    for place in ("course", "curve", "epoch", "kept"):
        monkeypatch.setattr(f"medfuse.train.{place}.time", clock)

    def slow_batches(start):
        for batch in batches(start):
            clock.now += 1
            yield batch

    def validate(_):
        clock.now += 10
        looks.append(len(saved))
        return {"dice": 0.5}

    def save(kind, *_):
        clock.now += saving
        if kind == "last":
            saved.append(kind)

    result = fit(
        network(),
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(minutes=5, steps_per_epoch=2),
        objective=Objective(cross_entropy),
        batches=slow_batches,
        validate=validate,
        save=save,
        folder=tmp_path,
        reporter=Reporter(quiet=True),
    )
    assert len(saved) >= result.step // 2 > 90
    assert 20 < 10 * len(looks) <= 0.1 * 300 + 10 + 10  # one is begun within the share, and one ends it all
    assert looks[-1] == len(saved) - 1  # the last weights are always looked at


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.asked = nn.Conv2d(1, 2, 1), []

    def forward(self, image, aux=()):
        self.asked.append(aux)
        logits = self.conv(image)
        return (logits, dict.fromkeys(aux, logits[..., ::2, ::2])) if aux else logits


def test_a_head_whose_weight_is_zero_is_not_computed(tmp_path):
    decay = registry.get("medfuse.aux_schedules", "linear_decay")(start=1, end=0, until=0.5)
    model = TwoHeads()
    train(tmp_path, model, steps=10, objective=Objective(cross_entropy, ("inner",), decay))
    training = [aux for aux in model.asked if aux is not None]
    assert training[0] == ("inner",)
    assert training[-1] == ()


def test_auxiliary_losses_and_their_weights_are_logged(tmp_path):
    constant = registry.get("medfuse.aux_schedules", "constant")(weight=0.25)
    train(tmp_path, TwoHeads(), steps=10, objective=Objective(cross_entropy, ("inner",), constant))
    row = next(row for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row)
    assert row["weight/inner"] == 0.25
    assert row["loss"] == pytest.approx(row["loss/main"] + 0.25 * row["loss/inner"], rel=1e-5)


def test_the_weights_of_each_step_are_logged(tmp_path):
    decay = registry.get("medfuse.aux_schedules", "linear_decay")(start=1, end=0, until=1)
    train(tmp_path, TwoHeads(), steps=14, objective=Objective(cross_entropy, ("inner",), decay))
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "weight/inner" in row]
    assert [row["step"] for row in rows] == [*range(1, 15)]
    weights = [row["weight/inner"] for row in rows]
    assert weights == sorted(set(weights), reverse=True)


def uncertain() -> Objective:
    schedule = registry.get("medfuse.aux_schedules", "uncertainty")(start=0.5)
    return Objective(cross_entropy, ("inner",), schedule, balance=schedule.balance(1))


def test_learned_weights_are_trained_and_logged(tmp_path):
    train(tmp_path, TwoHeads(), steps=30, objective=uncertain(), learning_rate=0.1)
    weights = [row["weight/inner"] for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row]
    assert weights[-1] != pytest.approx(0.5, abs=1e-3)


def test_learned_weights_are_carried_on(tmp_path):
    first, again = uncertain(), uncertain()
    train(tmp_path, TwoHeads(), steps=10, objective=first, learning_rate=0.1)
    train(tmp_path, TwoHeads(), steps=10, objective=again, learning_rate=0.1)
    assert again.balance.weights() == first.balance.weights() != [1.0, 0.5]


class Mapped(TwoHeads):
    def forward(self, image, aux=(), maps=()):
        logits = super().forward(image)
        return (logits, {}, dict.fromkeys(maps, logits)) if maps else logits


def test_losses_on_activations_count_by_their_weight_and_are_logged(tmp_path):
    plugin = registry.get("medfuse.activation_losses", "l2")(maps=("conv",), weight=0.5)
    term = ActivationTerm("small", ("conv",), 0.5, plugin.build(()))
    train(tmp_path, Mapped(), steps=10, objective=Objective(cross_entropy, activations=(term,)))
    row = read_rows(tmp_path / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(row["loss/main"] + 0.5 * row["loss/small"], rel=1e-5)


def test_the_projection_of_a_loss_on_activations_is_trained_and_carried_on(tmp_path):
    def objective() -> Objective:
        torch.manual_seed(0)
        loss = nn.ModuleDict({"w": nn.Conv2d(2, 1, 1)})
        loss.forward = lambda x: loss["w"](x).square().mean()
        return Objective(cross_entropy, activations=(ActivationTerm("w", ("conv",), 1.0, loss),))

    first, again = objective(), objective()
    train(tmp_path, Mapped(), steps=10, objective=first, learning_rate=0.1)
    train(tmp_path, Mapped(), steps=10, objective=again, learning_rate=0.1)
    trained = first.activations[0].loss["w"].weight
    assert not torch.equal(trained, objective().activations[0].loss["w"].weight)
    assert torch.equal(again.activations[0].loss["w"].weight, trained)
