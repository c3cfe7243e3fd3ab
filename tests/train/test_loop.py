"""The loop, on a network of one convolution."""

import math
from collections.abc import Generator

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from medfuse import CheckpointError, MedfuseError, registry
from medfuse.core.reporter import Reporter
from medfuse.train.log import read_rows
from medfuse.train.loop import fit
from medfuse.train.objective import Objective
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
    with pytest.raises(MedfuseError, match=r"not a number at step 5; lower train\.learning_rate"):
        train(tmp_path, network(), steps=20, objective=Objective(lambda logits, _: logits.sum() * math.nan))


def test_a_training_state_of_another_model_is_named(tmp_path):
    train(tmp_path, network(), steps=5)
    with pytest.raises(CheckpointError, match=r"training_state\.pt: is the training state of another model"):
        train(tmp_path, nn.Conv2d(1, 3, 1), steps=10)


def test_a_budget_in_minutes_ends(tmp_path):
    result = fit(
        network(),
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(minutes=0.01),
        objective=Objective(cross_entropy),
        batches=batches,
        validate=lambda _: {},
        save=lambda *_: None,
        folder=tmp_path,
        reporter=Reporter(quiet=True),
    )
    assert result.seconds >= 0.6
    assert result.step > 0


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
    row = read_rows(tmp_path / "metrics.jsonl")[0]
    assert row["weight/inner"] == 0.25
    assert row["loss"] == pytest.approx(row["loss/main"] + 0.25 * row["loss/inner"], rel=1e-5)
