"""SEG and RTSTRUCT train and judge as the same label maps in NIfTI do."""

import json

import drawn
import nibabel
import numpy as np
import pytest
import scanner

from medfuse import registry
from medfuse.api import Dataset
from medfuse.core.errors import DataError
from medfuse.core.label_table import entries_of
from medfuse.data.images import read_case_labels
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import as_volume_file, read_index
from medfuse.volumes.dicom.rtstruct import write_rtstruct
from medfuse.volumes.read import read_geometry

SHAPE = (24, 20, 18)
HOW = {"pixel_mm": (1.0, 1.0), "step_mm": 1.0}


def masks(seed):
    """A block of liver with a tumour in it, elsewhere in each case."""
    low = np.random.default_rng(seed).integers(2, 6, 3)
    i, j, k = np.indices(SHAPE)
    liver = (i >= low[0]) & (i < low[0] + 12) & (j >= low[1]) & (j < low[1] + 9) & (k > low[2]) & (k < 14)
    tumour = liver & (i < low[0] + 4) & (j > low[1] + 2)
    return {"Liver": liver & ~tumour, "Tumour": tumour}


def nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), scanner.affine(**HOW)), path)


def dataset(root, n=4):
    """n series, and their labels as SEG."""
    for case in range(n):
        own = masks(case)
        image = (1000 * own["Liver"] + 400 * own["Tumour"]).astype(np.int16)
        slices = scanner.headers(image, number=case, patient=f"P{case}", **HOW)
        for k, d in enumerate(slices):
            scanner.save(d, root / "images" / f"c{case}" / f"{k}.dcm")
        scanner.save(drawn.segmentation(slices, own), root / "labels" / f"c{case}.dcm")
    return root


def opened(**how):
    return registry.get(Dataset.group, how.pop("use", "folder"))(**how).read()


def labels_of(info):
    values = {0, 1, 2}
    return [read_case_labels(c, read_geometry(c.images[0]), values) for c in info.cases]


def test_a_cache_that_cannot_be_written_is_a_line(tmp_path, monkeypatch, medfuse):
    root = dataset(tmp_path / "data", 1)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "file" / "cache"))
    said = medfuse("view", root / "images" / "c0", root / "labels" / "c0.dcm", "-o", tmp_path / "x.html")
    assert said.code == 2
    assert "MEDFUSE_CACHE names a folder for caches" in said.err


def test_a_folder_of_segs_is_a_dataset(tmp_path):
    info = opened(root=dataset(tmp_path), classes={"liver": 1, "tumour": 2}, channels=["CT"])
    assert [case.name for case in info.cases] == ["c0", "c1", "c2", "c3"]
    for case, label in enumerate(labels_of(info)):
        assert np.array_equal(label, drawn.label_map(masks(case)))
    assert info.notes == ()


def test_names_decide_and_numbers_do_not(tmp_path):
    info = opened(root=dataset(tmp_path), classes={"tumour": 1}, channels=["CT"])
    for case, label in enumerate(labels_of(info)):
        assert np.array_equal(label, masks(case)["Tumour"])
    (note,) = info.notes
    assert "4 DICOM objects" in note
    assert "Liver is none of the classes (tumour) and left out" in note


def test_a_table_names_segs(tmp_path):
    dataset(tmp_path, 2)
    rows = ["case,image,label", *(f"{n},images/c{n},labels/c{n}.dcm" for n in range(2))]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    info = opened(use="csv", root=tmp_path, classes={"liver": 1, "tumour": 2})
    assert np.array_equal(labels_of(info)[1], drawn.label_map(masks(1)))


