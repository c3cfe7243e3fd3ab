"""Verbs of trained networks and of label maps, a few lines each; heavy imports come late here as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medfuse.cli.words import (
    Best,
    Device,
    EngineName,
    EngineOptions,
    Images,
    InferOverrides,
    Naming,
    Overrides,
    Overwrite,
    PipelineOutput,
    Quiet,
    Retrain,
    Runs,
    Series,
    ShardOption,
    Trusted,
    Uneven,
    Weights,
    WorkerCount,
    command_without,
    decimal_number,
    scans_of,
    spacing_of,
    whole_number,
)
from medfuse.core.result import Result


def infer(
    weights: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="run folders, weights, exported files, hub:OWNER/NAME; several are averaged",
        ),
    ],
    inputs: Images,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="folder for the label maps, s3://BUCKET/FOLDER or the like, or dicomweb:URL; needed but "
            "with --explain",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="only tell windows, time and memory of each case; with --workers or --price hours, cost and "
            "tail of all, from some that are done for it",
        ),
    ] = False,
    probabilities: Annotated[
        Literal["zarr", "nifti"] | None,
        typer.Option(help="also write those of every class: CASE_probabilities.zarr or .nii.gz"),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="nifti|nrrd|dicom_seg|rtstruct",
            help="of the label maps; repeated, or several between commas; the image's own if not given",
        ),
    ] = None,
    seg_type: Annotated[
        Literal["labelmap", "binary"],
        typer.Option(help="how DICOM segmentations hold labels; older viewers read binary alone"),
    ] = "labelmap",
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="also write how unsure each voxel is: CASE_uncertainty.nii.gz"),
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="4GiB", help="main memory that may be taken above the loaded model"),
    ] = None,
    series: Series = None,
    naming: Naming = "tags",
    uneven: Uneven = "refuse",
    store: Annotated[
        bool, typer.Option("--store", help="store the labels at the DICOMweb server that the scans are from")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse images that are unlike those of training")
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="also write volume, intensities, components and place of each class: statistics.csv, .json",
        ),
    ] = False,
    price: Annotated[
        str | None,
        typer.Option(metavar="0.60/h", help="of a worker's hour, for what --explain says of the cost"),
    ] = None,
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    shard: ShardOption = None,
    printed: Annotated[
        bool, typer.Option("--print", help="only print the file by which others start the engine's workers")
    ] = False,
    overrides: InferOverrides = None,
    best: Best = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> Result:
    """Write a label map for every image. Finished cases are skipped when run again."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.crews import Workers
    from medfuse.verbs.infer import explain_volumes, infer_volumes

    crew = Workers(engine, tuple(engine_options or ()), workers)

    how: dict[str, Any] = {"best": best, "device": device, "max_memory": max_memory, "trust": trust or ()}
    unsure = ["uncertainty=true"] if uncertainty else []
    how |= {"overrides": [*(overrides or ()), *unsure], "probabilities": probabilities}
    how |= {"reporter": Reporter(quiet=quiet), "scans": scans_of(series, naming, uneven)}
    how |= {"strict": strict, "formats": formats or (), "seg_type": seg_type}
    if shard is not None and (workers > 1 or engine != "local" or statistics):
        other = "--statistics" if statistics else "--workers and --engine"
        raise typer.BadParameter(f"is one process, and goes without {other}", param_hint="--shard")
    if explain:
        return explain_volumes(weights, inputs, workers=crew, price=price, shard=shard, **how)
    if price is not None:
        raise typer.BadParameter(
            "what cases will cost is told by --explain, before any is done; add --explain, or leave --price "
            "out",
            param_hint="--price",
        )
    if output is None:
        raise typer.BadParameter("name a folder for the label maps", param_hint="--output")
    how |= {"overwrite": overwrite, "statistics": statistics, "store": store}
    if printed:
        return crew.printed(
            command_without({"--print": 0, "--json": 0, "--engine": 1, "--engine-option": 1, "--workers": 1}),
            [*weights, *inputs, output],
        )
    how |= {"shard": shard, "workers": crew}
    return infer_volumes(weights, inputs, output, **how)


