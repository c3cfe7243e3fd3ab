"""What medfuse does on an NVIDIA GPU, in one call of at most eight minutes, as Markdown.

    python benchmarks/gpu.py --output gpu.md [--data DATA] [--nnunet-python PATH] [--wheels FOLDER]
    python benchmarks/gpu.py --dry-run                      # every line of it on this CPU, in tiny sizes
    python benchmarks/gpu.py --only memory --only window    # some of the parts

Each part has seconds of its own, and its lines stand in the file as soon as they are known: whenever it is
stopped, what it had is there. A part that fails is named with the end of what it said, and the others go on.
DATA is the folder of the Medical Segmentation Decathlon's Task04 (hippocampus); without it folds are of the
phantoms in sample_data. Without a package registry: `python benchmarks/wheels.py collect FOLDER` elsewhere,
and `--wheels FOLDER` here, which makes an environment beside this Python's torch. nnU-Net is measured where
`--nnunet-python`, or this Python, has nnunetv2. The result is for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import Part, has, measure, parser, run

if TYPE_CHECKING:
    import torch
    from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT = 8 << 30
"""Bytes of GPU memory that nnU-Net's largest plans are to fit."""


def main() -> None:
    options = parser(__doc__, PARTS, minutes=8)
    options.add_argument("--data", type=Path, help="the Decathlon's Task04, in place of phantoms")
    options.add_argument("--wheels", type=Path, help="what `wheels.py collect` gathered")
    given = options.parse_args()
    if given.part:
        next(part for part in PARTS if part.name == given.part).measure(given)
        return
    with tempfile.TemporaryDirectory(prefix="medfuse-gpu-") as folder:
        python = sys.executable
        if given.wheels:
            from wheels import environment

            python = str(environment(given.wheels, Path(folder)))
        done = measure(PARTS, given, title="On a GPU", python=python)
    sys.exit(not done)


def device(given: argparse.Namespace) -> torch.device:
    """The GPU; in a dry run, and where another benchmark takes a part over, the CPU. Or SystemExit."""
    import torch

    if given.dry_run or "wheels" not in given:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; --dry-run goes through every line on a CPU")
    return torch.device("cuda")


# ---- the card, and its share that a network reaches


