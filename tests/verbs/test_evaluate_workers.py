"""Label maps that workers judge: the same numbers, in the same file, as of one process."""

import json
import shutil
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from crews import HERE
from phantoms import AFFINE

from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import FOLDER
from medfuse.verbs.crews import ALONE
from medfuse.verbs.evaluate import evaluate_label_maps

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Label maps of chance: found, missed, false alarms, absent labels, voxels that nobody annotated."""
    home, random = tmp_path_factory.mktemp("judged"), np.random.default_rng(1)
    for number in range(6):
        reference = random.integers(0, 4, (9, 8, 7)).astype(np.uint8)
        prediction = np.where(random.random(reference.shape) < 0.2, 0, reference).astype(np.uint8)
        reference[reference == number % 4] = 0
        prediction[prediction == (number + 1) % 4] = 0
        for folder, array in (("ours", prediction), ("theirs", reference)):
            (home / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), home / folder / f"case_{number}.nii.gz")
    return home / "ours", home / "theirs"


@pytest.mark.parametrize(
    ("names", "lesions"),
    [((), False), (("a=1", "b=1,2"), False), (("a=1", "b=2", "ignore=3"), True), (("a=1", "c=9"), True)],
)
def test_workers_judge_as_one_process_does(folders, names, lesions, tmp_path):
    texts, said = [], []
    for workers in (ALONE, HERE):
        output = tmp_path / type(workers).__name__
        made = evaluate_label_maps(
            *folders, names, output=output, lesions=lesions, workers=workers, reporter=QUIET
        )
        texts.append((output / "summary.json").read_bytes())
        said.append(made.replace(str(output), ""))
        assert [path.name for path in output.iterdir()] == ["summary.json"]
    assert texts[0] == texts[1]
    assert said[0] == said[1]


def test_a_case_that_cannot_be_judged_is_named_and_the_others_are_judged(folders, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for source, target in zip(folders, (ours, theirs)):
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    (ours / "case_1.nii.gz").write_bytes((ours / "case_1.nii.gz").read_bytes()[:-30])
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), AFFINE), ours / "case_2.nii.gz")
    lines = []
    for workers in (ALONE, HERE):
        with pytest.raises(DataError) as caught:
            evaluate_label_maps(ours, theirs, (), output=tmp_path / "out", workers=workers, reporter=QUIET)
        lines.append(caught.value.lines)
    assert lines[0] == lines[1]
    assert sum("case_1" in line or "case_2" in line for line in lines[0]) >= 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases"] == 4


def test_what_killed_processes_left_is_no_label_map(folders, tmp_path):
    ours = tmp_path / "ours"
    (ours / FOLDER / "claims").mkdir(parents=True)
    (ours / FOLDER / "tasks.json").write_text("{}")
    for path in folders[0].iterdir():
        (ours / path.name).write_bytes(path.read_bytes())
    made = evaluate_label_maps(ours, folders[1], (), output=None, workers=HERE, reporter=QUIET)
    assert made.values["cases"] == 6
    assert made.values["notes"] == []
    assert not (ours / FOLDER).exists()


def test_workers_judge_probabilities_too(finished_run, medfuse, tmp_path):
    images, references = finished_run.data / "imagesTr", finished_run.data / "labelsTr"
    words = ("--probabilities", "nifti", "-o", tmp_path / "labels", "-q")
    assert medfuse("infer", finished_run.folder, "-i", images, *words).code == 0
    errors = []
    for workers in (ALONE, HERE):
        how = {"output": tmp_path / type(workers).__name__, "calibration": True, "workers": workers}
        made = evaluate_label_maps(tmp_path / "labels", references, (), **how, reporter=QUIET)
        errors.append([case["metrics"] for case in made.values["metric_per_case"]])
    assert errors[0] == errors[1]
    assert any("ECE" in metrics["1"] or "calibration_error" in metrics["1"] for metrics in errors[0])


@pytest.mark.slow
def test_who_leads_may_be_killed_and_what_was_judged_counts(folders, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for source, target in zip(folders, (ours, theirs)):
        target.mkdir()
        for number in range(300):
            shutil.copy(source / f"case_{number % 6}.nii.gz", target / f"case_{number:03d}.nii.gz")
    words = [sys.executable, "-m", "medfuse", "evaluate", ours, theirs, "-q", "-o"]
    words = [str(word) for word in words]
    subprocess.run([*words, tmp_path / "one"], check=True)
    command, records = [*words, tmp_path / "two", "--workers", "2"], tmp_path / "two" / FOLDER / "records"
    for so_many in (30, 120):
        leader = subprocess.Popen(command)
        while not records.exists() or len([*records.iterdir()]) < so_many:
            assert leader.poll() is None
            time.sleep(0.05)
        leader.kill()
        leader.wait()
    assert len([*records.glob("[0-9]*.json")]) >= 100
    subprocess.run(command, check=True)
    one, two = ((tmp_path / name / "summary.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["summary.json"]


@pytest.mark.slow
def test_processes_judge_as_one_does(folders, tmp_path, medfuse):
    for count in (1, 2):
        assert medfuse("evaluate", *folders, "-o", tmp_path / str(count), "--workers", count, "-q").code == 0
    one, two = ((tmp_path / count / "summary.json").read_bytes() for count in "12")
    assert one == two
