"""What a processor with AMX gains, in one call of at most eight minutes, as Markdown.

    python benchmarks/amx.py --output amx.md [--nnunet-python PATH] [--konfai-python PATH]
    python benchmarks/amx.py --dry-run                     # every line of it on any CPU, in tiny sizes
    python benchmarks/amx.py --only window                 # some of the parts

The sliding window of a five-level U-Net in int8, bf16 and fp32 beside MONAI's, nnU-Net's and KonfAI's, as the
processor is and without AMX (ONEDNN_MAX_CPU_ISA); passes of the network; a training step beside nnU-Net's.
Parts are as in benchmarks/gpu.py: each has seconds of its own, is written down as it is measured, and hinders
no other. int8 is calibrated on noise here: its labels mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import gpu
from parts import Part, measure, parser, run

HERE = Path(__file__).resolve().parent
TILES = ("amx_tile", "amx_bf16", "amx_int8")
WITHOUT = "AVX512_CORE_BF16"
"""The instructions of oneDNN, and so of OpenVINO and torch, that are below AMX."""


def main() -> None:
    options = parser(__doc__, PARTS, minutes=8)
    options.add_argument("--konfai-python", type=Path, help="the Python of an environment that has konfai")
    given = options.parse_args()
    if given.part:
        next(part for part in PARTS if part.name == given.part).measure(given)
        return
    lacking = [tile for tile in TILES if tile not in flags()]
    if lacking and not given.dry_run:
        sys.exit(f"this processor lacks {', '.join(lacking)}; --dry-run goes through every line on any CPU")
    sys.exit(not measure(PARTS, given, title="On a processor with AMX", python=sys.executable))


def flags() -> set[str]:
    """What the processor says that it can do (Linux)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return {word for line in lines if line.startswith("flags") for word in line.partition(":")[2].split()}


def machine(given: argparse.Namespace) -> None:
    """Which of the instructions are there, and the rate of products in bf16."""
    import torch

    from medfuse.core.device import processor

    here = flags()
    print(f"- {processor()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print("- " + ", ".join(f"{tile}: {'there' if tile in here else 'not there'}" for tile in TILES))
    side = 256 if given.dry_run else 4096
    print(f"- matrices of {side}² in bf16: {gpu.matrices(torch.device('cpu'), side):.2f} TFLOP/s")


def window(given: argparse.Namespace) -> None:
    """int8, bf16 and fp32 beside the peers, as the processor is."""
    _window(given)


def window_without(given: argparse.Namespace) -> None:
    """The same without AMX, as far as a runtime heeds oneDNN's variable, and without nnU-Net and KonfAI."""
    _window(given, peers=False, ONEDNN_MAX_CPU_ISA=WITHOUT)


def _window(given: argparse.Namespace, *, peers: bool = True, **environment: str) -> None:
    command: list[str | Path] = [sys.executable, HERE / "int8.py"]
    tiny = "--rounds 1 --levels 3 --window 32 --shape 40 40 40 --channels 16"
    whole = f"--rounds {3 if peers else 2} --shape 96 96 144"  # two windows, as peers take long
    command += (tiny if given.dry_run else whole).split()
    if peers and (python := gpu.nnunet(given)):
        command += ["--nnunet-python", python]
    if peers and given.konfai_python:
        command += ["--konfai-python", given.konfai_python]
    run(command, **environment)


def passes(given: argparse.Namespace) -> None:
    """A window of several widths in torch, inference and training, and its share of the rate of products."""
    import torch

    where = torch.device("cpu")
    side, size = (256, 16) if given.dry_run else (4096, 96)
    rate = gpu.matrices(where, side)
    print(f"\n| channels, a window of {size}³ in bf16 | pass | ms | TFLOP/s | of the bf16 rate |")
    print("|---|---|---|---|---|", flush=True)
    for channels in (4,) if given.dry_run else (16, 32):
        for kind in ("inference", "training"):
            ms, flops = gpu.network_pass(where, channels, size, 2, training=kind == "training")
            reached = flops / ms / 1e9
            print(f"| {channels} | {kind} | {ms:.0f} | {reached:.2f} | {reached / rate:.0%} |", flush=True)


PARTS = (
    Part("machine", "The processor", 20, machine),
    Part("passes", "A network's passes in torch", 60, passes),
    Part("window", "Sliding window in int8, bf16 and fp32, beside the peers", 180, window),
    Part("window_without", "The same without AMX", 100, window_without),
    Part("step", "A training step beside nnU-Net's", 120, gpu.step),
)


if __name__ == "__main__":
    main()