def machine(given: argparse.Namespace) -> None:
    import torch

    where = device(given)
    print(f"- torch {torch.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    if where.type == "cuda":
        card = torch.cuda.get_device_properties(where)
        cudnn = torch.backends.cudnn.version()
        memory = card.total_memory / 2**30
        print(f"- {card.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}, cuDNN {cudnn}")
    side, window, channels = (512, 16, 4) if given.dry_run else (8192, 96, 32)
    rate = matrices(where, side)
    print(f"- matrices of {side}² in bf16: {rate:.1f} TFLOP/s", flush=True)
    print(f"\n| batch; {channels} channels, windows of {window}³ | pass | ms | TFLOP/s | of the rate |")
    print("|---|---|---|---|---|", flush=True)
    for batch in (1,) if given.dry_run else (1, 2, 4):
        for kind in ("inference", "training"):
            ms, flops = network_pass(where, channels, window, batch, training=kind == "training")
            reached = flops / ms / 1e9
            print(f"| {batch} | {kind} | {ms:.1f} | {reached:.1f} | {reached / rate:.0%} |", flush=True)


def matrices(where: torch.device, side: int) -> float:
    """TFLOP/s of a product of random square matrices in bf16."""
    import torch

    a = torch.randn(side, side, dtype=torch.bfloat16, device=where)
    seconds = timed(lambda: a @ a, where, times=10)
    return 2 * side**3 / seconds / 1e12


def network_pass(
    where: torch.device, channels: int, window: int, batch: int, *, training: bool
) -> tuple[float, float]:
    """Milliseconds of a pass, and the floating-point operations in it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = unet(channels, window, levels=2 if window < 32 else 5).to(where)
    image = torch.randn(batch, 1, *[window] * 3, device=where).contiguous(
        memory_format=torch.channels_last_3d
    )

    def forward() -> None:
        with torch.autocast(where.type, torch.bfloat16), torch.set_grad_enabled(training):
            made = model(image)
            if training:
                made.float().square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        forward()
    return 1000 * timed(forward, where, times=5), float(counter.get_total_flops())


def timed(action: Callable[[], object], where: torch.device, *, times: int) -> float:
    """Seconds of one of `times`, after two that warm up."""
    import torch

    for _ in range(2):
        action()
    wait = torch.cuda.synchronize if where.type == "cuda" else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(times):
        action()
    wait()
    return (time.perf_counter() - began) / times


def unet(channels: int, window: int, *, levels: int, most: int = 320) -> nn.Module:
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.model.segmenter import build_segmenter

    model = build_segmenter(graph(channels, window, levels=levels, most=most))
    lay_out(model, 5, channels_last(5))
    return model


def graph(channels: int, window: int, *, levels: int, most: int = 320) -> Any:
    """The plain U-Net as nnU-Net plans it, with deep supervision."""
    from medfuse.core.features import ImageInfo
    from medfuse.model.graph import plan_graph
    from medfuse.model.settings import ModelSettings

    widths = [min(channels * 2**level, most) for level in range(levels)]
    encoder = {
        "use": "unet_encoder",
        "channels": widths,
        "strides": [1, *[2] * (levels - 1)],
        "kernels": [3] * levels,
    }
    settings: dict[str, Any] = {
        "backbones": {"encoder": encoder},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    }
    if levels > 2:
        settings["aux"] = {
            "heads": ["decoded.*"],
            "schedule": {"use": "constant", "weight": 0.5, "ratio": 0.5},
        }
    image = ImageInfo(1, (window,) * 3, (1.0,) * 3)
    return plan_graph(ModelSettings.model_validate(settings), image, 3)


# ---- memory: nnU-Net's largest plan, with each way to save it


WAYS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("all maps kept", {"checkpointing": False, "accumulate": 1}),
    ("checkpointing", {"checkpointing": True, "accumulate": 1}),
    ("accumulate: 2", {"checkpointing": False, "accumulate": 2}),
    ("both", {"checkpointing": True, "accumulate": 2}),
)


def memory(given: argparse.Namespace) -> None:
    """A step of 2 patches of 128³ voxels, six levels of 32 to 320 channels, as measured and as estimated."""
    import torch

    from medfuse.core.memory import bytes_text
    from medfuse.model.held import held
    from medfuse.model.segmenter import build_segmenter

    where = device(given)
    channels, window, levels = (4, 32, 3) if given.dry_run else (32, 128, 6)
    plan = graph(channels, window, levels=levels)
    about = held(build_segmenter(plan), plan.image, plan.aux, batch=2)
    print(
        f"\n| a step of 2 patches of {window}³, {levels} levels | precision | memory | estimate | seconds |"
    )
    print("|---|---|---|---|---|", flush=True)
    for precision in ("fp32", "bf16"):
        for name, way in WAYS:
            estimate = about.step(
                checkpointing=bool(way["checkpointing"]),
                parts=int(way["accumulate"]),
                half=precision == "bf16",
                states=1,
            )
            try:
                cost = step_cost(plan, where, precision, about.segments, way)
                seen = f"{bytes_text(cost.bytes)} | {bytes_text(estimate)} | {cost.seconds:.3f}"
            except torch.OutOfMemoryError:
                seen = f"more than there is | {bytes_text(estimate)} | –"
            print(f"| {name} | {precision} | {seen} |", flush=True)


def step_cost(
    plan: Any, where: torch.device, precision: str, segments: Sequence[str], way: Mapping[str, Any]
) -> Any:
    from medfuse.model.segmenter import build_segmenter
    from medfuse.train.cost import measure_step
    from medfuse.train.settings import TrainSettings

    return measure_step(
        lambda: build_segmenter(plan),
        objective(plan),
        TrainSettings.model_validate({"steps": 1, "precision": precision, **way}),
        segments=lambda model: segments,
        shape=(2, 1, *plan.image.patch_size),
        classes=3,
        device=where,
    )


def objective(plan: Any) -> Any:
    from medfuse import registry
    from medfuse.api import AuxSchedule, Loss
    from medfuse.train.objective import Objective
    from medfuse.train.targets import supervised

    loss = registry.get(Loss.group, "dice_ce")()
    schedule = registry.get(AuxSchedule.group, "constant").model_validate({"weight": 0.5, "ratio": 0.5})
    assert isinstance(loss, Loss)
    assert isinstance(schedule, AuxSchedule)
    return Objective(supervised(loss, 3), plan.aux, schedule if plan.aux else None)


# ---- what happens where memory runs out


def out_of_memory(given: argparse.Namespace) -> None:
    """Training and inference in a part of the card's memory."""
    import torch

    where = device(given)
    if where.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            LIMIT / torch.cuda.get_device_properties(where).total_memory
        )
        print(f"- this process may have {LIMIT >> 30} GiB of the card")
    window = 32 if given.dry_run else 128
    plan = graph(4 if given.dry_run else 32, window, levels=3 if given.dry_run else 6)
    said, steps, seconds = trained(plan, where, steps=2 if given.dry_run else 4)
    print(f"- training in fp32, 2 patches of {window}³: {steps} steps in {seconds:.1f} s")
    print("".join(f"  - {line}\n" for line in said) or "  - nothing had to be saved\n", end="", flush=True)
    seconds, warned = inferred(given, where)
    print(f"- inference of a large volume: {seconds:.1f} s")
    print("".join(f"  - {line}\n" for line in warned) or "  - in one pass\n", end="", flush=True)


