"""Sliding-window inference beside MONAI's, nnU-Net's and KonfAI's: one network, one volume, the same windows.

    python benchmarks/infer.py [--nnunet-python PATH] [--konfai-python PATH] [--levels 5] [--window 96]
                               [--shape 144 144 144] [--classes 3] [--rounds 3] [--precision auto|fp32]
                               [--model WEIGHTS --volume SCAN.nii.gz]

Each program loads the same weights in a process of its own and takes its turn: those of a random U-Net and
noise, or of a trained medfuse model and a scan, brought to the model's spacing. The peers are given the
prepared volume and answer with logits, whose argmax is taken; medfuse is given the raw array and answers
with labels. MONAI raises a window's weights to 0.001 where they are less, which no other program does; in
fp32 its stitching is also shown with the gaussian as it is. `--nnunet-python` and `--konfai-python` name the
Pythons of environments that hold nnunetv2 and konfai, and medfuse beside them. Where nnU-Net's import of
torchvision fails, beside a CPU build of torch, a stand-in takes torchvision's place. KonfAI cuts and blends
by its own parts, as its workflow reads and writes files around them. The result is a block of Markdown for
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from random_unet import random_unet
from side_by_side import (
    Worker,
    chosen_runtime,
    heading,
    serve,
    stand_in_for_torchvision,
    take_turns,
)

EXACT = "MONAI, gaussian as it is"  # in fp32 only

Labels = npt.NDArray[np.integer[Any]]
Volume = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--konfai-python", type=Path)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--shape", type=int, nargs=3, default=[144, 144, 144])
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "fp32"], default="auto")
    parser.add_argument("--model", type=Path, help="a trained medfuse model in place of a random U-Net")
    parser.add_argument("--volume", type=Path, help="a scan for it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given, PROGRAMS)
    else:
        compare(given, PROGRAMS, __file__)


def compare(given: argparse.Namespace, programs: Mapping[str, Callable[..., Program]], script: str) -> None:
    """Starts every program, by `script`, lets them take turns, and prints the table."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model or random_unet(
            folder / "unet.safetensors", levels=given.levels, window=given.window, classes=given.classes
        )
        raw, prepared = volumes(model, given)
        np.save(folder / "raw.npy", raw)
        np.save(folder / "prepared.npy", prepared)
        workers = {}
        pythons = {"nnU-Net": given.nnunet_python, "KonfAI": given.konfai_python}
        for program in programs:
            python = pythons.get(program, Path(sys.executable))
            if python is None or (program == EXACT and given.precision != "fp32"):
                continue
            arguments = [str(python), script, "--worker", program, "--folder", name, "--model", str(model)]
            arguments += ["--precision", given.precision, "--device", given.device]
            paths = [*filter(None, sys.path)]
            if program == "nnU-Net":
                paths += map(str, stand_in_for_torchvision(python, folder))
            workers[program] = Worker(arguments, {"PYTHONPATH": ":".join(paths)})
        answers = take_turns(workers, given.rounds)
        for worker in workers.values():
            worker.close()
        labels = {program: np.load(folder / f"{program}.npy") for program in answers}
        print(heading(rounds=given.rounds, threads=torch.get_num_threads(), device=given.device))
        print(f"- {network_facts(model, given)}\n")
        print(table(answers, labels))


