"""No verb replaces what medfuse did not write, or what was changed since, without being told to."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def judged(finished_run, tmp_path):
    """Folders of predictions and references."""
    shutil.copytree(finished_run.data / "labelsTr", tmp_path / "predictions")
    return tmp_path / "predictions", finished_run.data / "labelsTr"


def test_evaluate_replaces_its_own_summary_alone(medfuse, judged):
    predictions, labels = judged
    command = ("evaluate", predictions, labels, "-q")
    summary = predictions / "summary.json"
    assert medfuse(*command).code == 0
    assert medfuse(*command).code == 0
    changed = {**json.loads(summary.read_text()), "note": "by hand"}
    for content in (json.dumps(changed), '{"foreground_mean": {}}', "[]", "no JSON", "[" * 9999):
        summary.write_text(content)
        said = medfuse(*command)
        assert said.code == 2
        assert said.err.strip() == (
            f"{summary}: is not what medfuse wrote, or was changed since, and stays; "
            "choose another --output, or give --overwrite"
        )
        assert summary.read_text() == content
    assert medfuse(*command, "--overwrite").code == 0
    assert "note" not in json.loads(summary.read_text())


def test_evaluate_never_replaces_a_folder(medfuse, judged):
    predictions, labels = judged
    (predictions / "summary.json").mkdir()
    assert medfuse("evaluate", predictions, labels, "-q", "--overwrite").code == 2


@pytest.fixture
def compared(finished_run, tmp_path):
    """The arguments of a comparison of two runs."""
    for name in ("one", "two"):
        shutil.copytree(finished_run.folder, tmp_path / name)
    return ("compare", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out", "-q")


@pytest.mark.parametrize("name", ["comparison.json", "comparison.html"])
def test_compare_replaces_its_own_files_alone(medfuse, compared, tmp_path, name):
    assert medfuse(*compared).code == 0
    assert medfuse(*compared).code == 0
    path: Path = tmp_path / "out" / name
    path.write_text(path.read_text().replace("one", "the old one"))
    content = path.read_text()
    said = medfuse(*compared)
    assert said.code == 2
    assert f"{path}: is not what medfuse wrote" in said.err
    assert path.read_text() == content
    assert medfuse(*compared, "--overwrite").code == 0


@pytest.mark.parametrize("name", ["net.pt2", "link.pt2"])
def test_export_replaces_nothing_without_being_told(medfuse, finished_run, tmp_path, name):
    path, target = tmp_path / name, tmp_path / "target"
    target.write_text("years of work")
    if name.startswith("link"):
        path.symlink_to(target)
    else:
        path.write_text("years of work")
    command = ("export", finished_run.folder, "--format", "torch", "-o", path)
    assert "is there already" in medfuse(*command).err
    assert path.read_text() == "years of work"
    assert medfuse(*command, "--overwrite").code == 0
    assert path.stat().st_size > 1000
    assert target.read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({name, "target"})


def test_export_keeps_a_bin_of_somebody_else(medfuse, finished_run, tmp_path):
    pytest.importorskip("openvino", reason="pip install 'medfuse[openvino]' to export to it")
    (tmp_path / "net.bin").write_text("years of work")
    said = medfuse("export", finished_run.folder, "--format", "openvino", "-o", tmp_path / "net.xml")
    assert said.code == 2
    assert "net.bin: is there already" in said.err


def test_an_export_that_answers_wrongly_leaves_what_was_there(medfuse, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.core.device.disagreement", lambda *_: "its results change")
    path = tmp_path / "net.pt2"
    path.write_text("years of work")
    assert (
        "results change"
        in medfuse("export", finished_run.folder, "--format", "torch", "-o", path, "--overwrite").err
    )
    assert [p.read_text() for p in tmp_path.iterdir()] == ["years of work"]


def test_init_and_import_write_through_no_link(medfuse, finished_run, tmp_path):
    (tmp_path / "made.yaml").symlink_to(tmp_path / "nowhere")
    said = medfuse("init", finished_run.data, "-o", tmp_path / "made.yaml", "--minutes", "0.1")
    assert said.code == 2
    assert "made.yaml: is there already" in said.err
    assert not (tmp_path / "nowhere").exists()


def test_features_that_were_changed_stay(medfuse, finished_run, tmp_path):
    images = finished_run.data / "imagesTr"
    command = ("features", finished_run.folder, "-l", "encoder.*", "-i", images, "-o", tmp_path / "out", "-q")
    assert medfuse(*command).code == 0
    path = next((tmp_path / "out").glob("*.npz"))
    path.write_bytes(path.read_bytes() + b" ")
    before = path.read_bytes()
    said = medfuse(*command, "--pool", "mean")
    assert said.code == 2
    assert f"{path}: was changed since medfuse wrote it" in said.out
    assert path.read_bytes() == before
    assert medfuse(*command, "--pool", "mean", "--overwrite").code == 0


def test_a_run_does_not_judge_predictions_that_were_changed(medfuse, finished_run, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(finished_run.folder.parent, runs)
    path = next((runs / finished_run.folder.name / "predictions").glob("*.nii.gz"))
    path.write_bytes(path.read_bytes() + b" ")
    before = path.read_bytes()
    said = medfuse("run", finished_run.pipeline, "--runs", runs, "-q")
    assert said.code == 2
    assert f"{path}: was changed since medfuse wrote it, and stays; move it away" in said.err
    assert path.read_bytes() == before