def work(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="folder in which workers share cases or trainings")
    ],
    trust: Trusted = None,
    quiet: Quiet = False,
) -> Result:
    """Take part in what `--workers` of other commands do."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.work import work_on

    return work_on(output, trust=trust or (), reporter=Reporter(quiet=quiet))


def status(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="output folder of infer, or folder of folds")
    ],
) -> Result:
    """Say where the work on an output folder stands."""
    from medfuse.verbs.status import status_of

    return status_of(output)


def import_nnunet(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_ZIP",
            help="nnUNetTrainer__…, with plans.json and fold_0; a folder around it, or a zip of either",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="run folder for the weights")],
    checkpoint: Annotated[
        str, typer.Option(help="which of each fold's checkpoints")
    ] = "checkpoint_final.pth",
    configuration: Annotated[
        str, typer.Option(metavar="3d_fullres", help="which model, where there are several")
    ] = "",
    before: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="a cascade's first stage; what lies beside it if not given"),
    ] = None,
    quiet: Quiet = False,
) -> Result:
    """Turn a model of nnU-Net into a run folder.

    `medfuse infer` and every other verb take it, and a training can start from it.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.import_nnunet import import_nnunet

    how: dict[str, Any] = {"checkpoint": checkpoint, "configuration": configuration, "before": before}
    return import_nnunet(folder, output, **how, reporter=Reporter(quiet=quiet))


def import_nnssl(
    file: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="a .pth file with nnssl_adaptation_plan")
    ],
    output: PipelineOutput = None,
    quiet: Quiet = False,
) -> Result:
    """Write a pipeline around weights of nnssl.

    Backbone, spacing, patch, normalisation and taps are what the checkpoint says of itself; `medfuse init`
    with --from plans them for a dataset.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.import_nnssl import import_nnssl

    return import_nnssl(file, output, reporter=Reporter(quiet=quiet))


def import_bundle(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_ZIP", help="a bundle, with configs/metadata.json and models/model.pt"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="run folder for the weights")],
    config: Annotated[
        str, typer.Option(metavar="FILE", help="which file in configs; inference.json or .yaml if not given")
    ] = "",
    weights: Annotated[
        str, typer.Option(metavar="FILE", help="which file in models; model.pt if not given")
    ] = "",
    spacing: Annotated[
        str,
        typer.Option(metavar="1,1,1", help="of voxels in mm along x, y and z, where it resamples nothing"),
    ] = "",
    quiet: Quiet = False,
) -> Result:
    """Turn a MONAI bundle into a run folder.

    Nothing in it is run: its network is one of MONAI's that only compute, its transforms are medfuse's own.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.import_bundle import import_bundle

    mm = spacing_of(spacing) if spacing else None
    how: dict[str, Any] = {"config": config, "weights": weights, "spacing_mm": mm}
    return import_bundle(source, output, **how, reporter=Reporter(quiet=quiet))


def info(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="run folder, weights, or whatever file, folder or zip export wrote",
        ),
    ],
) -> Result:
    """Say what a model is.

    Labels, spacing, what it was trained on, its score on held-out cases, licence, hashes. Nothing is run.
    """
    from medfuse.verbs.info import model_info

    return model_info(model)


def export(
    weights: Weights,
    kind: Annotated[
        Literal["onnx", "openvino", "torch", "bundle", "huggingface", "mhub", "slicer", "docker"],
        typer.Option(
            "--format",
            help="a network as a file: onnx, openvino, torch (.pt2); a model as a folder: the others",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="file, or folder; for a model a .zip file, too")
    ],
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option(help="of onnx and openvino: int8 where `medfuse quantize` has let it through"),
    ] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="of onnx in int8: pipeline file that says the cases, as in quantize"
        ),
    ] = None,
    license: Annotated[
        str, typer.Option(metavar="SPDX", help="licence of the model, such as CC-BY-4.0; none if not given")
    ] = "",
    best: Best = False,
    overwrite: Overwrite = False,
    trust: Trusted = None,
) -> Result:
    """Write a model for other engines and people.

    bundle: MONAI's; huggingface: what `medfuse push` sends; mhub, docker: containers; slicer: for 3D Slicer.
    """
    from medfuse.verbs.export import export_model

    how: dict[str, Any] = {"license": license, "trust": trust or (), "overwrite": overwrite}
    how |= {"precision": precision, "data": data}
    return export_model(weights, output, kind=kind, best=best, **how)