def table(answers: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Labels]) -> str:
    """Seconds and ratio to the fastest peer; voxels and Dice against MONAI's fp32 labels."""
    peers = [answer["seconds"] for program, answer in answers.items() if not program.startswith("medfuse")]
    models = {f"voxels unlike {model}'s": labels[model] for model in ("MONAI", EXACT) if model in labels}
    head = ["program", "seconds", "× the faster peer", *models, "lowest Dice with MONAI's", "runs in"]
    rows = [head, ["---"] * len(head)]
    for program, answer in answers.items():
        mine = labels[program]
        unlike = [f"{int((mine != other).sum()):,} of {mine.size:,}" for other in models.values()]
        speed = [f"{answer['seconds']:.2f}", f"{min(peers) / answer['seconds']:.2f}"]
        rows.append([program, *speed, *unlike, f"{lowest_dice(mine, labels['MONAI']):.5f}", answer["how"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def lowest_dice(given: Labels, wanted: Labels) -> float:
    """Over the labels that `wanted` holds."""
    scores = []
    for value in np.unique(wanted):
        a, b = given == value, wanted == value
        scores.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return min(scores)


def volumes(model: Path, given: argparse.Namespace) -> tuple[Volume, Volume]:
    """What medfuse is given, and what that is once it is normalised; both at the model's spacing."""
    if not given.volume:
        noise = np.random.default_rng(0).normal(size=(1, *given.shape)).astype(np.float32)
        return noise, noise
    from medfuse.data.plan import resampled_shape
    from medfuse.data.prepare import normalize, resample_image
    from medfuse.trained.loading import load_trained
    from medfuse.volumes.read import read_volume

    plan = load_trained([model]).plan
    scan = read_volume(given.volume)
    turned = scan.geometry.turn.apply(scan.array[None].astype(np.float32))
    shape = resampled_shape(scan.geometry.ras_shape, scan.geometry.ras_spacing_mm, plan.spacing_mm)
    raw = resample_image(turned, shape)
    prepared = raw.copy()
    normalize(prepared[0], plan.normalization[0])
    return raw, prepared


def network_facts(model: Path, given: argparse.Namespace) -> str:
    """The work of one window, and how fast this machine multiplies matrices in bf16."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medfuse.trained.loading import load_trained

    trained = load_trained([model], device=given.device)
    size = trained.plan.patch_size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        trained.networks[0](torch.zeros(1, len(trained.plan.channels), *size, device=trained.device))
    a = torch.randn(2048, 2048, dtype=torch.bfloat16, device=trained.device)
    seconds = [_seconds(lambda: (a @ a).sum().item())]
    while sum(seconds) < 2:  # without bf16 in the processor one alone takes longer
        seconds.append(_seconds(lambda: (a @ a).sum().item()))
    return (
        f"a window of {size} takes {counter.get_total_flops() / 1e9:.0f} GFLOP; matrices of 2048² are "
        f"multiplied at {2 * 2048**3 / min(seconds) / 1e12:.2f} TFLOP/s in bf16"
    )


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def work(given: argparse.Namespace, programs: Mapping[str, Callable[..., Program]]) -> None:
    """One program: answers every request with the seconds that the volume took."""
    volume = np.load(given.folder / ("raw.npy" if given.worker.startswith("medfuse") else "prepared.npy"))
    predict, how = programs[given.worker](given)

    def answer(_: str) -> dict[str, Any]:
        began = time.perf_counter()
        labels = predict(volume)
        seconds = time.perf_counter() - began
        np.save(given.folder / f"{given.worker}.npy", labels)
        return {"seconds": seconds, "how": how()}

    serve(answer)


Program = tuple[Callable[[Volume], Labels], Callable[[], str]]


def medfuse_(given: argparse.Namespace) -> Program:
    from medfuse import Predictor
    from medfuse.trained.loading import load_trained

    said = chosen_runtime()
    fp32 = ["runtime.use=auto", "runtime.precision=fp32"] if given.precision == "fp32" else []
    trained = load_trained([given.model], device=given.device, overrides=fp32)
    predictor, spacing = Predictor(trained), trained.plan.spacing_mm
    return (lambda volume: predictor(volume, spacing=spacing)), lambda: "; ".join(said)


def monai_(given: argparse.Namespace, *, bell: bool = False) -> Program:
    import torch
    from monai.inferers.utils import sliding_window_inference

    from medfuse.infer.windows import gaussian

    network, size, _ = peer_network(given)
    x, y, z = (torch.from_numpy(gaussian(n)) for n in size)
    weights = (x[:, None, None] * y[:, None] * z).float().to(given.device) if bell else None

    def predict(volume: Volume) -> Labels:
        image = torch.from_numpy(volume)[None].to(given.device)
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, size, 1, network, overlap=0.5, mode="gaussian", roi_weight_map=weights
            )
        assert isinstance(logits, torch.Tensor)
        return logits[0].argmax(0).cpu().numpy().astype(np.uint8)

    return predict, lambda: "torch fp32"


def nnunet_(given: argparse.Namespace) -> Program:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network, size, classes = peer_network(given)
    device = torch.device(given.device)
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=list(size))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)

    def predict(volume: Volume) -> Labels:
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume))
        return logits.argmax(0).cpu().numpy().astype(np.uint8)

    return predict, lambda: "torch fp32, fp16 sums" if device.type == "cpu" else "torch fp16"


def konfai_(given: argparse.Namespace) -> Program:
    import torch
    from konfai.data.patching import Gaussian, ModelPatch, StreamingAccumulator

    network, size, _ = peer_network(given)
    overlap = [n // 2 for n in size]
    blend = Gaussian()
    blend.set_patch_config(list(size), overlap)

    def predict(volume: Volume) -> Labels:
        image = torch.from_numpy(volume)[None].to(given.device)
        patches = ModelPatch(list(size), overlap, pad_value=0)
        patches.load(list(volume.shape[1:]))
        sweep = patches.get_sweep_axis()
        sums = StreamingAccumulator(patches.get_patch_slices(), list(size), blend, sweep_axis=sweep)
        labels = []
        with torch.inference_mode():
            for number, (window,) in enumerate(patches.disassemble(image)):
                labels += [slab[0].argmax(0) for _, slab in sums.add_layer(number, network(window))]
            labels += [slab[0].argmax(0) for _, slab in sums.finalize()]
        return torch.cat(labels, sweep).cpu().numpy().astype(np.uint8)

    return predict, lambda: "torch fp32"


PROGRAMS: dict[str, Callable[[argparse.Namespace], Program]] = {
    "medfuse": medfuse_,
    "MONAI": monai_,
    EXACT: partial(monai_, bell=True),
    "nnU-Net": nnunet_,
    "KonfAI": konfai_,
}


def peer_network(given: argparse.Namespace) -> tuple[Any, Sequence[int], int]:
    """The network as torch has it, its window and how many classes it tells apart."""
    from medfuse.trained.loading import load_trained

    trained = load_trained([given.model], device=given.device)
    return trained.networks[0], trained.plan.patch_size, len(trained.plan.labels)


if __name__ == "__main__":
    main()
