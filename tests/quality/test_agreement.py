"""Passes that agree: pairwise Dice, counted window by window, is that of whole label maps."""

from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from medfuse.infer.sliding import passes_of, predict_bricks
from medfuse.infer.windows import plan_grid
from medfuse.quality.agreement import Agreement, By, Pass, disagreement
from medfuse.quality.voxels import Kind

SHAPE = (11, 9, 8)
BIES: tuple[By, ...] = ("folds", "flips", "heads")


def image(classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randn((classes, *SHAPE), generator=torch.Generator().manual_seed(seed)) * 3


def network(shift: int, heads: int = 1) -> Any:
    """Answers with the image, as it is seen from a little further on, so that flips and networks differ."""

    def answer(windows: Tensor) -> Tensor:
        moved = [windows + 0.6 * windows.roll(shift + head, 2 + head % 2) for head in range(heads)]
        return torch.cat(moved, 1)

    return answer


def agreement_of(
    volume: Tensor, networks: Any, *, mirror: Any = (), heads: int = 1, kind: Kind = "softmax", **how: Any
) -> Agreement:
    classes = len(volume)
    found = Agreement(passes_of(networks, mirror, 3, heads), classes, kind)
    how = {"patch_size": (4, 5, 4), **how}
    for _ in predict_bricks(
        volume, networks, classes=classes, mirror=mirror, heads=heads, agreement=found, kind=kind, **how
    ):
        pass
    return found


def whole_label_maps(
    volume: Tensor, networks: Any, mirror: Any, heads: int, kind: Kind
) -> dict[Pass, Tensor]:
    """What each pass decides of all voxels: each by the window whose middle is nearest."""
    grid, classes = plan_grid(SHAPE, (4, 5, 4), 0.5), len(volume)
    flips = [
        tuple(1 + "xyz".index(a) for a in s) for n in range(len(mirror) + 1) for s in combinations(mirror, n)
    ]
    made = {}
    for (fold, one), (flip, axes), head in product(enumerate(networks), enumerate(flips), range(heads)):
        labels = torch.zeros(classes if kind == "regions" else 1, *SHAPE, dtype=torch.long)
        for index in grid.indices():
            where, own = grid.at(index).where, grid.own(index)
            seen = volume[(slice(None), *where)].flip(axes) if axes else volume[(slice(None), *where)]
            logits = one(seen[None])[0][head * classes : (head + 1) * classes]
            logits = logits.flip(axes) if axes else logits
            inner = tuple(slice(o.start - w.start, o.stop - w.start) for o, w in zip(own, where))
            decided = (logits > 0).long() if kind == "regions" else logits.argmax(0, keepdim=True)
            labels[(slice(None), *own)] = decided[(slice(None), *inner)]
        made[Pass(fold, flip, head)] = labels
    return made


def mean_dice(maps: dict[Pass, Tensor], by: By, number: int, kind: Kind) -> float | None:
    def pick(labels: Tensor) -> Tensor:
        return labels[number] == 1 if kind == "regions" else labels[0] == number

    found = []
    for (a, one), (b, other) in combinations(maps.items(), 2):
        tags = {"folds": a.fold != b.fold, "flips": a.flip != b.flip, "heads": a.head != b.head}
        wanted = tags[by] and sum(tags.values()) == 1
        wanted &= (0 in (a.head, b.head)) if by == "heads" else a.head == 0
        if wanted and (size := int(pick(one).sum() + pick(other).sum())):
            found.append(2 * int((pick(one) & pick(other)).sum()) / size)
    return sum(found) / len(found) if found else None


@pytest.mark.parametrize("kind", ["softmax", "regions"])
@pytest.mark.parametrize(("folds", "mirror", "heads"), [(3, (), 1), (1, ("x", "y"), 1), (2, ("z",), 3)])
def test_it_is_that_of_the_whole_label_maps(kind: Kind, folds: int, mirror: Any, heads: int) -> None:
    volume, networks = image(), [network(n + 1, heads) for n in range(folds)]
    maps = whole_label_maps(volume, networks, mirror, heads, kind)
    found = agreement_of(volume, networks, mirror=mirror, heads=heads, kind=kind)
    for by in BIES:
        wanted = [mean_dice(maps, by, number, kind) for number in range(3)]
        assert found.dice(by) == [None if one is None else pytest.approx(one) for one in wanted]
        assert found.differ(by) == any(one is not None for one in wanted)


@pytest.mark.parametrize("how", [{"sweep": "x"}, {"sweep": "y"}, {"batch_size": 7}])
def test_no_order_and_no_batch_changes_it(how: Any) -> None:
    networks = [network(1), network(2)]
    wanted = agreement_of(image(), networks, mirror=("x",))
    found = agreement_of(image(), networks, mirror=("x",), **how)
    assert [found.dice(by) for by in BIES] == [wanted.dice(by) for by in BIES]


def test_passes_that_are_the_same_agree() -> None:
    assert agreement_of(image(), [network(1)] * 3).dice("folds") == [1, 1, 1]


def test_windows_of_one_constant_count_each_time() -> None:
    volume = torch.zeros(2, 16, 9, 8)
    volume[1] = 1
    how: Any = {"patch_size": (4, 9, 8), "overlap": 0.0}
    found = agreement_of(volume, [lambda w: w, lambda w: -w], **how)
    assert found.dice("folds") == [0, 0]
    assert int(found._both.sum()) == 2 * volume[0].numel()


def test_what_a_first_pass_settles_is_agreed_on() -> None:
    volume = image().mul(0.01)
    volume[2, :6] += 50
    volume[1, 6:] += 50
    how: Any = {"overlap": 0.5, "adaptive_overlap": 0.0, "patch_size": (4, 4, 4)}
    found = agreement_of(volume, [network(1), network(2)], **how)
    assert found.dice("folds")[1:] == pytest.approx([1, 1], abs=0.2)


def test_slices_are_counted_as_volumes_are() -> None:
    volume, networks = image(2), [lambda w: w, lambda w: w.roll(1, 2)]
    found = Agreement(passes_of(networks, ("x",), 2), 2, "softmax")
    for _ in predict_bricks(volume, networks, patch_size=(4, 5), classes=2, mirror=("x",), agreement=found):
        pass
    assert int((found._both[:, 0, 0] + found._all).sum()) == volume[0].numel()


def test_a_label_map_is_the_same_whoever_counts() -> None:
    volume, networks = image(), [network(1), network(2)]
    how: Any = {"patch_size": (4, 5, 4), "classes": 3, "mirror": ("x",)}
    plain = [brick.logits for brick in predict_bricks(volume, networks, **how)]
    counted = Agreement(passes_of(networks, ("x",), 3), 3, "softmax")
    watched = [brick.logits for brick in predict_bricks(volume, networks, agreement=counted, **how)]
    assert all(map(torch.equal, plain, watched))


def test_a_class_that_no_pass_finds_has_no_dice() -> None:
    volume = image()
    volume[2] = -99
    assert agreement_of(volume, [lambda w: w, lambda w: w]).dice("folds") == [1, 1, None]


def test_disagreement_is_the_share_of_pairs_that_differ() -> None:
    decided = torch.tensor([[0, 1, 1], [0, 1, 2], [0, 1, 3], [0, 2, 3]])
    assert disagreement(decided).tolist() == pytest.approx([0, 3 / 6, 5 / 6])
