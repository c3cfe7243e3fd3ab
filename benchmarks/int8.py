"""int8 beside bf16, fp32, MONAI, nnU-Net and KonfAI: one network, one volume, the same windows, in turns.

    python benchmarks/int8.py [--nnunet-python PATH] [--konfai-python PATH] [--levels 5] [--window 96]
                              [--shape 144 144 144] [--channels 32] [--classes 3] [--rounds 3]
                              [--model RUN --volume SCAN.nii.gz]

Without `--model` the U-Net has random weights and is calibrated on noise: that is for speed alone, and the
labels mean nothing. With it, RUN has passed its gate (`medfuse quantize RUN`), and the gate's table, of
held-out cases against their references, stands below that of the times. Programs and peers are those of
benchmarks/infer.py, which says more of them. The result is a block of Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import infer
from random_unet import random_unet
from side_by_side import chosen_runtime

OWN = {"medfuse": "int8", "medfuse in bf16": "bf16", "medfuse in fp32": "fp32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--konfai-python", type=Path)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--shape", type=int, nargs=3, default=[144, 144, 144])
    parser.add_argument("--channels", type=int, default=32, help="of the first level")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", type=Path, help="a run that has passed its gate, in place of a random U-Net"
    )
    parser.add_argument("--volume", type=Path, help="a scan for it")
    parser.add_argument("--worker", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    for said, value in (("--device", "cpu"), ("--precision", "auto")):  # as infer.py tells its workers
        parser.add_argument(said, default=value, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        infer.work(given, PROGRAMS)
        return
    with TemporaryDirectory() as name:
        if given.model is None:
            given.model = random_int8(Path(name), given)
            below = "random weights, calibrated on noise: speed alone\n"
        else:
            from medfuse.trained.loading import weights_file

            given.model = weights_file(given.model, best=False)
            below = gate_table(given.model.parent)
        infer.compare(given, PROGRAMS, __file__)
    print(f"\n{below}")


def random_int8(folder: Path, given: argparse.Namespace) -> Path:
    """Weights of a random U-Net, with a gate that nothing has judged."""
    import torch

    from medfuse.core.files import file_hash
    from medfuse.model.gate import Gate
    from medfuse.model.int8 import machine_here
    from medfuse.model.openvino import compiled, convert
    from medfuse.model.quantized import decided, quantize
    from medfuse.runs.quantizing import Quantized, keep
    from medfuse.trained.loading import load_trained

    how = {"levels": given.levels, "window": given.window, "classes": given.classes}
    path = random_unet(folder / "weights_last.safetensors", **how, channels=given.channels)
    noise = [
        torch.randn((1, 1, *[given.window] * 3), generator=torch.Generator().manual_seed(n)) for n in (0, 1)
    ]
    made = quantize(convert(load_trained([path], device="cpu").segmenter(), noise[0]), noise)
    labels = decided(compiled(made, noise[0], "int8")(noise[0]), "softmax")
    machine, versions = machine_here()
    gate = Gate(
        weights=file_hash(path),
        passed=True,
        reasons=(),
        bound=1.0,
        seed=1,
        kind="softmax",
        calibration=(),
        windows=len(noise),
        held_out=(),
        seconds={},
        rows=(),
        layers=(),
        machine=machine,
        versions=versions,
        files={},
    )
    staging = folder / "staging"
    staging.mkdir()
    keep(folder, staging, gate, Quantized(made, noise[0], labels))
    return path


def gate_table(folder: Path) -> str:
    """What the gate found on held-out cases, as Markdown."""
    said = json.loads((folder / "int8.json").read_text())
    head = ["class", "measure", "fp32", "int8", "drop", "95 % interval", "patients"]
    rows = [head, ["---"] * len(head)]
    for row in said["rows"]:
        ends = f"{row['low']:+.4f} … {row['high']:+.4f}"
        numbers = [f"{row['fp32']:.4f}", f"{row['int8']:.4f}", f"{row['drop']:+.4f}", ends]
        rows.append([row["label"], row["measure"], *numbers, str(row["patients"])])
    kept = [layer["name"] for layer in said["layers"] if layer["kept"]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nin floating point: {', '.join(kept) or 'no layer'}\n"


def medfuse_in(precision: str, given: argparse.Namespace) -> infer.Program:
    from medfuse import Predictor
    from medfuse.trained.loading import load_trained

    said = chosen_runtime()
    runtime = f"runtime={{use: openvino, precision: {precision}}}"
    trained = load_trained([given.model], device="cpu", overrides=[runtime])
    predictor, spacing = Predictor(trained), trained.plan.spacing_mm

    def how() -> str:
        engines: list[Any] = [*predictor.engines]
        return "; ".join([f"{one['runtime']} {one['precision']}" for one in engines] or said)

    return (lambda volume: predictor(volume, spacing=spacing)), how


PROGRAMS: dict[str, Any] = {
    **{name: partial(medfuse_in, precision) for name, precision in OWN.items()},
    **{name: infer.PROGRAMS[name] for name in ("MONAI", "nnU-Net", "KonfAI")},
}

if __name__ == "__main__":
    main()
