"""The command line: one verb a function, a few lines each; nothing heavy is imported before it is needed."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

ELSEWHERE = {
    "convert": "import-nnunet",
    "eval": "evaluate",
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


app = typer.Typer(
    name="medfuse",
    cls=Verbs,
    help="Medical image segmentation from one YAML file, every part of it a plugin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plugins_app = typer.Typer(
    cls=Verbs, help="List, explain and write plugins.", rich_markup_mode=None, add_completion=False
)
app.add_typer(plugins_app, name="plugins")


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


PipelineFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="pipeline file, such as pipelines/liver.yaml")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="override one value of the file; repeatable"),
]
Retrain = Annotated[
    bool,
    typer.Option("--retrain", help="train anew; replaces what the run folder holds, once all is checked"),
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


@app.command()
def run(
    file: PipelineFile,
    overrides: Overrides = None,
    folds: Annotated[
        str | None,
        typer.Option(metavar="all|0,2,…", help="cross-validate: train these folds, judge all held-out cases"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="folder that holds the run folders")] = Path("runs"),
    devices: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=_number(1, 1024, whole=True),
            help="GPUs, or processes on a CPU, that train together on this machine",
        ),
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(
            metavar="N", parser=_number(1, 100_000, whole=True), help="machines that train together"
        ),
    ] = 1,
    retrain: Retrain = False,
    quiet: Quiet = False,
) -> None:
    """Prepare, train, predict, evaluate and report. Run it again to carry on where it stopped."""
    from medfuse.core.processes import processes, run_together
    from medfuse.core.reporter import Reporter

    if devices * nodes > 1 and processes() == 1:
        run_together(sys.argv[1:], devices=devices, nodes=nodes)
        return
    from medfuse.verbs.run import run_pipeline

    if folds is not None:
        from medfuse.verbs.folds import run_folds

        chosen = None if folds == "all" else _numbers(folds)
        reporter = Reporter(quiet=quiet)
        print(
            run_folds(
                file, overrides or (), folds=chosen, runs=runs, retrain=retrain, reporter=reporter
            ).text()
        )
        return
    print(
        run_pipeline(file, overrides or (), runs=runs, retrain=retrain, reporter=Reporter(quiet=quiet)).text()
    )


@app.command()
def check(file: PipelineFile, overrides: Overrides = None) -> None:
    """Plan FILE's graph, verify and show its shapes. Opens no image."""
    from medfuse.verbs.check import check_pipeline

    print(check_pipeline(file, overrides or ()))


@app.command()
def init(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="folder of a dataset, or a CSV table of its cases")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the pipeline to write; pipelines/NAME.yaml if not given"),
    ] = None,
    budget: Annotated[str, typer.Option(help="memory that a training step may take")] = "8GiB",
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            parser=_number(0.1, 10_000_000, whole=False),
            help="time for training; as nnU-Net trains if not given",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where steps are measured")] = "auto",
    dimensions: Annotated[
        Literal["3", "2", "2.5"], typer.Option(help="2.5: slices that are seen with their neighbours")
    ] = "3",
    quiet: Quiet = False,
) -> None:
    """Write a pipeline for a dataset, sized by measured steps.

    Every value stands below its reason.
    """
    from medfuse.core.memory import parse_bytes
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.init import init_pipeline

    print(
        init_pipeline(
            data,
            output=output,
            budget=parse_bytes(budget),
            minutes=minutes,
            device=device,
            dimensions=dimensions,
            reporter=Reporter(quiet=quiet),
        )
    )


@app.command()
def probe(
    file: PipelineFile,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=_number(20, 10_000_000, whole=True),
            help="training steps on the one case, 20 or more",
        ),
    ] = 200,
    case: Annotated[
        str | None, typer.Option(metavar="NAME", help="the case; the first with foreground if not given")
    ] = None,
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="folder that holds the run folders")] = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Find a learning rate; try to learn one case by heart.

    Where FILE's network cannot learn one case, data, network and loss do not fit together. Keeps nothing.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.probe import probe_pipeline

    reporter = Reporter(quiet=quiet)
    print(probe_pipeline(file, overrides or (), runs=runs, steps=steps, case=case, reporter=reporter).text())


