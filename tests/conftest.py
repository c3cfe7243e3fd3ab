"""What every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes. Set MEDFUSE_TEST_DATA, or put it at ../shared/data."""
    folder = Path(os.environ.get("MEDFUSE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "hippocampus").is_dir():
        pytest.skip(f"real volumes are not at {folder}; set MEDFUSE_TEST_DATA to their folder")
    return folder
