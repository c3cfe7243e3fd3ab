"""Scores of a case are those of its whole volume, however it comes."""

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import generate_binary_structure, label
from torch import Tensor

from medfuse.infer.sliding import predict_bricks
from medfuse.infer.windows import AxisName
from medfuse.quality.case import CaseScores
from medfuse.quality.usual import UsualVolume
from medfuse.quality.voxels import Kind

SPACING = (1.0, 0.7, 2.5)
SHAPE = (9, 8, 7)
SWEEPS: tuple[AxisName, ...] = ("x", "y", "z")


def smooth(classes: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    noise = torch.randn((1, classes, *shape), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool3d(noise, 3, 1, 1)[0] * 6


def cut(
    sizes: tuple[int, int, int], sweep: int, shape: tuple[int, ...] = SHAPE
) -> Iterator[tuple[slice, ...]]:
    """Bricks that tile a volume, the sweep axis outermost."""
    order = (sweep, *(a for a in range(3) if a != sweep))
    starts = [range(0, shape[a], sizes[a]) for a in order]
    for begin in product(*starts):
        at = dict(zip(order, begin))
        yield tuple(slice(at[a], min(at[a] + sizes[a], shape[a])) for a in range(3))


def scores(
    logits: Tensor,
    *,
    sizes: tuple[int, int, int] = (99, 99, 99),
    sweep: int = 0,
    spacing: tuple[float, ...] = SPACING,
    kind: Kind = "softmax",
    names: tuple[str, ...] = (),
) -> dict[str, dict[str, float | None]]:
    names = names or tuple(f"class {n}" for n in range(len(logits)))
    case = CaseScores(names, kind, logits.shape[1:], spacing, sweep=sweep, volumes={})
    for where in cut(sizes, sweep, tuple(logits.shape[1:])):
        case.add(where, logits[(slice(None), *where)])
    return case.found()


def brute_force(logits: Tensor, spacing: tuple[float, ...] = SPACING) -> list[dict[str, Any]]:
    """Face by face, with numpy in float64."""
    p = torch.softmax(logits.double(), 0).numpy()
    labels, entropy = p.argmax(0), -(p * np.log(p)).sum(0) / np.log(len(p))
    two = np.sort(p, axis=0)[-2:]
    margin = two[1] - two[0]
    made = []
    for number in range(1, len(p)):
        mask, total, edge = labels == number, np.zeros(3), 0.0
        for axis in range(3):
            area = np.prod(spacing) / spacing[axis]
            one, other = (np.moveaxis(mask, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
            face = one != other
            for n, values in enumerate((entropy, margin)):
                first, second = (
                    np.moveaxis(values, axis, 0)[part] for part in (slice(None, -1), slice(1, None))
                )
                total[n] += area * ((first + second) / 2)[face].sum()
            total[2] += area * face.sum()
            if mask.shape[axis] > 1:
                edge += area * (mask.take(0, axis).sum() + mask.take(-1, axis).sum())
        numbered, count = label(mask, generate_binary_structure(3, 3))
        made.append(
            {
                "entropy": total[0] / total[2],
                "margin": total[1] / total[2],
                "components": count,
                "largest": np.bincount(numbered.ravel())[1:].max() / mask.sum(),
                "volume_ml": mask.sum() * np.prod(spacing) / 1000,
                "border": edge / (edge + total[2]),
            }
        )
    return made


def alike(one: Any, other: Any) -> bool:
    """What is a whole number of steps is the same, and what is not nearly so."""
    return all(
        one[name][key] == pytest.approx(other[name][key], abs=1e-12) for name in one for key in one[name]
    )


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_whole_volume_face_by_face(seed: int) -> None:
    logits = smooth(3, seed=seed)
    found = scores(logits, sizes=(4, 3, 2), sweep=2)
    for wanted, own in zip(brute_force(logits), found.values(), strict=True):
        for name, value in wanted.items():
            assert own[name] == pytest.approx(value, abs=2e-5), name


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 4), (9, 1, 7), (5, 8, 3)])
@pytest.mark.parametrize("sweep", [0, 1, 2])
@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_no_brick_changes_them(sizes: tuple[int, int, int], sweep: int, kind: Kind) -> None:
    logits = smooth(3)
    assert alike(scores(logits, sizes=sizes, sweep=sweep, kind=kind), scores(logits, kind=kind))


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_no_order_of_the_axes_changes_them(order: tuple[int, ...]) -> None:
    logits = smooth(3)
    turned = logits.permute(0, *(1 + a for a in order)).flip(1, 3)
    spacing = tuple(SPACING[a] for a in order)
    assert alike(scores(turned, spacing=spacing, sizes=(3, 3, 3)), scores(logits))


def test_a_region_is_a_class_and_its_complement() -> None:
    region = smooth(1)
    two = torch.cat([torch.zeros_like(region), region])
    own, wanted = scores(region, kind="regions")["class 0"], scores(two)["class 1"]
    assert own == pytest.approx(wanted, abs=2e-5)


def test_many_classes_have_scores_as_few_do() -> None:
    logits = torch.full((300, 6, 4, 4), -9.0)
    logits[0], logits[299, 2:4] = 0, 9
    assert scores(logits)["class 299"]["volume_ml"] == pytest.approx(2 * 4 * 4 * 1.75 / 1000)


def test_a_class_that_is_nowhere_has_no_surface() -> None:
    logits = smooth(3)
    logits[2] = -99
    assert scores(logits)["class 2"] == {
        **dict.fromkeys(("entropy", "margin", "largest", "volume", "border")),
        "components": 0,
        "volume_ml": 0,
    }


def test_a_class_that_is_everywhere_is_cut_off_all_round() -> None:
    logits = smooth(2)
    logits[1] = 99
    own = scores(logits)["class 1"]
    assert (own["border"], own["entropy"], own["components"], own["largest"]) == (1, None, 1, 1)


def test_one_slice_is_not_cut_off_above_and_below() -> None:
    logits = torch.full((2, 8, 8, 1), 5.0)
    logits[1, :3] = -5
    logits[1, :, :3] = -5
    logits[1, -2:], logits[1, :, -2:] = -5, -5
    logits[1, 3:6, 3:6] = 9
    assert scores(logits)["class 1"]["border"] == 0


def test_surfaces_that_are_sure_have_no_entropy_and_all_margin() -> None:
    logits = (smooth(3) * 1000).round() * 200 + torch.arange(3)[:, None, None, None] * 70
    for own in scores(logits).values():
        assert (own["entropy"], own["margin"]) == (0, 1)


def test_left_and_right_are_told_by_their_names_and_places() -> None:
    logits = torch.zeros(3, 9, 4, 4)
    logits[1, :3] = logits[2, 6:] = 9
    right_way = scores(logits, names=("background", "kidney_left", "kidney_right"))
    wrong_way = scores(logits, names=("background", "Right Kidney", "Left Kidney"))
    assert {own["swapped"] for own in right_way.values()} == {0}
    assert {own["swapped"] for own in wrong_way.values()} == {1}
    assert "swapped" not in scores(logits, names=("background", "liver", "kidney_left"))["kidney_left"]


def test_windows_of_any_size_and_order_lead_to_the_same_scores() -> None:
    logits = smooth(2, (12, 9, 10))
    wanted = scores(logits, names=("background", "liver"))
    for patch, sweep in product([(4, 4, 4), (12, 9, 10), (6, 5, 3)], SWEEPS):
        case = CaseScores(
            ("background", "liver"), "softmax", (12, 9, 10), SPACING, sweep="xyz".index(sweep), volumes={}
        )
        for brick in predict_bricks(logits, lambda w: w, patch_size=patch, classes=2, sweep=sweep):
            case.add(brick.where, brick.logits)
        assert case.found()["liver"] == pytest.approx(wanted["liver"], abs=1e-3)


def test_a_volume_is_held_against_those_of_training() -> None:
    usual = UsualVolume.of([10.0, 20.0, 40.0, 0.0])
    assert usual.score(20.0) == pytest.approx(0)
    assert usual.score(80.0) == pytest.approx(2)
    assert usual.score(5.0) == pytest.approx(-2)
    assert usual.score(0.0) is None
    assert UsualVolume.of([0.0] * 9).score(3.0) is None
