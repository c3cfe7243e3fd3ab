"""Logits of a volume: whatever a network does to windows, the volume shows once and whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medfuse.core.errors import DataError, PipelineError, ShapeError
from medfuse.infer import sliding
from medfuse.infer.flips import flip_combinations
from medfuse.infer.sliding import WindowCount, predict_bricks, predict_logits
from medfuse.infer.windows import plan_grid


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(windows: Tensor) -> Tensor:
    return windows


def ramp(windows: Tensor) -> Tensor:
    """Depends on where in its window a voxel lies."""
    return windows * torch.arange(1.0, windows.shape[2] + 1).reshape(1, 1, -1, *[1] * (windows.dim() - 3))


def predict(volume: Any, network: Any = same, **options: Any) -> Tensor:
    return predict_logits(volume, network, **{"patch_size": (4, 4, 4), "classes": 2, **options})


@pytest.mark.parametrize("shape", [(9, 11, 6), (4, 4, 4), (3, 2, 1), (1, 1, 30), (4, 5, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_a_network_that_changes_nothing_gives_the_image(shape: tuple[int, ...], overlap: float) -> None:
    volume = image(2, *shape)
    assert predict(volume, overlap=overlap).numpy() == pytest.approx(volume.numpy(), abs=1e-5)


def test_tiling_twice_is_tiling_once() -> None:
    once = predict(image(2, 9, 7, 6))
    assert predict(once).numpy() == pytest.approx(once.numpy(), abs=1e-5)


def test_tiling_is_linear() -> None:
    a, b = image(2, 9, 7, 6), image(2, 9, 7, 6, seed=1)
    both = predict(2 * a - b, ramp)
    assert both.numpy() == pytest.approx((2 * predict(a, ramp) - predict(b, ramp)).numpy(), abs=1e-4)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_the_batch_of_windows_changes_nothing(batch_size: int) -> None:
    volume = image(2, 9, 7, 6)
    one, many = (predict(volume, ramp, batch_size=n) for n in (1, batch_size))
    assert many.numpy() == pytest.approx(one.numpy(), abs=1e-6)


def test_no_batch_is_larger_than_asked_for() -> None:
    sizes = []

    def network(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows

    predict(image(2, 8, 8, 8), network, batch_size=4)
    assert sum(sizes) == 27
    assert max(sizes) == 4


def test_flips_count_towards_the_batch_and_share_it() -> None:
    sizes = []

    def network(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows

    predict(image(2, 8, 8, 4), network, batch_size=4, mirror=("x",))
    assert sizes == [4, 4, 4, 4, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("folds", [1, 2])
def test_flips_and_folds_are_averaged_whatever_the_batch(batch_size: int, folds: int) -> None:
    sizes = []

    def network(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return ramp(windows)

    volume = image(2, 6, 7, 5)
    mirrored = predict(volume, [network] * folds, batch_size=batch_size, mirror=("x", "y"))
    plain, flipped = predict(volume, ramp), predict(volume.flip(1), ramp).flip(1)
    assert mirrored.numpy() == pytest.approx(((plain + flipped) / 2).numpy(), abs=1e-5)
    assert max(sizes) <= batch_size


def test_the_networks_answers_are_not_changed() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def network(windows: Tensor) -> Tensor:
        answer = ramp(windows)
        kept.append((answer, answer.clone()))
        return answer

    predict(image(2, 6, 7, 5), [network, network], mirror=("x",))
    assert all(torch.equal(answer, before) for answer, before in kept)


def test_an_array_does_as_well_as_a_tensor() -> None:
    volume = image(2, 5, 6, 7)
    assert torch.equal(predict(volume.numpy()), predict(volume))


def test_one_window_is_the_network_itself() -> None:
    torch.manual_seed(0)
    conv, volume = nn.Conv3d(2, 3, 3, padding=1), image(2, 4, 5, 6)
    whole = conv(volume[None])[0].detach()
    tiled = predict(volume, conv, patch_size=(4, 5, 6), classes=3)
    assert tiled.numpy() == pytest.approx(whole.numpy(), abs=1e-6)


@pytest.mark.parametrize("sweep", ["x", "y", "z", None])
@pytest.mark.parametrize("shape", [(9, 11, 6), (3, 9, 2), (1, 1, 1)])
def test_bricks_tile_the_image_in_its_own_coordinates(shape: tuple[int, ...], sweep: Any) -> None:
    volume, whole = image(2, *shape), torch.zeros(2, *shape)
    for brick in predict_bricks(volume, same, patch_size=(4, 4, 4), classes=2, sweep=sweep):
        assert brick.logits.shape == volume[(slice(None), *brick.where)].shape
        whole[(slice(None), *brick.where)] += brick.logits
    assert whole.numpy() == pytest.approx(volume.numpy(), abs=1e-5)


def test_a_brick_comes_with_its_last_window_and_not_later() -> None:
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.append(1)
        return windows

    bricks = predict_bricks(image(2, 8, 4, 4), network, patch_size=(4, 4, 4), classes=2)
    assert [(brick.where[0].stop, len(seen)) for brick in bricks] == [(2, 1), (4, 2), (8, 3)]


def test_a_file_is_read_window_by_window(tmp_path: Path) -> None:
    volume, read = image(2, 20, 6, 6), []
    mapped = np.memmap(tmp_path / "image", np.float32, "w+", shape=tuple(volume.shape))
    mapped[:] = volume.numpy()

    class Mapped:
        shape = tuple(volume.shape)

        def __getitem__(self, where: Any) -> Any:
            read.append(mapped[where].shape)
            return mapped[where]

    assert torch.equal(predict(Mapped()), predict(volume))
    assert set(read) == {(2, 4, 4, 4)}


@pytest.mark.parametrize("dtype", ["int8", "uint16", ">i4", ">f4", "float64"])
def test_an_array_of_any_number_is_read_as_float32(dtype: str) -> None:
    volume = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7) % 100
    assert predict(volume.astype(dtype)).numpy() == pytest.approx(volume, rel=1e-5)


def test_windows_of_the_same_constant_are_seen_once() -> None:
    volume, count, seen = torch.zeros(2, 20, 4, 4), WindowCount(), []
    volume[:, 12:] = image(2, 8, 4, 4)

    def network(windows: Tensor) -> Tensor:
        seen.extend(windows)
        return ramp(windows) + 1

    options: dict[str, Any] = {"patch_size": (4, 4, 4), "classes": 2, "batch_size": 3}
    bricks = list(predict_bricks(volume, network, **options, count=count))
    assert sum(not window.any() for window in seen) == 1
    assert (count.run, count.reused, count.skipped) == (len(seen), 4, 0)
    everything = predict(volume + 1e-9 * image(2, 20, 4, 4), lambda windows: ramp(windows) + 1)
    assert torch.cat([b.logits for b in bricks], 1).numpy() == pytest.approx(everything.numpy(), abs=1e-5)


def test_another_constant_is_another_window() -> None:
    volume, count = torch.zeros(2, 16, 4, 4), WindowCount()
    volume[1, 8:] = 1
    list(predict_bricks(volume, same, patch_size=(4, 4, 4), classes=2, overlap=0, count=count))
    assert (count.run, count.reused) == (2, 2)


@pytest.mark.parametrize(("room", "wanted"), [(2**20, (2, 2)), (0, (4, 0))])
def test_as_many_constants_are_remembered_as_there_is_room_for(
    room: int, wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliding, "KNOWN_BYTES", room)
    volume, count = torch.zeros(2, 16, 4, 4), WindowCount()
    volume[1, 4:8] = volume[1, 12:] = 1
    list(predict_bricks(volume, same, patch_size=(4, 4, 4), classes=2, overlap=0, count=count))
    assert (count.run, count.reused) == wanted


def test_a_constant_window_is_remembered_as_the_mean_over_flips_and_folds() -> None:
    volume = torch.ones(2, 12, 4, 4)
    options: dict[str, Any] = {"overlap": 0.0, "mirror": ("x", "z"), "batch_size": 2}
    first, second, third = predict(volume, [ramp, same], **options).split(4, 1)
    alone = predict(volume[:, :4], [ramp, same], **options)
    assert all(torch.equal(part, alone) for part in (first, second, third))


def test_air_is_skipped_and_is_background() -> None:
    volume, count = torch.zeros(2, 64, 8, 8), WindowCount()
    volume[:, :16] = 1 + image(2, 16, 8, 8).abs()
    volume += 0.001 * image(2, 64, 8, 8)
    options: dict[str, Any] = {"patch_size": (8, 8, 8), "classes": 2, "overlap": 0}
    bricks = list(predict_bricks(volume, same, **options, skip_air=True, count=count))
    assert (count.run, count.reused, count.skipped) == (3, 0, 5)  # the third is within half a window
    assert all(torch.equal(b.logits, volume[(slice(None), *b.where)]) for b in bricks[:3])
    assert all((b.logits[0] > b.logits[1]).all() for b in bricks[3:])


def test_air_is_not_skipped_unless_asked() -> None:
    volume, count = torch.zeros(2, 64, 8, 8), WindowCount()
    volume[:, :16] = 1
    list(predict_bricks(volume, same, patch_size=(8, 8, 8), classes=2, count=count))
    assert count.skipped == 0


@pytest.mark.parametrize("sums", [torch.float32, torch.float16])
def test_sums_are_kept_as_asked(sums: torch.dtype) -> None:
    volume = image(2, 9, 11, 6)
    for brick in predict_bricks(volume, same, patch_size=(4, 4, 4), classes=2, sums=sums):
        assert brick.logits.dtype == torch.float32
        assert (brick.logits - volume[(slice(None), *brick.where)]).norm() < 2e-3 * brick.logits.norm()


def test_weights_are_monais_where_monai_does_not_raise_small_ones() -> None:
    from monai.inferers import sliding_window_inference

    volume = image(2, 20, 3, 2)  # 8 × 1 × 1 windows: no weight is below MONAI's floor of 0.001
    theirs = sliding_window_inference(volume[None], (8, 1, 1), 4, ramp, overlap=0.5, mode="gaussian")[0]
    ours = predict(volume, ramp, patch_size=(8, 1, 1))
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-4)


def test_far_from_the_volumes_edge_a_network_gives_monais_result() -> None:
    """Near the edge MONAI raises all small weights to 0.001, and so averages windows evenly."""
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network, volume = nn.Conv3d(2, 2, 3, padding=1).requires_grad_(False), image(2, 24, 24, 20)
    theirs = sliding_window_inference(volume[None], (8, 8, 8), 4, network, overlap=0.5, mode="gaussian")[0]
    inside = (slice(None), *[slice(4, -4)] * 3)
    ours = predict(volume, network, patch_size=(8, 8, 8), batch_size=4)
    assert (ours - theirs)[inside].norm() < 0.02 * theirs[inside].norm()


def test_on_all_axes_weights_are_monais_where_monai_raises_none() -> None:
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network, volume = nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False), image(2, 5, 4, 6)
    theirs = sliding_window_inference(volume[None], (2, 2, 2), 2, network, overlap=0.5, mode="gaussian")[0]
    ours = predict(volume, network, patch_size=(2, 2, 2), classes=3, batch_size=2)
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_every_flip_is_seen_and_undone() -> None:
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.append(windows.clone())
        return windows

    volume = image(1, 4, 4, 4)
    mirrored = predict(volume, network, classes=1, mirror=("x", "z"))
    assert mirrored.numpy() == pytest.approx(volume.numpy(), abs=1e-6)
    expected = [volume[None].flip(axes) for axes in ([], [2], [4], [2, 4])]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_mirroring_makes_the_result_symmetric() -> None:
    volume = image(2, 9, 7, 6)
    plain, flipped = (predict(v, ramp, mirror=("x",)) for v in (volume, volume.flip(1)))
    assert flipped.flip(1).numpy() == pytest.approx(plain.numpy(), abs=1e-5)


def test_all_combinations_of_three_axes_are_eight() -> None:
    assert len(set(flip_combinations(("x", "y", "z"), 3))) == 8


def test_an_axis_named_twice_counts_once() -> None:
    assert flip_combinations(("y", "y"), 3) == [(), (3,)]


def test_a_2d_network_cannot_be_mirrored_along_z() -> None:
    with pytest.raises(
        PipelineError, match=r"infer.mirror: z: a 2-D network can be mirrored along x, y only"
    ):
        predict(image(2, 4, 4, 4), patch_size=(4, 4), mirror=("x", "z"))


def test_logits_of_folds_are_averaged() -> None:
    volume = image(2, 9, 7, 6)
    folds = [same, lambda windows: 3 * windows]
    assert predict(volume, folds).numpy() == pytest.approx(2 * volume.numpy(), abs=1e-5)


def test_a_2d_network_sees_every_slice() -> None:
    volume = image(2, 9, 7, 5)
    shapes = set()

    def network(windows: Tensor) -> Tensor:
        shapes.add(tuple(windows.shape))
        return ramp(windows)

    sliced = predict(volume, network, patch_size=(4, 4), batch_size=3)
    in_3d = predict(volume, ramp, patch_size=(4, 4, 1))
    assert {shape[1:] for shape in shapes} == {(2, 4, 4)}
    assert sliced.numpy() == pytest.approx(in_3d.numpy(), abs=1e-5)


def test_a_small_volume_stands_in_the_middle_of_zeros() -> None:
    seen: list[Tensor] = []

    def network(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    predict(torch.ones(2, 2, 4, 4), network)
    assert seen[0][0, 0, :, 0, 0].tolist() == [0, 1, 1, 0]


def test_progress_counts_windows_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    predict(image(2, 8, 8, 4), batch_size=4, progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 9), (8, 9), (9, 9)]


def test_logits_are_float32_whatever_the_network_computes_in() -> None:
    assert predict(image(2, 6, 6, 6), lambda windows: windows.bfloat16()).dtype == torch.float32


def test_no_gradient_is_kept() -> None:
    assert not predict(image(2, 6, 6, 6), nn.Conv3d(2, 2, 1)).requires_grad


@pytest.mark.parametrize(
    ("network", "given"),
    [
        (lambda windows: windows[:, :1], r"\(1, 1, 4, 4, 4\)"),
        (lambda windows: windows[..., ::2], r"\(1, 2, 4, 4, 2\)"),
        (lambda windows: windows[0], r"\(2, 4, 4, 4\)"),
        (lambda windows: [windows], "a list"),
    ],
)
def test_an_answer_of_another_shape_is_refused(network: Any, given: str) -> None:
    with pytest.raises(ShapeError, match=given + r", not with logits \(1, 2, 4, 4, 4\)"):
        predict(image(2, 6, 6, 6), network)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="NaN or infinite logits"):
        predict(image(2, 6, 6, 6), lambda windows: torch.full_like(windows, value))


def test_the_network_is_not_asked_for_a_gradient_and_the_result_can_be_changed() -> None:
    logits = predict(image(2, 6, 6, 6))
    logits += 1
    assert not logits.is_inference()


def above_its_mean(windows: Tensor) -> Tensor:
    """Class 1 where a voxel is above its window's mean, so that windows may disagree."""
    higher = windows - windows.mean((2, 3, 4), keepdim=True)
    return torch.cat([-higher, higher], 1)


