"""NRRD and MHA, written by SimpleITK."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic
from medfuse.volumes.faults import last_line
from medfuse.volumes.headers import Grid


def write(path: Path, array: npt.NDArray[Any], grid: Grid, fields: Mapping[str, str] | None = None) -> None:
    """Voxels (i, j, k), with a k of 1 where the grid has two axes. `fields`: more for the header."""
    import SimpleITK as sitk

    axes = len(grid.spacing)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.reshape(array.shape[:axes], order="F").T))
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.ravel().tolist())
    for name, text in (fields or {}).items():
        image.SetMetaData(name, text)
    with atomic(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:  # ITK's, whatever the cause
            raise OutputError(
                f"{path}: cannot be written ({last_line(error)}); see whether the disk is full"
            ) from error
