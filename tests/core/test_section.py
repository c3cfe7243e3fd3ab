"""Paths that a pipeline file names."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from medfuse.core.section import ConfigPath, PlacedStr, Section, without_detours


class Place(Section):
    root: ConfigPath


def test_a_path_that_is_no_text_is_refused_as_records_could_not_name_it(tmp_path: Path) -> None:
    beside = tmp_path / os.fsdecode(b"runs\xff")
    with pytest.raises(ValidationError, match=r"data' is no text in UTF-8; rename"):
        Place(root=PlacedStr("data", beside))


def test_a_path_is_told_without_detours(tmp_path: Path) -> None:
    assert without_detours(tmp_path / "pipelines" / ".." / "data") == tmp_path / "data"


def test_links_in_a_path_stay_and_a_detour_over_one_leads_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "far" / "pipelines").mkdir(parents=True)
    (tmp_path / "here").symlink_to(tmp_path / "far" / "pipelines")
    assert without_detours(tmp_path / "here" / "data") == tmp_path / "here" / "data"
    beyond = without_detours(tmp_path / "here" / ".." / "data")
    assert beyond.resolve() == (tmp_path / "far" / "data").resolve()
