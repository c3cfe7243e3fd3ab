import math
import re

import pytest

from medfuse.report.curves import MOST_POINTS, curve_svgs, curves_figure, series

ROWS = [
    {"step": 1, "loss": 2.0, "loss/deep": 1.0, "weight/deep": 0.4, "learning_rate": 0.01},
    {"step": 2, "loss": 1.0, "dice": 0.5, "dice/_liver$": 0.6, "dice/tumour": None},
    {"step": 3, "loss": math.nan, "steps_per_second": 2.0},
]


def titles(rows):
    return [axes.get_title(loc="left") for axes in curves_figure(rows).axes if axes.get_title(loc="left")]


def test_rows_may_hold_any_subset_of_keys():
    assert series(ROWS, "dice") == ([2.0], [0.5])


def test_values_that_are_not_finite_are_left_out():
    assert series(ROWS, "loss") == ([1.0, 2.0], [2.0, 1.0])


def test_only_what_was_logged_gets_a_panel():
    assert titles(ROWS[:1]) == ["loss", "auxiliary losses", "auxiliary weights", "learning rate"]


def test_a_long_curve_is_averaged_down_and_keeps_its_mean():
    rows = [{"step": i, "loss": float(i % 7)} for i in range(7 * MOST_POINTS)]
    steps, values = series(rows, "loss")
    assert len(steps) == MOST_POINTS
    assert sum(values) / len(values) == pytest.approx(3.0)


def test_no_rows_make_no_picture():
    assert curve_svgs([]) == {}
    assert curve_svgs([{"step": 1}]) == {}


def test_one_point_is_drawn_on_axes_that_begin_at_zero():
    axes = curves_figure([{"step": 40, "loss": 0.7, "steps_per_second": 5.0}]).axes[0]
    assert axes.get_xlim() == (0, pytest.approx(40, rel=0.05))
    assert axes.get_ylim() == (0, pytest.approx(1.4))


def test_steps_are_whole_numbers_on_their_axis():
    ticks = curves_figure([{"step": n, "loss": 1.0} for n in (1, 2, 3)]).axes[0].get_xticks()
    assert all(tick == int(tick) for tick in ticks)


def test_label_names_are_drawn_as_they_are():
    legend = curves_figure(ROWS).axes[4].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["mean", r" _liver\$"]
    assert all(b"<svg" in picture for picture in curve_svgs(ROWS).values())


def test_curves_turn_dark_with_the_page():
    picture = curve_svgs(ROWS)["loss"].decode()
    assert "@media (prefers-color-scheme: dark)" in picture
    light = set(re.findall(r"#[0-9a-f]{6}", picture.partition("</style>")[2]))
    assert {"#ffffff", "#1f2933", "#616e7c", "#e4e7eb"} <= light, "what the dark rules name is what is drawn"
