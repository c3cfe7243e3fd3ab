"""Tiny cases on disk, and plans for them."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medfuse.api import Case, DatasetInfo
from medfuse.data.fingerprint import hash_files
from medfuse.data.plan import DataPlan, Normalization
from medfuse.data.prepare import Preprocessor
from medfuse.data.store import Store


@pytest.fixture
def write() -> Callable[..., Path]:
    """Write an array as NIfTI with the spacing or affine that is asked for."""

    def write(path: Path, array: np.ndarray, spacing=(1, 1, 1), affine=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.diag((*spacing, 1.0)) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def make_case(tmp_path: Path, write) -> Callable[..., Case]:
    """A case of noise with a cube of label 1 in it."""

    def make_case(name: str = "a", shape=(8, 9, 10), spacing=(1, 1, 1), label=None) -> Case:
        random = np.random.default_rng(len(name))
        image = random.normal(100, 10, shape).astype(np.float32)
        if label is None:
            label = np.zeros(shape, np.uint8)
            label[2:5, 2:5, 2:5] = 1
        return Case(
            name,
            (write(tmp_path / "images" / f"{name}.nii.gz", image, spacing),),
            write(tmp_path / "labels" / f"{name}.nii.gz", label, spacing),
        )

    return make_case


@pytest.fixture
def info_of() -> Callable[..., DatasetInfo]:
    def info_of(*cases: Case, channels=("MR",), labels=None) -> DatasetInfo:
        return DatasetInfo(cases, labels or {"background": 0, "organ": 1}, channels)

    return info_of


@pytest.fixture
def plan() -> DataPlan:
    """1 mm, one z-scored channel, patches of 8³, batches of 4."""
    labels = {"background": 0, "organ": 1}
    return DataPlan((1.0, 1.0, 1.0), (8, 8, 8), 4, ("MR",), (Normalization("zscore"),), labels, {})


@pytest.fixture
def store(tmp_path: Path, make_case, plan) -> Store:
    """Three prepared cases: `a` of 12³ and `b` of 6×12×12 with an organ, `empty` without."""
    store = Store(tmp_path / "store")
    cases = [
        make_case("a", shape=(12, 12, 12)),
        make_case("b", shape=(6, 12, 12)),
        make_case("empty", shape=(12, 12, 12), label=np.zeros((12, 12, 12), np.uint8)),
    ]
    store.build(cases, Preprocessor(plan), hash_files(cases), progress=lambda done, total: None)
    return store
