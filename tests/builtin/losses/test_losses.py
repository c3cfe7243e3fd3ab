import pytest
import torch
from torch.nn import functional

from medfuse import registry
from medfuse.testing import check_loss

LOSSES = [
    {"use": "dice_ce"},
    {"use": "focal"},
    {"use": "tversky"},
    {"use": "top_k"},
    {"use": "boundary"},
    {"use": "sum", "terms": ["dice_ce", "boundary"], "weights": [1, 0.1]},
    {"use": "monai", "name": "GeneralizedDiceLoss"},
]


def build(use: str, classes: int = 3, **parameters):
    return registry.get("medfuse.losses", use).model_validate(parameters).build(classes)


def batch(classes: int = 3, dims: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    size = (6, 5, 4)[:dims]
    return (
        torch.randn(2, classes, *size, generator=random),
        torch.randint(classes, (2, 1, *size), generator=random),
    )


def certain(target: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return 200 * functional.one_hot(target[:, 0], classes).movedim(-1, 1).float() - 100


def ids(loss: dict) -> str:
    return loss["use"]


@pytest.mark.parametrize("loss", LOSSES, ids=ids)
def test_a_loss_keeps_the_laws_of_losses(loss):
    plugin = registry.get("medfuse.losses", loss["use"])
    check_loss(plugin.model_validate({k: v for k, v in loss.items() if k != "use"}))


@pytest.mark.parametrize("loss", LOSSES, ids=ids)
def test_nothing_costs_less_than_a_perfect_prediction(loss):
    module, (logits, target) = build(**loss), batch()
    perfect = module(certain(target), target)
    assert all(module((1 - a) * certain(target) + a * 50 * logits, target) > perfect for a in (0.5, 1))


@pytest.mark.parametrize("use", ["dice_ce", "focal", "tversky", "top_k"])
def test_a_perfect_prediction_costs_nothing(use):
    _, target = batch()
    assert build(use)(certain(target), target) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_focal_with_gamma_0_is_cross_entropy(dims):
    logits, target = batch(dims=dims)
    assert torch.allclose(
        build("focal", gamma=0)(logits, target), functional.cross_entropy(logits, target[:, 0])
    )


def test_tversky_with_two_halves_is_dice():
    logits, target = batch()
    halves = build("tversky", false_positives=0.5, false_negatives=0.5)(logits, target)
    assert torch.allclose(halves, build("dice_ce", cross_entropy=0)(logits, target), atol=1e-5)


def test_more_weight_on_false_negatives_makes_a_missed_voxel_dearer():
    target = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    target[..., :2] = 1
    missed, spare = target.clone(), target.clone()
    missed[..., 1], spare[..., 2] = 0, 1
    loss = build("tversky", 2, false_positives=0.3, false_negatives=0.7)
    assert loss(certain(missed, 2), target) > loss(certain(spare, 2), target)


def test_top_k_of_all_voxels_is_cross_entropy():
    logits, target = batch()
    assert torch.allclose(
        build("top_k", percent=100)(logits, target), functional.cross_entropy(logits, target[:, 0])
    )


def test_top_k_sends_no_gradient_to_easy_voxels():
    logits, target = batch()
    logits.requires_grad_()
    build("top_k", percent=10)(logits, target).backward()
    touched = (logits.grad != 0).any(1).sum()
    assert touched == target.numel() // 10


def test_the_boundary_loss_is_the_mean_signed_distance_of_what_is_predicted():
    target = torch.zeros(1, 1, 6, 1, dtype=torch.long)
    target[0, 0, :3] = 1  # distances -2 -1 0 | 1 2 3
    one_too_many = target.clone()
    one_too_many[0, 0, 3] = 1
    loss = build("boundary", 2)
    assert loss(certain(target, 2), target) == pytest.approx(-3 / 6)
    assert loss(certain(one_too_many, 2), target) == pytest.approx((-3 + 1) / 6)


def test_a_label_that_a_patch_lacks_has_no_boundary():
    logits, target = batch()
    assert build("boundary")(logits, torch.zeros_like(target)) == 0


def test_a_sum_is_its_weighted_terms():
    logits, target = batch()
    total = build("sum", terms=["focal", "tversky"], weights=[2, 0.5])(logits, target)
    assert torch.allclose(total, 2 * build("focal")(logits, target) + 0.5 * build("tversky")(logits, target))


def test_a_sum_wants_a_weight_for_each_term():
    with pytest.raises(ValueError, match="2 terms and 1 weights"):
        build("sum", terms=["focal", "tversky"], weights=[2])
