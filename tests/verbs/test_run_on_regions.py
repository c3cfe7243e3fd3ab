"""Whole runs on regions and on sparse labels."""

import json

import nibabel
import numpy as np
import pytest
from phantoms import AFFINE, describe, write_case, write_pipeline

from medfuse.core.reporter import Reporter
from medfuse.verbs.run import run_pipeline

NAMES = [f"cube_{i:02d}" for i in range(4)]


@pytest.fixture
def tumours(tmp_path):
    """Cubes (value 1) with a core of value 2; most of every training case is ignored (value 3)."""
    data = tmp_path / "tumours"
    for seed, name in enumerate(NAMES):
        write_case(data, name, seed=seed)
        path = data / "labelsTr" / f"{name}.nii.gz"
        cube = np.asarray(nibabel.load(path).dataobj).copy()
        inside = np.argwhere(cube)
        core = tuple(slice(a + 2, b - 1) for a, b in zip(inside.min(0), inside.max(0)))
        cube[core] = 2
        if name != NAMES[-1]:
            cube[:, ::2] = 3
        nibabel.save(nibabel.Nifti1Image(cube, AFFINE), path)
    describe(data, NAMES)
    listing = json.loads((data / "dataset.json").read_text())
    listing["labels"] = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    listing["regions_class_order"] = [1, 2]
    (data / "dataset.json").write_text(json.dumps(listing))
    return write_pipeline(tmp_path / "tumours.yaml", data)


def test_a_run_on_sparse_regions_goes_through_every_stage(tumours, tmp_path):
    more = ["train.steps=30", "train.steps_per_epoch=30", "sample.foreground=1", "report.gradcam=[decoded]"]
    result = run_pipeline(tumours, more, runs=tmp_path / "runs", reporter=Reporter(quiet=True))
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["labels"] == {"whole": [1, 2], "core": 2}
    assert set(summary["mean"]) == {"(1, 2)", "2"}
    rows = map(json.loads, (result.folder / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    predicted = np.asarray(nibabel.load(result.folder / "predictions" / f"{NAMES[-1]}.nii.gz").dataobj)
    assert {*np.unique(predicted)} <= {0, 1, 2}
    assert "whole" in (result.folder / "report.html").read_text()
