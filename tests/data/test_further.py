"""Augmentations by plugins and by MONAI's names: what they may do to a patch, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from medfuse import Augmentation, ImageInfo, PluginError, ShapeError
from medfuse.data.augment import Augmenter
from medfuse.data.further import Further, augment_problems
from medfuse.data.settings import INTENSITIES, AugmentSettings
from medfuse.testing import check_augmentation

FLAT, DEEP = ImageInfo(2, (16, 12), (1.0, 1.0)), ImageInfo(1, (16, 12, 8), (1.0, 1.0, 1.0))
OFF = dict.fromkeys(("rotate", "scale", *INTENSITIES), 0.0)

STILL = [
    {"use": "RandBiasField", "prob": 1},
    {"use": "RandGibbsNoise", "prob": 1},
    {"use": "RandRicianNoise", "prob": 1},
    {"use": "RandHistogramShift", "prob": 1},
    {"use": "RandShiftIntensity", "offsets": 0.5, "prob": 1},
    {"use": "RandCoarseDropout", "holes": 2, "spatial_size": 4, "prob": 1},
    {"use": "RandSimulateLowResolution", "prob": 1},
    {"use": "RandSmoothFieldAdjustContrast", "spatial_size": [16, 12, 8], "rand_size": [4, 4, 4], "prob": 1},
    {"use": "GaussianSmooth", "sigma": 1.5},
]
MOVING = [
    {"use": "RandAffine", "rotate_range": [0.5, 0.5, 0.5], "prob": 1},
    {"use": "Rand3DElastic", "sigma_range": [2, 3], "magnitude_range": [20, 40], "prob": 1},
    {"use": "RandFlip", "spatial_axis": 0, "prob": 1},
    {"use": "RandAxisFlip", "prob": 1},
    {"use": "RandZoom", "min_zoom": 0.6, "max_zoom": 1.6, "prob": 1},
    {"use": "RandGridDistortion", "prob": 1},
    {"use": "RandRotate", "range_x": [0.4, 0.5], "prob": 1},
    {
        "use": "RandSmoothDeform",
        "spatial_size": [16, 12, 8],
        "rand_size": [4, 4, 4],
        "def_range": 0.3,
        "prob": 1,
    },
]


def settings(*monai, **others) -> AugmentSettings:
    return AugmentSettings.model_validate({**OFF, "monai": list(monai), **others})


def patch(image: ImageInfo):
    random = torch.Generator().manual_seed(0)
    label = torch.zeros(1, *image.patch_size, dtype=torch.int64)
    label[:, 4:, 3:] = 1
    label[:, 9:, 7:] = 4
    return torch.randn(image.channels, *image.patch_size, generator=random), label


def change(transform, image: ImageInfo = DEEP) -> Further:
    (plugin,) = [t.plugin() for t in settings(transform).monai]
    return Further(plugin, image)


def name(transform) -> str:
    return transform["use"]


@pytest.mark.parametrize("transform", STILL, ids=name)
def test_a_transform_of_intensities_leaves_the_label_alone(transform):
    image, label = patch(DEEP)
    made, same = change(transform)(image, label, np.random.RandomState(0))
    assert not torch.equal(made, image)
    assert torch.equal(same, label)
    assert type(made) is torch.Tensor


@pytest.mark.parametrize("transform", MOVING, ids=name)
def test_a_transform_that_moves_voxels_moves_the_label_alike_by_nearest_voxels(transform):
    """An image that is its own label, interpolated by nearest voxels too, stays its own label."""
    _, label = patch(DEEP)
    mode = {"RandAxisFlip": {}, "RandFlip": {}, "RandSmoothDeform": {"grid_mode": "nearest"}}
    nearest = {**transform, **mode.get(transform["use"], {"mode": "nearest"})}
    made, moved = change(nearest)(label.float(), label, np.random.RandomState(0))
    assert torch.equal(made.round().long(), moved)
    assert not torch.equal(moved, label)
    assert moved.dtype == label.dtype


@pytest.mark.parametrize("transform", [*STILL, *MOVING], ids=name)
def test_the_same_chance_gives_the_same_patch_whatever_else_draws(transform):
    made = []
    for other in (1, 2):
        torch.manual_seed(other)
        np.random.seed(other)
        made.append(change(transform)(*patch(DEEP), np.random.RandomState(7)))
    assert all(torch.equal(a, b) for a, b in zip(*made))


@pytest.mark.parametrize("transform", [*STILL, *MOVING], ids=name)
def test_they_are_accepted_and_survive_the_way_into_a_loader_process(transform):
    assert augment_problems(settings(transform), DEEP, 5) == []
    copied = pickle.loads(pickle.dumps(change(transform)))
    pair = (c(*patch(DEEP), np.random.RandomState(3)) for c in (copied, change(transform)))
    assert all(torch.equal(a, b) for a, b in zip(*pair))


REFUSED = [
    ({"use": "RandBiasFeild"}, ("use",), "did you mean 'RandBiasField'?"),
    ({"use": "RandBiasFieldd"}, ("use",), "works on dictionaries; name RandBiasField instead"),
    ({"use": "RandSpatialCrop", "roi_size": 4}, ("use",), "neither changes intensities nor moves voxels"),
    ({"use": "Compose"}, ("use",), "neither changes intensities"),
    ({"use": "RandAffineGrid"}, ("use",), "cannot move an image and its label alike"),
    ({"use": "RandBiasField", "probe": 1}, ("probe",), "no argument 'probe'; did you mean 'prob'?"),
    ({"use": "RandAffine", "keys": ["image"]}, ("keys",), "no argument 'keys'"),
    ({"use": "RandBiasField", "degree": 0, "prob": 1}, (), "MONAI's RandBiasField: ValueError"),
    ({"use": "RandShiftIntensity"}, (), "missing 1 required positional argument: 'offsets'"),
    ({"use": "RandAffine", "prob": "often"}, (), "MONAI's RandAffine: "),
    ({"use": "Resize", "spatial_size": [4, 4, 4]}, (), "a patch keeps its shape"),
]


@pytest.mark.parametrize(("transform", "place", "said"), REFUSED)
def test_what_cannot_be_is_told_at_its_place(transform, place, said):
    fine = {"use": "RandGibbsNoise"}
    (problem,) = augment_problems(settings(fine, transform), DEEP, 5)
    assert problem.path == ("augment", "monai", 1, *place)
    assert said in problem.message


@pytest.mark.parametrize(
    ("transform", "image"),
    [
        ({"use": "Rand2DElastic", "spacing": [4, 4], "magnitude_range": [2, 3], "prob": 1}, DEEP),
        ({"use": "RandSmoothDeform", "spatial_size": [8, 8], "rand_size": [4, 4], "prob": 1}, FLAT),
        ({"use": "RandRotate90", "prob": 1}, DEEP),  # 16 × 12 becomes 12 × 16
    ],
)
def test_a_transform_for_patches_of_another_shape_is_refused_by_a_trial(transform, image):
    (problem,) = augment_problems(settings(transform), image, 5)
    assert problem.path == ("augment", "monai", 0)


@pytest.mark.parametrize(
    ("transform", "place", "said"),
    [
        ({"use": "RandAffine", "rotate_range": [0.2, 0.2, 0.2]}, ["rotate_range"], "number 2, 3 of the 3"),
        (
            {"use": "RandAffine", "rotate_range": 0.2, "scale_range": [0.1] * 3},
            ["scale_range"],
            "number 3 of",
        ),
        (
            {"use": "RandRotate", "range_x": 0.2, "range_y": 0.2, "range_z": 0.2},
            ["range_y", "range_z"],
            "ignores",
        ),
        ({"use": "RandGaussianSmooth", "sigma_x": [1, 2], "sigma_z": [1, 2]}, ["sigma_z"], "on 2-D patches"),
    ],
)
def test_an_argument_for_patches_of_more_axes_is_refused_where_it_would_be_ignored(transform, place, said):
    problems = augment_problems(settings(transform), FLAT, 5)
    assert [p.path for p in problems] == [("augment", "monai", 0, key) for key in place]
    assert all(said in p.message for p in problems)
    assert augment_problems(settings(transform), DEEP, 5) == []


def test_a_transform_that_is_seldom_drawn_is_seen_all_the_same():
    assert augment_problems(settings({"use": "RandRotate90", "prob": 0.1}), DEEP, 5)


def test_one_that_fits_in_2d_works_in_2d():
    flat = {"use": "Rand2DElastic", "spacing": [4, 4], "magnitude_range": [2, 3], "prob": 1}
    both = settings(flat, {"use": "RandBiasField", "prob": 1}, {"use": "RandAffine", "rotate_range": 0.2})
    assert augment_problems(both, FLAT, 5) == []


# ---- plugins


def planted(function, *, moves=False, build=None) -> Augmentation:
    members = {"build": build or (lambda self, image: function), "moves_voxels": lambda self: moves}
    return type("Planted", (Augmentation,), members)()


def refuses(self, image):
    raise ShapeError("needs two channels")


def fails(image, label, random):
    raise RuntimeError("three axes")


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (planted(lambda x, y, r: (x[:, 1:], y)), "makes 1×15×12×8 of image 1×16×12×8"),
        (planted(lambda x, y, r: (x, y[:, 1:]), moves=True), "of label 1×16×12×8; a patch keeps its shape"),
        (planted(lambda x, y, r: (x * float("nan"), y)), "voxels that are no finite numbers"),
        (planted(lambda x, y, r: (x + 1, y + 7), moves=True), "makes labels that were not there"),
        (planted(lambda x, y, r: (x + torch.rand(()), y)), "cannot be repeated"),
        (planted(lambda x, y, r: x + 1), "augmentation 'Planted'"),
        (planted(fails), "augmentation 'Planted': RuntimeError: three axes"),
        (planted(None, build=refuses), "needs two channels"),
        (planted(None, build=lambda self, image: 1 / 0), "cannot be made: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_would_falsify_training_is_told_at_its_place(plugin, said):
    (problem,) = augment_problems(AugmentSettings(**OFF, plugins=(plugin,)), DEEP, 5)
    assert problem.path == ("augment", "plugins", 0)
    assert said in problem.message


def test_labels_stay_where_a_plugin_does_not_say_that_it_moves_voxels():
    shifted = planted(lambda x, y, r: (x, y + 1))
    image, label = patch(DEEP)
    assert torch.equal(Further(shifted, DEEP)(image, label, np.random.RandomState(0))[1], label)


def test_what_a_plugin_writes_into_is_its_own():
    image, label = patch(DEEP)
    kept = image.clone()
    Further(planted(lambda x, y, r: (x.mul_(0), y)), DEEP)(image, label, np.random.RandomState(0))
    assert torch.equal(image, kept)


def test_a_plugin_that_fails_in_training_is_named():
    with pytest.raises(PluginError, match="augmentation 'Planted': RuntimeError: three axes"):
        Further(planted(fails), DEEP)(*patch(DEEP), np.random.RandomState(0))


def test_of_unlabelled_patches_the_weak_one_moves_and_the_strong_one_changes_besides(plan):
    both = settings(STILL[0], MOVING[0], mirror=["x"], noise=1.0)
    weak, strong = both.moving(), both.recolouring()
    assert [t.use for t in weak.monai] == ["RandAffine"]
    assert [t.use for t in strong.monai] == ["RandBiasField"]
    assert (weak.mirror, weak.noise, strong.mirror, strong.noise) == (("x",), 0, (), 1)
    assert both.without_any().monai == ()
    deep = dataclasses.replace(plan, patch_size=DEEP.patch_size)
    assert len(Augmenter(both, deep).further) == 2


@pytest.mark.parametrize("image", [FLAT, DEEP])
def test_labels_are_never_interpolated(image):
    zoom = {"use": "RandZoom", "min_zoom": 0.6, "max_zoom": 1.6, "prob": 1}
    check_augmentation(settings(zoom).monai[0].plugin(), image)


@pytest.mark.parametrize("image", [FLAT, DEEP])
def test_a_transform_that_writes_into_its_image_gets_one_of_its_own(image):
    drop = {"use": "RandCoarseDropout", "holes": 2, "spatial_size": 4, "prob": 1}
    check_augmentation(settings(drop).monai[0].plugin(), image)


@pytest.mark.parametrize("transform", [STILL[0], MOVING[0]], ids=name)
@pytest.mark.parametrize("image", [FLAT, DEEP])
def test_monais_transforms_keep_the_contract_of_plugins(transform, image):
    one = transform | {"prob": 0.5} | ({"rotate_range": 0.5} if "rotate_range" in transform else {})
    check_augmentation(settings(one).monai[0].plugin(), image)
