import numpy as np
import pytest

from medfuse.report.feature_maps import (
    MOST_CHANNELS,
    Evidence,
    ImageSlice,
    bars,
    bars_figure,
    evidence,
    evidence_figure,
    montage,
    montage_figure,
)

IMAGE = ImageSlice(np.arange(12 * 8, dtype=np.float32).reshape(12, 8), (1.0, 2.0))


def channels(count: int, x: int = 6, y: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((count, x, y)).astype(np.float32)


def drawn(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (8, 8), (40, MOST_CHANNELS)])
def test_every_channel_has_a_panel_up_to_a_limit(count, shown):
    panels = [a for a in montage_figure("m", IMAGE, channels(count), (2, 2)).axes if a.images]
    assert len(panels) == 1 + shown
    words = montage("m", IMAGE, channels(count), (2, 2)).words
    assert (f"of {count} channels" in words) == (count > MOST_CHANNELS)


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    axes = montage_figure("m", IMAGE, channels(1), (2, 2)).axes[0]
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    assert left > right
    assert top > bottom
    assert np.array_equal(drawn(axes), IMAGE.array.T)
    assert axes.images[0].origin == "lower"


def test_voxel_0_of_a_map_is_centred_on_the_images_and_the_stride_is_its_size():
    image, panel = montage_figure("m", IMAGE, channels(1), (2, 4)).axes[:2]
    assert image.images[0].get_extent() == [-0.5, 11.5, -1, 15]
    assert panel.images[0].get_extent() == [-1, 11, -4, 28]
    assert panel.get_xlim() == image.get_xlim()


def test_each_channel_has_its_own_scale_which_is_told():
    maps = np.stack([np.linspace(0, 1, 24), np.linspace(5, 9, 24)]).reshape(2, 6, 4)
    _, first, second = montage_figure("m", IMAGE, maps, (2, 2)).axes[:3]
    assert second.images[0].get_clim() == pytest.approx(np.percentile(maps[1], (1, 99)))
    assert first.get_title().startswith("0:")
    assert "5.04 … 8.96" in second.get_title()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_constant_map_and_one_that_is_not_finite_can_be_drawn(value):
    assert montage("_$x", IMAGE, np.full((2, 6, 4), value), (2, 2)).png.startswith(b"\x89PNG")


def seen(label: str, *, heat: float, predicted: bool) -> Evidence:
    mask = np.zeros(IMAGE.array.shape, bool)
    mask[3:6, 2:5] = predicted
    return Evidence(label, 0, IMAGE, mask * heat, (1, 1), mask)


def test_evidence_has_a_panel_a_label_and_says_where_there_is_none():
    found = [
        seen("liver", heat=2, predicted=True),
        seen("tumour", heat=0, predicted=True),
        seen("cyst", heat=0, predicted=False),
    ]
    titles = [a.get_title() for a in evidence_figure("m", found).axes if a.images]
    assert titles == ["liver", "tumour: no evidence on this slice", "cyst: not predicted"]


def test_the_brightest_place_is_1_and_no_evidence_is_transparent():
    _, heat = evidence_figure("m", [seen("liver", heat=7, predicted=True)]).axes[0].images
    assert np.asarray(heat.get_array()).max() == 1
    assert (np.asarray(heat.get_alpha()) > 0).sum() == 9


def test_heat_lies_where_a_channel_of_the_same_map_does():
    mask = np.ones(IMAGE.array.shape, bool)
    found = Evidence("liver", 0, IMAGE, np.ones((6, 2)), (2, 4), mask)
    _, heat = evidence_figure("m", [found]).axes[0].images
    channel = montage_figure("m", IMAGE, np.ones((1, 6, 2)), (2, 4)).axes[1].images[0]
    assert heat.get_extent() == channel.get_extent()


def test_grad_cam_in_words_names_map_and_labels():
    picture = evidence("decoded.1", [seen("liver", heat=1, predicted=True)])
    assert "decoded.1 for liver" in picture.words
    assert picture.png.startswith(b"\x89PNG")


def test_what_is_said_of_the_whole_image_is_a_bar_for_each_channel():
    values = np.array([0.5, -2.0, np.nan, 3.25], dtype=np.float32)
    (axes,) = bars_figure("$m_1$", values).axes
    assert [patch.get_height() for patch in axes.patches] == [0.5, -2.0, 0.0, 3.25]
    made = bars("m", values)
    assert made.words == "m: one value for the whole window in each of 4 channels, from -2 to 3.25"
    assert made.png.startswith(b"\x89PNG")
