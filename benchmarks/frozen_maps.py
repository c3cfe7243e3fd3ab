"""Training steps with frozen maps kept, against the same frozen network run at each step, in turns.

    python benchmarks/frozen_maps.py DATA [--networks efficientnet_lite0,vit_s14] [--rounds 3] [--each 20]
                                     [--patch 40,56,40] [--batch 2] [--precision fp32]

DATA is the folder of the Medical Segmentation Decathlon's Task04 with a splits_final.json, or any task of
the Decathlon. Both networks see slices with a neighbour on each side (2.5-D), their weights are random, as
only time is measured, and their frozen maps are fused by summed predictions (`sum_of_logits`). Each way
trains in a process of its own, on the same finite set of patches, with everything that a step of `medfuse
run` has: reading or drawing its batch, augmentation in a loader process, loss, gradients, optimiser. The pass
that fills what is kept comes before, and is told in seconds per step (the median). The results are
a block of Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from side_by_side import Worker, heading, serve, take_turns

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE0 = {
    "use": "slices",
    "neighbours": 1,
    "of": {"use": "module", "target": "frozen_maps:efficientnet_lite0"},
}
VIT = {"use": "slices", "neighbours": 1, "of": {"use": "module", "target": "frozen_maps:vit_s14"}}
NETWORKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "efficientnet_lite0": (LITE0, ["encoder._blocks.1", "encoder._blocks.2", "encoder._blocks.4"]),
    "vit_s14": (VIT, [f"encoder.maps.{n}" for n in range(4)]),
}
SIZE = {"efficientnet_lite0": 1, "vit_s14": 14}  # what the sides of a slice are multiples of
WAYS = {"kept": True, "run at each step": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=20, help="steps a turn")
    parser.add_argument("--patch", default="40,56,40")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patches", type=int, default=16, help="of the finite set, in two views each")
    parser.add_argument("--channels", type=int, default=8, help="of the scores that are summed")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        network, way = given.worker.split(":")
        work(given, network, WAYS[way])
        return
    import torch

    print(heading(rounds=given.rounds, threads=torch.get_num_threads()) + f" of {given.each} steps")
    print("\n| frozen network | maps | steps/s | a step of the first pass | on disk, per batch |")
    print("|---|---|---|---|---|")
    for network in given.networks.split(","):
        workers = {
            way: Worker([sys.executable, __file__, *sys.argv[1:], "--worker", f"{network}:{way}"])
            for way in WAYS
        }
        answers = take_turns(workers, given.rounds)
        for worker in workers.values():
            worker.close()
        for way, answer in answers.items():
            first = f"{answer['first']:.3f} s | {answer['bytes'] / 2**20:.1f} MiB" if WAYS[way] else "– | –"
            print(f"| {network} | {way} | {given.each / answer['seconds']:.2f} | {first} |")
        times = [sorted(a["all"]) for a in answers.values()]
        kept, run = (answers[way]["seconds"] for way in WAYS)
        worst, best = times[1][0] / times[0][-1], times[1][-1] / times[0][0]
        print(f"| {network} | **ratio** | **{run / kept:.1f}×** ({worst:.1f} to {best:.1f}) | | |")


def work(given: argparse.Namespace, network: str, keep: bool) -> None:
    """Set a training up as `medfuse run` does, go through its set of patches once, then time steps."""
    from medfuse.core.reporter import Reporter
    from medfuse.core.text import yaml_text
    from medfuse.pipeline import load_pipeline, plan_network
    from medfuse.runs.run import open_run, read_dataset
    from medfuse.runs.stages import filled_store, prepare
    from medfuse.runs.training import begin
    from medfuse.train.together import Together

    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "frozen.yaml"
        file.write_text(yaml_text(pipeline(given, network, keep)))
        made, _ = load_pipeline(file)
        info = read_dataset(made)
        reporter, runs = Reporter(quiet=True), folder / "runs"
        run = held.enter_context(open_run(made, info, runs, runs / "frozen", reporter, Together()))
        planned = prepare(run)
        graph = plan_network(made, planned.plan.image, len(planned.plan.classes))
        store = held.enter_context(filled_store(run, planned))
        begun = begin(run, planned.plan, graph, store)
        take = stepper(begun, made)
        stream = held.enter_context(closing(begun.batches(0)))
        batches = given.patches // given.batch * 2
        number, passed = 0, []
        for number in range(batches):
            began = time.perf_counter()
            take(next(stream), number)
            passed.append(time.perf_counter() - began)
        first = median(passed)  # torch needs seconds for its first step
        files = [path.stat().st_size for path in (runs / "frozen_maps").glob("*/*/*.b2")]

        def answer(_: str) -> dict[str, float]:
            nonlocal number
            began = time.perf_counter()
            for _ in range(given.each):
                number += 1
                take(next(stream), number)
            seconds = time.perf_counter() - began
            return {"seconds": seconds, "first": first, "bytes": sum(files) / batches}

        serve(answer)


def stepper(begun: Any, made: Any) -> Any:
    """What takes a step, as `medfuse.train.loop.fit` does."""
    from medfuse.train.budget import Budget
    from medfuse.train.optimizer import make_optimizer
    from medfuse.train.parts import Parts, learned_group
    from medfuse.train.step import Step
    from medfuse.train.together import Together

    settings, learned = made.train, begun.objective.learned()
    parts = Parts(begun.model, settings.parts)
    optimizer = make_optimizer([*parts.groups(), learned_group(learned)], settings)
    parts.enter(0)
    network, optimizer = begun.fabric.setup(begun.model, optimizer)
    step = Step(
        model=begun.model,
        network=network,
        optimizer=optimizer,
        objective=begun.objective,
        learned=learned,
        average=None,
        fabric=begun.fabric,
        together=Together(),
        settings=settings,
        budget=Budget.of(settings),
        seed=1,
        guided=None,
        pseudo=None,
        known=begun.known,
    )
    return lambda batch, number: step(batch, None, number, 0.5)


def pipeline(given: argparse.Namespace, network: str, keep: bool) -> dict[str, Any]:
    backbone, taps = NETWORKS[network]
    whole = [int(n) for n in given.patch.split(",")]
    patch = [-(-n // SIZE[network]) * SIZE[network] for n in whole[:2]] + whole[2:]
    return {
        "data": {"use": "decathlon", "root": str(given.data.resolve())},
        "sample": {"patch_size": patch, "batch_size": given.batch},
        "model": {
            "backbones": {"encoder": backbone},
            "fusion": {"scores": {"use": "sum_of_logits", "inputs": taps, "channels": given.channels}},
            "head": {"input": "scores"},
        },
        "train": {
            "steps": 100_000,
            "precision": given.precision,
            "optimizer": "adamw",
            "parts": {"backbones.encoder.*": {"freeze": "always"}},
            "frozen_maps": {"patches": given.patches, "views": 2, "keep": keep},
        },
    }


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6; MONAI's layers, random weights."""
    from torch import nn

    from medfuse.builtin.nets.efficientnet import efficientnet

    network: Any = efficientnet("b0", 3, 2, norm="batch")
    for module in network.modules():
        if hasattr(module, "has_se"):
            module.has_se = False
        for name in ("_swish", "swish"):
            if hasattr(module, name):
                setattr(module, name, nn.ReLU6())
    return network


def vit_s14() -> nn.Module:
    """DINOv2's ViT-S/14 with random weights: its blocks 2, 5, 8 and 11 as maps on the grid of its patches."""
    import torch
    from torch import nn
    from transformers import Dinov2Config, Dinov2Model

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224)
            self.network = Dinov2Model(config)
            self.maps = nn.ModuleList(nn.Identity() for _ in range(4))

        def forward(self, image: Tensor) -> list[Tensor]:
            rows, columns = (n // 14 for n in image.shape[2:])
            states = self.network(image, output_hidden_states=True).hidden_states
            return [
                inner(states[block + 1][:, 1:].transpose(1, 2).reshape(len(image), -1, rows, columns))
                for inner, block in zip(self.maps, (2, 5, 8, 11))
            ]

    torch.manual_seed(0)
    return Maps()


if __name__ == "__main__":
    main()
