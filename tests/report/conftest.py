"""Small label maps on disk."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

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
