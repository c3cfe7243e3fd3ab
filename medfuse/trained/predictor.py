"""A trained model as a function: an array in, its label map out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue
from medfuse.core.memory import parse_bytes
from medfuse.core.reporter import Reporter
from medfuse.data.images import sheared
from medfuse.trained.loading import load_trained, weights_file
from medfuse.trained.trained import Trained
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.volume import checked_geometry

if TYPE_CHECKING:
    from medfuse.infer.ledger import Outcome
    from medfuse.volumes.dicom.seg import SegKind


class Predictor:
    """Networks that stay loaded. Any number of threads may use one; it keeps nothing of what it was given.

    predictor = Predictor.load("runs/liver")
    labels = predictor(array, spacing=(0.8, 0.8, 2.5))
    predictor.files("scans", "out")
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        _ = trained.runners  # made here, by one thread

    @classmethod
    def load(
        cls,
        paths: str | Path | Sequence[str | Path],
        *,
        device: str = "auto",
        best: bool = False,
        overrides: Iterable[str] = (),
        trust: str | Iterable[str] = (),
    ) -> Predictor:
        """Load a run folder, a weights file or what `medfuse export` wrote; several are averaged.

        device: "auto", "cpu" or "cuda". `best`: a run's best weights on held-out cases instead of its last.
        `overrides`: of the settings of `infer:`, such as "overlap=0.25". `trust`: packages of which weights
        that were not trained here may name code. Raises CheckpointError.
        """
        files = [weights_file(path, best=best) for path in _paths(paths)]
        return cls(load_trained(files, device=device, overrides=overrides, trust=trust))

    @property
    def labels(self) -> dict[str, LabelValue]:
        """Name → value in the label map, or the values that a region unites."""
        return dict(self._trained.plan.labels)

    @property
    def engines(self) -> list[dict[str, Any]]:
        """What runs the networks (`runtime`, `precision`, `versions`, …): one for all, or one for each.

        Empty before the first call, as that decides it. Files that were begun with another engine are
        finished with that: manifest.json tells.
        """
        return [dict(engine) for engine in self._trained.engines]

    def __call__(
        self,
        array: npt.ArrayLike,
        *,
        spacing: Sequence[float] | None = None,
        affine: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The label map (i, j, k) of voxels (i, j, k) or (channels, i, j, k), in the units of the scanner.

        Of a picture (i, j) or (channels, i, j), for which `spacing` has two numbers, it is (i, j).

        `affine`, 4×4 from index to RAS+ mm, says where the axes point. With `spacing` alone, in mm along i, j
        and k, they point to the patient's right, front and head. Raises DataError where the array is not what
        the model was trained on, ShapeError where the network does not answer with logits.
        """
        if spacing is not None and len(spacing) == 2 and affine is None:
            one_slice = np.asarray(array)[..., None]
            return self(one_slice, affine=np.diag([-spacing[0], -spacing[1], 1, 1]))[..., 0]
        voxels = _channels_first(array, self._trained.plan.channels)
        x, y, z = voxels.shape[1:]
        return self._trained.label_map(voxels, _geometry((x, y, z), spacing, affine))

    def judged(
        self,
        array: npt.ArrayLike,
        *,
        spacing: Sequence[float] | None = None,
        affine: npt.ArrayLike | None = None,
    ) -> tuple[npt.NDArray[np.unsignedinteger[Any]], dict[str, Any]]:
        """As a call, and how far each class is to be trusted.

        `quality`: class → scores, and where a cross-validation told of them the Dice that is expected and its
        lower bound; `case_quality`: how far the image is from those of training. Both as in manifest.json.
        """
        if spacing is not None and len(spacing) == 2 and affine is None:
            one_slice = np.asarray(array)[..., None]
            labels, quality = self.judged(one_slice, affine=np.diag([-spacing[0], -spacing[1], 1, 1]))
            return labels[..., 0], quality
        voxels = _channels_first(array, self._trained.plan.channels)
        x, y, z = voxels.shape[1:]
        return self._trained.judged_map(voxels, _geometry((x, y, z), spacing, affine))

    def files(
        self,
        inputs: str | Path | Sequence[str | Path],
        output: str | Path,
        *,
        max_memory: str | None = None,
        overwrite: bool = False,
        scans: Scans = ALL,
        strict: bool = False,
        formats: str | Sequence[str] = (),
        seg_type: SegKind = "labelmap",
        statistics: bool = False,
        quiet: bool = True,
    ) -> Outcome:
        """As `medfuse infer`: label maps of files and folders into `output`, and what became of each case.

        What medfuse did not write into `output`, or somebody changed, stays as it is unless `overwrite`.
        `scans`: which DICOM series are meant. `strict`: whether images unlike those of training fail.
        `formats`: of label maps, such as ("nifti", "dicom_seg"); that of each image where there are none.
        `statistics`: whether statistics.json and statistics.csv are written too.
        Raises DataError and OutputError before any work; a case that fails or is left is in the outcome.
        """
        from medfuse.infer.cases import find_inputs, left_out_of
        from medfuse.infer.formats import formats_of

        names = formats_of(formats)
        limit = parse_bytes(max_memory) if max_memory is not None else None
        paths, reporter = _paths(inputs), Reporter(quiet=quiet)
        cases = find_inputs(paths, self._trained.plan.channels, scans)
        for line in left_out_of(paths, cases):
            reporter.say(line)
        return self._trained.infer(
            cases,
            Path(output),
            reporter,
            max_memory=limit,
            overwrite=overwrite,
            strict=strict,
            formats=names,
            seg_type=seg_type,
            statistics=statistics,
        )


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def _channels_first(array: npt.ArrayLike, channels: Sequence[str]) -> npt.NDArray[Any]:
    voxels = np.asarray(array)
    if voxels.dtype.kind not in "iufb":
        raise DataError(f"array: holds {voxels.dtype}; give integers or floats")
    if voxels.ndim == 3:
        voxels = voxels[None]
    if voxels.ndim != 4 or 0 in voxels.shape:
        raise DataError(f"array: has shape {np.shape(array)}; give (i, j, k) or (channels, i, j, k)")
    if len(voxels) != len(channels):
        names = ", ".join(channels)
        raise DataError(f"array: has {len(voxels)} channels of {len(channels)} ({names}); give them first")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        finite = np.isfinite(voxels.astype(np.float32)) if voxels.dtype.kind == "f" else np.ones(1, bool)
    if bad := int(finite.size - finite.sum()):
        raise DataError(f"array: {bad} voxels are NaN or infinite; replace them")
    return voxels


def _geometry(
    shape: tuple[int, int, int], spacing: Sequence[float] | None, affine: npt.ArrayLike | None
) -> Geometry:
    if affine is None:
        if spacing is None or len(spacing) != 3:
            raise DataError(f"spacing: {spacing!r}; give three numbers in mm, or an affine")
        affine = np.diag([*spacing, 1.0])
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise DataError(f"affine: has shape {matrix.shape}; give 4×4")
    geometry = checked_geometry(Path("array"), shape, matrix)
    if fault := sheared(Path("array"), geometry):
        raise DataError(fault)
    if spacing is not None and not np.allclose(geometry.spacing_mm, spacing, rtol=1e-3):
        raise DataError(
            f"spacing: {tuple(spacing)} is not that of the affine, {geometry.spacing_mm}; give one of them"
        )
    return geometry
