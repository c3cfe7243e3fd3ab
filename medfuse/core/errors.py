"""What a user can put right, as a tree of errors.

    MedfuseError              printed as one line per problem, exit code 2
    ├── PipelineError         a pipeline file: each problem with file:line:column
    ├── PluginError           a plugin that is missing, ambiguous or broken, blamed on its package
    ├── ShapeError            feature maps that do not fit together
    ├── DataError             an image, a label or a dataset
    │   └── StorageError      a bucket or a server that does not answer now, and may later
    ├── CheckpointError       weights that cannot be loaded, or belong to another model
    └── OutputError           a file or folder that cannot be written

Anything else that is raised is a fault of medfuse itself and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


class MedfuseError(Exception):
    """Something the user can put right: one line per problem."""

    values: Mapping[str, Any] = {}
    """What was found all the same, for `--json`."""
    at: Path = ()
    """Keys that lead from the plugin that raised it to what it is about, such as `("edits", 0, "by")`."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(str(line) for line in self.args)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at `path` (keys and indices) of a pipeline file: its value, or its very key."""

    path: Path
    message: str
    at_key: bool = False

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


class PipelineError(MedfuseError):
    """Problems in a pipeline file. `core.document.Document.locate` adds file, line and column."""

    def __init__(self, problems: Sequence[Problem], lines: Sequence[str] | None = None) -> None:
        super().__init__(*(lines if lines is not None else map(str, problems)))
        self.problems = tuple(problems)


class PluginError(MedfuseError):
    """A plugin is missing, ambiguous or broken."""


class ShapeError(MedfuseError):
    """Feature maps do not fit together."""


class DataError(MedfuseError):
    """An image, a label or a dataset is wrong."""


class StorageError(DataError):
    """A bucket or a server does not answer now, and may later."""


class CheckpointError(MedfuseError):
    """Weights cannot be loaded, or belong to another model."""


class OutputError(MedfuseError):
    """A file or a folder cannot be written."""


@contextmanager
def below(*path: str | int) -> Iterator[None]:
    """A MedfuseError inside is about what stands at `path` of the plugin that raises it."""
    try:
        yield
    except MedfuseError as error:
        error.at = (*path, *error.at)
        raise


@contextmanager
def above(*path: str | int) -> Iterator[None]:
    """A MedfuseError inside, about what stands at `path`, is about the plugin that raises it: it stands there
    itself, in one that was made around it."""
    try:
        yield
    except MedfuseError as error:
        if error.at[: len(path)] == path:
            error.at = error.at[len(path) :]
        raise


def dotted(path: Path) -> str:
    """`("model", "inputs", 0)` → `model.inputs[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(word: str, known: Iterable[str], *, near: float = 0.6) -> str:
    """`; did you mean 'spp'?`, or nothing where no known word is as `near` (0 to 1)."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=near)
    return f"; did you mean '{found[0]}'?" if found else ""


def reason(error: BaseException) -> str:
    """An exception in one line: what it says, and its type where it is not one of ours."""
    said = str(error).strip().partition("\n")[0][:200]
    return said if isinstance(error, MedfuseError) else f"{type(error).__name__}: {said}"


def lacks(error: BaseException | None) -> str:
    """What to install where a package that somebody's code imports is not there; else nothing.

    `needs the package einops, which is not installed; run pip install einops`.
    """
    if not isinstance(error, ImportError):
        return ""
    said = f"{error} {error.__cause__ or error.__context__}"
    if not (found := re.search(r"No module named '(\w+)", said)):
        return ""
    package = found[1]
    ways = " or ".join([f"pip install {package}", *(f'pip install "{x}"' for x in _extras(package))])
    return f"needs the package {package}, which is not installed; run {ways}"


def _extras(package: str) -> list[str]:
    """`medfuse[swin]`, where that extra brings the package along."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires("medfuse") or []
    except PackageNotFoundError:
        return []
    name = re.escape(package).replace("_", "[-_]")
    found = (re.match(rf"{name}(?:-skinny)?\b.*extra == ['\"](\w+)['\"]", one) for one in wanted)
    extras = [match[1] for match in found if match]
    return [f"medfuse[{extra}]" for extra in extras if extra != "dev"]
