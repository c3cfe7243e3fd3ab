"""Feature maps of whole volumes: windows leave no trace in them, and they lie where they were made."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medfuse.core.errors import DataError, MedfuseError, OutputError, ShapeError
from medfuse.core.features import FeatureInfo
from medfuse.core.geometry import Geometry
from medfuse.core.prepared import Prepared
from medfuse.infer.feature_files import check_format, file_names, write_maps
from medfuse.infer.features import (
    FeatureMap,
    feature_maps,
    fullest_window,
    map_affine,
    plan_strided,
    pooled,
    stitch_maps,
)
from medfuse.volumes.read import read_volume


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Local(nn.Module):
    """1×1 convolutions, of which the second looks at every second (fourth on the last axis) voxel only."""

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.fine, self.coarse = kind(2, 3, 1), kind(3, 5, 1, stride=(2, 2, 4)[:dims])

    def forward(self, windows: Tensor) -> dict[str, Tensor]:
        fine = self.fine(windows)
        return {"fine": fine, "coarse": self.coarse(fine)}


def layers(dims: int = 3) -> list[FeatureInfo]:
    return [FeatureInfo("fine", 3, (1,) * dims), FeatureInfo("coarse", 5, (2, 2, 4)[:dims])]


def stitch(volume: Tensor, network: Any, found: list[FeatureInfo] | None = None, **options: Any) -> Any:
    return stitch_maps(volume, network, found or layers(), **{"patch_size": (8, 8, 8), **options})


@pytest.mark.parametrize("shape", [(19, 17, 13), (8, 8, 8), (30, 8, 9), (5, 20, 3)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_local_network_gives_the_maps_of_the_whole_volume_at_once(shape, overlap):
    network, volume = Local(), image(2, *shape)
    whole = network(volume[None])
    for name, stitched in stitch(volume, network, overlap=overlap, batch_size=3).items():
        assert stitched.shape == whole[name].shape[1:]
        assert stitched.numpy() == pytest.approx(whole[name][0].detach().numpy(), abs=1e-5)


def test_what_fits_into_one_window_is_the_forward_pass_itself():
    torch.manual_seed(0)
    conv, volume = nn.Conv3d(2, 4, 3, stride=2, padding=1), image(2, 8, 10, 6)
    stitched = stitch(
        volume, lambda x: {"a": conv(x)}, [FeatureInfo("a", 4, (2, 2, 2))], patch_size=(8, 10, 6)
    )
    assert torch.equal(stitched["a"], conv(volume[None])[0].detach())


def test_windows_of_a_strided_convolution_hardly_differ_from_the_volume_at_once():
    torch.manual_seed(0)
    conv, volume = nn.Conv3d(2, 4, 3, stride=2, padding=1), image(2, 20, 8, 8)
    found = [FeatureInfo("a", 4, (2, 2, 2))]
    stitched = stitch(volume, lambda x: {"a": conv(x)}, found, patch_size=(12, 8, 8))["a"]
    whole = conv(volume[None])[0].detach()
    assert stitched.shape == whole.shape
    assert (stitched - whole).norm() < 0.05 * whole.norm()


def test_a_2d_network_gives_a_map_of_every_slice():
    network, volume = Local(2), image(2, 11, 9, 3)
    stitched = stitch(volume, network, layers(2), patch_size=(8, 8))["coarse"]
    whole = torch.stack([network(volume[None, ..., z])["coarse"][0] for z in range(3)], -1)
    assert stitched.numpy() == pytest.approx(whole.detach().numpy(), abs=1e-5)


def test_a_small_volume_stands_where_every_stride_has_a_voxel():
    axis = plan_strided(5, 16, 0.5, 4)
    assert (axis.before, axis.starts) == (4, (0,))


@pytest.mark.parametrize(
    ("size", "window", "overlap", "unit"), [(50, 16, 0.5, 4), (17, 16, 0, 8), (99, 20, 0.3, 8)]
)
def test_windows_begin_at_multiples_overlap_and_reach_the_end(size, window, overlap, unit):
    axis = plan_strided(size, window, overlap, unit)
    steps = np.diff(axis.starts)
    assert not any(start % unit for start in axis.starts)
    assert max(steps) <= max(unit, window * (1 - overlap))
    assert size <= axis.padded < size + unit


def test_strides_that_do_not_meet_within_the_patch_are_refused():
    found = [FeatureInfo("fine", 3, (1, 1, 1)), FeatureInfo("coarse", 5, (16, 1, 1))]
    with pytest.raises(ShapeError, match=r"axis x .* every 16 voxels, and the patch has 8; ask for fine"):
        stitch(image(2, 20, 8, 8), Local(), found)


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="fine holds NaN"):
        stitch(image(2, 8, 8, 8) * np.nan, Local())


def test_pooling_is_of_the_volume_alone():
    stitched = stitch(image(2, 5, 6, 7), Local())["fine"]  # smaller than a window on every axis
    assert stitched.shape[1:] == (5, 6, 7)
    assert torch.equal(pooled(stitched, "mean"), stitched.mean((1, 2, 3)))
    assert torch.equal(pooled(stitched, "max"), stitched.amax((1, 2, 3)))


AFFINES = [
    np.diag([1.5, 2.0, 3.0, 1.0]),
    np.array([[0, 0, -3.0, 9], [-1.5, 0, 0, 8], [0, 2.0, 0, -7], [0, 0, 0, 1]]),
]


@pytest.mark.parametrize("affine", AFFINES)
def test_without_resampling_a_map_of_stride_1_lies_as_nibabel_turns_the_file(affine):
    file = nib.Nifti1Image(np.zeros((4, 6, 8), np.uint8), affine)
    geometry = Geometry((4, 6, 8), affine)
    ours = map_affine(geometry, geometry.ras_shape, (1, 1, 1))
    assert np.allclose(ours, nib.as_closest_canonical(file).affine)


@pytest.mark.parametrize("affine", AFFINES)
def test_a_stride_scales_the_spacing_and_keeps_the_first_voxel(affine):
    geometry = Geometry((4, 6, 8), affine)
    fine, coarse = (map_affine(geometry, (8, 3, 8), stride) for stride in ((1, 1, 1), (2, 4, 1)))
    assert np.allclose(coarse[:, 3], fine[:, 3])
    assert np.allclose(coarse[:, :3], fine[:, :3] * [2, 4, 1])


@pytest.mark.parametrize("affine", AFFINES)
def test_resampling_keeps_the_volumes_centre(affine):
    geometry = Geometry((4, 6, 8), affine)
    shape = (9, 5, 2)
    centre = map_affine(geometry, shape, (1, 1, 1)) @ [*((n - 1) / 2 for n in shape), 1]
    assert np.allclose(centre, affine @ [1.5, 2.5, 3.5, 1])


def test_the_fullest_window_holds_the_object():
    mask = np.zeros((20, 20, 20), bool)
    mask[11:15, 2:4, 7] = True
    where = fullest_window(mask, (6, 6, 4))
    assert mask[where].sum() == mask.sum()
    assert [s.stop - s.start for s in where] == [6, 6, 4]


def maps() -> list[FeatureMap]:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    return [
        FeatureMap("encoder.file", values, (2, 2, 1), affine),
        FeatureMap("m", values[:1], (1, 1, 1), affine),
    ]


def test_an_npz_reads_back(tmp_path):
    names = write_maps(tmp_path, "case_1", maps(), "npz")
    read = np.load(tmp_path / names[0])
    assert np.array_equal(read["encoder.file"], maps()[0].values)
    assert read["encoder.file/stride"].tolist() == [2, 2, 1]
    assert read["encoder.file/spacing_mm"].tolist() == [2, 3, 4]
    assert np.array_equal(read["m/affine"], maps()[1].affine)
    assert str(read["meta/case"]) == "case_1"


def test_a_nifti_file_is_a_volume_with_the_maps_affine(tmp_path):
    names = write_maps(tmp_path, "case_1", maps(), "nifti")
    assert names == ["encoder.file/case_1.nii.gz", "m/case_1.nii.gz"]
    four, three = (read_volume(tmp_path / name) for name in names)
    assert np.array_equal(four.array, np.moveaxis(maps()[0].values, 0, -1))
    assert np.array_equal(three.array, maps()[1].values[0])
    assert np.allclose(four.geometry.affine, maps()[0].affine)


def test_a_zarr_group_reads_back_and_is_replaced(tmp_path):
    zarr = pytest.importorskip(
        "zarr", minversion="3", reason="zarr is an extra: pip install 'medfuse[features]'"
    )
    write_maps(tmp_path, "case_1", maps()[1:], "zarr")
    (name,) = write_maps(tmp_path, "case_1", maps(), "zarr")
    group = zarr.open_group(str(tmp_path / name), mode="r")
    assert np.array_equal(group["encoder.file"][...], maps()[0].values)
    assert group["encoder.file"].attrs["stride"] == [2, 2, 1]
    assert [p.name for p in tmp_path.iterdir()] == file_names("case_1", ["m"], "zarr")


def test_without_zarr_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MedfuseError, match=r"pip install 'medfuse\[features\]', or use --format npz"):
        check_format("zarr")


def test_a_folder_that_medfuse_did_not_write_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", ModuleType("zarr"))
    (tmp_path / "case_1.zarr").mkdir()
    (tmp_path / "case_1.zarr" / "mine.txt").touch()
    with pytest.raises(OutputError, match="is not what medfuse wrote"):
        write_maps(tmp_path, "case_1", maps(), "zarr")
    assert (tmp_path / "case_1.zarr" / "mine.txt").exists()


# ---- what says one thing of the whole image


def whole(windows: Tensor) -> dict[str, Tensor]:
    axes = tuple(range(2, windows.ndim))
    return {"whole": windows.mean(axes, keepdim=True), "fine": windows}


def level(dims: int = 3, channels: int = 2) -> list[FeatureInfo]:
    return [
        FeatureInfo("whole", channels, (8,) * dims, image_level=True),
        FeatureInfo("fine", channels, (1,) * dims),
    ]


def test_of_what_is_image_level_each_window_is_a_voxel_and_windows_overlap_as_ever():
    volume = image(2, 16, 8, 8)
    found = stitch(volume, whole, level(), overlap=0.5, batch_size=2)
    expected = torch.stack([volume[:, x : x + 8].mean((1, 2, 3)) for x in (0, 4, 8)], 1)
    assert found["whole"].shape == (2, 3, 1, 1)
    torch.testing.assert_close(found["whole"].flatten(1), expected)
    torch.testing.assert_close(found["fine"], volume)


@pytest.mark.parametrize("dims", [2, 3])
def test_of_a_case_it_is_one_voxel_that_is_all_of_the_volume(dims):
    volume = image(2, 20, 12, 10)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    prepared = Prepared("a", volume.numpy(), Geometry((20, 12, 10), affine), Path("a.nii.gz"))
    made = {
        pool: feature_maps(prepared, whole, level(dims)[:1], patch_size=(8,) * dims, overlap=0, pool=pool)[0]
        for pool in ("none", "mean", "max")
    }
    windows = stitch(volume, whole, level(dims)[:1], patch_size=(8,) * dims, overlap=0)["whole"]
    assert made["none"].values.shape == (2, 1, 1, 1)
    assert made["none"].values.ravel() == pytest.approx(windows.mean((1, 2, 3)).numpy())
    assert made["mean"].values == pytest.approx(windows.mean((1, 2, 3)).numpy())
    assert made["max"].values == pytest.approx(windows.amax((1, 2, 3)).numpy())
    assert made["none"].stride == (20, 12, 10)
    assert made["none"].spacing_mm == (40.0, 36.0, 40.0)
    assert made["none"].affine[:3, 3] == pytest.approx([19.0, 16.5, 18.0])


def test_what_is_not_finite_of_a_window_is_told():
    with pytest.raises(DataError, match="whole holds NaN"):
        stitch(image(2, 8, 8, 8), lambda x: {"whole": x.mean((2, 3, 4)) * torch.nan}, level()[:1])