def test_a_list_names_segs(tmp_path):
    dataset(tmp_path, 1)
    nifti(tmp_path / "c0.nii.gz", masks(0)["Liver"])
    listing = {
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "modality": {"0": "MR"},
        "training": [{"image": "c0.nii.gz", "label": "labels/c0.dcm"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    info = opened(use="decathlon", root=tmp_path)
    assert np.array_equal(labels_of(info)[0], drawn.label_map(masks(0)))


def test_every_label_that_does_not_fit_is_told(tmp_path):
    labels = dataset(tmp_path, 3) / "labels"
    (labels / "c0.dcm").replace(labels / "away")
    (labels / "c2.dcm").replace(labels / "c0.dcm")
    (labels / "away").replace(labels / "c2.dcm")
    with pytest.raises(DataError) as caught:
        opened(root=tmp_path, classes={"liver": 1}, channels=["CT"])
    assert ["of another scan" in line for line in caught.value.lines] == [True, True]


def test_contours_are_labels_of_a_dataset(tmp_path):
    for case in range(2):
        rtstruct(tmp_path / "labels", case)
    info = opened(root=tmp_path, images=["ct"], classes={"liver": 1, "tumour": 2})
    assert [case.name for case in info.cases] == ["c0", "c1"]
    for case, label in enumerate(labels_of(info)):
        assert np.array_equal(label, drawn.label_map(other(case)))


@pytest.mark.slow
def test_a_network_is_trained_and_judged_on_segs(medfuse, tmp_path):
    dataset(tmp_path / "d")
    file = scanner.pipeline(tmp_path / "p.yaml", "d", "{liver: 1, tumour: 2}", workers=0)
    said = medfuse("run", file, "--runs", tmp_path / "runs")
    assert said.code == 0, said.err
    assert "mean foreground Dice" in said.out


def test_init_calls_labels_as_their_segments(tmp_path):
    from medfuse.data.detect import detect

    found = detect(dataset(tmp_path, 2))
    assert found.settings["classes"] == {"Liver": 1, "Tumour": 2}


@pytest.fixture
def judged(tmp_path, medfuse):
    """The summary of predictions against references, both written by a function of folder and case."""

    def judge(prediction, reference, *options, place="one"):
        for case in range(2):
            prediction(tmp_path / place / "p", case)
            reference(tmp_path / place / "r", case)
        said = medfuse("evaluate", tmp_path / place / "p", tmp_path / place / "r", *options)
        assert said.code == 0, said.err
        return json.loads((tmp_path / place / "p" / "summary.json").read_text())

    return judge


def slices_of(case):
    made = scanner.headers(
        masks(case)["Liver"].astype(np.int16), number=case, study="2.25.1", series=f"2.25.2{case}", **HOW
    )
    for k, d in enumerate(made):
        d.FrameOfReferenceUID, d.SOPInstanceUID = "2.25.3", f"2.25.4{case}{k}"
    return made


def other(case):
    return {name: np.roll(mask, 1, 0) for name, mask in masks(case).items()}


def seg(folder, case, own=None):
    scanner.save(drawn.segmentation(slices_of(case), own or masks(case)), folder / f"c{case}.dcm")


def other_seg(folder, case):
    seg(folder, case, other(case))


def renamed_seg(folder, case):
    """The same labels, numbered otherwise."""
    seg(folder, case, dict(reversed(other(case).items())))


def map_of(folder, case):
    nifti(folder / f"c{case}.nii.gz", drawn.label_map(masks(case)))


def other_map(folder, case):
    nifti(folder / f"c{case}.nii.gz", drawn.label_map(other(case)))


def rtstruct(folder, case):
    """As `medfuse infer` writes it, of what `other` says."""
    for k, d in enumerate(slices_of(case)):
        scanner.save(d, folder.parent / "ct" / f"c{case}" / f"{k}.dcm")
    index = read_index(as_volume_file(folder.parent / "ct" / f"c{case}"))
    folder.mkdir(exist_ok=True)
    entries = entries_of({"background": 0, "liver": 1, "tumour": 2})
    path = folder / f"c{case}.rtstruct.dcm"
    write_rtstruct(path, drawn.label_map(other(case)).astype(np.uint8), index, entries, About())


def dice(summary):
    return [[case["metrics"][n]["Dice"] for n in ("1", "2")] for case in summary["metric_per_case"]]


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (other_seg, map_of),
        (other_map, seg),
        (other_seg, seg),
        (renamed_seg, seg),
        (rtstruct, map_of),
        (rtstruct, seg),
    ],
)
def test_either_side_may_be_dicom(prediction, reference, judged):
    found = dice(judged(prediction, reference))
    assert found == dice(judged(other_map, map_of, place="two"))
    assert min(map(min, found)) > 0
    assert max(map(max, found)) < 1


def test_label_maps_in_several_formats_are_judged_once(judged):
    def both(folder, case):
        other_map(folder, case)
        rtstruct(folder, case)

    assert dice(judged(both, map_of)) == dice(judged(other_map, map_of, place="two"))


def test_labels_are_called_as_segments_are(judged, medfuse, tmp_path):
    judged(other_seg, seg)
    assert "Liver" in medfuse("evaluate", tmp_path / "one" / "p", tmp_path / "one" / "r").out


def test_a_label_that_is_named_is_judged_by_its_name(judged):
    found = judged(other_seg, seg, "--label", "tumour=1")
    one, two = masks(0)["Tumour"], other(0)["Tumour"]
    wanted = 2 * (one & two).sum() / (one.sum() + two.sum())
    assert found["metric_per_case"][0]["metrics"]["1"]["Dice"] == pytest.approx(wanted)


def test_frames_that_one_side_leaves_out_are_empty(judged):
    """Its own grid would end where its voxels do."""

    def half(folder, case):
        seg(folder, case, {name: mask & (np.arange(18) < 9) for name, mask in masks(case).items()})

    found = judged(half, seg)
    whole = masks(0)["Liver"]
    part = whole & (np.arange(18) < 9)
    wanted = 2 * part.sum() / (part.sum() + whole.sum())
    assert found["metric_per_case"][0]["metrics"]["1"]["Dice"] == pytest.approx(wanted)


def test_contours_beyond_the_frames_of_a_seg_count(judged):
    """A segmentation without its empty frames ends where its voxels do."""

    def half(folder, case):
        seg(folder, case, {name: mask & (np.arange(18) < 9) for name, mask in other(case).items()})

    found = judged(rtstruct, half)
    whole = other(0)["Liver"]
    part = whole & (np.arange(18) < 9)
    wanted = 2 * part.sum() / (part.sum() + whole.sum())
    assert found["metric_per_case"][0]["metrics"]["1"]["Dice"] == pytest.approx(wanted)


def test_structures_of_folders_with_their_series_are_judged_by_each_other(judged):
    def with_series(folder, case):
        rtstruct(folder, case)
        (folder / f"c{case}").mkdir()
        (folder / f"c{case}.rtstruct.dcm").replace(folder / f"c{case}" / "rs.dcm")
        for k, d in enumerate(slices_of(case)):
            scanner.save(d, folder / f"c{case}" / f"{k}.dcm")

    assert np.array_equal(dice(judged(with_series, rtstruct)), np.ones((2, 2)))


def test_what_does_not_fit_fails_and_the_others_are_judged(medfuse, tmp_path):
    for case in range(2):
        other_map(tmp_path / "p", case)
        seg(tmp_path / "r", case)
    content = (tmp_path / "r" / "c1.dcm").read_bytes()
    (tmp_path / "r" / "c1.dcm").write_bytes(content[: len(content) // 2])
    said = medfuse("evaluate", tmp_path / "p", tmp_path / "r")
    assert said.code == 2
    assert "c1.dcm" in said.err
    assert "Traceback" not in said.err
    summary = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
