import math

import pytest
import torch
from torch.nn import functional

from medfuse import registry
from medfuse.train.objective import Objective
from medfuse.train.targets import presence, supervised

CLASSES, IGNORED = 3, 3
LOSSES = {
    "dice_ce": {},
    "focal": {},
    "tversky": {},
    "top_k": {"percent": 30},
    "boundary": {},
    "sum": {"terms": ["dice_ce", "boundary"]},
}


def plugin(use: str, **parameters):
    return registry.get("medfuse.losses", use).model_validate(parameters)


def batch(channels: int = CLASSES, highest: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(2, channels, 6, 5, 4, generator=random)
    return logits, torch.randint(highest + 1, (2, 1, 6, 5, 4), generator=random)


@pytest.mark.parametrize("regions", [(), ((1, 2), (2,), (1,))], ids=["classes", "regions"])
@pytest.mark.parametrize("use", LOSSES)
def test_ignored_voxels_change_neither_loss_nor_gradient(use, regions):
    loss = supervised(plugin(use, **LOSSES[use]), CLASSES, regions=regions, ignored=IGNORED)
    logits, target = batch()
    ignored = (target == IGNORED).expand_as(logits)
    made = []
    for there in (0.0, 50.0):
        tried = logits.masked_fill(ignored, there).requires_grad_()
        loss(tried, target).backward()
        made.append((loss(tried, target), tried.grad))
    assert made[0][0] == made[1][0]
    assert torch.equal(made[0][1], made[1][1])
    assert not made[0][1][ignored].any()
    assert made[0][1][~ignored].any()


@pytest.mark.parametrize("use", LOSSES)
def test_where_all_is_annotated_an_ignore_label_changes_nothing(use):
    logits, target = batch(highest=CLASSES - 1)
    given = plugin(use, **LOSSES[use])
    plain, masked = given.build(CLASSES), supervised(given, CLASSES, ignored=IGNORED)
    assert torch.allclose(plain(logits, target), masked(logits, target), atol=1e-6)


def test_a_batch_in_which_nothing_is_annotated_teaches_nothing():
    logits, target = batch()
    logits.requires_grad_()
    loss = supervised(plugin("dice_ce"), CLASSES, ignored=IGNORED)(logits, torch.full_like(target, IGNORED))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_cross_entropy_is_the_mean_of_annotated_voxels():
    logits, target = batch()
    loss = supervised(plugin("top_k", percent=100), CLASSES, ignored=IGNORED)
    expected = functional.cross_entropy(logits, target[:, 0], ignore_index=IGNORED)
    assert torch.allclose(loss(logits, target), expected)


def test_a_loss_on_regions_is_the_mean_of_their_binary_losses():
    logits, target = batch(channels=2, highest=2)
    loss = supervised(plugin("top_k", percent=100), 2, regions=((1, 2), (2,)))
    whole, core = ((target > 0).float(), (target == 2).float())
    expected = [
        functional.binary_cross_entropy_with_logits(logits[:, i : i + 1], mask)
        for i, mask in enumerate((whole, core))
    ]
    assert torch.allclose(loss(logits, target), sum(expected) / 2)


def test_dice_on_regions_is_monai_s_sigmoid_dice():
    from monai.losses import DiceLoss

    logits, target = batch(channels=2, highest=2)
    loss = supervised(plugin("dice_ce", cross_entropy=0), 2, regions=((1, 2), (2,)))
    masks = torch.cat([target > 0, target == 2], 1).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    assert torch.allclose(loss(logits, target), monai(logits, masks), atol=1e-5)


def test_an_auxiliary_head_on_a_coarser_grid_ignores_too():
    loss = supervised(plugin("dice_ce"), CLASSES, ignored=IGNORED)
    logits, target = batch()
    inner = torch.randn(2, CLASSES, 3, 5, 2, requires_grad=True)
    objective = Objective(loss, ("inner",))
    total, _ = objective(lambda _, aux: (logits, {"inner": inner}), logits, target, {"inner": 1.0})
    total.backward()
    seen = functional.interpolate(target.float(), (3, 5, 2), mode="nearest-exact") == IGNORED
    assert not inner.grad[seen.expand_as(inner)].any()
    assert inner.grad.any()


# ---- what labels are in a patch


def entropy(logit: float, present: bool) -> float:
    return -math.log(1 / (1 + math.exp(-logit if present else logit)))


def patch(*numbers: int) -> torch.Tensor:
    """A label (1, 1, 4, 3, 2) of background with one voxel of each number."""
    label = torch.zeros(1, 1, 24, dtype=torch.int64)
    for place, number in enumerate(numbers):
        label[..., 5 + place] = number
    return label.view(1, 1, 4, 3, 2)


LOGITS = [9.0, 0.5, -1.5]
ONE = torch.tensor(LOGITS).view(1, 3, 1, 1, 1)


def test_presence_is_the_binary_cross_entropy_of_each_class_but_the_background():
    loss = presence(3)(ONE, patch(2))
    assert loss == pytest.approx((entropy(0.5, False) + entropy(-1.5, True)) / 2)


def test_the_logit_of_the_background_gets_no_gradient():
    logits = ONE.clone().requires_grad_()
    presence(3)(logits, patch(1)).backward()
    assert logits.grad.flatten()[0] == 0
    assert (logits.grad.flatten()[1:] != 0).all()


def test_a_region_is_present_where_any_of_its_values_is():
    loss = presence(3, regions=((1, 2), (2,), (3,)))(ONE, patch(1))
    expected = [entropy(9.0, True), entropy(0.5, False), entropy(-1.5, False)]
    assert loss == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize(("numbers", "taught"), [((1, IGNORED), [(0.5, True)]), ((IGNORED,), [])])
def test_where_some_voxels_are_not_annotated_only_what_was_seen_is_known(numbers, taught):
    logits = ONE.clone().requires_grad_()
    loss = presence(3, ignored=IGNORED)(logits, patch(*numbers))
    loss.backward()
    assert loss.item() == pytest.approx(sum(entropy(*one) for one in taught))
    assert logits.grad.flatten().ne(0).sum() == len(taught)


def test_patches_of_a_batch_are_judged_each_by_its_own_label():
    both = torch.cat([patch(1), patch(2, IGNORED)])
    loss = presence(3, ignored=IGNORED)(ONE.expand(2, -1, -1, -1, -1), both)
    expected = [entropy(0.5, True), entropy(-1.5, False), entropy(-1.5, True)]
    assert loss == pytest.approx(sum(expected) / 3)


def test_the_head_sees_one_voxel_of_a_label_that_a_shrunken_one_would_miss():
    """The whole patch decides, not its middle voxel."""

    def model(image, aux):
        return torch.zeros(1, 3, 4, 3, 2, requires_grad=True), dict.fromkeys(aux, ONE)

    objective = Objective(
        lambda logits, label: logits.sum(), ("whole",), presence=("whole",), presence_loss=presence(3)
    )
    _, parts = objective(model, torch.zeros(1, 1, 4, 3, 2), patch(2), {"whole": 1.0})
    assert parts["whole"] == pytest.approx((entropy(0.5, False) + entropy(-1.5, True)) / 2)
