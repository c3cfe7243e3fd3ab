"""Two processes over gloo are one process with the whole batch."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from two_processes import in_two

from medfuse import registry
from medfuse.core.features import FeatureInfo
from medfuse.core.reporter import Reporter
from medfuse.train.log import read_rows
from medfuse.train.loop import fit
from medfuse.train.objective import Objective
from medfuse.train.settings import TrainSettings
from medfuse.train.teaching import Match, Teaching
from medfuse.train.together import Together

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="these processes are forked, which autograd refuses beside a GPU"
)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.inner = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.norm = nn.InstanceNorm2d(3, affine=True)
        self.first.bias.requires_grad_(False)

    def forward(self, image, aux=(), maps=()):
        inner = self.norm(self.first(image)).relu()
        if not aux and not maps:
            return self.head(inner)
        heads = {name: self.inner(inner) for name in aux}
        return (self.head(inner), heads, dict.fromkeys(maps, inner)) if maps else (self.head(inner), heads)


def teaching() -> Teaching:
    """Another network, whose probabilities and maps are learned; a map by a projection that learns, too."""
    teacher = Heads()
    with torch.no_grad():
        teacher.head.weight.mul_(-2)
    matching = registry.get("medfuse.activation_losses", "feature_matching")(maps=("a", "b"), weight=1)
    loss = matching.build([FeatureInfo("a", 3, (1, 1)), FeatureInfo("b", 3, (1, 1))])
    loss.project = nn.Conv2d(3, 3, 1)
    return Teaching(teacher, weight=1.0, temperature=2.0, matches=[Match("a", "b", loss)], maps_weight=0.5)


def batch(step, share=slice(None)):
    image = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    label = (image > 1.0)[..., 1:-1, 1:-1].long()
    return {"image": image[share], "label": label[share], "case": list("abcd")[share]}


def gradients(share=slice(None)) -> dict:
    model, together = Heads(), Together()
    loss = registry.get("medfuse.losses", "dice_ce")().build(2)
    own = batch(0, share)
    total, _ = Objective(loss)(together.whole(model), own["image"], together.gather(own["label"]), {})
    total.backward()
    together.add_up(model, nn.ModuleList())
    return {name: p.grad for name, p in model.named_parameters()}


def test_dice_of_the_whole_batch_has_the_gradients_of_one_process(tmp_path):
    alone = gradients()
    for found in in_two(tmp_path, lambda: gradients(share())):
        used = {name for name, gradient in found.items() if gradient is not None}
        assert used == {name for name in alone if "inner" not in name and name != "first.bias"}
        assert all(torch.allclose(found[name], alone[name], rtol=0, atol=1e-6) for name in used)


def share() -> slice:
    rank, size = Together().rank, Together().size
    return slice(rank * 4 // size, (rank + 1) * 4 // size)


def train(folder, **settings) -> tuple[dict, list]:
    """The average of the weights after training with a head whose weight falls to 0, and what was saved."""
    model, saved = Heads(), []
    schedule = registry.get("medfuse.aux_schedules", "uncertainty")(start=0.5)
    if settings.pop("falls", False):
        schedule = registry.get("medfuse.aux_schedules", "linear_decay")(start=1, end=0, until=0.5)
    objective = Objective(
        lambda logits, label: nn.functional.cross_entropy(logits, label[:, 0]),
        ("inner",),
        schedule,
        balance=schedule.balance(1),
        teaching=teaching() if settings.pop("taught", False) else None,
    )

    def batches(start):
        while True:
            yield batch(start, share())
            start += 1

    fit(
        model,
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(steps_per_epoch=2, average=0.9, learning_rate=0.1, **settings),
        objective=objective,
        batches=batches,
        validate=lambda network: {"dice": 0.5},
        save=lambda kind, network, facts: saved.append(kind),
        folder=folder,
        reporter=Reporter(quiet=True),
    )
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, saved


@pytest.mark.parametrize(("falls", "taught"), [(True, False), (False, False), (True, True)])
def test_two_processes_train_what_one_trains(tmp_path, falls, taught):
    settings = {"steps": 6, "parts": {"norm.*": {"freeze": 1}}, "falls": falls, "taught": taught}
    alone, _ = train(tmp_path / "alone", **settings)
    (first, _), (second, _) = in_two(tmp_path, lambda: train(tmp_path / "two", **settings))
    for name in alone:
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], alone[name], rtol=0, atol=1e-5)


def test_one_process_writes(tmp_path):
    (_, by_first), (_, by_second) = in_two(tmp_path, lambda: train(tmp_path, steps=4))
    assert "last" in by_first
    assert by_second == []
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_budget_in_minutes_ends_at_the_same_step_everywhere(tmp_path):
    first, second = in_two(tmp_path, lambda: train(tmp_path, minutes=0.02))
    assert all(torch.equal(a, b) for a, b in zip(first[0].values(), second[0].values()))


def test_work_of_the_first_is_given_to_all(tmp_path):
    assert in_two(tmp_path, lambda: Together().first(lambda: Together().rank + 5)) == [5, 5]


class Norms(nn.Module):
    """One norm that is frozen, one that learns, and a constant that no float32 is equal to."""

    def __init__(self):
        super().__init__()
        self.frozen, self.taught = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.register_buffer("scale", torch.full((3,), 0.1, dtype=torch.float64))
        self.frozen.eval()
        with torch.no_grad():
            self.frozen.running_mean += 0.1 * (1 + Together().rank)  # which nothing brings together
            self.taught.running_mean += Together().rank


def statistics() -> dict:
    norms = Norms()
    Together().add_up(norms, nn.ModuleList())
    return dict(norms.named_buffers())


def test_statistics_that_move_become_the_mean_and_what_stands_still_is_left_alone(tmp_path):
    for rank, found in enumerate(in_two(tmp_path, statistics)):
        assert found["taught.running_mean"] == 0.5
        assert torch.equal(found["frozen.running_mean"], torch.tensor([0.0]) + 0.1 * (1 + rank))
        assert torch.equal(found["scale"], Norms().scale)