def slope_and_chequers() -> Tensor:
    """Up to x = 32 a slope, about whose voxels windows disagree; then 27 and 37, about which they do not."""
    x, y, z = torch.meshgrid(torch.arange(64.0), torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return torch.where(x < 32, x, 32 + 5 * (-1) ** (x + y + z))[None]


def test_a_first_pass_is_followed_up_where_its_windows_disagree() -> None:
    volume, count, told = slope_and_chequers(), WindowCount(), []
    options: dict[str, Any] = {"patch_size": (8, 8, 8), "classes": 2}
    plain = predict(volume, above_its_mean, **options)
    options |= {"count": count, "progress": lambda *windows: told.append(windows)}
    bricks = predict_bricks(volume, above_its_mean, **options, adaptive_overlap=0.25)
    adaptive = torch.cat([brick.logits for brick in bricks], 1)
    assert torch.equal(adaptive[:, :32], plain[:, :32])
    assert not torch.equal(adaptive, plain)
    assert torch.equal(adaptive.argmax(0), plain.argmax(0))
    few, many = (len(plan_grid((64, 8, 8), (8, 8, 8), overlap)) for overlap in (0.25, 0.5))
    assert few < count.run < few + many
    assert (count.run + count.skipped, told[-1]) == (few + many, (few + many, few + many))


def test_a_first_pass_does_not_hide_nan() -> None:
    options: dict[str, Any] = {"patch_size": (8, 8, 8), "classes": 2, "adaptive_overlap": 0.25}
    with pytest.raises(DataError, match="NaN"):
        list(predict_bricks(image(2, 24, 8, 8), lambda windows: windows * float("nan"), **options))
