"""Feature maps of a case as files: one .npz or .zarr a case, or one NIfTI file a case and layer."""

from __future__ import annotations

import importlib
import json
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import medfuse
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import UNFINISHED, atomic, claimed, reported
from medfuse.core.offline import import_offline

if TYPE_CHECKING:
    from medfuse.infer.features import FeatureMap

Format = Literal["npz", "zarr", "nifti"]
FORMATS: tuple[Format, ...] = ("npz", "zarr", "nifti")


def check_format(kind: Format) -> None:
    """Raises MedfuseError where what writes this format is not installed."""
    if kind == "zarr" and not hasattr(zarr_module(), "create_group"):
        raise MedfuseError(
            "--format zarr: this zarr is older than 3; pip install 'zarr>=3', or use --format npz"
        )


def file_names(case: str, layers: Sequence[str], kind: Format) -> list[str]:
    """What `write_maps` makes for a case, relative to the output folder."""
    if kind == "nifti":
        return [f"{layer.replace('/', '_')}/{case}.nii.gz" for layer in layers]
    return [f"{case}.{kind}"]


def write_maps(folder: Path, case: str, maps: Sequence[FeatureMap], kind: Format) -> list[str]:
    """Write the maps of a case, each file whole or not at all; return their names. Raises OutputError.

    npz: `np.load(path)[LAYER]`, with LAYER/stride, LAYER/spacing_mm, LAYER/affine beside it, and meta/case.
    zarr: a group with one array per layer and the same facts as attributes. nifti: LAYER/CASE.nii.gz with
    the channels as fourth axis (none where there is one channel) and the map's affine.
    """
    names = file_names(case, [m.name for m in maps], kind)
    if kind == "npz":
        _write_npz(folder / names[0], case, maps)
    elif kind == "zarr":
        _write_zarr(folder / names[0], case, maps)
    else:
        for name, one in zip(names, maps):
            _write_nifti(folder / name, one)
    return names


def _write_npz(path: Path, case: str, maps: Sequence[FeatureMap]) -> None:
    """By hand, as `np.savez` takes names as keywords, and a layer may be called `file`."""
    arrays: dict[str, Any] = {"meta/case": np.array(case)}
    for one in maps:
        arrays[one.name] = one.values
        arrays |= {f"{one.name}/{key}": np.array(value) for key, value in _facts(one).items()}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_zarr(path: Path, case: str, maps: Sequence[FeatureMap]) -> None:
    zarr = zarr_module()
    with new_folder(path) as temporary:
        group = zarr.create_group(str(temporary), attributes={"medfuse": medfuse.__version__, "case": case})
        for one in maps:
            values = one.values
            array = group.create_array(
                one.name, shape=values.shape, dtype=values.dtype.name, attributes=dict(_facts(one))
            )
            array[...] = values


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that is whole or absent: hand out a temporary one, rename it when the block ends well.

    One that stands there is replaced only if medfuse wrote it. Raises OutputError.
    """
    if path.exists() and not is_ours(path):
        raise OutputError(f"{path}: is not what medfuse wrote; move it away, or choose another output folder")
    token = secrets.token_hex(4)
    temporary, old = (path.with_name(f"{UNFINISHED}{token}{end}") for end in (path.suffix, ".old"))
    try:
        with reported(path):
            temporary.mkdir(parents=True)
            with claimed(temporary):
                yield temporary
            if path.exists():
                path.rename(old)
            temporary.rename(path)
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def is_ours(path: Path) -> bool:
    """Whether a folder says of itself that medfuse wrote it."""
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "medfuse" in content.get("attributes", {})


def _write_nifti(path: Path, one: FeatureMap) -> None:
    nibabel = import_offline("nibabel")

    voxels = one.values[0] if len(one.values) == 1 else np.moveaxis(one.values, 0, -1)
    image = nibabel.Nifti1Image(voxels, one.affine)
    for place in (image.set_qform, image.set_sform):
        place(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with atomic(path) as temporary:
        nibabel.save(image, temporary)


def _facts(one: FeatureMap) -> Mapping[str, Any]:
    return {
        "stride": list(one.stride),
        "spacing_mm": list(one.spacing_mm),
        "affine": one.affine.tolist(),
    }


def zarr_module(option: str = "--format zarr", instead: str = ", or use --format npz") -> Any:
    """Raises MedfuseError where zarr is missing, with the `option` that needs it and what to do `instead`."""
    try:
        return importlib.import_module("zarr")
    except ImportError as error:
        raise MedfuseError(
            f"{option}: zarr cannot be imported ({error}); pip install 'medfuse[features]'{instead}"
        ) from error
