"""Plans say what a case takes, are cut to fit in one order, and are refused in one line."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch

from medfuse.core.errors import MedfuseError
from medfuse.core.geometry import Geometry
from medfuse.core.prepared import Outlook
from medfuse.infer.plan import FEED_BYTES, CasePlan, Planner, Plans, Way, WindowCost
from medfuse.infer.settings import InferSettings
from medfuse.infer.stitch import Stitcher
from medfuse.infer.windows import plan_grid

MIB = 2**20


def outlook(name: str = "a", shape: tuple[int, int, int] = (200, 160, 300)) -> Outlook:
    return Outlook(name, Geometry(shape, np.eye(4)), (1, *shape), 50 * MIB)


def planner(classes: int = 40, batch_size: int = 4, seconds: float = 0.5) -> Planner:
    settings = InferSettings(batch_size=batch_size)
    return Planner((64, 64, 64), classes, settings, WindowCost(100 * MIB, seconds))


def way(limit: int | None = None) -> Way:
    return planner().plan([outlook()], limit)[0].way


def test_without_a_limit_a_case_is_worked_on_as_asked() -> None:
    assert (way().batch_size, way().sums, way().on_disk) == (4, "float32", False)


def test_large_sums_of_logits_of_16_bits_are_short_without_a_limit() -> None:
    exact = planner(classes=200)
    short = replace(exact, cost=replace(exact.cost, kept_bytes=2 * 200 * 64**3))
    large, small = outlook(), outlook(shape=(64, 64, 128))
    assert [plan.way.sums for plan in short.plan([large, small])] == ["float16", "float32"]
    assert [plan.way.sums for plan in exact.plan([large, small])] == ["float32", "float32"]


def test_windows_are_those_of_the_grid_and_take_their_time() -> None:
    (plan,) = planner(seconds=0.5).plan([outlook()])
    assert plan.windows == len(plan_grid((200, 160, 300), (64, 64, 64), 0.5))
    assert plan.seconds == plan.windows * 0.5


def test_the_image_and_the_next_one_are_counted() -> None:
    (plan, last) = planner().plan([outlook("a"), outlook("b", (100, 100, 100))])
    assert plan.bytes["image"] == 4 * prod((200, 160, 300))
    assert plan.bytes["reading"] == 4 * 100**3 + 50 * MIB
    assert last.bytes["reading"] == 50 * MIB


def ever_smaller(case: Outlook) -> list[CasePlan]:
    """Plans of a case, each with a limit just below the one before, to the last that is not refused."""
    plans = planner().plan([case])
    with suppress(MedfuseError):
        while True:
            plans += planner().plan([case], plans[-1].need - 1)
    return plans


def test_a_plan_is_cut_in_one_order() -> None:
    ways = [plan.way for plan in ever_smaller(outlook())]
    assert [(w.batch_size, w.sums, w.on_disk, w.shelved) for w in ways] == [
        (4, "float32", False, False),
        (2, "float32", False, False),
        (1, "float32", False, False),
        (1, "float16", False, False),
        (1, "float16", True, False),
        (1, "float32", True, True),
        (1, "float16", True, True),
    ]


def test_a_plan_stays_within_its_limit() -> None:
    for limit in [plan.need for plan in ever_smaller(outlook())]:
        assert planner().plan([outlook()], limit)[0].need <= limit


def test_if_one_image_goes_to_disk_all_do() -> None:
    large, small = outlook("large", (400, 400, 600)), outlook("small", (70, 70, 70))
    plans = planner().plan([small, large, small], ever_smaller(large)[-1].need)
    assert [plan.way.on_disk for plan in plans] == [True, True, True]


def test_a_case_that_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(MedfuseError) as caught:
        planner().plan([outlook("small", (64, 64, 64)), outlook("large", (900, 900, 900))], 800 * MIB)
    (line,) = caught.value.lines
    assert line.startswith("case large: needs ")
    assert "--max-memory 800 MiB" in line


def test_more_of_anything_never_needs_less() -> None:
    cases = [outlook(shape=(64 * n, 64 * n, 80 * n)) for n in (1, 2, 3)]
    needs = [planner().plan([case])[0].need for case in cases]
    needs += [planner(classes=n).plan([cases[-1]])[0].need for n in (50, 100)]
    assert all(a < b for a, b in pairwise(needs))


def test_the_text_names_every_case_and_what_cannot_be_read() -> None:
    text = Plans(planner().plan([outlook("a"), outlook("b")]), {"c": "c.nii: no such file"}).text()
    assert [line.split()[0] for line in text.splitlines()] == ["a", "b", "c:", "2"]


def test_a_smaller_way_halves_batches_and_then_takes_sums_off_the_gpu() -> None:
    ways = [Way(4)]
    while smaller := ways[-1].smaller():
        ways.append(smaller)
    assert [(w.batch_size, w.roomy) for w in ways] == [(4, True), (2, True), (1, True), (1, False)]


def test_bricks_are_counted_with_the_sums_that_are_there_at_the_same_time() -> None:
    """By hand: what is unfinished shrinks while the largest bricks, those of the last windows, are made."""
    grid, bytes_each = plan_grid((200, 160, 300), (64, 64, 64), 0.5), 40 * 4
    (plan,) = planner().plan([outlook()])
    stitcher, sums, bricks = Stitcher(grid), [], []
    for window in grid:
        made = stitcher.add(torch.zeros(1, *(part.stop - part.start for part in window.where)))
        sums.append(40 * stitcher.carried_bytes)
        bricks.append(made.logits.numel() * bytes_each)
    flying = [max(sum(bricks[max(0, n - 2) : n + 1]), FEED_BYTES) for n in range(len(bricks))]
    most = max(a + b for a, b in zip(sums, flying))
    assert plan.bytes["sums"] + plan.bytes["bricks"] == most < max(sums) + max(flying)


def test_the_first_window_counts_where_it_takes_more_than_all_later_ones_and_their_sums() -> None:
    (plain,) = planner().plan([outlook()])
    later = sum(plain.bytes.values())
    cost = replace(planner().cost, first_bytes=later)  # four windows at a time are four times that
    (plan,) = replace(planner(), cost=cost).plan([outlook()])
    assert plan.first_bytes == 4 * later + plain.bytes["image"] + plain.bytes["reading"]
    assert plan.need > 4 * later > plain.need
    assert "to find the fastest runtime" in plan.cells()[4]
    (less,) = replace(planner(), cost=replace(cost, first_bytes=1)).plan([outlook()])
    assert (less.need, less.cells()) == (plain.need, plain.cells())


def test_probabilities_are_counted_where_they_are_wanted() -> None:
    (without,) = planner().plan([outlook()])
    (plan,) = replace(planner(), probabilities=True).plan([outlook()])
    assert plan.need > without.need
    assert "probabilities 256 MiB" in plan.cells()[4]


def test_a_first_pass_is_counted_at_its_most() -> None:
    adaptive = replace(planner(), settings=InferSettings(batch_size=4, adaptive_overlap=0.25))
    (plain,), (plan,) = (some.plan([outlook()]) for some in (planner(), adaptive))
    first = len(plan_grid((200, 160, 300), (64, 64, 64), 0.25))
    assert (plan.windows, plan.seconds) == (plain.windows + first, 0.5 * (plain.windows + first))
    assert plan.bytes["first pass"] == 2 * prod((200, 160, 300))


def test_a_first_pass_that_overlaps_as_much_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adaptive_overlap 0\.5 saves nothing; choose one below 0\.5"):
        InferSettings(adaptive_overlap=0.5)


def test_one_case_is_one():
    plan = CasePlan("a", (1, 8, 8, 8), (8, 8, 8), 1, Way(), {"sums": 1}, 1.0)
    assert Plans([plan], {}).text().splitlines()[-1].startswith("1 case, 1 window, about")
    assert Plans([plan, plan], {}).text().splitlines()[-1].startswith("2 cases, 2 windows, about")
