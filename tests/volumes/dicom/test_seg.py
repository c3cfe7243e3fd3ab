"""Label maps as DICOM segmentations, read back by readers that are not medfuse's: not a voxel differs."""

import json
import os
import shutil
import subprocess
import zipfile
from itertools import product

import nibabel
import numpy as np
import pydicom
import pytest
import scanner
from elsewhere import DATA, READERS

from medfuse.core.errors import DataError, OutputError
from medfuse.core.label_table import LabelSays, entries_of
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import as_volume_file, read_index
from medfuse.volumes.dicom.seg import content_label, write_seg
from medfuse.volumes.dicom.series import Scans

hd = pytest.importorskip("highdicom", reason="highdicom comes with the extra dicom")

LABELS = {"background": 0, "liver": 1, "kidney_left": 2, "liver_tumour": 5, "nowhere": 9, "x": 200}
ENTRIES = entries_of(LABELS)
ABOUT = About("my run", "0.1.0", ("ab" * 32,))
PLANES = {
    "axial": scanner.AXIAL,
    "coronal": scanner.CORONAL,
    "sagittal": scanner.SAGITTAL,
    "oblique": scanner.OBLIQUE,
}
DCMQI = shutil.which("segimage2itkimage", path=os.pathsep.join([os.environ["PATH"], str(READERS / "bin")]))
CHECKER = shutil.which("dciodvfy")
TORSO = DATA / "ct_torso" / "dicom_series"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))


def index_at(folder, scans=None):
    return read_index(as_volume_file(folder, scans) if scans else as_volume_file(folder))


