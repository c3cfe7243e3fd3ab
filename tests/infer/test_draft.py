"""What windows decided stands where they agree, and is known not to where they do not."""

import pytest
import torch
from torch import Tensor

from medfuse.infer.decide import Kind
from medfuse.infer.draft import Draft, draft_bytes, first_pass
from medfuse.infer.windows import Window, plan_grid

GRID = plan_grid((21, 9, 14), (8, 8, 8), 0.25)
EVERYTHING = Window((slice(0, 21), slice(0, 9), slice(0, 14)), GRID.at((0, 0, 0)).weights)
MANY: list[tuple[Kind, int]] = [("softmax", 3), ("softmax", 300), ("regions", 2), ("regions", 10)]


def noise(classes: int) -> Tensor:
    return torch.randn((classes, *GRID.shape), generator=torch.Generator().manual_seed(0))


def draft_of(logits: Tensor, kind: Kind) -> Draft:
    draft = Draft(GRID, len(logits), kind)
    for window in GRID:
        draft.add(logits[(slice(None), *window.where)])
    return draft


@pytest.mark.parametrize(("kind", "classes"), MANY)
def test_what_all_windows_decide_is_decided(kind: Kind, classes: int) -> None:
    logits = noise(classes)
    draft = draft_of(logits, kind)
    assert draft.settles(EVERYTHING)
    found = draft.logits(EVERYTHING, torch.device("cpu")).float()
    if kind == "softmax":
        assert torch.equal(found.argmax(0), logits.argmax(0))
        assert (found.softmax(0).amax(0) > 1 - 1e-6).all()
    else:
        assert torch.equal(found > 0, logits > 0)


@pytest.mark.parametrize(("kind", "classes"), MANY)
def test_one_decision_everywhere_takes_no_room(kind: Kind, classes: int) -> None:
    logits = -torch.ones((classes, *GRID.shape))
    logits[1] = 1
    found = draft_of(logits, kind).logits(EVERYTHING, torch.device("cpu"))
    assert found.untyped_storage().nbytes() == 2 * classes
    assert torch.equal(found > 0, logits > 0)


@pytest.mark.parametrize("voxel", [(7, 3, 3), (7, 1, 7), (13, 8, 13)])
def test_a_voxel_about_which_two_windows_disagree_is_not_settled(voxel: tuple[int, int, int]) -> None:
    draft, x, y, z = Draft(GRID, 2, "softmax"), *voxel
    seen = 0
    for window in GRID:
        logits = torch.zeros((2, *GRID.shape))
        covers = all(part.start <= n < part.stop for part, n in zip(window.where, voxel))
        seen += covers
        logits[1, x, y, z] = 1 if covers and seen == 2 else -1
        draft.add(logits[(slice(None), *window.where)])
    assert seen >= 2, "the windows do not overlap there"
    for window in GRID:
        covers = all(part.start <= n < part.stop for part, n in zip(window.where, voxel))
        assert draft.settles(window) == (not covers)


def test_of_two_decisions_that_of_the_window_whose_middle_is_nearer_stands() -> None:
    grid = plan_grid((14, 8, 8), (8, 8, 8), 0.25)
    draft = Draft(grid, 2, "softmax")
    for says in (-1, 1):
        draft.add(torch.tensor([0.0, says])[:, None, None, None].expand(2, 8, 8, 8))
    whole = Window((slice(0, 14), slice(0, 8), slice(0, 8)), grid.at((0, 0, 0)).weights)
    decided = draft.logits(whole, torch.device("cpu")).argmax(0)
    assert torch.equal(decided[:, 0, 0], torch.arange(14).ge(7).long())


@pytest.mark.parametrize(("kind", "classes"), MANY)
def test_its_bytes_are_foretold(kind: Kind, classes: int) -> None:
    draft = Draft(GRID, classes, kind)
    assert draft.nbytes == draft_bytes(GRID, classes, kind)


def test_a_first_pass_that_takes_as_many_windows_is_left_out() -> None:
    grid = plan_grid((12, 8, 8), (8, 8, 8), 0.5)
    assert first_pass(grid, 0.25) is None
    assert first_pass(plan_grid((24, 8, 8), (8, 8, 8), 0.5), 0.25) is not None
