"""Verbs of a pipeline file, a few lines each; nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medfuse.cli.words import (
    EngineName,
    EngineOptions,
    MaxDisk,
    Overrides,
    Overwrite,
    PipelineFile,
    PipelineOutput,
    Quiet,
    Retrain,
    Runs,
    Trusted,
    WorkerCount,
    decimal_number,
    numbers,
    one_fold,
    whole_number,
)
from medfuse.core.result import Result


def run(
    file: PipelineFile,
    overrides: Overrides = None,
    folds: Annotated[
        str | None,
        typer.Option(metavar="all|0,2,…", help="cross-validate: train these folds, judge all held-out cases"),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="all|0", help="all: train the final model on all cases, of which none judges it"
        ),
    ] = None,
    runs: Runs = Path("runs"),
    devices: Annotated[
        int, whole_number(1, 1024, "GPUs, or processes on a CPU, that train together on this machine")
    ] = 1,
    nodes: Annotated[int, whole_number(1, 100_000, "machines that train together")] = 1,
    retrain: Retrain = False,
    max_disk: MaxDisk = None,
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    quiet: Quiet = False,
) -> Result | None:
    """Prepare, train, predict, evaluate and report. Run it again to carry on where it stopped."""
    from medfuse.core.memory import parse_bytes
    from medfuse.core.processes import processes, run_together
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.crews import Workers

    most = parse_bytes(max_disk) if max_disk else None
    if fold is not None:
        if folds is not None:
            raise typer.BadParameter("--fold and --folds: give one; first --folds all, then --fold all")
        overrides = [*(overrides or ()), f"split.fold={one_fold(fold)}"]
    crew = Workers(engine, tuple(engine_options or ()), workers).ready()
    if crew.are_others and (folds is None or devices * nodes > 1):
        wrong = (
            "one fold a worker; give --folds all, too" if folds is None else "leave out --devices, --nodes"
        )
        raise typer.BadParameter(wrong, param_hint="--workers")
    if devices * nodes > 1 and processes() == 1:
        run_together(sys.argv[1:], devices=devices, nodes=nodes)
        return None
    from medfuse.verbs.run import run_pipeline

    if folds is not None:
        from medfuse.verbs.folds import run_folds

        chosen = None if folds == "all" else numbers(folds)
        reporter = Reporter(quiet=quiet)
        made = run_folds(
            file,
            overrides or (),
            folds=chosen,
            runs=runs,
            retrain=retrain,
            max_disk=most,
            workers=crew,
            reporter=reporter,
        )
        return made.result()
    result = run_pipeline(
        file, overrides or (), runs=runs, retrain=retrain, max_disk=most, reporter=Reporter(quiet=quiet)
    )
    return result.result()


def check(file: PipelineFile, overrides: Overrides = None) -> Result:
    """Plan FILE's graph, verify and show its shapes. Opens no image."""
    from medfuse.verbs.check import check_pipeline

    return check_pipeline(file, overrides or ())


def init(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="folder of a dataset, or a CSV table of its cases")
    ],
    output: PipelineOutput = None,
    budget: Annotated[str, typer.Option(help="memory that a training step may take")] = "8GiB",
    minutes: Annotated[
        float | None, decimal_number(0.1, 10_000_000, "time for training; as nnU-Net trains if not given")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where steps are measured")] = "auto",
    dimensions: Annotated[
        Literal["auto", "3", "2", "2.5"],
        typer.Option(help="axes of the network; 2.5: slices that are seen with their neighbours"),
    ] = "auto",
    trials: Annotated[
        bool, typer.Option(help="train the likeliest plans for a moment, and choose by that")
    ] = True,
    compare: Annotated[int, whole_number(1, 4, "write so many of the best plans, to compare them")] = 1,
    search: Annotated[
        bool, typer.Option("--search", help="write what `medfuse search` may try in these minutes, too")
    ] = False,
    seconds_per_case: Annotated[
        float | None,
        decimal_number(0.001, 1_000_000, "time that `medfuse infer` may take for the median scan here"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="start from a pretrained network that says what it is: a checkpoint of nnssl, a run, a "
            "MONAI bundle, a folder or a name of huggingface.co",
        ),
    ] = None,
    quiet: Quiet = False,
) -> Result:
    """Write a pipeline for a dataset, sized by measured steps.

    Every value stands below its reason.
    """
    from medfuse.core.memory import parse_bytes
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.init import init_from, init_pipeline

    if source:
        if compare > 1 or dimensions != "auto" or search or seconds_per_case is not None:
            given = "--search" if search else "--compare" if compare > 1 else "--dimensions"
            given = given if seconds_per_case is None else "--seconds-per-case"
            raise typer.BadParameter(
                "--from has one network, and so one plan; leave this out", param_hint=given
            )
        how: dict[str, Any] = {"output": output, "budget": parse_bytes(budget), "minutes": minutes}
        return init_from(data, source, **how, device=device, reporter=Reporter(quiet=quiet))
    if search and (minutes is None or compare > 1):
        what = "goes with --minutes, as it ends with them" if minutes is None else "begins with one plan"
        raise typer.BadParameter(f"a search {what}", param_hint="--search")
    return init_pipeline(
        data,
        output=output,
        budget=parse_bytes(budget),
        minutes=minutes,
        device=device,
        dimensions=dimensions,
        trials=trials,
        compare=compare,
        search=search,
        seconds_per_case=seconds_per_case,
        reporter=Reporter(quiet=quiet),
    )