def some_labels(shape, values=(0, 0, 1, 2, 5, 200), seed=0):
    """Labels without symmetry, the first and one slice in the middle without any."""
    made = np.random.default_rng(seed).choice(np.array(values, np.uint16), shape)
    made[:, :, [0, shape[2] // 2]] = 0
    return np.asfortranarray(made.astype(np.uint8 if max(values) < 256 else np.uint16))


def written(tmp_path, labels, index, entries=ENTRIES, name="x.dcm", **how):
    path = tmp_path / name
    return path, write_seg(path, labels, index, entries, ABOUT, **how)


def affine_of(index):
    made = np.eye(4)
    made[:3] = index.affine
    return made


def on_grid_of(index, voxels, affine, *, off=0.01):
    """Voxels of another grid, whose affine is towards RAS+, by the voxels of the index that they lie on."""
    step = np.linalg.inv(affine_of(index)) @ affine
    where = np.indices(voxels.shape).reshape(3, -1)
    at = step[:3, :3] @ where + step[:3, 3:]
    assert np.abs(at - np.rint(at)).max() < off, "not on the grid of the series"
    at = np.rint(at).astype(int)
    inside = ((at >= 0) & (at < np.array(index.shape)[:, None])).all(0)
    assert not voxels.ravel()[~inside].any()
    made = np.zeros(index.shape, voxels.dtype)
    made[tuple(at[:, inside])] = voxels.ravel()[inside]
    return made


def by_highdicom(path, index):
    seg = hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=True, skip_overlap_checks=False)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    return on_grid_of(index, np.asarray(volume.array), affine), seg


def by_dcmqi(path, index, tmp_path, **how):
    if DCMQI is None:
        pytest.skip("dcmqi's segimage2itkimage is not installed")
    out = tmp_path / "dcmqi"
    out.mkdir()
    call = [DCMQI, "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nii", "--mergeSegments"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.nii.gz")
    image = nibabel.load(file)
    return on_grid_of(index, np.asarray(image.dataobj).astype(np.uint16), image.affine, **how), json.loads(
        (out / "meta.json").read_text()
    )


def numbered(labels, kind):
    """What a reader gives: values, or for binary segments their numbers."""
    if kind == "labelmap":
        return labels
    numbers = {0: 0} | {value: n for n, value in enumerate((v for v in np.unique(labels) if v), 1)}
    return np.vectorize(numbers.get)(labels)


def turned(orientation, swap, flip_i, flip_j):
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    row, column = (column, row) if swap else (row, column)
    return (*(row * flip_i), *(column * flip_j))


@pytest.mark.parametrize("turn", [*product([False, True], [1, -1], [1, -1])], ids=str)
@pytest.mark.parametrize("plane", PLANES)
def test_no_voxel_differs_in_any_orientation(plane, turn, tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels((7, 6, 5)), orientation=turned(PLANES[plane], *turn))
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    for kind in ("labelmap", "binary"):
        path, told = written(tmp_path, labels, index, name=f"{kind}.dcm", kind=kind)
        read, _ = by_highdicom(path, index)
        assert np.array_equal(read, numbered(labels, kind)), kind
        assert told == {"kind": kind.upper(), "absent": ["nowhere"]}


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("turn", [(False, 1, 1), (True, -1, 1), (False, -1, -1)], ids=str)
@pytest.mark.parametrize("plane", PLANES)
def test_dcmqi_reads_the_same_voxels(plane, turn, kind, tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels((7, 6, 5)), orientation=turned(PLANES[plane], *turn))
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index, kind=kind)
    read, meta = by_dcmqi(path, index, tmp_path)
    assert np.array_equal(read, numbered(labels, kind))
    segments = [segment for group in meta["segmentAttributes"] for segment in group]
    assert [s["SegmentLabel"] for s in segments if s["labelID"]] == [
        "liver",
        "kidney_left",
        "liver_tumour",
        "x",
    ]
    assert segments[-4]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "10200004"


def test_slices_without_labels_are_left_out_and_each_other_names_its_source(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    for kind in ("labelmap", "binary"):
        path, _ = written(tmp_path, labels, index, kind=kind)
        seg = pydicom.dcmread(path)
        full = int(labels.any((0, 1)).sum())
        assert seg.NumberOfFrames == (full if kind == "labelmap" else 4 * full)
        for frame in seg.PerFrameFunctionalGroupsSequence:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            (k,) = [f for f, said in enumerate(index.frames) if said.uid == source.ReferencedSOPInstanceUID]
            at = affine_of(index) @ [0, 0, k, 1] * [-1, -1, 1, 1]
            assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, at[:3], atol=1e-6)
        assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == index.shape[2]


COPIED = [
    *("PatientID", "PatientName", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyID"),
    *("FrameOfReferenceUID", "StudyDescription"),
]


def test_it_says_what_it_is_and_whose(tmp_path):
    scanner.write(
        tmp_path / "in", scanner.voxels(), PatientSex="F", StudyDescription="a study", PatientAge="041Y"
    )
    source = pydicom.dcmread(next((tmp_path / "in").iterdir()))
    index = index_at(tmp_path / "in")
    path, _ = written(tmp_path, some_labels(index.shape), index)
    seg = pydicom.dcmread(path)
    for name in COPIED:
        assert str(seg[name].value) == str(source[name].value), name
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert (seg.SeriesDescription, seg.ContentLabel, seg.SeriesNumber) == ("my run", "MY_RUN", 1003)
    assert [*seg.SoftwareVersions] == ["medfuse 0.1.0", f"weights {'ab' * 16}"]
    assert "InstitutionName" not in seg
    liver, kidney, tumour, _ = seg.SegmentSequence[1:]
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"AUTOMATIC"}
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Left"
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    rgb = hd.color.CIELabColor.from_dicom_value([*liver.RecommendedDisplayCIELabValue]).to_rgb()
    assert np.abs(np.array(rgb) - ENTRIES[0].rgb).max() <= 2


def test_the_same_again_is_the_same_bytes_where_the_time_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    one, other = (written(tmp_path, labels, index, name=f"{n}.dcm")[0].read_bytes() for n in (1, 2))
    assert one == other
    labels[3, 3, 3] ^= 1
    third = pydicom.dcmread(written(tmp_path, labels, index)[0])
    assert third.SOPInstanceUID != pydicom.dcmread(tmp_path / "1.dcm").SOPInstanceUID
    assert third.ContentDate == "20260101"


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
def test_a_scan_without_any_label_is_a_file_all_the_same(kind, tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    path, told = written(tmp_path, np.zeros(index.shape, np.uint8), index, kind=kind)
    read, _ = by_highdicom(path, index)
    assert not read.any()
    assert told["absent"] == [name for name in LABELS if name != "background"]


def test_values_above_255_have_16_bits_and_those_above_65535_are_refused(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    entries = entries_of({"background": 0, "a": 1, "b": 300, "c": 65535})
    labels = some_labels(index.shape, (0, 1, 300, 65535))
    read, seg = by_highdicom(written(tmp_path, labels, index, entries)[0], index)
    assert np.array_equal(read, labels)
    assert seg.BitsAllocated == 16
    larger = entries_of({"background": 0, "a": 1, "b": 70_000})
    there = np.where(labels == 300, np.uint32(70_000), labels.clip(0, 1))
    with pytest.raises(OutputError, match="--seg-type binary"):
        written(tmp_path, there, index, larger, name="y.dcm")
    assert not (tmp_path / "y.dcm").exists()
    path, _ = written(tmp_path, there, index, larger, kind="binary")
    assert np.array_equal(by_highdicom(path, index)[0], numbered(there, "binary"))


def test_regions_that_lie_within_each_other_are_whole(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    regions = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}
    labels = some_labels(index.shape, (0, 1, 2, 3))
    path, told = written(tmp_path, labels, index, entries_of(regions, None, (1, 2, 3)))
    assert told["kind"] == "BINARY"
    seg = hd.seg.segread(path)
    volume = seg.get_volume()
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    for n, values in enumerate(list(regions.values())[1:]):
        read = on_grid_of(index, np.asarray(volume.array)[..., n], affine)
        assert np.array_equal(read, np.isin(labels, values))
    assert seg.SegmentsOverlap == "YES"


@pytest.mark.parametrize("fault", ["tilted", "uneven"])
def test_grids_that_were_resampled_have_a_geometry_of_their_own_and_claim_no_frame(fault, tmp_path):
    how = {"step": (0.0, 1.0, 2.0)} if fault == "tilted" else {}
    files = scanner.write(tmp_path / "in", scanner.voxels((12, 10, 9)), **how)
    if fault == "uneven":
        by_number = {int(pydicom.dcmread(f).InstanceNumber): f for f in files}
        by_number[5].unlink()
    index = index_at(tmp_path / "in", Scans(uneven=True))
    assert index.planes
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    assert all(not f.DerivationImageSequence for f in seg.PerFrameFunctionalGroupsSequence)
    assert len(seg.SourceImageSequence) == len(index.frames)


def test_sources_in_a_zip_file_are_referenced(tmp_path):
    files = scanner.write(tmp_path / "in", scanner.voxels())
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, f"a/{file.name}")
    index = index_at(tmp_path / "scan.zip")
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    assert seg.PatientID == "P1"
    assert len(seg.SourceImageSequence) == index.shape[2]


def test_frames_of_a_multi_frame_source_are_referenced_by_number(tmp_path):
    scanner.save(scanner.multi_frame(scanner.voxels()), tmp_path / "in" / "one.dcm")
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    assert len(seg.SourceImageSequence) == 1
    numbers = {
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for f in seg.PerFrameFunctionalGroupsSequence
    }
    assert len(numbers) == len(seg.PerFrameFunctionalGroupsSequence)


GONE = [
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "StudyInstanceUID"),
    *("PositionReferenceIndicator", "SeriesNumber", "SOPClassUID", "Modality"),
]


@pytest.mark.parametrize("name", [*GONE, "all"])
def test_missing_tags_do_not_matter(name, tmp_path):
    gone = GONE[:-2] if name == "all" else [name]
    for n, d in enumerate(scanner.headers(scanner.voxels())):
        for tag in gone:
            if tag in d:
                delattr(d, tag)
        d.SOPClassUID = d.get("SOPClassUID", scanner.CLASSES["CT"])
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    assert seg.StudyInstanceUID
    assert seg.FrameOfReferenceUID


ODD = {
    "PatientName": "Müller^Jürgen=無名",
    "PatientBirthDate": "1.2.1970",
    "PatientSex": "unknown, or not told",
    "StudyDate": "2026-01-02",
    "StudyTime": "noon",
    "PatientID": "ü" * 80,
    "StudyDescription": "x" * 90,
    "StudyInstanceUID": "1.02.x",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tags_do_not_matter(name, tmp_path):
    from pydicom import config

    old = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        config.settings.reading_validation_mode, before = (
            config.IGNORE,
            config.settings.reading_validation_mode,
        )
        scanner.write(
            tmp_path / "in", scanner.voxels(), SpecificCharacterSet="ISO_IR 192", **{name: ODD[name]}
        )
    finally:
        config.settings.reading_validation_mode = before
        config.settings.writing_validation_mode = old
    index = index_at(tmp_path / "in")
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    if name == "PatientName":
        assert str(seg.PatientName) == ODD[name]


@pytest.mark.parametrize("name", ["a\\b", "a\tb\nc", "x" * 200, " ", "^=~|", "-"])
def test_odd_names_of_labels_are_one_value(name, tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    path = tmp_path / "x.dcm"
    labels = some_labels(index.shape, (0, 1))
    write_seg(path, labels, index, entries_of({"background": 0, name: 1}), About(name, name, (name,)))
    read, seg = by_highdicom(path, index)
    assert np.array_equal(read, labels)
    assert seg.SegmentSequence[1]["SegmentLabel"].VM <= 1


def test_names_that_are_no_latin_are_kept(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    entries = entries_of({"background": 0, "肝臓": 1}, {"肝臓": LabelSays("SCT 10200004")})
    path = tmp_path / "x.dcm"
    write_seg(path, some_labels(index.shape, (0, 1)), index, entries, About("läuft " * 9, "1", ()))
    seg = pydicom.dcmread(path)
    assert seg.SegmentSequence[1].SegmentLabel == "肝臓"
    assert seg.SeriesDescription.startswith("läuft")


def plain_source(folder, **how):
    scanner.write(folder, scanner.voxels(), PatientName="No^Body", **how)


def source_without_tags(folder):
    for n, d in enumerate(scanner.headers(scanner.voxels(), PatientName="No^Body")):
        for tag in ("StudyDate", "PatientSex", "FrameOfReferenceUID", "PatientID", "AccessionNumber"):
            delattr(d, tag)
        scanner.save(d, folder / f"{n}.dcm")


def source_without_uids(folder):
    for n, d in enumerate(scanner.headers(scanner.voxels(), PatientName="No^Body")):
        d.StudyInstanceUID = d.SeriesInstanceUID = d.FrameOfReferenceUID = ""
        scanner.save(d, folder / f"{n}.dcm")


def multi_frame_source(folder):
    d = scanner.multi_frame(scanner.voxels(), PatientName="No^Body")
    scanner.save(d, folder / "one.dcm")


def lossy_source(folder):
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5}
    plain_source(folder, **lossy, LossyImageCompressionMethod="ISO_10918_1")


def anonymous_source(folder):
    plain_source(folder, PatientIdentityRemoved="YES", DeidentificationMethod=["one", "two"])


SOURCES = {
    "plain": plain_source,
    "without tags": source_without_tags,
    "without uids": source_without_uids,
    "multi-frame": multi_frame_source,
    "lossy": lossy_source,
    "anonymous": anonymous_source,
    "tilted": lambda folder: plain_source(folder, step=(0.0, 1.0, 2.0)),
    "oblique": lambda folder: plain_source(folder, orientation=scanner.OBLIQUE),
}


@pytest.mark.skipif(CHECKER is None, reason="dicom3tools' dciodvfy is not installed")
@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_checker_finds_no_error(source, kind, tmp_path):
    SOURCES[source](tmp_path / "in")
    index = index_at(tmp_path / "in")
    path, _ = written(tmp_path, some_labels(index.shape), index, kind=kind)
    said = subprocess.run([CHECKER, path], capture_output=True, text=True).stderr.splitlines()
    # older ones know no label maps, whose background is segment 0
    unknown = ("Information Object Not found", "SegmentNumber of 0") if kind == "labelmap" else ()
    assert [s for s in said if s.startswith("Error") and not any(u in s for u in unknown)] == []


@pytest.mark.skipif(not TORSO.is_dir(), reason="the real volumes are not here")
@pytest.mark.parametrize("kind", ["labelmap", "binary"])
def test_the_real_series_which_has_no_uids_has_its_labels(kind, tmp_path):
    index = index_at(TORSO)
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index, kind=kind)
    read, _ = by_highdicom(path, index)
    assert np.array_equal(read, numbered(labels, kind))
    again, _ = by_dcmqi(path, index, tmp_path)
    assert np.array_equal(again, numbered(labels, kind))


def test_content_labels_are_code_strings():
    for text, label in {
        "my run": "MY_RUN",
        "Liver-tumour, v2 (final)": "LIVER_TUMOUR_V2",
        "": "SEGMENTATION",
        "肝": "SEGMENTATION",
        "x" * 99: "X" * 16,
    }.items():
        assert content_label(text) == label


def test_without_highdicom_a_line_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    scanner.write(tmp_path / "in", scanner.voxels())
    index = index_at(tmp_path / "in")
    with pytest.raises(DataError, match=r"medfuse\[dicom\]"):
        written(tmp_path, some_labels(index.shape), index)


def test_one_slice_is_a_segmentation_too(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels((12, 10, 1)))
    index = index_at(tmp_path / "in")
    labels = np.asfortranarray(np.random.default_rng(0).integers(0, 3, index.shape).astype(np.uint8))
    for kind in ("labelmap", "binary"):
        path, _ = written(tmp_path, labels, index, name=f"{kind}.dcm", kind=kind)
        seg = hd.seg.segread(path)
        (frame,) = seg.get_pixels_by_source_instance([index.frames[0].uid], combine_segments=True)
        assert np.array_equal(frame.T, labels[:, :, 0])


@pytest.mark.parametrize("aside", [0.0, 0.015])
def test_slices_that_lean_a_little_lie_where_their_images_lie(aside, tmp_path):
    """By less than a voxel in all, so that nothing was resampled."""
    scanner.write(tmp_path / "in", scanner.voxels(), step=(0.0, aside, 2.5))
    index = index_at(tmp_path / "in")
    assert index.planes is None
    labels = some_labels(index.shape)
    path, _ = written(tmp_path, labels, index)
    read, _ = by_dcmqi(path, index, tmp_path, off=0.2)
    assert np.array_equal(read, labels)


def test_a_radiograph_has_no_place_in_the_patient(tmp_path):
    (d,) = scanner.headers(scanner.voxels((12, 10, 1)), modality="DX")
    del d.ImagePositionPatient, d.ImageOrientationPatient
    scanner.save(d, tmp_path / "in" / "x.dcm")
    index = index_at(tmp_path / "in")
    with pytest.raises(DataError, match="--format nifti"):
        written(tmp_path, np.ones(index.shape, np.uint8), index)
    assert not (tmp_path / "x.dcm").exists()
