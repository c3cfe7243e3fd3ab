"""Paths that a pipeline file names."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from medfuse.core.section import ConfigPath, PlacedStr, Section


class Place(Section):
    root: ConfigPath


def test_a_path_that_is_no_text_is_refused_as_records_could_not_name_it(tmp_path: Path) -> None:
    beside = tmp_path / os.fsdecode(b"runs\xff")
    with pytest.raises(ValidationError, match=r"data' is no text in UTF-8; rename"):
        Place(root=PlacedStr("data", beside))
