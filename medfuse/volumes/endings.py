"""Which endings are those of volumes."""

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
METAIMAGE = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
ENDINGS = (*NIFTI, *NRRD, *METAIMAGE)


def ending(path: Path) -> str | None:
    """`.nii.gz` of `liver_01.nii.gz`; None where the ending is not one that can be read."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), None)


def stem(path: Path) -> str:
    """`liver_01` of `liver_01.nii.gz`."""
    found = ending(path)
    return path.name[: -len(found)] if found else path.stem
