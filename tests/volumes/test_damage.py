"""A damaged file is never read with wrong voxels, and never ends the process: one line of DataError."""

import bz2
import gzip
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from medfuse.core.errors import DataError
from medfuse.volumes.read import read_geometry, read_volume, slab_reader

SHAPE = (16, 14, 12)
META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 16 14 12\nElementSpacing = 1 2 3\nElementType = MET_SHORT\n"
    "BinaryData = True\nBinaryDataByteOrderMSB = False\n"
)
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 14 12\nspacings: 1 2 3\nendian: little\n"


def noise(shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.int16]:
    """Ten values, so that they compress."""
    return np.random.default_rng(0).integers(0, 10, shape).astype(np.int16)


def nifti(path: Path, packed: Callable[[bytes], bytes] = bytes) -> Path:
    path.write_bytes(packed(nib.Nifti1Image(noise(), np.eye(4)).to_bytes()))
    return path


def nrrd(path: Path, encoding: str, packed: Callable[[bytes], bytes] = bytes) -> Path:
    path.write_bytes(f"{NRRD}encoding: {encoding}\n\n".encode() + packed(noise().tobytes("F")))
    return path


def detached(path: Path, packed: Callable[[bytes], bytes]) -> Path:
    path.with_name("x.nhdr").write_text(f"{NRRD}encoding: gzip\ndata file: {path.name}\n\n")
    path.write_bytes(packed(noise().tobytes("F")))
    return path


def metaimage(path: Path, packed: Callable[[bytes], bytes] = bytes) -> Path:
    compressed = packed is not bytes
    path.write_bytes(
        f"{META}CompressedData = {compressed}\nElementDataFile = LOCAL\n".encode()
        + packed(noise().tobytes("F"))
    )
    return path


def beside(path: Path, packed: Callable[[bytes], bytes]) -> Path:
    path.with_name("x.mhd").write_text(f"{META}CompressedData = True\nElementDataFile = {path.name}\n")
    path.write_bytes(packed(noise().tobytes("F")))
    return path


COMPRESSED: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "nii.gz": lambda d: (nifti(d / "x.nii.gz", gzip.compress),) * 2,
    "nrrd gzip": lambda d: (nrrd(d / "x.nrrd", "gzip", gzip.compress),) * 2,
    "nrrd bzip2": lambda d: (nrrd(d / "x.nrrd", "bzip2", bz2.compress),) * 2,
    "nrrd zlib": lambda d: (nrrd(d / "x.nrrd", "zlib", zlib.compress),) * 2,
    "nhdr": lambda d: (d / "x.nhdr", detached(d / "x.raw.gz", gzip.compress)),
    "mha": lambda d: (metaimage(d / "x.mha", zlib.compress),) * 2,
    "mhd": lambda d: (d / "x.mhd", beside(d / "x.zraw", zlib.compress)),
    "mhd gzip": lambda d: (d / "x.mhd", beside(d / "x.zraw", gzip.compress)),
}
"""Makes a file: what is read, and what is damaged."""

RAW: dict[str, Callable[[Path], Path]] = {
    "nii": lambda d: nifti(d / "x.nii"),
    "nrrd": lambda d: nrrd(d / "x.nrrd", "raw"),
    "mha": lambda d: metaimage(d / "x.mha"),
}


def flipped(content: bytes, chance: np.random.Generator, begin: int = 0) -> bytes:
    at = int(chance.integers(begin, len(content)))
    return content[:at] + bytes([content[at] ^ 1 << int(chance.integers(8))]) + content[at + 1 :]


def lost(content: bytes, chance: np.random.Generator, begin: int = 0) -> bytes:
    """A block of zeros where a disk had none to give."""
    at = int(chance.integers(begin, len(content)))
    return content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]


def cut(content: bytes, chance: np.random.Generator, begin: int = 0) -> bytes:
    return content[: int(chance.integers(begin, len(content)))]


def moved(content: bytes, chance: np.random.Generator, begin: int = 0) -> bytes:
    at = int(chance.integers(begin, len(content)))
    return content[:at] + chance.bytes(int(chance.integers(1, 9))) + content[at:]


DAMAGES = [flipped, lost, cut, moved]


