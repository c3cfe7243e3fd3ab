"""What a bundle carries computes as medfuse does, to the last bit, part by part."""

import numpy as np
import pytest
import torch

from medfuse.core.geometry import Geometry
from medfuse.core.geometry import Turn as OurTurn
from medfuse.data.plan import Normalization
from medfuse.data.plan import resampled_shape as our_shape
from medfuse.data.prepare import measured, scale
from medfuse.data.resample import SlabResampler
from medfuse.infer.export import to_label_map
from medfuse.infer.postprocess import tidy
from medfuse.infer.settings import PostprocessSettings
from medfuse.infer.sliding import predict_logits
from medfuse.infer.windows import plan_axis as our_axis
from medfuse.sharing.alone.grids import Turn, resample, resampled_shape
from medfuse.sharing.alone.labels import LabelMap, case_file, tidied
from medfuse.sharing.alone.preparing import ORIGINAL_AFFINE, ORIGINAL_SHAPE, _measured, _scaled_once
from medfuse.sharing.alone.windows import Windows, plan_axis


def affines(count: int = 24):
    """Turned, flipped, oblique, of all kinds of spacing."""
    random = np.random.default_rng(0)
    for _ in range(count):
        matrix, _ = np.linalg.qr(np.eye(3)[random.permutation(3)] + random.normal(0, 0.15, (3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = matrix * random.choice([-1, 1], 3) * random.uniform(0.5, 5, 3)
        yield affine


@pytest.mark.parametrize("affine", [*affines()])
def test_axes_are_turned_alike_and_back(affine):
    ours, theirs = OurTurn.to_ras(affine), Turn(affine)
    assert (ours.axes, ours.flipped) == (theirs.axes, theirs.flipped)
    array = np.random.default_rng(1).random((2, 3, 4, 5))
    assert np.array_equal(ours.apply(array), theirs.apply(array))
    assert np.array_equal(theirs.undo(theirs.apply(array)), array)


@pytest.mark.parametrize("affine", [*affines(8)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)])
def test_images_are_resampled_alike(affine, spacing):
    volume = np.random.default_rng(2).normal(0, 100, (9, 12, 7)).astype(np.float32)
    geometry = Geometry(volume.shape, affine)
    shape = our_shape(geometry.ras_shape, geometry.ras_spacing_mm, spacing)
    assert resampled_shape(geometry.ras_shape, geometry.ras_spacing_mm, spacing) == shape
    ours = np.empty(shape, np.float32)
    SlabResampler(geometry, geometry.turn.undo(ours)).add(0, volume)
    turn = Turn(affine)
    flipped = [turn.flipped[turn.axes.index(axis)] for axis in range(3)]
    theirs = turn.apply(resample(volume, turn.back(shape), flipped)[None])[0]
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["zscore", "nonzero_zscore", "unit", "symmetric", "none", "ct"])
def test_intensities_are_scaled_alike(kind):
    random = np.random.default_rng(3)
    voxels = random.normal(50, 30, (2, 8, 9, 10)).astype(np.float32)
    voxels[:, :2], voxels[1, :, :3] = 0, 0
    how = Normalization(kind, -20.0, 90.0, 10.0, 5.0) if kind == "ct" else Normalization(kind)
    slabs = [(n, 0, channel) for n, channel in enumerate(voxels)]
    for channel, one in zip(voxels, measured(slabs, [how, how])):
        ours = channel.copy()
        scale(ours, one)
        said = {"kind": kind, "lower": how.lower, "upper": how.upper, "mean": how.mean, "std": how.std}
        assert np.array_equal(ours, _scaled_once(channel, _measured(channel, said, voxels)))


@pytest.mark.parametrize("stepped", [None, "gaussian", "constant"])
@pytest.mark.parametrize(("size", "window"), [(5, 5), (17, 16), (40, 16), (100, 32), (33, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
def test_windows_stand_and_weigh_alike(size, window, overlap, stepped):
    ours, (starts, weights) = (
        our_axis(size, window, overlap, stepped),
        plan_axis(size, window, overlap, stepped),
    )
    assert list(ours.starts) == starts
    assert np.array_equal(ours.weights, weights)


@pytest.mark.parametrize(
    ("shape", "patch"), [((20, 17, 9), (8, 8, 4)), ((5, 20, 6), (8, 8)), ((3, 3, 3), (8, 8, 8))]
)
@pytest.mark.parametrize("mirror", [(), ("x", "y")])
def test_logits_are_stitched_alike(shape, patch, mirror):
    torch.manual_seed(0)
    conv = (torch.nn.Conv2d if len(patch) == 2 else torch.nn.Conv3d)(1, 3, 3, padding=1)
    image = torch.randn((1, *shape))
    ours = predict_logits(image, conv, patch_size=patch, classes=3, overlap=0.4, mirror=mirror)
    with torch.no_grad():
        theirs = Windows(patch, 0.4, mirror=mirror)(image[None], conv)[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("affine", [*affines(6)])
@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_labels_are_decided_alike(affine, kind):
    logits = torch.randn((3, 6, 7, 5), generator=torch.Generator().manual_seed(1))
    geometry = Geometry((13, 11, 9), affine)
    values = [1, 2, 9] if kind == "regions" else [0, 2, 9]
    ours = to_label_map(logits, geometry, values, kind=kind)
    meta = {ORIGINAL_AFFINE: affine, ORIGINAL_SHAPE: list(geometry.shape), "filename_or_obj": "a/b.nii.gz"}
    theirs = LabelMap("pred", "image", values, regions=kind == "regions").label_map(logits, meta)
    assert np.array_equal(ours, np.asarray(theirs)[0])


def test_label_maps_are_tidied_alike():
    label_map = (
        np.random.default_rng(4).choice([0, 1, 2, 3], (12, 12, 12), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    )
    label_map[3:8, 3:8, 3:8] = 2
    label_map[5, 5, 5] = 0
    steps = {
        "largest_component": ["whole"],
        "fill_holes": ["core"],
        "minimum_ml": {"inner": 0.004},
        "threshold": {},
    }
    labels = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "inner": 3}
    ours = tidy(label_map, PostprocessSettings.model_validate(steps), labels, (1, 2, 3), 0.001)
    assert np.array_equal(ours, tidied(label_map, steps, labels, (1, 2, 3), 0.001))
    assert not np.array_equal(ours, label_map)


@pytest.mark.parametrize(
    ("name", "several", "file"),
    [
        ("in/case_0000.nii.gz", True, "in/case.nii.gz"),
        ("in/case_0000.nii.gz", False, "in/case_0000.nii.gz"),
        ("case.nii", True, "case.nii"),
    ],
)
def test_a_label_map_is_named_after_its_case(name, several, file):
    assert case_file(name, several=several) == file
