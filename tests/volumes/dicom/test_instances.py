"""What headers of other kinds say: many frames in a file, nuclear medicine, doses, radiographs, faults."""

import numpy as np
import pytest
import scanner
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    RLELossless,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
)

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.index import index_of, write_index
from medfuse.volumes.dicom.series import Scans, find_series
from medfuse.volumes.read import read_volume

ARRAY = scanner.voxels()


def volumes(path, tmp_path):
    found = find_series(path).series
    return {one.name: read_volume(write_index(one, tmp_path / "kept")) for one in found}


def one(path, tmp_path):
    (found,) = volumes(path, tmp_path).values()
    return found


def enhanced(arrays, tags):
    """A multi-frame file of several volumes, whose frames have these functional groups, in disorder."""
    made = [scanner.multi_frame(array, modality="MR") for array in arrays]
    groups, frames = [], []
    for d, sequences in zip(made, tags, strict=True):
        size = len(d.PixelData) // d.NumberOfFrames
        for n, group in enumerate(d.PerFrameFunctionalGroupsSequence):
            for name, item in sequences.items():
                setattr(group, name, Items([item]))
            groups.append(group)
            frames.append(d.PixelData[n * size : (n + 1) * size])
    order = np.random.default_rng(2).permutation(len(groups)).tolist()
    made[0].NumberOfFrames, made[0].PixelData = len(order), b"".join(frames[n] for n in order)
    made[0].PerFrameFunctionalGroupsSequence = Items([groups[n] for n in order])
    return made[0]


def item(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def direction(*vector):
    inner = Items([item(DiffusionGradientOrientation=[float(v) for v in vector])])
    return item(DiffusionBValue=1000.0, DiffusionGradientDirectionSequence=inner)


TOLD_APART = {
    "echoes": [{"MREchoSequence": item(EffectiveEchoTime=t)} for t in (10, 20)],
    "times": [{"FrameContentSequence": item(TemporalPositionIndex=t)} for t in (1, 2, 3)],
    "b-values": [{"MRDiffusionSequence": item(DiffusionBValue=b)} for b in (0, 800)],
    "directions": [
        {"MRDiffusionSequence": item(DiffusionBValue=0)},
        *({"MRDiffusionSequence": direction(*v)} for v in ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    ],
    "echoes at times": [
        {"MREchoSequence": item(EffectiveEchoTime=t), "FrameContentSequence": item(TemporalPositionIndex=n)}
        for t in (10, 20)
        for n in (1, 2)
    ],
}


@pytest.mark.parametrize("kind", TOLD_APART)
def test_volumes_in_one_file_are_told_apart(kind, tmp_path):
    tags = TOLD_APART[kind]
    arrays = [scanner.voxels(seed=n) for n in range(len(tags))]
    scanner.save(enhanced(arrays, tags), tmp_path / "one.dcm")
    found = [volume.array for volume in volumes(tmp_path / "one.dcm", tmp_path).values()]
    assert len(found) == len(arrays)
    assert all(any(np.array_equal(array, other) for other in found) for array in arrays)


def test_frames_in_one_file_that_nothing_tells_apart_are_refused(tmp_path):
    scanner.save(enhanced([ARRAY, scanner.voxels(seed=1)], [{}, {}]), tmp_path / "one.dcm")
    with pytest.raises(DataError, match="no tag tells which belong together"):
        one(tmp_path / "one.dcm", tmp_path)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_multi_frame_file_of_any_encoding_is_its_slices(syntax, tmp_path):
    scanner.save(scanner.multi_frame(ARRAY), tmp_path / "one.dcm", syntax)
    assert np.array_equal(one(tmp_path / "one.dcm", tmp_path).array, ARRAY)


@pytest.mark.parametrize("frames", ["single", "many"])
def test_files_without_a_meta_header_are_read(frames, tmp_path):
    made = [scanner.multi_frame(ARRAY)] if frames == "many" else scanner.headers(ARRAY)
    for n, d in enumerate(made):
        path = scanner.save(d, tmp_path / "in" / str(n), ImplicitVRLittleEndian)
        whole = path.read_bytes()
        path.write_bytes(whole[144 + int.from_bytes(whole[140:144], "little") :])
    assert np.array_equal(one(tmp_path / "in", tmp_path).array, ARRAY)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("frames", ["single", "many"])
def test_compressed_pixels_are_the_same(syntax, frames, tmp_path):
    pytest.importorskip("pylibjpeg", reason="decoders are an extra")
    array = scanner.voxels((64, 72, 3), low=-1024, high=3000)
    made = [scanner.multi_frame(array)] if frames == "many" else scanner.headers(array)
    for n, d in enumerate(made):
        d.BitsStored, d.HighBit, d.PixelRepresentation = 12, 11, 0
        path = scanner.save(d, tmp_path / "in" / f"{n}.dcm")
        packed = dcmread(path)
        packed.compress(syntax)
        packed.save_as(path)
    assert np.array_equal(one(tmp_path / "in", tmp_path).array, array)


def nuclear(path, **tags):
    d = scanner.headers(ARRAY, modality="NM")[0]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(d, name)
    d.SOPClassUID, d.NumberOfFrames, d.SpacingBetweenSlices = NuclearMedicineImageStorage, 7, 2.5
    d.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    place = item(ImagePositionPatient=[-20, -30, 40], ImageOrientationPatient=list(scanner.AXIAL))
    d.DetectorInformationSequence = Items([place])
    d.PixelData = b"".join(ARRAY[:, :, k].T.tobytes() for k in range(7))
    for name, value in tags.items():
        setattr(d, name, value)
    return scanner.save(d, path / "nm.dcm")


@pytest.mark.parametrize(
    ("tags", "array"),
    [
        ({}, ARRAY),
        ({"SpacingBetweenSlices": -2.5}, ARRAY[:, :, ::-1]),
        ({"SliceVector": [7, 6, 5, 4, 3, 2, 1]}, ARRAY[:, :, ::-1]),
    ],
)
def test_nuclear_medicine_is_placed_by_its_detector_and_slices(tags, array, tmp_path):
    found = one(nuclear(tmp_path, **tags), tmp_path)
    assert np.array_equal(found.array, array)
    assert found.geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.5))