@app.command()
def taps(
    file: PipelineFile,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="one backbone; all if not given")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List the layers of FILE's backbones, with map and cost.

    It says which of them are tapped. Opens no image.
    """
    from medfuse.verbs.taps import taps_table

    print(taps_table(file, overrides or (), backbone=backbone))


@app.command()
def infer(
    weights: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_WEIGHTS", help="run folders, weights or exported files; several are averaged"
        ),
    ],
    inputs: Annotated[
        list[Path], typer.Option("--input", "-i", help="image, or folder of images; repeatable")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder for the label maps; needed but with --explain"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="only tell windows, time and memory of each case")
    ] = False,
    probabilities: Annotated[
        Literal["zarr", "nifti"] | None,
        typer.Option(help="also write those of every class: CASE_probabilities.zarr or .nii.gz"),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="4GiB", help="main memory that may be taken above the loaded model"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a=b", help="override a value of `infer:`, such as overlap=0.25"),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="use a run's best weights on held-out cases instead of its last")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    overwrite: Overwrite = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> None:
    """Write a label map for every image. Finished cases are skipped when run again."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.infer import explain_volumes, infer_volumes

    how: dict[str, Any] = {"best": best, "device": device, "max_memory": max_memory, "trust": trust or ()}
    how |= {"overrides": overrides or (), "probabilities": probabilities}
    how["reporter"] = Reporter(quiet=quiet)
    if explain:
        done = explain_volumes(weights, inputs, **how)
    elif output is None:
        raise typer.BadParameter("name a folder for the label maps", param_hint="--output")
    else:
        done = infer_volumes(weights, inputs, output, **how, overwrite=overwrite)
    print(done.text)
    if done.failed:
        raise typer.Exit(2)