def trained(plan: Any, where: torch.device, *, steps: int) -> tuple[list[str], int, float]:
    """What training said of memory, its steps and seconds; on a CPU as if the first step had run out."""
    import torch

    from medfuse.core.reporter import Reporter
    from medfuse.model.held import held
    from medfuse.model.segmenter import build_segmenter
    from medfuse.train.loop import fit
    from medfuse.train.settings import TrainSettings
    from medfuse.train.together import make_fabric

    said: list[str] = []

    class Heard(Reporter):
        def say(self, line: str) -> None:
            said.append(line)

    model = build_segmenter(plan)
    segments = held(model, plan.image, plan.aux, batch=2).segments
    model.to(where)
    if where.type == "cpu":
        model.register_forward_pre_hook(_runs_out(model.get_submodule(segments[0])))

    def batches(start: int) -> Generator[Mapping[str, Any], None, None]:
        image = torch.randn(2, 1, *plan.image.patch_size)
        while True:
            yield {"image": image, "label": (image > 0).long()}

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        progress = fit(
            model,
            fabric=make_fabric(where, "32-true"),
            settings=TrainSettings(steps=steps, device=where.type),
            objective=objective(plan),
            batches=batches,
            validate=lambda network: {},
            save=lambda *_: None,
            folder=Path(folder),
            reporter=Heard(quiet=True),
            segments=segments,
        )
    return [line for line in said if "memory" in line], progress.step, time.perf_counter() - began


def _runs_out(segment: nn.Module) -> Callable[..., None]:
    """A hook that runs out of memory until maps of `segment` are computed again."""
    import torch

    def hook(*_: object) -> None:
        if "forward" not in vars(segment):
            raise torch.OutOfMemoryError("as if out of memory. In a dry run")

    return hook


def inferred(given: argparse.Namespace, where: torch.device) -> tuple[float, list[str]]:
    """Seconds of a volume whose sums of logits do not fit the limit, and what was warned of."""
    import logging

    import nibabel as nib
    import numpy as np
    from random_unet import random_unet

    from medfuse.core.reporter import Reporter
    from medfuse.verbs.infer import infer_volumes

    warned: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "memory" in record.getMessage():
                warned.append(record.getMessage())

    logging.getLogger("medfuse").addHandler(Listener())
    shape, window, levels, classes = (
        ((48, 48, 40), 32, 3, 3) if given.dry_run else ((512, 512, 320), 96, 5, 25)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_unet(folder / "unet.safetensors", levels=levels, window=window, classes=classes)
        noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / "scan.nii.gz")
        began = time.perf_counter()
        infer_volumes(
            [weights],
            [folder / "scan.nii.gz"],
            folder / "out",
            device=where.type,
            reporter=Reporter(quiet=True),
        )
        return time.perf_counter() - began, warned


# ---- the tests that need a GPU


def tests(given: argparse.Namespace) -> None:
    """Those of the marker `gpu`; a dry run finds them."""
    words = ["-q", "-m", "gpu", "-p", "no:cacheprovider", *(["--collect-only"] if given.dry_run else [])]
    print("```", flush=True)
    try:
        run([sys.executable, "-m", "pytest", *words, ROOT / "tests", "--ignore", ROOT / "tests" / "docs"])
    finally:
        print("```", flush=True)


# ---- beside the peers


def nnunet(given: argparse.Namespace) -> Path | None:
    """A Python that has nnU-Net; says so where there is none."""
    python = given.nnunet_python or Path(sys.executable)
    if has(python, "nnunetv2"):
        return Path(python)
    print(f"- without nnU-Net, which {python} does not have", flush=True)
    return None


def window(given: argparse.Namespace) -> None:
    """The sliding window beside MONAI's and nnU-Net's."""
    where, peer = device(given), nnunet(given)
    size = "--levels 3 --window 32 --shape 40 40 40 --rounds 1" if given.dry_run else "--shape 256 256 256"
    command: list[str | Path] = [sys.executable, HERE / "infer.py", "--device", where.type, *size.split()]
    run([*command, *(["--nnunet-python", peer] if peer else [])])


