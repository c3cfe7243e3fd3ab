"""Array axes, patient axes, and the words for grids that differ."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from medfuse.core.geometry import Geometry, Turn

TURNS = [
    Turn(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product([False, True], repeat=3)
]


def affine(turn: Turn, spacing: tuple[float, float, float] = (1, 1, 1)) -> npt.NDArray[np.float64]:
    """Array axes with `spacing` that `turn` brings to RAS+."""
    made = np.eye(4)
    made[:3, :3] = 0
    for patient, (axis, flipped) in enumerate(zip(turn.axes, turn.flipped)):
        made[patient, axis] = -spacing[axis] if flipped else spacing[axis]
    return made


def rotation(*degrees: float) -> npt.NDArray[np.float64]:
    """A rotation about the first, then the second, then the third axis."""
    made = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [n for n in range(3) if n != axis]
        about = np.eye(3)
        about[a, a] = about[b, b] = np.cos(angle)
        about[a, b], about[b, a] = -np.sin(angle), np.sin(angle)
        made = about @ made
    return made


def geometry(**changes: object) -> Geometry:
    values: dict[str, object] = {"shape": (4, 5, 6), "affine": np.diag([1.0, 2.0, 3.0, 1.0]), **changes}
    return Geometry(**values)  # type: ignore[arg-type]  # of several types


def moved(**origin: float) -> npt.NDArray[np.float64]:
    made = np.diag([1.0, 2.0, 3.0, 1.0])
    made[:3, 3] = [origin.get(axis, 0.0) for axis in "xyz"]
    return made


@pytest.mark.parametrize("turn", TURNS)
def test_the_turn_of_an_axis_aligned_volume_is_found(turn: Turn) -> None:
    assert Turn.to_ras(affine(turn, (1, 2, 3))) == turn


@pytest.mark.parametrize("turn", TURNS)
def test_undo_is_the_inverse_of_apply(turn: Turn) -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert np.array_equal(turn.undo(turn.apply(array)), array)
    assert np.array_equal(turn.apply(turn.undo(array)), array)


@pytest.mark.parametrize("turn", TURNS)
def test_apply_puts_every_voxel_at_its_place_in_the_patient(turn: Turn) -> None:
    at = affine(turn)
    index = np.stack(np.meshgrid(*map(np.arange, (2, 3, 4)), indexing="ij"))
    patient = np.einsum("rc,cijk->rijk", at[:3, :3], index)  # each voxel holds its own RAS+ position
    turned = turn.apply(patient)
    for axis in range(3):
        assert (np.diff(turned[axis], axis=axis) == 1).all()


def test_a_turn_is_a_view() -> None:
    array = np.zeros((3, 4, 5))
    assert np.shares_memory(TURNS[-1].undo(array), array)


@pytest.mark.parametrize("degrees", [(10, 20, 30), (40, -40, 20), (50, 5, -5), (45, 45, 45)])
def test_an_oblique_volume_gets_three_distinct_axes(degrees: tuple[float, float, float]) -> None:
    oblique = np.eye(4)
    oblique[:3, :3] = rotation(*degrees)
    assert sorted(Turn.to_ras(oblique).axes) == [0, 1, 2]


def test_a_slightly_oblique_volume_is_not_turned() -> None:
    oblique = np.eye(4)
    oblique[:3, :3] = rotation(10, -15, 20)
    assert Turn.to_ras(oblique) == Turn((0, 1, 2), (False, False, False))


def test_ras_shape_and_spacing_follow_the_turn() -> None:
    turn = Turn((2, 0, 1), (True, False, True))
    grid = Geometry((4, 5, 6), affine(turn, (1, 2, 3)))
    assert grid.ras_shape == (6, 4, 5)
    assert grid.ras_spacing_mm == (3, 1, 2)


def test_spacing_and_direction_make_up_the_affine() -> None:
    oblique = rotation(10, 20, 30) * [0.7, 0.8, 5]
    grid = geometry(affine=np.block([[oblique, np.zeros((3, 1))], [np.zeros((1, 3)), 1]]))
    assert grid.spacing_mm == pytest.approx((0.7, 0.8, 5))
    assert grid.direction * grid.spacing_mm == pytest.approx(oblique)


def test_a_voxel_of_one_centimetre_is_one_millilitre() -> None:
    assert geometry(affine=np.diag([10.0, -10.0, 10.0, 1.0])).voxel_ml == pytest.approx(1)


def test_shear_does_not_change_a_voxels_volume() -> None:
    sheared = np.diag([10.0, 10.0, 10.0, 1.0])
    sheared[0, 1] = 7
    assert geometry(affine=sheared).voxel_ml == pytest.approx(1)


def test_a_grid_does_not_differ_from_itself() -> None:
    assert geometry().differences(geometry()) == []


def test_a_difference_within_the_tolerance_is_none() -> None:
    assert geometry().differences(geometry(affine=moved(x=0.0009))) == []
    assert geometry().differences(geometry(affine=moved(x=0.4)), tolerance=0.5) == []


def test_every_difference_is_named() -> None:
    other = Geometry((4, 5, 7), np.diag([1.0, 2.0, -4.0, 1.0]) + np.eye(4, k=3) * 5)
    shape, spacing, origin, direction = geometry().differences(other)
    assert shape == "shape (4, 5, 7) differs from (4, 5, 6)"
    assert spacing == "spacing (1, 2, 4) differs from (1, 2, 3) mm"
    assert origin == "origin (5, 0, 0) differs from (0, 0, 0) mm"
    assert direction == "direction differs (axes are turned by (0, 0, 180) degrees)"


def test_a_small_difference_far_from_the_scanners_centre_can_be_seen_in_the_words() -> None:
    (origin,) = geometry(affine=moved(x=-123.46)).differences(geometry(affine=moved(x=-123.462)))
    assert origin == "origin (-123.462, 0, 0) differs from (-123.46, 0, 0) mm"


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_spacings_in_another_unit_are_no_reason_to_resample(factor: float) -> None:
    other = geometry(affine=geometry().affine @ np.diag([factor, factor, factor, 1]))
    assert "xyzt_units" in geometry().remedy(other, "resample")


@pytest.mark.parametrize("scales", [(1, 1, 1), (2, 2, 2), (1e3, 1e3, 1), (1e3, 1e3, 1e6), (100, 100, 100)])
def test_other_differences_have_their_usual_remedy(scales: tuple[float, float, float]) -> None:
    other = geometry(affine=geometry().affine @ np.diag([*scales, 1]))
    assert geometry().remedy(other, "resample") == "resample"


def test_the_thickness_of_a_single_slice_has_no_say_in_the_unit() -> None:
    slices = [Geometry((4, 5, 1), np.diag([mm, mm, 1, 1])) for mm in (1.0, 1000.0)]
    assert "xyzt_units" in slices[0].remedy(slices[1], "resample")
