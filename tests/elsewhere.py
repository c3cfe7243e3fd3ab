"""What tests may find outside of the project: real volumes, and readers of DICOM that are not ours."""

import os
from pathlib import Path

DATA = Path(os.environ.get("MEDFUSE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""The folder of real volumes."""

READERS = Path(os.environ.get("MEDFUSE_TEST_READERS", Path(__file__).parents[2] / "readers"))
"""A Python environment with dcmqi and dcmrtstruct2nii."""