def quantize(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="run folder, or one around the folds of a cross-validation")
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="pipeline file that says the cases, where the run does not"),
    ] = None,
    bound: Annotated[
        float,
        decimal_number(0.0001, 1, "how far Dice and NSD of a class may fall, at the interval's upper end"),
    ] = 0.001,
    seed: Annotated[int, whole_number(1, 2**31 - 1, "draws the windows to calibrate on")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="judge again what was judged")] = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> Result:
    """Judge whether a run may compute in int8.

    Calibrated on training cases; taken where no class of the held-out ones loses, and it is faster. Exit code
    1 where it is not taken.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.quantize import quantize_model

    how: dict[str, Any] = {"data": data, "bound": bound, "seed": seed, "overwrite": overwrite}
    return quantize_model(run, **how, trust=trust or (), reporter=Reporter(quiet=quiet))


def distil(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="run folder of the large network, which teaches")
    ],
    into: Annotated[
        str,
        typer.Option(
            metavar="PLAN|1/4",
            help="pipeline file of the small network, or the share of RUN's compute that a narrower form of "
            "its pipeline is to have",
        ),
    ] = "1/4",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the result")] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="train the small network alone, too")
    ] = True,
    overwrite: Overwrite = False,
    trust: Trusted = None,
    retrain: Retrain = False,
    quiet: Quiet = False,
) -> Result:
    """Train a small network by a large one.

    It learns labels, and the large one's probabilities and inner maps of the same patches. Run it again to
    carry on where it stopped.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.distil import distil_run

    how: dict[str, Any] = {"into": into, "overrides": overrides or (), "runs": runs, "output": output}
    how |= {"baseline": baseline, "retrain": retrain, "overwrite": overwrite, "trust": trust or ()}
    return distil_run(run, **how, reporter=Reporter(quiet=quiet))


def push(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="run folder, weights, or folder that export wrote")
    ],
    target: Annotated[str, typer.Argument(metavar="hub:OWNER/NAME", help="repository of huggingface.co")],
    license: Annotated[
        str, typer.Option(metavar="SPDX", help="licence of the model, such as CC-BY-4.0; none if not given")
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="let everybody read it; private if not given")
    ] = False,
    revision: Annotated[
        str, typer.Option(metavar="BRANCH", help="write this branch, made if need be; main if not given")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be sent")] = False,
    best: Best = False,
    trust: Trusted = None,
) -> Result:
    """Send a model to huggingface.co, with its card.

    The token is that of `hf auth login` or HF_TOKEN. `medfuse infer hub:OWNER/NAME` runs what is there.
    """
    from medfuse.verbs.push import push_model

    how: dict[str, Any] = {"license": license, "public": public, "revision": revision, "dry_run": dry_run}
    return push_model(model, target, **how, best=best, trust=trust or ())


def rank(
    weights: Weights,
    inputs: Images,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for the ranking, and label maps to begin with")
    ],
    number: Annotated[int, whole_number(1, 1_000_000, "cases to choose")] = 20,
    labelled: Annotated[
        list[Path] | None, typer.Option(help="scans that are annotated already, whose likes add little")
    ] = None,
    cost: Annotated[
        Literal["cases", "slices"],
        typer.Option(help="slices: a case costs as many as hold a label, across the thickest axis"),
    ] = "cases",
    layer: Annotated[
        str, typer.Option(help="map that tells scans apart; the coarsest tapped one if not given")
    ] = "",
    series: Series = None,
    naming: Naming = "tags",
    uneven: Uneven = "refuse",
    overrides: InferOverrides = None,
    best: Best = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> Result:
    """Say which scans to annotate next. Finished cases are skipped when run again."""
    from medfuse.core.reporter import Reporter
    from medfuse.infer.cases import refuse_missing
    from medfuse.runs.folder import fold_folders
    from medfuse.trained.loading import weights_file

    weights_file((fold_folders(weights) or [weights])[0], best=best)  # before torch is imported
    refuse_missing([Path(place) for place in (*inputs, *(labelled or ())) if "://" not in str(place)])
    from medfuse.verbs.rank import rank_pool

    return rank_pool(
        weights,
        inputs,
        output,
        number=number,
        labelled=labelled or (),
        cost=cost,
        layer=layer,
        overrides=overrides or (),
        best=best,
        device=device,
        overwrite=overwrite,
        trust=trust or (),
        scans=scans_of(series, naming, uneven),
        reporter=Reporter(quiet=quiet),
    )