@app.command("import-nnunet")
def import_nnunet(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="nnUNetTrainer__…, with plans.json and fold_0")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="run folder for the weights")],
    checkpoint: Annotated[
        str, typer.Option(help="which of each fold's checkpoints")
    ] = "checkpoint_final.pth",
    quiet: Quiet = False,
) -> None:
    """Turn a model of nnU-Net into a run folder.

    `medfuse infer` and every other verb take it, and a training can start from it.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.import_nnunet import import_nnunet

    print(import_nnunet(folder, output, checkpoint=checkpoint, reporter=Reporter(quiet=quiet)))


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(metavar="RUN_OR_WEIGHTS", help="run folder or weights")],
    kind: Annotated[
        Literal["onnx", "openvino", "torch"],
        typer.Option("--format", help="onnx: .onnx; openvino: .xml and .bin; torch: .pt2"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="file, or folder for it")],
    best: Annotated[
        bool, typer.Option("--best", help="use a run's best weights on held-out cases instead of its last")
    ] = False,
    overwrite: Overwrite = False,
    trust: Trusted = None,
) -> None:
    """Write the network as ONNX, OpenVINO or torch .pt2 file.

    `medfuse infer` runs such a file too, without the plugins that the network was built from.
    """
    from medfuse.verbs.export import export_network

    print(export_network(weights, output, kind=kind, best=best, trust=trust or (), overwrite=overwrite))


@app.command()
def features(
    weights: Annotated[Path, typer.Argument(metavar="RUN_OR_WEIGHTS", help="run folder or weights")],
    layers: Annotated[
        str,
        typer.Option(
            "--layers", "-l", metavar="a,b,…", help="taps, nodes or other layers; globs such as encoder.* too"
        ),
    ],
    inputs: Annotated[
        list[Path], typer.Option("--input", "-i", help="image, or folder of images; repeatable")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the feature maps")],
    pool: Annotated[
        Literal["none", "mean", "max"], typer.Option(help="one number per channel instead of whole maps")
    ] = "none",
    kind: Annotated[
        Literal["npz", "zarr", "nifti"], typer.Option("--format", help="nifti: a volume a layer")
    ] = "npz",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a=b", help="override a value of `infer:`, such as overlap=0.25"),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="use a run's best weights on held-out cases instead of its last")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    overwrite: Overwrite = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> None:
    """Write the activations of layers for every image. Finished cases are skipped when run again."""
    from medfuse.core.reporter import Reporter
    from medfuse.trained.loading import weights_file

    source = weights_file(weights, best=best)  # a mistyped path is told before torch is imported
    from medfuse.verbs.features import save_features

    done = save_features(
        source,
        inputs,
        output,
        layers=[name.strip() for name in layers.split(",") if name.strip()],
        pool=pool,
        kind=kind,
        overrides=overrides or (),
        best=best,
        device=device,
        overwrite=overwrite,
        trust=trust or (),
        reporter=Reporter(quiet=quiet),
    )
    print(done.text)
    if done.failed:
        raise typer.Exit(2)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="folder of predicted label maps")],
    labels: Annotated[Path, typer.Argument(help="folder of reference label maps")],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME=VALUE",
            help="a label to judge, `tumour=1,2` for a region; all that occur if not given",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="where summary.json goes; into PREDICTIONS if not given"),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Judge label maps: Dice, HD95, NSD and volume error."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.evaluate import evaluate_label_maps

    print(
        evaluate_label_maps(
            predictions,
            labels,
            names or (),
            output=output,
            overwrite=overwrite,
            reporter=Reporter(quiet=quiet),
        )
    )


@app.command()
def compare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_RUN", help="pipeline files or finished run folders")
    ],
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=_number(1, 1000, whole=True),
            help="trainings per pipeline and fold: seeds 1 to N",
        ),
    ] = 1,
    folds: Annotated[str, typer.Option(metavar="0,1,…", help="folds to train and judge on")] = "0",
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="folder that holds the run folders")] = Path("runs"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the result")] = None,
    overwrite: Overwrite = False,
    trust: Trusted = None,
    retrain: Retrain = False,
    quiet: Quiet = False,
) -> None:
    """Train pipelines alike, and tell whether one is better."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.compare import compare_pipelines

    compared = compare_pipelines(
        inputs,
        seeds=seeds,
        folds=_numbers(folds),
        overrides=overrides or (),
        runs=runs,
        output=output,
        overwrite=overwrite,
        trust=trust or (),
        retrain=retrain,
        reporter=Reporter(quiet=quiet),
    )
    print(compared.text)


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file, or folder for it; printed if not given")
    ] = None,
) -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from medfuse.verbs.schema import schema_text, write_schema

    print(write_schema(output) if output else schema_text(), end="\n" if output else "")


@plugins_app.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    describe: Annotated[
        bool,
        typer.Option("--describe", help="import each plugin for the first line of its docstring"),
    ] = False,
) -> None:
    """List every installed plugin: kind, name, package, version."""
    if context.invoked_subcommand is None:
        from medfuse.verbs.plugins import listing

        print(listing(describe=describe))


@plugins_app.command("list")
def list_plugins(
    describe: Annotated[
        bool,
        typer.Option("--describe", help="import each plugin for the first line of its docstring"),
    ] = False,
) -> None:
    """List every installed plugin, as `medfuse plugins` alone does."""
    from medfuse.verbs.plugins import listing

    print(listing(describe=describe))


def _plugin_names(incomplete: str) -> list[str]:
    """The plugins that a shell can complete a name to."""
    from medfuse import registry

    found = {e.name for c in registry.CONTRACTS for e in registry.entries(c.group)}
    return sorted(name for name in found if name.startswith(incomplete))


def _kinds(incomplete: str) -> list[str]:
    """The kinds of plugins that a shell can complete a word to."""
    from medfuse.scaffold import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


@plugins_app.command()
def show(
    name: Annotated[str, typer.Argument(help="a plugin's name", autocompletion=_plugin_names)],
) -> None:
    """Explain one plugin: parameters, defaults, a YAML example."""
    from medfuse.verbs.plugins import page

    print(page(name))


