"""`medfuse infer --format`: one label map in several formats, for scanners' scans and others."""

import json
import re

import nibabel
import numpy as np
import pydicom
import pytest
import scanner

from medfuse.infer.formats import FORMATS, formats_of
from medfuse.trained.predictor import Predictor
from medfuse.volumes.label_maps import fitted
from medfuse.volumes.read import read_labels

hd = pytest.importorskip("highdicom", reason="highdicom comes with the extra dicom")
HOW = {"pixel_mm": (1.0, 1.0), "step_mm": 1.0}
NAME = "P1_20260102_3"


@pytest.fixture
def scan(finished_run, tmp_path):
    """A folder with one series of the run's kind of scan."""
    image = nibabel.load(finished_run.data / "imagesTr" / "cube_00.nii.gz")
    voxels = np.rint(np.asarray(image.dataobj) * 100).astype(np.int16)
    scanner.write(tmp_path / "in" / "ct", voxels, orientation=scanner.OBLIQUE, **HOW)
    return tmp_path / "in"


@pytest.fixture
def infer(finished_run, scan, medfuse, tmp_path):
    def infer(*options, inputs=scan, output=tmp_path / "out"):
        return medfuse("infer", finished_run.folder, "-i", inputs, "-o", output, *options)

    return infer


def seg_of(path):
    """The label map (i, j, k) of a segmentation of all slices, in the order of its series."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return np.asarray(volume.array)[::-1].T


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_one_label_map_in_several_formats_is_the_same(infer, tmp_path):
    said = infer("--format", "nifti,nrrd", "--format", "dicom_seg,rtstruct")
    assert said.code == 0, said.err
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(("manifest.", "quality."))) == [
        f"{NAME}.dcm",
        f"{NAME}.nii.gz",
        f"{NAME}.nrrd",
        f"{NAME}.rtstruct.dcm",
    ]
    nifti, nrrd = (read_labels(out / f"{NAME}{ending}") for ending in (".nii.gz", ".nrrd"))
    assert np.array_equal(nifti.array, nrrd.array)
    assert np.allclose(nifti.geometry.affine, nrrd.geometry.affine, atol=1e-4)
    seg = pydicom.dcmread(out / f"{NAME}.dcm")
    full = nifti.array.any((0, 1))
    assert np.array_equal(
        seg_of(out / f"{NAME}.dcm"), nifti.array[:, :, full.argmax() : len(full) - full[::-1].argmax()]
    )
    found = fitted({NAME: (out / f"{NAME}.rtstruct.dcm", out / f"{NAME}.nii.gz")}, {"cube": 1})
    assert np.array_equal(read_labels(found.files[NAME]).array, nifti.array)
    entry = manifest(out)["cases"][NAME]
    assert sorted(entry["files"]) == sorted(
        p.name for p in out.iterdir() if not p.name.startswith(("manifest.", "quality."))
    )
    assert entry["formats"]["dicom_seg"]["kind"] == "LABELMAP"
    weights = manifest(out)["weights"]
    assert seg.SoftwareVersions[1] == f"weights {weights[0][:32]}"
    assert entry["formats"]["rtstruct"]["contours"] > 0
    assert "1 were finished already" in infer("--format", "nifti,nrrd,dicom_seg,rtstruct").out


def test_binary_segmentations_are_other_files(infer, tmp_path):
    assert infer("--format", "dicom_seg").code == 0
    assert "1 written" in infer("--format", "dicom_seg", "--seg-type", "binary").out
    assert pydicom.dcmread(tmp_path / "out" / f"{NAME}.dcm").SegmentationType == "BINARY"


def test_several_files_of_a_case_are_its_own(infer, tmp_path):
    assert infer("--format", "dicom_seg,rtstruct,nifti").code == 0
    out = tmp_path / "out"
    assert [*manifest(out)["cases"][NAME]["files"]] == [
        f"{NAME}.dcm",
        f"{NAME}.rtstruct.dcm",
        f"{NAME}.nii.gz",
    ]
    structures = pydicom.dcmread(out / f"{NAME}.rtstruct.dcm")
    seg = pydicom.dcmread(out / f"{NAME}.dcm")
    assert structures.Modality == "RTSTRUCT"
    assert structures.SeriesDescription == seg.SeriesDescription
    (out / f"{NAME}.rtstruct.dcm").unlink()
    assert "1 written" in infer("--format", "dicom_seg,rtstruct,nifti").out


def test_another_format_leaves_what_is_there_and_says_so(infer, tmp_path, caplog):
    assert infer().code == 0
    said = infer("--format", "dicom_seg")
    assert said.code == 0
    assert (tmp_path / "out" / f"{NAME}.nii.gz").is_file()
    assert f"not of the cases as they are now: {NAME}.nii.gz" in caplog.text


def test_a_case_that_is_no_series_is_refused_and_the_others_are_done(infer, finished_run, scan, tmp_path):
    (scan / "plain.nii.gz").write_bytes((finished_run.data / "imagesTr" / "cube_00.nii.gz").read_bytes())
    said = infer("--format", "dicom_seg")
    assert said.code == 2
    assert "1 written" in said.out
    (line,) = [line for line in said.out.splitlines() if line.strip().startswith("plain:")]
    assert "is no DICOM series" in line
    assert "--format nifti" in line
    explained = infer("--format", "dicom_seg", "--explain")
    assert explained.code == 2
    assert "is no DICOM series" in explained.out


def test_every_format_but_those_of_series_takes_every_image(infer, finished_run, tmp_path):
    source = finished_run.data / "imagesTr"
    plain = [name for name, known in FORMATS.items() if known.write is None]
    said = infer("--format", ",".join(plain), inputs=source)
    assert said.code == 0, said.err
    endings = [FORMATS[name].ending for name in plain]
    first, *others = (read_labels(tmp_path / "out" / f"cube_00{ending}") for ending in endings)
    assert all(np.array_equal(first.array, other.array) for other in others)


@pytest.mark.parametrize("odd", ["dcm", "dicom-seg", "", "nifti,,nrrd", "png"])
def test_a_format_that_there_is_not_is_one_line_before_any_work(odd, infer, tmp_path):
    said = infer("--format", odd)
    assert said.code == 2
    assert "is no format of label maps" in said.err
    assert "dicom_seg" in said.err
    assert not (tmp_path / "out").exists()


def test_formats_are_parted_by_commas_and_each_is_written_once():
    assert formats_of(["NIfTI, dicom_seg", "nifti"]) == ("nifti", "dicom_seg")
    assert formats_of("nrrd") == ("nrrd",)
    assert formats_of(()) == ()


def test_without_highdicom_nothing_is_begun(infer, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    said = infer("--format", "dicom_seg")
    assert said.code == 2
    assert "medfuse[dicom]" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_file_of_a_series_is_never_replaced_by_its_segmentation(options, infer, scan):
    first, *_ = (scan / "ct").iterdir()
    first.rename(scan / "ct" / f"{NAME}.dcm")
    before = {p: p.read_bytes() for p in scan.rglob("*.dcm")}
    said = infer("--format", "dicom_seg", *options, output=scan / "ct")
    assert said.code == 2
    assert f"{NAME}.dcm: the label map would replace an image" in said.err
    assert {p: p.read_bytes() for p in scan.rglob("*.dcm")} == before


def test_a_kind_of_segmentation_wants_segmentations(infer, tmp_path):
    said = infer("--format", "nifti", "--seg-type", "binary")
    assert said.code == 2
    assert "--seg-type binary: is a kind of --format dicom_seg" in said.err
    assert not (tmp_path / "out").exists()


def test_a_predictor_writes_formats_too(finished_run, scan, tmp_path):
    outcome = Predictor.load(finished_run.folder, device="cpu").files(
        scan, tmp_path / "out", formats=("nifti", "dicom_seg"), seg_type="binary"
    )
    assert outcome.done == (NAME,)
    assert pydicom.dcmread(tmp_path / "out" / f"{NAME}.dcm").SegmentationType == "BINARY"


def test_a_segmentation_says_the_name_of_the_run(infer, finished_run, tmp_path):
    infer("--format", "dicom_seg")
    seg = pydicom.dcmread(tmp_path / "out" / f"{NAME}.dcm")
    assert seg.SeriesDescription == finished_run.folder.name
    assert seg.Manufacturer == "medfuse"
    assert seg.PatientID == "P1"


def test_the_report_of_memory_counts_label_maps_that_wait(infer):
    said = infer("--format", "dicom_seg", "--explain")
    assert said.code == 0, said.err
    assert "label maps" in said.out
    assert "label maps" not in infer("--explain").out


@pytest.mark.parametrize(
    ("form", "seg_type"), [("dicom_seg", "labelmap"), ("dicom_seg", "binary"), ("rtstruct", "labelmap")]
)
def test_statistics_are_the_same_in_every_format(infer, tmp_path, form, seg_type):
    found = []
    for name in ("nifti", form):
        kind = ("--seg-type", seg_type) if name == "dicom_seg" else ()
        how = ("--format", name, *kind, "--statistics")
        assert infer(*how, output=tmp_path / name).code == 0
        (case,) = json.loads((tmp_path / name / "statistics.json").read_text())["cases"].values()
        found.append(case["classes"]["cube"])
    one, other = found
    assert (one["voxels"], one["components"], one["intensity"]) == (
        other["voxels"],
        other["components"],
        other["intensity"],
    )
    assert one["centroid_mm"] == pytest.approx(other["centroid_mm"], abs=1e-3)


def test_memory_for_binary_segmentations_is_more_than_for_label_maps(infer):
    def planned(*options):
        said = infer("--format", "dicom_seg", "--explain", *options).out
        number, unit = re.search(r"label maps ([\d.]+) (\w+)", said).groups()
        return float(number) * {"KiB": 1, "MiB": 1024, "B": 1 / 1024}[unit]

    assert planned("--seg-type", "binary") > planned()
