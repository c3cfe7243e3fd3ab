"""Whatever a folder holds is used, or named with the reason in one line per kind."""

import os
import re
from pathlib import Path

import pytest

from medfuse.core.errors import DataError
from medfuse.volumes.folders import left_out, look_into, lost_target, not_there
from medfuse.volumes.read import slab_reader

KINDS = {
    "DICOM files": ("a.dcm", "B.DCM", "c.ima"),
    "of other formats": ("a.mgz", "a.img", "a.hdr", "b.npy", "c.nii.bz2", "d.raw"),
    "unfinished downloads": ("d.nii.gz.part", "e.nii.gz.crdownload"),
    "archives": ("f.zip", "g.tar.gz"),
    "texts and tables": ("notes.txt", "a.json", "b.csv"),
    "without an ending": ("IM0001", "IM0002"),
    "other files": ("a.xyz", "b.xyz"),
    "hidden files": ("._a.nii.gz", ".DS_Store"),
    "no case has them": ("a.nii.gz", "B.NII", "c.mha"),
}


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_line_for_each_kind_names_its_files(tmp_path):
    files(tmp_path, *(name for names in KINDS.values() for name in names))
    lines = left_out(tmp_path, [], [tmp_path])
    assert len(lines) == len(KINDS)
    for kind, names in KINDS.items():
        (line,) = (line for line in lines if kind in line)
        assert line.startswith(f"{tmp_path}: {len(names)} ")
        assert names[0] in line or len(names) > 3
        assert " left out: " in line


def test_what_is_used_is_not_named_and_nothing_else_is_forgotten(tmp_path):
    """Of n files, for any share that is used, those that are told are the others."""
    names = [f"c{i:02}{e}" for i, e in enumerate([".nii.gz", ".NII", ".dcm", ".txt", "", ".part"] * 3)]
    files(tmp_path, *names)
    for step in (1, 2, 5):
        used = [tmp_path / name for name in names[::step]]
        told = sum(int(found) for line in left_out(tmp_path, used, [tmp_path]) for found in _counts(line))
        assert told == len(names) - len(used)


def _counts(line: str) -> list[str]:
    return re.findall(r": (\d+) ", line)[:1]


def test_many_names_are_counted_and_three_are_shown(tmp_path):
    files(tmp_path, *(f"{i}.dcm" for i in range(9)))
    assert left_out(tmp_path, [], [tmp_path])[0].startswith(
        f"{tmp_path}: 9 DICOM files (0.dcm, 1.dcm, 2.dcm, …) are left out: none is of a case"
    )


def test_folders_inside_are_named_with_what_they_hold_unless_it_is_used(tmp_path):
    files(tmp_path, "series/a/1.dcm", "series/2.dcm", "p1/t1.nii", "p1/more.nii")
    (tmp_path / "empty").mkdir()
    used = [tmp_path / "p1" / "t1.nii"]
    lines = left_out(tmp_path, used, [tmp_path, tmp_path / "p1"])
    assert "1 volume (p1/more.nii) is left out" in lines[0]
    assert "2 folders (empty, empty; series, with 2 .dcm)" in lines[1]
    assert len(lines) == 2


def test_the_data_file_of_a_header_is_used_with_it(tmp_path):
    files(tmp_path, "a.mhd", "a.raw", "b.mhd", "b.zraw", "c.raw")
    lines = left_out(tmp_path, [tmp_path / "a.mhd", tmp_path / "b.mhd"], [tmp_path])
    assert len(lines) == 1
    assert "(c.raw)" in lines[0]


def test_one_folder_under_two_names_is_one(tmp_path):
    files(tmp_path, "real/a.nii", "real/b.dcm")
    (tmp_path / "link").symlink_to("real")
    used, folders = [tmp_path / "link" / "a.nii"], [tmp_path / "real", tmp_path / "x" / ".." / "link"]
    (tmp_path / "x").mkdir()
    assert len(left_out(tmp_path, used, folders)) == 1


def test_links_without_target_are_volumes_by_name_or_lost(tmp_path):
    files(tmp_path, "a.nii")
    (tmp_path / "b.nii").symlink_to("gone/b.nii")
    (tmp_path / "case").symlink_to("gone/case")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "c.nii").symlink_to("a.nii")
    held = look_into(tmp_path)
    assert [path.name for path in held.volumes] == ["a.nii", "b.nii", "c.nii"]
    assert [path.name for path in held.lost] == ["case", "round"]
    assert lost_target(tmp_path / "c.nii") is None
    assert "a link to gone/b.nii, which is not there" in not_there(tmp_path / "b.nii")


@pytest.mark.parametrize("folder", ["nowhere", "file.nii", "lost", "a\0b"])
def test_what_is_no_folder_is_one_line(tmp_path, folder):
    files(tmp_path, "file.nii")
    os.symlink("gone", tmp_path / "lost")
    with pytest.raises(DataError) as caught:
        look_into(tmp_path / folder)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("name", ["c.nii.gz", "c.nrrd", "c.mha", "c.mhd", "c.png", "c.NII", "patient07"])
def test_whoever_reads_a_link_without_target_is_told_where_it_leads(tmp_path, name):
    (tmp_path / name).symlink_to("../archive/not-fetched")
    with pytest.raises(DataError, match=r"is a link to \.\./archive/not-fetched, which is not there"):
        slab_reader(tmp_path / name)


def test_pictures_beside_volumes_are_left_out_with_the_reason(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.png"):
        (tmp_path / name).touch()
    (line,) = left_out(tmp_path, [tmp_path / "a.nii.gz"], [tmp_path])
    assert "1 picture (a.png) is left out: beside volumes they are taken for previews" in line