@plugins_app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=_kinds,
            help="backbone, tap_strategy, fusion_block, aux_schedule, loss, activation_loss, augmentation, "
            "dataset or runtime",
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="what `use:` will say")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder in which medfuse-NAME is made")
    ] = Path(),
) -> None:
    """Write a package with one plugin, and tests that pass."""
    from medfuse.scaffold import new_package

    print(f"{new_package(kind, name, output)}: run `pip install -e .` and `pytest` there")


def _numbers(text: str) -> list[int]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise typer.BadParameter(f"{text[:40]!r}: write numbers between commas, such as 0,1")
    return [int(number) for number in numbers]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"medfuse {version('medfuse')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


_UsageError: Any = typer.BadParameter.__base__  # of click, which typer brings along or imports


def _tell(error: Any) -> None:
    """A mistake in a command's words as a line; where there are none at all, the help."""
    if type(error).show is not _UsageError.show:
        error.show()
        return
    verb = error.ctx.command_path if error.ctx else "medfuse"
    said = error.format_message().rstrip(".").replace("Value error, ", "")
    print(f"{verb}: {said}; `{verb} -h` tells what it takes", file=sys.stderr)


def _show_log() -> None:
    """medfuse's own log goes to stderr as plain lines; of other libraries only warnings are of interest."""
    import logging

    class _Stderr(logging.Handler):
        """Asks for sys.stderr at each line: a progress bar stands in for it while it is shown."""

        def emit(self, record: logging.LogRecord) -> None:
            print(self.format(record), file=sys.stderr, flush=True)

    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Stderr()])
    quiet = {"-q", "--quiet"} & set(sys.argv)
    logging.getLogger("medfuse").setLevel(logging.WARNING if quiet else logging.INFO)
    chatty = "lightning_fabric.utilities.rank_zero"  # its parent's level is set when it is imported
    logging.getLogger(chatty).setLevel(logging.WARNING)


_UNPRINTED = "what was to be printed could not be written; see where the output of this command goes"


def main() -> NoReturn:
    """Run the command line: a user's mistake is a line on stderr and exit code 2; Ctrl-C 130, SIGTERM 143."""
    from medfuse.core import terminal
    from medfuse.core.offline import stay_offline

    code = 0
    terminal.stand_in_for_closed_streams()
    terminal.write_in_any_code_page()
    terminal.end_when_told()
    _show_log()
    stay_offline()
    try:
        terminal.refuse_to_start_nowhere()
        code = app(standalone_mode=False) or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if stranger := terminal.stranger_that_ended(ended):
            print(f"{stranger} ended the process ({ended}); mend or uninstall it", file=sys.stderr)
            code = 2
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        code = 1
    except _UsageError as error:
        code = error.exit_code
        _tell(error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        from medfuse.core.errors import MedfuseError
        from medfuse.core.files import is_full

        full = isinstance(error, OSError) and error.filename is None and is_full(error)
        if not (isinstance(error, MedfuseError) or full or terminal.was_told_to_end()):
            raise
        with suppress(OSError):
            print(f"medfuse: {_UNPRINTED} ({error})" if full else error, file=sys.stderr)
        code = 2
    if terminal.was_told_to_end():
        code = terminal.TERMINATED
    stopped = code in (130, terminal.TERMINATED)
    if stopped and "RANK" not in os.environ:  # typer turns Ctrl-C into this code, silently
        print("\nmedfuse: stopped; run the same command again to carry on", file=sys.stderr)
    if (unprinted := terminal.flush()) and code != 1:
        with suppress(OSError):
            print(f"medfuse: {_UNPRINTED} ({unprinted})", file=sys.stderr)
        code = code or 2
    if stopped:
        os._exit(code)  # loader processes and threads may still be busy; nothing of theirs is wanted
    gc.freeze()  # or Python's last collections walk all of torch and MONAI once more
    sys.exit(code)