def step(given: argparse.Namespace) -> None:
    """A training step beside nnU-Net's, of its plan for large volumes; on a CPU a smaller one."""
    where, peer = device(given), nnunet(given)
    if given.dry_run:
        side, channels, turns = 32, (4, 8, 16), ["--rounds", "1", "--each", "1", "--no-compile"]
    elif where.type == "cpu":
        side, channels, turns = 64, (32, 64, 128, 256, 320), ["--rounds", "2", "--each", "1"]
    else:
        side, channels, turns = 128, (32, 64, 128, 256, 320, 320), ["--rounds", "3", "--each", "10"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plan(folder / "prepared" / "Dataset004_Task", [side] * 3, channels)
        data = folder / "data"
        data.mkdir()
        command: list[str | Path] = [sys.executable, HERE / "train.py", "steps", data, "--work", folder]
        command += ["--device", where.type, "--nnunet-python", peer or sys.executable, *turns]
        run([*command, *([] if peer else ["--only", "medfuse"])])


def write_plan(folder: Path, patch: Sequence[int], channels: Sequence[int]) -> None:
    """What nnU-Net would have written for it, as far as a training step needs it."""
    levels = len(channels)
    network = {
        "n_stages": levels,
        "features_per_stage": [*channels],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * levels,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (levels - 1)],
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    way = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [*patch],
        "median_image_size_in_voxels": [2.0 * n for n in patch],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": way,
        "resampling_fn_seg_kwargs": {**way, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**way, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    intensities = {"max": 1000.0, "mean": 0.0, "median": 0.0, "min": -1000.0, "std": 100.0}
    plans = {
        "dataset_name": folder.name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [2 * n for n in patch],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {**intensities, "percentile_00_5": -900.0, "percentile_99_5": 900.0}
        },
    }
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    (folder / "nnUNetPlans_3d_fullres" / "a.b2nd").touch()  # by which nnU-Net tells the kind of its files
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))


# ---- trained


def folds(given: argparse.Namespace) -> None:
    """Two folds of two minutes, side by side on one card, each as a user starts it."""
    where = device(given)
    minutes = "0.02" if given.dry_run else "2"
    pipeline = ROOT / "pipelines" / ("hippocampus.yaml" if given.data else "liver.yaml")
    print(f"- {pipeline.name}, {minutes} minutes a fold, both at once" + ("" if given.data else ", phantoms"))
    with tempfile.TemporaryDirectory() as name:
        small = ["sample.patch_size=[32,32,16]", "train.validation_cases=1"] if given.dry_run else []
        settings = [f"train.minutes={minutes}", f"train.device={where.type}", *small]
        settings += [f"data.root={given.data.resolve()}"] if given.data else []
        said = [word for setting in settings for word in ("--set", setting)]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "medfuse",
            "run",
            pipeline,
            "--runs",
            name,
            *said,
            "--folds",
            "0,1",
        ]
        run([*command, "--workers", "2"], quiet=True)
        for path in sorted(Path(name).rglob("fold_*/summary.json")):
            tell_of(path.parent)


def tell_of(folder: Path) -> None:
    """A line of a run: Dice, steps, and the share of the time that it waited for data."""
    from reached import reached

    found = reached(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    waits = [row["wait_share"] for row in rows if "wait_share" in row]
    waited = f", {sum(waits) / len(waits):.0%} of the time waiting for data" if waits else ""
    labels = ", ".join(f"{value:.4f}" for value in found["labels"])
    print(
        f"- {folder.name}: mean Dice {found['dice']:.4f} ({labels}) over {found['cases']} cases, "
        f"{found['steps']} steps in {found['minutes']:.1f} minutes{waited}",
        flush=True,
    )


def devices(given: argparse.Namespace) -> None:
    """Several GPUs over NCCL where there are several; in a dry run two processes over gloo."""
    import torch

    where = device(given)
    count = 2 if given.dry_run else torch.cuda.device_count()
    if count < 2:
        print("- one GPU: nothing to share; NCCL has not run")
        return
    with tempfile.TemporaryDirectory() as name:
        settings = [f"train.device={where.type}", "train.steps=2", "train.minutes=null"]
        settings += ["sample.patch_size=[32,32,16]", f"sample.batch_size={count}", "train.accumulate=1"]
        said = [word for setting in settings for word in ("--set", setting)]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "medfuse",
            "run",
            ROOT / "pipelines" / "liver.yaml",
            "--runs",
            name,
        ]
        run([*command, *said, "--devices", str(count)], quiet=True)
        print(f"- {count} devices trained a step together, over {'gloo' if given.dry_run else 'NCCL'}")


PARTS = (
    Part("machine", "The card, and what a network reaches of it", 25, machine),
    Part("memory", "Memory of a training step", 45, memory),
    Part("out_of_memory", "Where memory runs out", 35, out_of_memory),
    Part("tests", "Tests that need a GPU", 45, tests),
    Part("window", "Sliding window beside the peers", 70, window),
    Part("step", "A training step beside nnU-Net's", 80, step),
    Part("folds", "Two folds of two minutes", 160, folds),
    Part("devices", "Several devices", 20, devices),
)


if __name__ == "__main__":
    main()
