"""`Predictor.judged`: the label map of a call, with what the manifest says of its quality."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuse.trained.predictor import Predictor
from medfuse.volumes.read import read_labels, read_volume


@pytest.mark.parametrize("overrides", [(), ("mirror=[x]", "compare_heads=true")])
def test_an_array_is_judged_as_its_file_is(
    finished_run: Any, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    predictor = Predictor.load(finished_run.folder, overrides=overrides, device="cpu")
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    predictor.files(image, tmp_path)
    entry = json.loads((tmp_path / "manifest.json").read_text())["cases"]["cube_00"]
    volume = read_volume(image)
    labels, quality = predictor.judged(volume.array, affine=volume.geometry.affine)
    assert np.array_equal(labels, read_labels(tmp_path / "cube_00.nii.gz").array)
    assert np.array_equal(labels, predictor(volume.array, affine=volume.geometry.affine))
    assert quality == {key: entry[key] for key in ("quality", "case_quality")}
