"""The words of the command line: other tools' verbs, numbers, and the options that several verbs take."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from medfuse.volumes.dicom.series import Scans

ELSEWHERE = {
    "convert": "import-nnunet",
    "eval": "evaluate",
    "overlay": "view",
    "plot": "view",
    "show": "view",
    "verify_dataset_integrity": "doctor",
    "find_best_configuration": "compare",
    "fingerprint": "init",
    "fit": "run",
    "inference": "infer",
    "plan": "init",
    "plan_and_preprocess": "init",
    "predict": "infer",
    "prepare": "run",
    "preprocess": "run",
    "score": "evaluate",
    "segment": "infer",
    "test": "evaluate",
    "train": "run",
    "validate": "check",
    "create": "new",  # of `medfuse plugins`
    "info": "show",
    "describe": "show",
}
"""Verbs of other tools, and what does that here."""


class Verbs(TyperGroup):
    """Commands that name the nearest one where there is none of a name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.commands:
            ctx.fail(f"no command {name!r}{self._hint(ctx, name)} (commands: {', '.join(self.commands)})")
        return super().resolve_command(ctx, args)

    def _hint(self, ctx: Any, name: str) -> str:
        """What does here what `name`, or a word that is near to it, does elsewhere."""
        from difflib import get_close_matches

        elsewhere = {word: verb for word, verb in ELSEWHERE.items() if verb in self.commands}
        wanted = name.lower().replace("-", "_")
        if wanted in elsewhere:
            return f"; `{ctx.command_path} {elsewhere[wanted]}` does that"
        near = get_close_matches(wanted, [*self.commands, *elsewhere], n=1)
        return f"; did you mean `{ctx.command_path} {elsewhere.get(near[0], near[0])}`?" if near else ""


def whole_number(least: int, most: int, help: str, *names: str, metavar: str = "N") -> Any:
    """An option that is a whole number; called as its parameter is, or by `names`."""
    return typer.Option(*names, metavar=metavar, parser=_number(least, most, whole=True), help=help)


def decimal_number(least: float, most: float, help: str) -> Any:
    """An option that is a number, with a fraction or without."""
    return typer.Option(metavar="N", parser=_number(least, most, whole=False), help=help)


def _number(least: float, most: float, *, whole: bool) -> Callable[[str], Any]:
    """What reads a number from `least` to `most`, in plain digits, and refuses anything else."""
    kind = "a whole number" if whole else "a number"
    plain = r"[0-9]{1,12}" if whole else r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}"

    def read(given: str | float) -> Any:  # a default is a number already
        text = str(given).strip()
        if not re.fullmatch(plain, text) or not least <= float(text) <= most:
            shown = text if len(text) <= 40 else f"{text[:39]}…"
            raise typer.BadParameter(f"{shown!r}: write {kind} from {least:,} to {most:,}")
        return int(text) if whole else float(text)

    return read


def numbers(text: str) -> list[int]:
    """`0,2` → [0, 2]."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
        raise typer.BadParameter(f"{text[:40]!r}: write numbers between commas, such as 0,1")
    return [int(word) for word in words]


def spacing_of(text: str) -> tuple[float, float, float]:
    """`0.8,0.8,2.5` → (0.8, 0.8, 2.5)."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(
        re.fullmatch(r"[0-9]{0,6}\.?[0-9]{1,6}", w) and float(w) > 0 for w in words
    ):
        raise typer.BadParameter(f"{text[:40]!r}: write three numbers of mm between commas, such as 1,1,2.5")
    x, y, z = map(float, words)
    return x, y, z


def scans_of(wanted: list[str] | None, naming: str, uneven: str) -> Scans:
    """What `--series`, `--name` and `--uneven` mean together."""
    from medfuse.volumes.dicom.series import Scans

    return Scans(tuple(wanted or ()), uneven=uneven == "resample", hashed=naming == "hash")


def command_without(options: Mapping[str, int]) -> list[str]:
    """The words of this command line, but these options with so many values each."""
    found, skipped = [], 0
    for word in sys.argv[1:]:
        name, equals, _ = word.partition("=")
        if skipped:
            skipped -= 1
        elif name in options:
            skipped = 0 if equals else options[name]
        else:
            found.append(word)
    return found


def shard_of(text: str) -> tuple[int, int]:
    """`3/16` → (3, 16)."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if not found or int(found[1]) >= int(found[2]):
        count = int(found[2]) if found and int(found[2]) else 16
        raise typer.BadParameter(
            f"{text[:40]!r}: write which part of how many, counted from 0: 0/{count} to {count - 1}/{count}"
        )
    return int(found[1]), int(found[2])


def one_fold(text: str) -> str:
    """`all`, or the number of a fold."""
    if text != "all" and not re.fullmatch(r"[0-9]{1,9}", text):
        raise typer.BadParameter(f"{text[:40]!r}: write all, or the number of one fold, such as 0")
    return text


PipelineFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="pipeline file, such as pipelines/liver.yaml")
]
PipelineOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="the pipeline to write; pipelines/NAME.yaml if not given"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="override one value of the file; repeatable"),
]
Retrain = Annotated[
    bool,
    typer.Option("--retrain", help="train anew; replaces what the run folder holds, once all is checked"),
]
MaxDisk = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="most disk that kept maps of frozen networks may take, such as 20GiB; refuse more",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print results only")]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trust", metavar="PACKAGE", help="let weights that were not trained here name its code; repeatable"
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="replace files that medfuse did not write, or that were changed since"),
]
InferOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a=b", help="override a value of `infer:`, such as overlap=0.25"),
]
Runs = Annotated[Path, typer.Option(help="folder that holds the run folders")]
Weights = Annotated[Path, typer.Argument(metavar="RUN_OR_WEIGHTS", help="run folder or weights")]
Images = Annotated[
    list[Path],
    typer.Option(
        "--input",
        "-i",
        help="image, folder of images, or DICOM: files, folders, zip, dicomweb:URL?StudyInstanceUID=…; for "
        "infer also cases.csv or .parquet, and s3://BUCKET/FOLDER or the like; repeatable",
    ),
]
Series = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="KEYWORD=VALUE",
        help="of DICOM, only series that say so, such as Modality=CT or 'SliceThickness<=3'; repeatable",
    ),
]
Naming = Annotated[
    Literal["tags", "hash"],
    typer.Option("--name", help="of DICOM, cases by patient, date and series number, or by a digest of them"),
]
Uneven = Annotated[
    Literal["refuse", "resample"], typer.Option(help="of DICOM, what is done with slices that are not even")
]
Best = Annotated[
    bool, typer.Option("--best", help="use a run's best weights on held-out cases instead of its last")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
ShardOption = Annotated[
    Any,
    typer.Option(
        "--shard",
        metavar="I/N",
        parser=lambda text: shard_of(str(text)),
        help="only this of N equal parts, counted from 0: 0/16 to 15/16, by as many calls anywhere",
    ),
]
WorkerCount = Annotated[
    int,
    whole_number(1, 10_000, "processes that share the work; on this machine each has its part of the cores"),
]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="local|ray|slurm|k8s", help="where the workers are")
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option", metavar="KEY=VALUE", help="of the engine; `medfuse plugins show ray` lists them"
    ),
]
