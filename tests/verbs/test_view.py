"""`medfuse view` on files, folders, runs and mistakes; a browser is asked elsewhere what pages show."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest


def write(path: Path, array, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def scan(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(2).integers(-1000, 900, (8, 7, 6)).astype(np.int16)
    return write(tmp_path / "in" / "a.nii.gz", values)


@pytest.fixture
def label(scan) -> Path:
    array = np.zeros((8, 7, 6), np.uint8)
    array[2:5, 2:5, 2:5], array[6, 6, 5] = 1, 2
    return write(scan.parents[1] / "out" / "a.nii.gz", array)


def about(page: Path) -> list[dict]:
    """What a page says of its cases."""
    text = page.read_text()
    return json.loads(text.partition('id="page">')[2].partition("</script>")[0])["cases"]


def names(case: dict) -> dict[int, str]:
    return {c["value"]: c["name"] for c in case["classes"]}


def test_a_scan_and_its_labels_are_one_page_named_after_the_scan(medfuse, scan, label):
    said = medfuse("view", scan, label, "--label", "liver=1", "-q")
    assert said.code == 0
    (case,) = about(Path("a.view.html"))
    assert case["layers"] == ["labels"]
    assert names(case) == {1: "liver", 2: "value 2"}
    assert str(Path("a.view.html")) in said.out


def test_two_label_maps_are_reference_and_prediction(medfuse, scan, label):
    assert medfuse("view", scan, label, label).code == 0
    assert about(Path("a.view.html"))[0]["layers"] == ["reference", "prediction"]


def test_a_scan_alone_is_shown_with_a_line(medfuse, scan):
    said = medfuse("view", scan)
    assert said.code == 0
    assert "it is shown alone" in said.err


def test_folders_are_paired_by_name(medfuse, scan, label):
    write(scan.with_name("b.nii.gz"), np.zeros((3, 3, 3), np.int16))
    said = medfuse("view", scan.parent, label.parent)
    assert said.code == 0
    assert "1 scan (b) without a label map here, not shown" in said.err
    assert [case["name"] for case in about(label.parent / "view.html")] == ["a"]


def test_colours_and_names_of_nrrd_are_used(medfuse, scan, label):
    from medfuse.core.label_table import LabelSays, entries_of
    from medfuse.volumes.nrrd_segments import segments

    table = entries_of({"Liver <b>": 1, "spleen": 2}, {"spleen": LabelSays(color="#123456")})
    header = ["NRRD0004", "type: uint8", "dimension: 3", "sizes: 8 7 6", "encoding: raw"]
    header += ["space: right-anterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)"]
    header += ["space origin: (0,0,0)", *(f"{k}:={v}" for k, v in segments(table, (8, 7, 6)).items())]
    voxels = np.asarray(nibabel.load(label).dataobj).tobytes(order="F")
    Path("l.nrrd").write_bytes("\n".join(header).encode() + b"\n\n" + voxels)
    assert medfuse("view", scan, "l.nrrd").code == 0
    case = about(Path("a.view.html"))[0]
    assert names(case) == {1: "Liver <b>", 2: "spleen"}
    assert case["classes"][1]["color"] == "#123456"


def test_a_run_shows_its_held_out_cases_worst_first(medfuse, finished_run, tmp_path):
    page = tmp_path / "page.html"
    assert medfuse("view", finished_run.folder, "-o", page).code == 0
    summary = json.loads((finished_run.folder / "summary.json").read_text())
    cases = about(page)
    assert {case["name"] for case in cases} == {case["name"] for case in summary["metric_per_case"]}
    assert all(case["layers"] == ["reference", "prediction"] for case in cases)
    scores = [float(case["meanDice"] or 2) for case in cases]
    assert scores == sorted(scores)
    assert all(not name.startswith("value") for case in cases for name in names(case).values())


def test_the_folds_of_a_run_are_shown_together(medfuse, finished_run, tmp_path):
    import shutil

    shutil.copytree(finished_run.folder, tmp_path / "cv" / "fold_0")
    assert medfuse("view", tmp_path / "cv", "-q").code == 0
    shown = {case["name"] for case in about(tmp_path / "cv" / "view.html")}
    summary = json.loads((finished_run.folder / "summary.json").read_text())
    assert shown == {case["name"] for case in summary["metric_per_case"]}


def test_what_infer_wrote_is_shown_with_its_scans(medfuse, finished_run, tmp_path):
    out = tmp_path / "out"
    scans = finished_run.data / "imagesTr"
    assert medfuse("infer", finished_run.folder, "-i", scans, "-o", out, "-q").code == 0
    assert medfuse("view", out).code == 0
    cases = about(out / "view.html")
    assert len(cases) == len([*scans.glob("*.nii.gz")])
    assert all(case["layers"] == ["prediction"] for case in cases)
    assert medfuse("view", out, "--case", cases[1]["name"]).code == 0
    assert [case["name"] for case in about(out / "view.html")] == [cases[1]["name"]]


def test_dicom_segmentations_that_infer_wrote_are_shown_with_their_series(medfuse, finished_run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom comes with the dicom extra")
    from scanner import voxels
    from scanner import write as write_series

    write_series(tmp_path / "scan", voxels((20, 20, 20)))
    out = tmp_path / "out"
    words = ("infer", finished_run.folder, "-i", tmp_path / "scan", "-o", out, "--format", "dicom_seg", "-q")
    assert medfuse(*words).code == 0
    said = medfuse("view", out, "-q")
    assert said.code == 0, said.err
    (case,) = about(out / "view.html")
    assert case["layers"] == ["prediction"]
    assert "Nobody" not in (out / "view.html").read_text()


def test_a_page_keeps_to_its_size(medfuse, scan):
    noise = np.random.default_rng(3).integers(-1000, 3000, (160, 150, 90)).astype(np.int16)
    write(scan, noise)
    said = medfuse("view", scan, "--max-size", "4MB")
    assert said.code == 0
    assert Path("a.view.html").stat().st_size < 4_000_000
    assert "stands for" in said.err


def test_cases_for_which_no_room_is_left_are_named(medfuse, scan, label):
    noise = np.random.default_rng(3).integers(-1000, 3000, (110, 100, 80)).astype(np.int16)
    for name in "abcdef":
        write(scan.with_name(f"{name}.nii.gz"), noise)
        write(label.with_name(f"{name}.nii.gz"), np.zeros(noise.shape, np.uint8))
    said = medfuse("view", scan.parent, label.parent, "--max-size", "4MB", "-q")
    assert said.code == 0
    assert "not in the page" in said.out
    shown = [case["name"] for case in about(label.parent / "view.html")]
    assert 0 < len(shown) < 6


def test_a_page_of_ones_own_is_written_again_and_no_other_file(medfuse, scan):
    assert medfuse("view", scan).code == 0
    assert medfuse("view", scan).code == 0
    with open("a.view.html", "a") as page:
        page.write("<!-- noted by hand -->")
    said = medfuse("view", scan)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--overwrite" in said.err
    assert medfuse("view", scan, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing.nii.gz"], "no such file"),
        (["in/a.nii.gz", "nothing.nii.gz"], "no such file"),
        (["empty"], "is no run"),
        (["in"], "give a scan and its label map"),
        (["in", "empty"], "share no case"),
        (["in/a.nii.gz", *["out/a.nii.gz"] * 3], "give one, or the two"),
        (["in/a.nii.gz", "other.nii.gz"], "shape (8, 7, 5) differs"),
        (["in/a.nii.gz", "broken.nii.gz"], "broken.nii.gz"),
        (["broken.nii.gz"], "broken.nii.gz"),
        (["text.txt"], "unknown ending"),
        (["in/a.nii.gz", "--case", "b"], "there is no such case"),
        (["in/a.nii.gz", "-o", "empty"], "is a folder"),
        (["in/a.nii.gz", "-o", "text.txt/page.html"], "page.html"),
        (["in/a.nii.gz", "out/a.nii.gz", "--label", "liver"], "NAME=VALUE"),
        (["in/a.nii.gz", "--max-size", "10"], "unit"),
        (["in/a.nii.gz", "--max-size", "1MB"], "the viewer alone takes"),
        (["in/a.nii.gz", "--channel", "2"], "one channel"),
    ],
)
def test_a_mistake_is_one_line(medfuse, scan, label, words, told):
    Path("empty").mkdir()
    Path("text.txt").write_text("no volume")
    Path("broken.nii.gz").write_bytes(label.read_bytes()[:60])
    write(Path("other.nii.gz"), np.zeros((8, 7, 5), np.uint8))
    before = {*Path().rglob("*")}
    said = medfuse("view", *words, "-q")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert told in said.err
    assert {*Path().rglob("*")} == before


def test_a_run_without_its_scans_says_where_they_were(medfuse, finished_run, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished_run.folder, folder)
    manifest = folder / "predictions" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("imagesTr", "imagesGone"))
    said = medfuse("view", folder, "-q")
    assert said.code == 2
    assert all("is not where it was" in line for line in said.err.splitlines()[:-1])
    assert "imagesGone" in said.err
