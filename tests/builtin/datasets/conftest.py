"""Dataset folders of empty files: a layout is read from names and text alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medfuse.registry import get


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Make files below a root, empty or with a text; returns the root."""

    def files(*names: str, **texts: str) -> Path:
        for name in (*names, *texts):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts.get(name, ""))
        return tmp_path

    return files


@pytest.fixture
def dataset() -> Callable[..., object]:
    """The dataset plugin of that name."""
    return lambda use, **fields: get("medfuse.datasets", use)(**fields)
