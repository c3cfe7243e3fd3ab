"""Memory of a training step of nnU-Net's largest plain plan, with each way to save it, on any machine.

    python benchmarks/step_memory.py

Counted are tensors that are alive at once, of a network with an eighth of the channels on patches of half the
side: maps are then a sixty-fourth of the plan's, 2 patches of 128³ voxels and six levels of 32 to 320
channels. Weights, their gradients and momentum are counted apart, and batches of 3 classes are. Beside it
stands what `medfuse check` would estimate. The result is a table for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu import WAYS, graph, objective

SMALLER = 64


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    import torch

    from medfuse.core.layout import channels_last, lay_out
    from medfuse.model.held import held
    from medfuse.model.segmenter import build_segmenter

    torch.manual_seed(0)
    plan, large = graph(4, 64, levels=6, most=40), graph(32, 128, levels=6)
    model = build_segmenter(plan)
    lay_out(model, 5, channels_last(5))
    with torch.device("meta"):
        about = held(build_segmenter(large), large.image, large.aux, batch=2)
    segments = held(model, plan.image, plan.aux, batch=2).segments
    own = 3 * about.weights / 2**30
    print("| GiB of a step | fp32 | bf16 | estimate in fp32 | in bf16 |\n|---|---|---|---|---|")
    for name, way in WAYS:
        paths = segments if way["checkpointing"] else ()
        seen, told = [], []
        for half in (False, True):
            seen.append(own + SMALLER * peak(model, plan, paths, way, half=half) / 2**30)
            how = {"checkpointing": bool(way["checkpointing"]), "parts": int(way["accumulate"])}
            told.append(about.step(**how, half=half, states=1) / 2**30)
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in (*seen, *told)) + " |", flush=True)


def peak(model: Any, plan: Any, paths: Any, way: Mapping[str, Any], *, half: bool) -> int:
    """Bytes of tensors that are alive at once in a forward and a backward pass."""
    import torch

    from medfuse.core.recompute import in_parts, recomputed

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # which are no package
    from alive import Peak

    goal = objective(plan)
    image = torch.randn(2, 1, *plan.image.patch_size).contiguous(memory_format=torch.channels_last_3d)
    label = torch.randint(3, (2, 1, *plan.image.patch_size))

    def network(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return model(*args, **kwargs)

    model.zero_grad()
    with recomputed(model, paths), Peak() as alive:
        called = in_parts(network, int(way["accumulate"]), model)
        total, _ = goal(called, image, label, goal.weights(0, 10))
        total.backward()
    return int(alive.most)


if __name__ == "__main__":
    main()
