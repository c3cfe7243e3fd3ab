"""One encoder, eight ways to fuse its features, at equal steps on the hippocampus: which of them helps?

    python benchmarks/fusion.py DATA [--steps 200] [--seeds 1] [--folds 0] [--choices a,b,…] [--runs runs]

DATA is the folder of the Medical Segmentation Decathlon's Task04 with a splits_final.json. Writes a pipeline
file for each choice below RUNS/fusion, gives them to `medfuse compare`, and prints its tables as a block of
Markdown for docs/benchmarks.md.
"""

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import Any

from medfuse.core.device import processor
from medfuse.core.files import write_text
from medfuse.core.reporter import Reporter
from medfuse.core.text import yaml_text
from medfuse.verbs.compare import compare_pipelines

DECODED = {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}}
CHOICES: dict[str, dict[str, Any]] = {
    "unet_decoder": DECODED,  # the first is what the others are held against
    "unet_decoder_and_image": {**DECODED, "fused": {"use": "input_concat", "inputs": ["decoded", "image"]}},
    "conditional_image": {**DECODED, "fused": {"use": "conditional_concat", "inputs": ["image", "decoded"]}},
    "attention_gates": {
        **{
            f"skip{n}": {
                "use": "attention",
                "kind": "gate",
                "inputs": [f"encoder.stages.{n}", f"encoder.stages.{n + 1}"],
            }
            for n in range(3)
        },
        "decoded": {"use": "unet_decoder", "inputs": ["skip0", "skip1", "skip2", "encoder.stages.3"]},
    },
    "spp_at_the_bottom": {
        "context": {"use": "spp", "inputs": ["encoder.stages.3"], "bins": [1, 2], "channels": 16},
        "decoded": {
            "use": "unet_decoder",
            "inputs": ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2", "context"],
        },
    },
    "fpn": {"fused": {"use": "fpn", "inputs": ["encoder.*"], "channels": 16}},
    "hypercolumn": {"fused": {"use": "hypercolumn", "inputs": ["encoder.*"], "channels": 16}},
    "sum_of_logits": {"fused": {"use": "sum_of_logits", "inputs": ["encoder.*"], "channels": 16}},
}


def pipeline(data: Path, steps: int, fusion: dict[str, Any]) -> dict[str, Any]:
    """They differ in `fusion` alone. No auxiliary heads, as not every block has inner maps for them.

    All end in one projection with instance norm. AdamW moves each weight of the head by at most the rate,
    so that logits grow with the width and the scale of the maps before it: without it, what leaves its maps
    large learns in a third of the steps. The head's rate is higher so that it is not what all wait for.
    """
    mixed = {"use": "concat", "inputs": [[*fusion][-1]], "channels": 16}
    return {
        "data": {"use": "decathlon", "root": str(data.resolve())},
        "sample": {"patch_size": [32, 40, 32], "batch_size": 2, "foreground": 0.33},
        "augment": {"rotate_degrees": 20, "blur": 0.1, "low_resolution": 0},
        "model": {
            "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 8, "stages": 4}},
            "fusion": {**fusion, "mixed": mixed},
            "head": {"input": "mixed"},
        },
        "loss": "dice_ce",
        "train": {
            "steps": steps,
            "steps_per_epoch": steps,
            "optimizer": "adamw",
            "learning_rate": 0.005,
            "warmup": 0.05,
            "decay": "cosine",
            "parts": {"head.*": {"rate": 10}},
            "precision": "bf16",  # for all of them, whatever a probe finds
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", default="0", metavar="0,1,…")
    parser.add_argument(
        "--choices", default=",".join(CHOICES), metavar="a,b,…", help="the first is the baseline"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    files = []
    for name in given.choices.split(","):
        files.append(given.runs / "fusion" / f"{name}.yaml")
        write_text(files[-1], yaml_text(pipeline(given.data, given.steps, CHOICES[name])))
    compared = compare_pipelines(
        files,
        seeds=given.seeds,
        folds=[int(fold) for fold in given.folds.split(",")],
        runs=given.runs,
        output=given.runs / "fusion",
        reporter=Reporter(),
    )
    print(f"- {date.today()}, {processor()}")
    print(f"- command: `python {' '.join(sys.argv)}`\n\n```\n{compared}\n```")


if __name__ == "__main__":
    main()
