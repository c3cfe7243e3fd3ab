"""What the pages tell people to type: each command, how it is tried here, and why some are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pages import ROOT, Block, blocks, pages

FIRST = {
    "medfuse",
    "make",
    "pip",
    "pytest",
    "python",
    "curl",
    "torchrun",
    "docker",
    "tensorboard",
    "cp",
    "mkdir",
}
FIRST |= {
    ".",
    "cd",
    "git",
    "npm",
    "TRACKIO_DIR",
    "wandb",
    "mlflow",
    "trackio",
    "huggingface-cli",
    "hf",
    "source",
}
FIRST |= {"podman", "unzip", "zip", "ls", "cat", "export", "ssh", "apptainer", "sbatch", "systemctl"}
"""Words that a line of a shell begins with; a block of other lines is what a command says."""

NOT_RUN = (
    (r"s3://|https://host", "needs a bucket or a server: tests/verbs/test_cloud.py"),
    (r"cases\.csv", "needs a table: tests/infer/test_table.py"),
    (r"^medfuse serve\b", "serves until it is stopped: tests/service starts it"),
    (r"--devices\b|--nodes\b", "starts processes: tests/train/test_together.py does"),
    (r"^medfuse work\b|--workers\b", "starts processes, or joins them: tests/infer/test_fleet.py does"),
    (r"^medfuse import-", "needs another tool's model: tests/imports make small ones"),
    (r"--from\b", "needs weights, or a hub: tests/verbs/test_init_from.py has small ones"),
    (
        r"\bgated\b|gated\.yaml|residual_encoder|segresnet|huggingface|\btimm\b|dinov2",
        "needs a package of one's own",
    ),
    (r"^medfuse push\b|\bhub:", "asks a hub: tests/verbs/test_push.py has one of its own"),
    (r"dicomweb:", "needs a server: tests have one of their own"),
    (r"track=mlflow", "needs an extra: tests/builtin/trackers"),
    (r"--precision int8", "needs a gate that was passed: tests/verbs/test_quantize.py"),
    (r"\bgroups\.csv\b", "needs a table of one's own"),
)
"""Commands of medfuse that are parsed, and not run, and why."""

SLOW = ("run", "init", "compare", "distil", "probe")
"""Verbs that train: run by `pytest -m slow`, with a budget of a few steps."""

ELSEWHERE = (
    (r"^make (\w+)$", "builds, trains or tests the whole project", "make"),
    (r"^pip install\b", "installs packages", "pip"),
    (r"^(\. |source |mkdir |cd |cp |ls |cat |unzip |zip |git )", "is the shell's own", ""),
    (r"^pytest\b", "tests a new package: tests/test_scaffold.py does", ""),
    (r"^python -m build\b", "builds a wheel: tests/test_package.py", ""),
    (r"^python (?!-m)(\S+\.py)", "measures for minutes, or draws from a trained run", "script"),
    (r"^python -m (\w+)", "is another tool's", ""),
    (r"^curl\b", "needs the service: tests/service speak to it", ""),
    (r"^(docker|podman|apptainer)\b", "needs an engine of containers", ""),
    (r"^(tensorboard|mlflow|wandb|trackio|hf|huggingface-cli|npm)\b", "is another tool's", ""),
    (r"^torchrun\b.* -m (medfuse .*)$", "starts processes on several machines", "medfuse"),
    (r"^(export|ssh|sbatch|systemctl)\b", "is the machine's own", ""),
)
"""Commands of others: what is checked of them, and why they are not run."""


@dataclass(frozen=True)
class Command:
    """One command: where it stands, its text without variables and comments, whether it had variables."""

    block: Block
    number: int
    text: str
    variables: bool = False

    def __str__(self) -> str:
        return f"{self.block}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def verb(self) -> str:
        return self.words[1] if self.words[0] == "medfuse" and len(self.words) > 1 else ""

    @property
    def why_not(self) -> str:
        """Why a command of medfuse is not run here; '' where it is."""
        if self.variables:
            return "needs a device of its own"
        return next((why for form, why in NOT_RUN if re.search(form, self.text)), "")


def is_shell(block: Block) -> bool:
    """Whether a block is commands: by its language, or because each line begins as one."""
    if block.language:
        return block.language in ("console", "bash", "sh", "shell")
    lines = [line for line in _lines(block.text) if line]
    first = {
        re.sub(r"^[A-Z_]+=.*", "medfuse", shlex.split(line, comments=True)[0])
        for line in lines
        if _words(line)
    }
    return bool(first) and first <= FIRST


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _lines(text: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def commands_of(block: Block) -> list[Command]:
    found = []
    for line in _lines(block.text):
        words = _words(line.removeprefix("$ "))
        if not words:
            continue
        for part in re.split(r"\s(?:&&|\|)\s", shlex.join(words).replace("'&&'", "&&").replace("'|'", "|")):
            bare = re.sub(r"^(?:[A-Z_]+=\S*\s+)+", "", part)
            found.append(Command(block, len(found), bare, bare != part))
    return found


def shell_blocks() -> Iterator[Block]:
    for page in pages():
        if page.name not in ("reference.md", "CHANGELOG.md"):
            yield from (block for block in blocks(page) if is_shell(block))
    yield from (block for block in blocks(ROOT / "docs" / "index.md") if is_shell(block))
