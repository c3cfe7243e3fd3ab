"""Damaged and odd files are read or told in one line each: nothing else happens."""

from pathlib import Path
from random import Random

import numpy as np
import pydicom
import pytest
import scanner
from pydicom.uid import RLELossless

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.index import write_index
from medfuse.volumes.dicom.series import find_series
from medfuse.volumes.read import read_volume

ODD = Path(pydicom.__file__).parent / "data"
FILES = [p for p in sorted(ODD.rglob("*")) if p.suffix not in (".py", ".pyc", ".json") and p.is_file()]


def outcome(path, tmp_path):
    """The volumes that are read of a path; lines of everything that is told."""
    read, told = [], []
    try:
        found = find_series(path)
    except DataError as error:
        return read, list(error.lines)
    for one in found.series:
        try:
            read.append(read_volume(write_index(one, tmp_path / "kept")))
        except DataError as error:
            told += error.lines
    return read, [*told, *found.notes]


@pytest.mark.parametrize("start", range(0, len(FILES), 40))
def test_odd_files_are_read_or_told_in_a_line(start, tmp_path):
    for path in FILES[start : start + 40]:
        read, told = outcome(path, tmp_path)
        assert all("\n" not in line and str(tmp_path) not in line for line in told)
        assert all(np.isfinite(volume.array).all() for volume in read)


def damaged(content, random):
    """A copy in which bits are turned, or parts are cut out, doubled, set to 0 or said to be huge."""
    made = bytearray(content)
    head = min(len(made), 1200)
    first, last = sorted(random.sample(range(132, head), 2))
    match random.randrange(6):
        case 0:
            for _ in range(random.randint(1, 8)):
                made[random.randrange(len(made))] ^= 1 << random.randrange(8)
        case 1:
            made[first] = random.randrange(256)
        case 2:
            del made[random.randrange(len(made)) :]
        case 3:
            del made[first:last]
        case 4:
            made[first : first + 4] = random.choice([b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4])
        case 5:
            made[last:last] = made[first:last] * random.randint(1, 20)
    return bytes(made)


def files(kind, tmp_path):
    array = scanner.voxels((8, 9, 5))
    if kind == "multi-frame":
        return [scanner.save(scanner.multi_frame(array), tmp_path / "in" / "one.dcm")]
    made = scanner.write(tmp_path / "in", array)
    if kind == "compressed":
        for path in made:
            d = pydicom.dcmread(path)
            d.compress(RLELossless)
            d.save_as(path)
    return made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["single", "multi-frame", "compressed"])
def test_damaged_copies_are_read_or_told_in_a_line(kind, seed, tmp_path):
    path = files(kind, tmp_path)[0]
    whole, random = path.read_bytes(), Random(seed)
    for _ in range(25):
        path.write_bytes(damaged(whole, random))
        read, told = outcome(path.parent, tmp_path)
        assert read or told
        assert all("\n" not in line for line in told)


def test_sequences_within_sequences_without_end_are_told(tmp_path):
    path = scanner.write(tmp_path / "in", scanner.voxels((8, 9, 1)))[0]
    whole = path.read_bytes()
    at = whole.find(b"\x20\x00\x0d\x00")
    deep = (b"\x09\x00\x10\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * 20_000
    path.write_bytes(whole[:at] + deep + whole[at:])
    read, told = outcome(path, tmp_path)
    assert not read
    assert "is not a readable DICOM file" in told[0]
