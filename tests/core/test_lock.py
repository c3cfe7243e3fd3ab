"""A folder is worked in by one process at a time, and a process that is gone holds none."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from medfuse.core import lock
from medfuse.core.errors import OutputError
from medfuse.core.lock import FILE_NAME, NAME, locked

HOLD = """
import sys, time
from pathlib import Path
from medfuse.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_flock(monkeypatch):
    """A disk that has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_a_folder_is_held_once_and_left_as_it_was(tmp_path):
    with locked(tmp_path), pytest.raises(OutputError), locked(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_refusal_is_one_line_with_folder_process_host_time_and_what_to_do(tmp_path, holder):
    with pytest.raises(OutputError) as refused, locked(tmp_path, instead="use another name"):
        pass
    (line,) = refused.value.lines
    assert f"{tmp_path}: is in use by process {holder.pid} on {socket.gethostname()} since 20" in line
    assert line.endswith("wait until it has ended, or use another name")


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]


def test_processes_that_are_forked_hold_nothing(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_it_waits_where_it_is_told_to(tmp_path, holder):
    threading.Timer(0.3, holder.kill).start()
    with locked(tmp_path, wait_s=20):
        pass


def test_a_thread_of_the_same_process_is_refused_too(tmp_path):
    refused = []

    def other() -> None:
        try:
            with locked(tmp_path):
                pass
        except OutputError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "(this one)" in refused[0]


@pytest.mark.usefixtures("no_flock")
def test_a_disk_without_locks_has_a_file_for_one(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(OutputError, match=f"remove {tmp_path / FILE_NAME}"),
        locked(tmp_path),
    ):
        pass
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("no_flock")
def test_there_a_dead_process_of_this_host_is_told_from_one_of_another(tmp_path):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE)
    gone = child.stdout.decode().strip()
    (tmp_path / FILE_NAME).write_text(f"{gone}\n{socket.gethostname()}\n")
    with locked(tmp_path):
        pass
    (tmp_path / FILE_NAME).write_text(f"{gone}\nanother-host\n")
    with pytest.raises(OutputError, match=f"process {gone} on another-host"), locked(tmp_path):
        pass


def test_a_folder_that_is_gone_is_let_go_without_a_word(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    with locked(folder):
        (folder / NAME).unlink()
        folder.rmdir()


def test_a_folder_that_is_not_there_or_not_ours_is_one_line(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    with pytest.raises(OutputError), locked(tmp_path):
        pass
    monkeypatch.setattr(lock, "_acquire", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "")))
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path):
        pass
