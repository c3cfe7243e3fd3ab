"""Compressed pixels that say another size than the header are refused before they are decoded."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless
from scanner import voxels, write

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.dicom.streams import check_streams, size_of
from medfuse.volumes.read import read_volume


def packed(kind: str, size: tuple[int, int] = (18, 20), **how) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.zeros(size, np.uint8)).save(made, kind, **how)
    return made.getvalue()


STREAMS = {
    "codestream": packed("JPEG2000", no_jp2=True),
    "in boxes": packed("JPEG2000"),
    "jpeg": packed("JPEG"),
    "progressive": packed("JPEG", progressive=True),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_the_size_is_what_the_stream_says(kind):
    assert list(size_of(STREAMS[kind])) == [(18, 20, 1)]
    check_streams([STREAMS[kind]], 18, 20)
    with pytest.raises(ValueError, match="20 × 18 in 1 channels, its header says 18 × 18"):
        check_streams([STREAMS[kind]], 18, 18)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_is_cut_says_nothing_wrong(kind):
    for end in range(60):
        list(size_of(STREAMS[kind][:end]))


def said_to_be(stream: bytes, side: int) -> bytes:
    """A codestream of JPEG 2000 whose SIZ says another size."""
    lied = bytearray(stream)
    lied[8:16] = side.to_bytes(4, "big") * 2
    return bytes(lied)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
def test_a_slice_that_says_gigabytes_is_a_line(tmp_path, syntax, frames):
    write(tmp_path, voxels((20, 18, 4)))
    for path in tmp_path.iterdir():
        said = dcmread(path)
        lied = said_to_be(STREAMS["codestream"], 2**30)
        said.PixelData = encapsulate([lied] * frames)
        said.file_meta.TransferSyntaxUID = syntax
        said["PixelData"].is_undefined_length = True
        if frames > 1:
            said.NumberOfFrames = frames
        said.save_as(path)
    with pytest.raises(DataError):
        read_volume(as_volume_file(tmp_path))


def test_others_are_left_to_their_decoders():
    for stream in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\x00" * 100, b"\xff\xd8" + b"\xff" * 5000):
        assert list(size_of(stream)) == []
