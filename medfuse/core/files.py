"""Files that are whole or absent: written beside their place, flushed, then renamed."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError, OutputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]  # a module

_OF_THE_DISK = (
    errno.EFBIG,
    errno.EIO,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ETXTBSY,
    errno.EBUSY,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)

_TRIES = 20

UNFINISHED = ".unfinished-"
"""How the name of a file begins that is being written."""


@contextmanager
def atomic(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Hand out a temporary path with the same ending; rename it to `path` when the block ends well.

    Raises OutputError where the folder cannot be written or the disk is full. Whatever happens inside
    the block, `path` is either as it was or complete; where it is not `lasting`, as suits what can be made
    again, a machine that crashes soon after may leave it cut off. Only a killed process leaves the temporary
    file, hidden, its name beginning with `.unfinished-`.
    """
    with ExitStack() as held:  # claimed until it is in its place, or others take it for a leftover
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = held.enter_context(_claimed_anew(path))
        try:
            with reported(path):
                mode = temporary.stat().st_mode
                with _disk_speaks():
                    yield temporary
                if temporary.stat().st_mode != mode:  # some libraries make files that nobody else may read
                    temporary.chmod(mode)
                if lasting:
                    with open(temporary, "rb") as file:
                        os.fsync(file.fileno())
                if fcntl is None:  # Windows renames no file that is open
                    held.close()
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _claimed_anew(path: Path) -> Iterator[Path]:
    """A new file beside `path`, claimed; where others took it for a leftover just before, another one."""
    with ExitStack() as held:
        for _ in range(_TRIES):
            temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}{''.join(path.suffixes[-2:])}")
            temporary.touch(exist_ok=False)
            with suppress(FileNotFoundError):
                mine = held.enter_context(claimed(temporary))
                temporary.stat()
                if mine is not False:
                    break
        yield temporary


def remove_leftovers(folder: Path, name: str = UNFINISHED) -> None:
    """Remove the unfinished files and folders of killed processes, whose names begin with `name`.

    Living processes have claimed theirs.
    """
    for left in folder.glob(f"{name}*"):
        with suppress(OSError), claimed(left) as mine:
            if mine:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def claimed(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder until the block ends, or the process; whether that could be done.

    None where the disk has no locks.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


@contextmanager
def shared(folder: Path) -> Iterator[bool]:
    """Use a folder beside others until the block ends, or the process; whether nobody else did at first."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        alone = bool(_locked(handle))
        if fcntl is not None:
            with suppress(OSError):  # a disk without locks: nobody is ever alone there
                fcntl.flock(handle, fcntl.LOCK_SH)
        yield alone
    finally:
        os.close(handle)


def _locked(handle: int) -> bool | None:
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def put_text(path: Path, text: str) -> None:
    """As `write_text`, for what processes only tell each other: whole or absent, whoever of them is killed.

    It is not flushed, so that a crash of the machine may leave it empty, nor claimed, so that its folder must
    be one that nobody sweeps while they work. Raises OutputError.
    """
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}")
    with reported(path):
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def put_json(path: Path, value: Any) -> None:
    put_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def make_folder(path: Path) -> Path:
    """Make `path`, prove that it can be written to, sweep what killed processes left. Raises OutputError."""
    with reported(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    remove_leftovers(path)
    return path


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line that says what to do.

    What is missing counts where it lies at `path`: its folder cannot be made, or is gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full; free some space and run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "it cannot be written; choose another folder or change its permissions"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            remedy = "a file stands where a folder is needed, or the other way round; choose another path"
        elif error.errno == errno.ENAMETOOLONG:
            remedy = "the name is too long; choose a shorter one"
        elif error.errno == errno.ENOENT and not path.parent.exists():
            remedy = "its folder is not there, or has gone; see where it is, or choose another"
        elif error.errno in (errno.ENOENT, errno.EINVAL) and _lies_at(error.filename, path):
            remedy = "cannot be made there, or has gone meanwhile; choose another path, or run it again"
        elif error.errno in _OF_THE_DISK:
            remedy = f"the disk refused it ({error.strerror}); choose another folder"
        else:
            raise
        raise OutputError(f"{path}: {remedy}") from error


_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def _disk_speaks() -> Iterator[None]:
    """An error of a library that hides what the disk said, such as safetensors and torch, becomes that."""
    try:
        yield
    except (OSError, MedfuseError):
        raise
    except Exception as error:
        if (number := _said_by_the_disk(error)) is None:
            raise
        raise OSError(number, os.strerror(number)) from error


def is_full(error: OSError) -> bool:
    """Whether a disk, or what stands for one, takes no more."""
    return error.errno in _IS_FULL


def _said_by_the_disk(error: BaseException | None) -> int | None:
    while error is not None:
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
        if "iostream error" in str(error):  # of C++, which does not know more
            number = errno.EIO
        if number in _IS_FULL:
            return number
        error = error.__cause__ or error.__context__
    return None


def no_file(path: Path) -> str:
    """`a named pipe`, `a device` or `a socket`, which would be waited for; empty for files and folders."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # which those tell that open it
        return ""
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kinds |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")
    return kinds.get(stat.S_IFMT(mode), "")


def _lies_at(name: object, path: Path) -> bool:
    """Whether an error is about `path`, a folder that it is in, what is below it or written in its place."""
    if not isinstance(name, str | bytes | os.PathLike):
        return False
    at = Path(os.fsdecode(name))
    in_its_place = at.parent == path.parent and at.name.startswith(UNFINISHED)
    return in_its_place or at in (path, *path.parents) or path in at.parents


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
