"""A file is whole or absent, and a disk that refuses is one clear line."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic, make_folder, put_text, remove_leftovers, write_json, write_text


def contents(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_finished_block_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "whole")
    assert contents(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_the_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_an_interrupted_block_leaves_the_old_file_as_it_was(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def half(path: Path) -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise interruption

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(interruption):
        half(tmp_path / "a.txt")
    assert contents(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_temporary_file_keeps_the_ending_and_is_hidden(tmp_path: Path) -> None:
    with atomic(tmp_path / "case.nii.gz") as temporary:
        assert temporary.name.startswith(".unfinished-")
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "")
    assert (tmp_path / "a" / "b" / "c.txt").exists()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours.txt", "")
    (tmp_path / "theirs.txt").touch()
    ours, theirs = ((tmp_path / name).stat().st_mode for name in ("ours.txt", "theirs.txt"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(theirs)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EFBIG, "disk refused it"),
    ],
)
def test_a_refusal_of_the_disk_is_one_line_with_the_file(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(OutputError, match=words) as caught, atomic(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    assert str(caught.value).startswith(f"{tmp_path / 'a.txt'}: ")
    assert contents(tmp_path) == []


def test_a_disk_that_fills_up_on_the_last_flush_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_text(tmp_path / "a.txt", "text")
    assert contents(tmp_path) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "file" / "a.txt", "")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        make_folder(tmp_path / "file")


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="choose another path"):
        write_text(tmp_path / "a.txt", "")
    assert contents(tmp_path) == ["a.txt"]


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        write_text(tmp_path / ("x" * 300), "")


def test_a_fault_of_another_kind_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        (tmp_path / "missing.txt").read_text()


def test_make_folder_leaves_an_empty_folder(tmp_path: Path) -> None:
    assert contents(make_folder(tmp_path / "a" / "b")) == []


def test_json_reads_back(tmp_path: Path) -> None:
    value = {"labels": {"liver": 1}, "spacing": [0.1, 1e-7, 3.0], "none": None}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value


def test_json_refuses_nan_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    assert contents(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-0badcafe.nii.gz").write_bytes(b"half")
    (tmp_path / "whole.nii.gz").touch()
    remove_leftovers(tmp_path)
    assert contents(tmp_path) == ["whole.nii.gz"]


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
        remove_leftovers(tmp_path)
        assert temporary.exists()
    assert contents(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_that_a_library_made_for_its_owner_alone_is_opened_as_the_umask_says(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "a.bin") as temporary:
            temporary.unlink()
            temporary.write_text("replaced")
            temporary.chmod(0o600)
        assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)


def test_making_a_folder_sweeps_it(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-0badcafe.pt").touch()
    make_folder(tmp_path)
    assert contents(tmp_path) == []


def test_leftovers_of_another_name_are_removed_by_it(tmp_path: Path) -> None:
    (tmp_path / ".probe-abc" / "cubes").mkdir(parents=True)
    (tmp_path / ".unfinished-a").touch()
    remove_leftovers(tmp_path, ".probe-")
    assert contents(tmp_path) == [".unfinished-a"]


@pytest.mark.parametrize("path", ["/proc/x", "/proc/x/y", "/proc/self/x", "/dev/null/x", "/sys/x"])
def test_a_folder_that_cannot_be_made_is_one_line_that_names_it(path: str) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("for Linux, which has folders in which nothing can be made")
    with pytest.raises(OutputError, match=rf"^{path}: [^\n]+$"):
        make_folder(Path(path))
    with pytest.raises(OutputError, match=rf"^{path}/a\.json: [^\n]+$"):
        write_json(Path(path) / "a.json", {})


def test_a_folder_that_goes_away_meanwhile_is_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with atomic(tmp_path / "gone" / "a.txt") as temporary:
            temporary.unlink()
            temporary.parent.rmdir()

    with pytest.raises(OutputError, match="has gone"):
        write()


@pytest.mark.parametrize(
    "hidden",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "basic_ios::clear: iostream error",
    ],
)
def test_what_the_disk_said_is_told_where_a_library_hides_it(tmp_path: Path, hidden: str) -> None:
    with pytest.raises(OutputError, match="disk"), atomic(tmp_path / "a.bin"):
        raise RuntimeError(hidden)
    assert not list(tmp_path.iterdir())


def test_what_the_disk_said_before_a_library_failed_of_it_is_told(tmp_path: Path) -> None:
    failed = RuntimeError("unexpected pos 704 vs 598")
    failed.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="the disk is full"), atomic(tmp_path / "a.bin"):
        raise failed


def test_what_others_sweep_while_it_is_made_is_made_again(tmp_path):
    """Folds that prepare the same cases sweep the same folder as they begin."""
    over = threading.Event()

    def sweep():
        while not over.is_set():
            remove_leftovers(tmp_path)

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in sweepers:
        thread.start()
    try:
        for number in range(300):
            write_text(tmp_path / "a.txt", str(number))
            assert (tmp_path / "a.txt").read_text() == str(number)
    finally:
        over.set()
        for thread in sweepers:
            thread.join()


def test_what_is_put_is_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    for text in ("first", "second"):
        put_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    assert contents(tmp_path) == ["a.txt"]


def test_what_cannot_be_put_is_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match=r"a\.txt"):
        put_text(tmp_path / "a.txt", "text")
    with pytest.raises(OutputError, match="its folder is not there"):
        put_text(tmp_path / "none" / "a.txt", "text")
    assert contents(tmp_path) == ["a.txt"]