@pytest.mark.parametrize("kind", ["DYNAMIC", "TOMO", "WHOLE BODY", "GATED"])
def test_views_and_times_of_nuclear_medicine_are_no_slices(kind, tmp_path):
    path = nuclear(tmp_path, ImageType=["ORIGINAL", "PRIMARY", kind, "EMISSION"])
    with pytest.raises(DataError, match="say not where in the patient they lie"):
        one(path, tmp_path)


def test_energy_windows_of_nuclear_medicine_are_volumes_each(tmp_path):
    both = {"SliceVector": [1, 2, 3, 1, 2, 3], "EnergyWindowVector": [1, 1, 1, 2, 2, 2], "NumberOfFrames": 6}
    pixels = b"".join(ARRAY[:, :, k].T.tobytes() for k in range(6))
    found = list(volumes(nuclear(tmp_path, **both, PixelData=pixels), tmp_path).values())
    assert np.array_equal(found[0].array, ARRAY[:, :, :3])
    assert np.array_equal(found[1].array, ARRAY[:, :, 3:6])


def dose(path, offsets, orientation=scanner.AXIAL):
    d = scanner.headers(ARRAY, modality="RTDOSE", orientation=orientation)[0]
    for name in ("RescaleSlope", "RescaleIntercept", "SliceThickness"):
        delattr(d, name)
    d.SOPClassUID, d.NumberOfFrames, d.GridFrameOffsetVector = RTDoseStorage, 7, offsets
    d.DoseGridScaling, d.BitsAllocated, d.BitsStored, d.HighBit = 0.001, 32, 32, 31
    d.PixelRepresentation = 0
    d.PixelData = b"".join((ARRAY[:, :, k].T.astype(np.uint32) + 2000).tobytes() for k in range(7))
    return scanner.save(d, path / "dose.dcm")


