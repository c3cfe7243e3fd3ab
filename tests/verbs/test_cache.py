"""`medfuse cache`: what runs share is shown, and removed where nobody uses it."""

import torch

from medfuse.data.kept import KeptMaps


def maps(runs, name="0123456789abcdef"):
    kept = KeptMaps(runs / "frozen_maps" / name, {"encoder.layer1": "k"}, half=True, image=False)
    with kept.in_use({"patches": 4, "views": 3, "dataset": "cubes-1"}):
        batch = {"label": torch.zeros(1, 1, 4, 4, dtype=torch.int64), "case": ["a"]}
        kept.write(0, batch, {"encoder.layer1": torch.randn(1, 8, 64, 64)}, 1.0)
    return kept


def test_kept_maps_are_shown_with_their_size(medfuse, tmp_path):
    maps(tmp_path)
    said = medfuse("cache", "--runs", tmp_path)
    assert said.code == 0
    assert "4 patches × 3 views of cubes-1: encoder.layer1" in said.out
    assert "KiB in all" in said.out


def test_prepared_cases_are_shown_too(medfuse, finished_run):
    assert "4 prepared cases" in medfuse("cache", "--runs", finished_run.folder.parent).out


def test_nothing_is_said_to_be_nothing(medfuse, tmp_path):
    assert "share nothing" in medfuse("cache", "--runs", tmp_path).out


def test_clearing_removes_maps_and_leaves_what_others_put_there(medfuse, tmp_path):
    kept = maps(tmp_path)
    (kept.folder / "k" / "notes.txt").write_text("mine")
    other = maps(tmp_path, "fedcba9876543210")
    assert "freed" in medfuse("cache", "--runs", tmp_path, "--clear", "maps").out
    assert [path.name for path in kept.folder.rglob("*") if path.is_file()] == ["notes.txt"]
    assert not other.folder.exists()


def test_what_is_in_use_stays(medfuse, tmp_path):
    kept = maps(tmp_path)
    with kept.in_use({}):
        said = medfuse("cache", "--runs", tmp_path, "--clear", "all").out
    assert f"{kept.folder}: is in use, and stays" in said
    assert kept.read(0) is not None


def test_maps_in_a_folder_of_their_own_are_shown_where_it_is_named(medfuse, tmp_path):
    maps(tmp_path / "scratch")
    said = medfuse("cache", "--runs", tmp_path, "--maps", tmp_path / "scratch" / "frozen_maps").out
    assert "4 patches × 3 views" in said