def assert_told(path: Path) -> None:
    """Its voxels are right, or one line names it. However it is read."""
    try:
        whole = read_volume(path).array
        slabs = list(slab_reader(path).read())
    except DataError as error:
        (line,) = error.lines
        assert line.startswith(str(path.parent))
        assert "\n" not in line
        return
    assert np.array_equal(whole, noise())
    assert np.array_equal(np.concatenate([slab for _, _, slab in slabs], axis=2), noise())


def damage_all(folder: Path, make: Callable[[Path], tuple[Path, Path]], seeds: range) -> int:
    """How many of the copies, one for each seed and kind of damage, are read, then with right voxels."""
    path, voxels = make(folder)
    good = voxels.read_bytes()
    read = 0
    for seed in seeds:
        for damage in DAMAGES:
            chance = np.random.default_rng([seed, DAMAGES.index(damage)])
            begin = len(good) - len(good) // 2 if path == voxels else 16  # headers have tests of their own
            voxels.write_bytes(damage(good, chance, begin))
            assert_told(path)
            read += not told(path)
    return read


def told(path: Path) -> bool:
    try:
        read_volume(path)
    except DataError:
        return True
    return False


@pytest.mark.parametrize("make", [*COMPRESSED.values()], ids=[*COMPRESSED])
def test_damaged_compressed_voxels_are_never_read(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]
) -> None:
    assert read_volume(make(tmp_path)[0]).array.shape == SHAPE
    assert damage_all(tmp_path, make, range(6)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [*COMPRESSED.values()], ids=[*COMPRESSED])
def test_no_damage_of_many_is_read(tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]) -> None:
    """But for a bit that nothing depends on, such as the length of a code that no voxel has."""
    assert damage_all(tmp_path, make, range(100, 400)) <= 4


@pytest.mark.parametrize("make", [*RAW.values()], ids=[*RAW])
@pytest.mark.parametrize("left", [1, 100, 1000])
def test_a_file_without_compression_that_lacks_its_end_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], left: int
) -> None:
    path = make(tmp_path)
    os.truncate(path, path.stat().st_size - left)
    for read in (read_geometry, read_volume):
        with pytest.raises(DataError, match="is truncated or damaged"):
            read(path)


@pytest.mark.parametrize("make", [*COMPRESSED.values()], ids=[*COMPRESSED])
@pytest.mark.parametrize("more", [b"more bytes", bytes(1000), b"\x1f", b"B"])
def test_bytes_behind_the_end_of_a_stream_are_left_alone(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]], more: bytes
) -> None:
    path, voxels = make(tmp_path)
    voxels.write_bytes(voxels.read_bytes() + more)
    assert np.array_equal(read_volume(path).array, noise())


def test_a_stream_in_several_parts_is_read_to_its_end(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii.gz", lambda b: gzip.compress(b[:2000]) + gzip.compress(b[2000:]))
    assert np.array_equal(read_volume(path).array, noise())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="is truncated or damaged"):
        read_volume(path)


