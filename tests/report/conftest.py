"""Small label maps on disk, and what a report tells."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from medfuse.report.evaluate import EvaluatedCase, Evaluation
from medfuse.report.graph import GraphNode
from medfuse.report.html import ReportContent
from medfuse.report.metrics import case_metrics
from medfuse.report.pairs import Pair

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Write an array to a NIfTI file below the test's folder."""

    def write(name: str, array: npt.ArrayLike, affine: npt.ArrayLike | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = np.asarray(array)
        image = nibabel.Nifti1Image(data if data.dtype == np.float32 else data.astype(np.uint8), affine)
        if affine is None:
            image = nibabel.Nifti1Image(image.dataobj, np.eye(4))
        nibabel.save(image, path)
        return path

    return write


@pytest.fixture
def cube() -> npt.NDArray[np.uint8]:
    """A 4×4×4 cube of label 1 in 10×10×10."""
    array = np.zeros((10, 10, 10), np.uint8)
    array[3:7, 3:7, 3:7] = 1
    return array


EVIL = "<script>alert(1)</script>"


def judged(name: str, overlap: int, image: Path) -> EvaluatedCase:
    reference, prediction = np.zeros((2, 6, 6, 6), np.uint8)
    reference[1:5, 1:5, 1:5] = 1
    prediction[5 - overlap : 5, 1:5, 1:5] = 1
    metrics = case_metrics(prediction, reference, {EVIL: 1, "absent": 2}, (1, 1, 1))
    return EvaluatedCase(Pair(name, image, image), metrics)


@pytest.fixture(scope="session")
def content(tmp_path_factory) -> ReportContent:
    array = np.zeros((6, 6, 6), np.uint8)
    array[1:5, 1:5, 1:5] = 1
    image = tmp_path_factory.mktemp("report") / "image.nii"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), image)
    cases = tuple(judged(f"{EVIL} {n}", n, image) for n in (4, 2, 1))
    return ReportContent(
        name=f"run {EVIL}",
        date="2030-01-02",
        evaluation=Evaluation(cases, {EVIL: 1, "absent": 2}, 2.0, errors=(f"{EVIL}: broken",)),
        graph=[GraphNode("image", "image"), GraphNode(EVIL, "head", EVIL, ("image",))],
        rows=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, f"dice/{EVIL}": 0.1, "dice": 0.1}],
        images={case.name: image for case in cases},
        pipeline=f"name: {EVIL}",
        repeat={"command": EVIL, EVIL: "x"},
    )
