"""What tests may find outside of the project: real volumes, readers and clients that are not ours."""

import importlib.util
import os
import sys
from pathlib import Path

DATA = Path(os.environ.get("MEDFUSE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""The folder of real volumes."""

READERS = Path(os.environ.get("MEDFUSE_TEST_READERS", Path(__file__).parents[2] / "readers"))
"""A Python environment with dcmqi and dcmrtstruct2nii."""

MONAI_LABEL = os.environ.get("MEDFUSE_TEST_MONAI_LABEL") or (
    sys.executable if importlib.util.find_spec("monailabel") else None
)
"""A Python with the package monailabel, whose client speaks to services."""
