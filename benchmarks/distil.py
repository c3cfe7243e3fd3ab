"""What a small network gains by a large one that teaches it: large, small alone and small distilled.

    python benchmarks/distil.py DATA --minutes 5 --out distil

DATA is a dataset that `medfuse init` takes, with splits of its own or not; fold 0 is held out. Each of the
three networks is trained for --minutes: a U-Net of --channels at the first stage, and twice one of the
--share of its compute, alone and taught. It is printed as Markdown for docs/benchmarks.md.

--out is where all of it is kept: what is stopped is carried on by the same command, and what is finished is
not trained again. --seeds 2 trains the small ones twice. --set is given to all three, as to `medfuse run`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medfuse.core.device import processor
from medfuse.core.reporter import Reporter
from medfuse.data.detect import detect
from medfuse.verbs.distil import distil_run
from medfuse.verbs.run import run_pipeline

PIPELINE = """\
# The large network of benchmarks/distil.py; `medfuse distil` plans the small one from it.
name: large
data: {data}
split: {{fold: 0}}
sample: {{batch_size: 2}}
model:
  backbones:
    encoder: {{use: unet_encoder, base_channels: {channels}}}
  fusion:
    decoded: {{use: unet_decoder, inputs: [encoder.*]}}
  head: {{input: decoded}}
  aux:
    heads: [decoded.*]
    schedule: {{use: linear_decay}}
loss: dice_ce
train:
  minutes: {minutes}
  steps_per_epoch: 100
  optimizer: adamw
  learning_rate: 0.003
  warmup: 0.05
  decay: cosine
  validation_cases: 4
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=5, help="of each of the three trainings")
    parser.add_argument("--out", type=Path, default=Path("distil"))
    parser.add_argument("--channels", type=int, default=8, help="of the large network's first stage")
    parser.add_argument("--share", default="1/4", help="of its compute, that the small one has")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each small network")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="a.b=c")
    given = parser.parse_args()
    print("\n".join(["", *measured(given)]))


def measured(given: argparse.Namespace) -> Iterator[str]:
    given.out.mkdir(parents=True, exist_ok=True)
    file, runs = given.out / "large.yaml", given.out / "runs"
    text = PIPELINE.format(
        data=json.dumps({**detect(given.data.resolve()).settings}, default=str),
        channels=given.channels,
        minutes=f"{given.minutes:g}",
    )
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
    reporter = Reporter()
    large = run_pipeline(file, given.overrides, runs=runs, reporter=reporter).folder
    yield from heading()
    for seed in range(1, given.seeds + 1):
        made = distil_run(
            large,
            into=given.share,
            overrides=[*given.overrides, f"seed={seed}"],
            runs=runs,
            output=given.out / f"seed{seed}",
            reporter=reporter,
        )
        yield from table(made.values, seed)


def heading() -> Iterator[str]:
    yield f"{datetime.now(UTC):%Y-%m-%d}, {processor()}: `python benchmarks/{Path(sys.argv[0]).name}"
    yield f"{' '.join(sys.argv[1:])}`"


def table(found: Any, seed: int) -> Iterator[str]:
    """The three models of one seed, and what of the gap is closed."""
    heads = ["network", "Dice of held-out cases", "95 %", "multiply-adds a voxel", "parameters", "s a case"]
    heads += ["steps", "minutes"]
    yield from ("", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    alone, distilled, large = found["candidates"]
    mean, compute = found["labels"][0], found["compute"]
    for whose, one in {"large": large, "small, alone": alone, "small, distilled": distilled}.items():
        interval = one["intervals"].get(mean, {})
        cells: Sequence[str] = (
            whose if whose == "large" else f"{whose}, seed {seed}",
            f"{one['mean'][mean]:.4f}",
            f"{interval['low']:.4f} … {interval['high']:.4f}" if "low" in interval else "–",
            f"{compute[one['name']]:,.0f} ({compute[one['name']] / compute[large['name']]:.0%})",
            f"{one['parameters']:,}",
            "–" if one["seconds_per_case"] is None else f"{one['seconds_per_case']:.2f}",
            f"{one['steps']:,.0f}",
            f"{one['seconds'] / 60:.1f}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from (f"- {line}" for line in found["said"])
    for d in found["differences"]:
        if d["label"] == mean:
            limits = f"{d['low']:+.4f} … {d['high']:+.4f}"
            what = f"{d['candidate']} minus {alone['name']}"
            yield f"- {what}: {d['difference']:+.4f} ({limits}): {d['verdict']}"


if __name__ == "__main__":
    main()
