"""Compares forward_hook, sequential_truncation and fx_graph on one ResNet: compute, parameters and time.

    python benchmarks/taps.py [--depth 18] [--patch 64 64 32] [--layers layer1 layer2] [--device cuda]

The strategies take turns in one process, so that a machine that gets slower does so for all; times are
medians. The result is a block of Markdown for docs/benchmarks.md.
"""

import argparse
import copy
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.device import processor

STRATEGIES = ("forward_hook", "sequential_truncation", "fx_graph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--patch", type=int, nargs="+", default=[64, 64, 32])
    parser.add_argument("--layers", nargs="+", default=["layer1", "layer2"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    image = ImageInfo(1, tuple(given.patch), (1.0,) * len(given.patch))
    tapped = attach_all(given.depth, given.layers, image)
    example = torch.randn(given.batch, 1, *given.patch, device=given.device)
    for module in tapped.values():
        module.to(given.device)
    assert_equal(tapped, example)
    forward = interleaved({name: inference(module, example) for name, module in tapped.items()}, given.rounds)
    step = interleaved({name: training(module, example) for name, module in tapped.items()}, given.rounds)
    print(block(given.device, given.rounds))
    print()
    print("| strategy | GFLOP | parameters | forward, ms | forward and backward, ms |")
    print("|---|---|---|---|---|")
    for name, module in tapped.items():
        print(
            f"| {name} | {operations(module, example) / 1e9:.2f} "
            f"| {sum(p.numel() for p in module.parameters()):,} "
            f"| {1000 * forward[name]:.1f} | {1000 * step[name]:.1f} |"
        )


def attach_all(depth: int, layers: Sequence[str], image: ImageInfo) -> dict[str, nn.Module]:
    """One network, tapped in each way, with the same weights."""
    network = registry.get(Backbone.group, "resnet")(depth=depth).build(image)
    taps = [FeatureInfo(name, 1, (1,) * image.dims) for name in layers]
    return {
        name: registry.get(TapStrategy.group, name)().attach(copy.deepcopy(network), taps, image)
        for name in STRATEGIES
    }


def assert_equal(tapped: Mapping[str, nn.Module], example: Tensor) -> None:
    with torch.no_grad():
        first, *others = (module(example) for module in tapped.values())
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def inference(module: nn.Module, example: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            module(example)
        finish(example)

    return run


def training(module: nn.Module, example: Tensor) -> Callable[[], None]:
    def run() -> None:
        sum(x.square().mean() for x in module(example).values()).backward()
        finish(example)

    return run


def finish(example: Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize()


def interleaved(runs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one after the other in every round; the first two rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(taken[2:]) for name, taken in seconds.items()}


def operations(module: nn.Module, example: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(example)
    return counter.get_total_flops()


def block(device: str, rounds: int) -> str:
    """Where and how it was measured."""
    where = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    return (
        f"- {date.today()}, {where}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
        f"- command: `python {shlex.join(sys.argv)}`, medians of {rounds} rounds"
    )


if __name__ == "__main__":
    main()