def test_a_stream_that_does_not_end_is_not_followed(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii.gz", lambda b: gzip.compress(b + bytes(1 << 27), 1))
    with pytest.raises(DataError, match=r"its header says 16×14×12 .* its data go on for .* bytes at least"):
        read_volume(path)


LONGER: dict[str, Callable[[Path, bytes], Path]] = {
    "nii": lambda d, more: nifti(d / "x.nii", lambda b: b + more),
    "nii.gz": lambda d, more: nifti(d / "x.nii.gz", lambda b: gzip.compress(b + more)),
    "nrrd": lambda d, more: nrrd(d / "x.nrrd", "raw", lambda b: b + more),
    "nrrd gzip": lambda d, more: nrrd(d / "x.nrrd", "gzip", lambda b: gzip.compress(b + more)),
    "nrrd bzip2": lambda d, more: nrrd(d / "x.nrrd", "bzip2", lambda b: bz2.compress(b + more)),
    "nhdr": lambda d, more: detached(d / "x.gz", lambda b: gzip.compress(b + more)).with_name("x.nhdr"),
    "mha": lambda d, more: metaimage(d / "x.mha", lambda b: zlib.compress(b + more)),
    "mhd": lambda d, more: beside(d / "x.zraw", lambda b: zlib.compress(b + more)).with_name("x.mhd"),
}
"""Makes a file whose voxels go on for some bytes more than its header says."""


@pytest.mark.parametrize("make", [*LONGER.values()], ids=[*LONGER])
@pytest.mark.parametrize(
    "more", [b"\1", b"\n", noise().tobytes(), bytes(noise().nbytes), bytes(7), b"\1" * 511]
)
def test_voxels_that_a_header_does_not_account_for_are_told(
    tmp_path: Path, make: Callable[[Path, bytes], Path], more: bytes
) -> None:
    with pytest.raises(DataError, match=f"its header says 16×14×12 .* go on for {len(more):,} bytes"):
        read_volume(make(tmp_path, more))


@pytest.mark.parametrize("name", [*LONGER])
def test_zeros_that_fill_up_the_last_block_are_padding(tmp_path: Path, name: str) -> None:
    begins = {"nii": 352, "nii.gz": 352, "nrrd": len(f"{NRRD}encoding: raw\n\n")}
    size = begins.get(name, 0) + noise().nbytes
    path = LONGER[name](tmp_path, bytes(-size % 512))
    assert np.array_equal(read_volume(path).array, noise())


@pytest.mark.parametrize("make", [*RAW.values()], ids=[*RAW])
def test_without_compression_a_header_is_enough_to_tell(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes() + noise().tobytes())
    with pytest.raises(DataError, match="go on for 5,376 bytes"):
        read_geometry(path)


def test_numbers_in_words_beyond_those_of_the_header_are_told(tmp_path: Path) -> None:
    words = "1 " * (noise().size + 3)
    (tmp_path / "x.nrrd").write_text(f"{NRRD}encoding: text\n\n{words}\n")
    (tmp_path / "x.mha").write_text(
        META.replace("BinaryData = True", "BinaryData = False") + f"ElementDataFile = LOCAL\n{words}\n"
    )
    for name in ("x.nrrd", "x.mha"):
        with pytest.raises(DataError, match="go on for 3 numbers"):
            read_volume(tmp_path / name)


def test_a_header_that_says_more_than_a_file_can_hold_is_refused_before_reading(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"] = 352
    packed = gzip.compress(header.binaryblock + bytes(100_000))
    (tmp_path / "x.nii.gz").write_bytes(packed)
    (tmp_path / "x.mha").write_text(META.replace("16 14 12", "30000 " * 3) + "ElementDataFile = LOCAL\n")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=r"its header says .* TiB.*, which"):
            read_geometry(path)


def test_more_voxels_than_memory_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nifti(tmp_path / "x.nii.gz", gzip.compress)
    monkeypatch.setattr("medfuse.volumes.volume.free_memory", lambda: 1000)
    monkeypatch.setattr("medfuse.volumes.stored.opened", lambda *_: pytest.fail("its voxels are read"))
    with pytest.raises(DataError, match=r"16×14×12 voxels, which need .* are free"):
        read_volume(path)


def header_bytes(path: Path, content: bytes) -> int:
    return 348 if path.suffix == ".nii" else len(content) - noise().nbytes


def fuzz_header(path: Path, seeds: range) -> None:
    """Whatever a header says, it is read or told."""
    good = path.read_bytes()
    for seed in seeds:
        chance = np.random.default_rng(seed)
        end = header_bytes(path, good)
        header = good[:end]
        for _ in range(int(chance.integers(1, 4))):
            kind = [flipped, cut, moved][int(chance.choice(3, p=[0.6, 0.1, 0.3]))]
            header = kind(header, chance) or b"\n"
        path.write_bytes(header + good[end:])
        with suppress(DataError):  # anything else is a fault
            read_volume(path)


@pytest.mark.parametrize("make", [*RAW.values()], ids=[*RAW])
def test_a_damaged_header_is_read_or_told(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    fuzz_header(make(tmp_path), range(60))


@pytest.mark.slow
@pytest.mark.parametrize("make", [*RAW.values()], ids=[*RAW])
def test_no_damaged_header_of_many_is_our_fault(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    fuzz_header(make(tmp_path), range(1000, 4000))