def doctor(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="dataset folder, CSV table of cases, or pipeline file")
    ],
    quiet: Quiet = False,
) -> Result:
    """Find faults of geometry and labels in a dataset.

    Each case is read once and held against the others: labels that are shifted, turned round, cut off or
    exchanged, images in other units, doubled patients and more. Ends with 0 where nothing is found, 1 where
    something is, and 2 where the dataset cannot be read.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.doctor import examine_dataset

    return examine_dataset(data, reporter=Reporter(quiet=quiet))


def probe(
    file: PipelineFile,
    steps: Annotated[int, whole_number(20, 10_000_000, "training steps on the one case, 20 or more")] = 200,
    case: Annotated[
        str | None, typer.Option(metavar="NAME", help="the case; the first with foreground if not given")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
) -> Result:
    """Find a learning rate; try to learn one case by heart.

    Where FILE's network cannot learn one case, data, network and loss do not fit together. Keeps nothing.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.probe import probe_pipeline

    reporter = Reporter(quiet=quiet)
    probed = probe_pipeline(file, overrides or (), runs=runs, steps=steps, case=case, reporter=reporter)
    return Result(probed.text(), probed.values())


def taps(
    file: PipelineFile,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="one backbone; all if not given")
    ] = None,
    overrides: Overrides = None,
) -> Result:
    """List the layers of FILE's backbones, with map and cost.

    It says which of them are tapped. Opens no image.
    """
    from medfuse.verbs.taps import taps_table

    return taps_table(file, overrides or (), backbone=backbone)


def compare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_RUN", help="pipeline files or finished run folders")
    ],
    seeds: Annotated[int, whole_number(1, 1000, "trainings per pipeline and fold: seeds 1 to N")] = 1,
    folds: Annotated[str, typer.Option(metavar="0,1,…", help="folds to train and judge on")] = "0",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    margin: Annotated[
        float | None,
        decimal_number(1e-6, 1, "a difference in Dice that does not matter, 0.005 if not given"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the result")] = None,
    overwrite: Overwrite = False,
    trust: Trusted = None,
    retrain: Retrain = False,
    max_disk: MaxDisk = None,
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    quiet: Quiet = False,
) -> Result:
    """Train pipelines alike, and tell whether one is better."""
    from medfuse.core.memory import parse_bytes
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.compare import compare_pipelines
    from medfuse.verbs.crews import Workers

    return compare_pipelines(
        inputs,
        seeds=seeds,
        folds=numbers(folds),
        overrides=overrides or (),
        runs=runs,
        output=output,
        overwrite=overwrite,
        trust=trust or (),
        retrain=retrain,
        max_disk=parse_bytes(max_disk) if max_disk else None,
        margin=margin,
        workers=Workers(engine, tuple(engine_options or ()), workers).ready(),
        reporter=Reporter(quiet=quiet),
    )


def search(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="pipeline file with a `search:` section, or a file of `pipeline:` and `search:`",
        ),
    ],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    retrain: Annotated[
        bool, typer.Option("--retrain", help="begin the search anew; what its folder holds is removed")
    ] = False,
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    quiet: Quiet = False,
) -> Result:
    """Search forms of a pipeline; tell if one is better.

    Trials learn from some training cases and are chosen by others. What is chosen and the file as it is
    written are then trained anew with several seeds, and judged by the held-out cases, which no trial has
    seen. Run it again to carry on where it stopped.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.crews import Workers
    from medfuse.verbs.search import search_pipeline

    crew = Workers(engine, tuple(engine_options or ()), workers).ready()
    return search_pipeline(
        file, overrides or (), runs=runs, retrain=retrain, workers=crew, reporter=Reporter(quiet=quiet)
    )


def cache(
    runs: Runs = Path("runs"),
    maps: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="kept maps, where a pipeline has a folder of its own for them"),
    ] = None,
    clear: Annotated[
        Literal["maps", "prepared", "all"] | None,
        typer.Option(help="remove kept maps, prepared cases, or both; what is in use stays"),
    ] = None,
) -> Result:
    """Show, or clear, what runs share on disk.

    Prepared cases, and maps of frozen networks: all of it is made again where a run needs it.
    """
    from medfuse.verbs.cache import clear_shared, shared_table

    if clear is None:
        return shared_table(runs, maps)
    cleared, left = clear_shared(runs, maps, clear), shared_table(runs, maps)
    return Result(f"{cleared}\n{left}", {**left.values, **cleared.values})


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file, or folder for it; printed if not given")
    ] = None,
) -> Result:
    """Print the JSON Schema of pipeline files, for editors."""
    from medfuse.verbs.schema import schema_text, write_schema

    if output:
        return Result(write_schema(output), {"file": output})
    text = schema_text().rstrip("\n")
    return Result(text, json.loads(text))