def features(
    weights: Weights,
    layers: Annotated[
        str,
        typer.Option(
            "--layers", "-l", metavar="a,b,…", help="taps, nodes or other layers; globs such as encoder.* too"
        ),
    ],
    inputs: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the feature maps")],
    pool: Annotated[
        Literal["none", "mean", "max"], typer.Option(help="one number per channel instead of whole maps")
    ] = "none",
    kind: Annotated[
        Literal["npz", "zarr", "nifti"], typer.Option("--format", help="nifti: a volume a layer")
    ] = "npz",
    series: Series = None,
    naming: Naming = "tags",
    uneven: Uneven = "refuse",
    overrides: InferOverrides = None,
    best: Best = False,
    device: Device = "auto",
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    overwrite: Overwrite = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> Result:
    """Write the activations of layers for every image. Finished cases are skipped when run again."""
    from medfuse.core.reporter import Reporter
    from medfuse.trained.loading import weights_file
    from medfuse.verbs.crews import Workers

    crew = Workers(engine, tuple(engine_options or ()), workers).ready()
    source = weights_file(weights, best=best)  # a mistyped path is told before torch is imported
    from medfuse.verbs.features import save_features

    return save_features(
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
        scans=scans_of(series, naming, uneven),
        workers=crew,
        reporter=Reporter(quiet=quiet),
    )


def series(
    paths: Annotated[list[Path], typer.Argument(help="DICOM: files, folders, zip files, a DICOMDIR")],
    wanted: Series = None,
    naming: Naming = "tags",
    uneven: Uneven = "refuse",
) -> Result:
    """List DICOM series, and why one cannot be used."""
    from medfuse.verbs.series import series_table

    return series_table(paths, scans_of(wanted, naming, uneven))


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
    lesions: Annotated[
        bool, typer.Option("--lesions", help="count the components of each label: found, missed, false, F1")
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration", help="judge probabilities too (ECE), which `infer --probabilities` wrote beside"
        ),
    ] = False,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="whose first group, in a case's name, is the patient, as in '(.*)_scan'; intervals keep a "
            "patient's cases together. Each case is a patient if not given",
        ),
    ] = None,
    workers: WorkerCount = 1,
    engine: EngineName = "local",
    engine_options: EngineOptions = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> Result:
    """Judge label maps: Dice, HD95, NSD and volume error."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.crews import Workers
    from medfuse.verbs.evaluate import evaluate_label_maps

    return evaluate_label_maps(
        predictions,
        labels,
        names or (),
        output=output,
        overwrite=overwrite,
        lesions=lesions,
        patient=patient,
        calibration=calibration,
        workers=Workers(engine, tuple(engine_options or ()), workers).ready(),
        reporter=Reporter(quiet=quiet),
    )


def view(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER|SCAN",
            help="a run, a folder that infer wrote, a scan (file or DICOM series), or a folder of scans",
        ),
    ],
    label_maps: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LABELS]...", help="of scans: a label map, or a reference and a prediction; or folders"
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="what a value is called; repeatable"),
    ] = None,
    cases: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="NAME", help="a case to show; repeatable; all if not given"),
    ] = None,
    channel: Annotated[
        int, whole_number(1, 10_000, "which channel of an image of several is drawn, counted from 1")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="the page; view.html in RUN or FOLDER, or SCAN.view.html here if not given"
        ),
    ] = None,
    max_size: Annotated[
        str,
        typer.Option("--max-size", metavar="SIZE", help="of the page; larger scans are drawn more coarsely"),
    ] = "80MB",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> Result:
    """Write a page that shows scans with their labels.

    One file for any browser, offline: three planes and 3-D, reference, prediction and where they differ.
    """
    from medfuse.core.memory import parse_bytes
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.view import view

    return view(
        image,
        label_maps or (),
        names or (),
        cases=cases or (),
        channel=channel - 1,
        output=output,
        most_bytes=parse_bytes(max_size),
        overwrite=overwrite,
        reporter=Reporter(quiet=quiet),
    )