@pytest.mark.parametrize("first", [0, 40])
def test_a_dose_lies_by_its_offsets_and_is_scaled(first, tmp_path):
    found = one(dose(tmp_path, [first + 2.5 * k for k in range(7)]), tmp_path)
    assert np.allclose(found.array, (ARRAY + 2000.0) * 0.001)
    assert np.allclose(found.geometry.affine, scanner.affine())


def test_doses_and_captures_of_a_screen_beside_scans_are_left_out(tmp_path):
    dose(tmp_path, [2.5 * k for k in range(7)])
    captured = scanner.headers(ARRAY[:, :, :1], number=9, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    captured[0].SOPClassUID = SecondaryCaptureImageStorage
    scanner.save(captured[0], tmp_path / "screen.dcm")
    scanner.write(tmp_path / "ct", ARRAY)
    found = find_series(tmp_path)
    assert [series.instance.says["Modality"] for series in found.series] == ["CT"]
    assert any("are a dose" in note for note in found.notes)
    assert any("are colours" in note for note in found.notes)
    (chosen,) = find_series(tmp_path, Scans(("Modality=RTDOSE",))).series
    assert chosen.stack.shape == ARRAY.shape


def radiographs(folder, array, **tags):
    for n, d in enumerate(scanner.headers(array, modality="DX", intercept=lambda k: 0)):
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(d, name)
        for name in ("RescaleSlope", "RescaleIntercept"):
            delattr(d, name)
        d.SOPClassUID, d.ImagerPixelSpacing = DigitalXRayImageStorageForPresentation, [0.14, 0.15]
        d.BitsStored, d.HighBit, d.PixelRepresentation = 12, 11, 0
        for name, value in tags.items():
            setattr(d, name, value)
        scanner.save(d, folder / f"{n}.dcm")
    return folder


def test_radiographs_are_pictures_each(tmp_path):
    array = scanner.voxels((12, 10, 2), low=0, high=4096)
    found = volumes(radiographs(tmp_path / "in", array), tmp_path)
    assert list(found) == ["P1_20260102_3_image1", "P1_20260102_3_image2"]
    for n, volume in enumerate(found.values()):
        assert np.array_equal(volume.array, array[:, :, n : n + 1])
        assert np.allclose(volume.geometry.affine, np.diag([-0.15, -0.14, 1, 1]))


def test_radiographs_whose_white_is_least_are_turned_over(tmp_path):
    array = scanner.voxels((12, 10, 1), low=0, high=4096)
    folder = radiographs(tmp_path / "in", array, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(one(folder, tmp_path).array, 4095 - array)
    assert any("turned over" in note for note in index_of(find_series(folder).series[0]).notes)


def test_a_radiograph_that_says_no_size_is_known_to(tmp_path):
    folder = radiographs(tmp_path / "in", scanner.voxels((12, 10, 1), low=0), ImagerPixelSpacing=None)
    assert not one(folder, tmp_path).geometry.spaced


def test_tables_of_values_are_of_each_file(tmp_path):
    made = scanner.headers(scanner.voxels((16, 8, 3), low=0, high=256), intercept=lambda k: 0)
    stored = [np.frombuffer(d.PixelData, np.uint16).reshape(8, 16).T.astype(int) for d in made]
    for n, d in enumerate(made):
        d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 7, 0
        if n == 1:
            d.RescaleSlope, d.RescaleIntercept = 3, 7
            continue
        del d.RescaleSlope, d.RescaleIntercept
        table = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
        table.add_new("LUTData", "OW", (3 * np.arange(256, dtype=np.uint16) + 7).tobytes())
        d.ModalityLUTSequence = Items([table])
    for n, d in enumerate(made):
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
    assert np.array_equal(one(tmp_path / "in", tmp_path).array, 3 * np.stack(stored, axis=2) + 7)


@pytest.mark.parametrize(("name", "kind"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", float)])
def test_pixels_may_be_floats(name, kind, tmp_path):
    array = np.random.default_rng(0).random((12, 10, 3)) * 3 - 1
    for k, d in enumerate(scanner.headers(np.zeros((12, 10, 3)), intercept=lambda k: 0)):
        del d.PixelData, d.BitsStored, d.HighBit, d.PixelRepresentation
        d.BitsAllocated = 8 * np.dtype(kind).itemsize
        setattr(d, name, array[:, :, k].T.astype(kind).tobytes())
        scanner.save(d, tmp_path / "in" / f"{k}.dcm")
    assert np.allclose(one(tmp_path / "in", tmp_path).array, array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NumberOfFrames": 5}, "says 5 frames and describes 7"),
        ({"Columns": 11}, "holds 1,680 bytes of pixels, its header says 1,540"),
        ({"Rows": 0}, "says 12×0 pixels"),
        ({"BitsAllocated": 12}, "says pixels of 12 bits"),
    ],
)
def test_headers_that_do_not_fit_their_pixels_are_told(change, words, tmp_path):
    d = scanner.multi_frame(ARRAY)
    for name, value in change.items():
        setattr(d, name, value)
    scanner.save(d, tmp_path / "one.dcm")
    found = find_series(tmp_path / "one.dcm")
    if found.series:
        with pytest.raises(DataError, match=words):
            one(tmp_path / "one.dcm", tmp_path)
    else:
        assert words in found.notes[0]


def test_a_rescaling_that_is_no_number_is_no_default(tmp_path):
    path = scanner.write(tmp_path, ARRAY[:, :, :1])[0]
    path.write_bytes(path.read_bytes().replace(b"-1024", b"-1..4"))
    found = find_series(path)
    assert not found.series
    assert str(path) in found.notes[0]


def test_a_file_cut_before_its_pixels_are_described_is_told(tmp_path):
    path = scanner.write(tmp_path, ARRAY[:, :, :1])[0]
    path.write_bytes(path.read_bytes()[:700])
    found = find_series(path)
    assert not found.series
    assert str(path) in found.notes[0]


def test_a_deflated_file_that_unpacks_without_end_is_told(tmp_path, monkeypatch):
    path = scanner.write(tmp_path, np.zeros((500, 500, 1), np.int16), syntax=DeflatedExplicitVRLittleEndian)[
        0
    ]
    monkeypatch.setattr("medfuse.volumes.dicom.instances.MOST_UNPACKED", 10_000)
    found = find_series(path)
    assert not found.series
    assert "unpacks to more than" in found.notes[0]


def packed(tmp_path):
    paths = scanner.write(tmp_path / "in", ARRAY)
    for path in paths[1:]:
        d = dcmread(path)
        d.compress(RLELossless)
        d.save_as(path)
    return find_series(tmp_path / "in").series[0]


def test_pixels_that_nothing_decodes_name_their_syntax_and_the_extra(tmp_path, monkeypatch):
    index = write_index(packed(tmp_path), tmp_path / "kept")
    available = property(lambda decoder: RLELossless != decoder.UID)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", available)
    with pytest.raises(
        DataError, match=r"compressed as RLE Lossless .* pip install \"medfuse\[dicom\]\""
    ) as told:
        read_volume(index)
    assert told.value.lines[0].startswith(f"{tmp_path}/in/IM")
    assert len(told.value.lines) == 1


def test_pixels_that_too_few_decoders_cannot_read_name_the_extra(tmp_path, monkeypatch):
    index = write_index(packed(tmp_path), tmp_path / "kept")

    def fails(*args, **more):
        raise RuntimeError("unable\npillow: no 12 bits")

    monkeypatch.setattr("pydicom.pixels.utils.iter_pixels", fails)
    monkeypatch.setattr("medfuse.volumes.dicom.pixels.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"what is installed \(pillow: no 12 bits\): pip install"):
        read_volume(index)
