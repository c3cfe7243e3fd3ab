"""Which endings are those of volumes, and of pictures, which are volumes of one slice."""

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
METAIMAGE = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
SERIES = ".series.json"
"""Of a file that says which DICOM files make a volume; medfuse writes them, and nobody else."""
LABELS = ".labels.json"
"""Of a file that says which segments of a DICOM object make a label map; the same."""
VOLUMES = (*NIFTI, *NRRD, *METAIMAGE)
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
ENDINGS = (*VOLUMES, *PICTURES)

_WRITTEN_AS = {
    ".mhd": ".mha",
    ".nhdr": ".nrrd",
    ".tiff": ".tif",
    ".jpg": ".png",
    ".jpeg": ".png",
    SERIES: ".nii.gz",
}
LABEL_ENDINGS = tuple(ending for ending in ENDINGS if ending not in _WRITTEN_AS)
"""Those that label maps may have."""


def ending(path: Path) -> str | None:
    """`.nii.gz` of `liver_01.nii.gz`; None where the ending is not one that can be read."""
    return next((e for e in (*ENDINGS, SERIES, LABELS) if path.name.lower().endswith(e)), None)


def stem(path: Path) -> str:
    """`liver_01` of `liver_01.nii.gz`."""
    found = ending(path)
    return path.name[: -len(found)] if found else path.stem


def is_picture(path: Path) -> bool:
    return ending(path) in PICTURES


def label_ending(image: Path) -> str:
    """The ending of the label map of an image: its own, where a label map can be written so."""
    found = ending(image) or NIFTI[0]
    return _WRITTEN_AS.get(found, found)
