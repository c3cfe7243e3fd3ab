"""What a search finds: beside `init`'s plan, beside random search, and how fast it is on frozen maps.

    python benchmarks/search.py plan DATA [--minutes 60] [--long]
    python benchmarks/search.py random [--minutes 2.3] [--repeats 5] [--workers 2]
    python benchmarks/search.py frozen [--trials 40] [--workers 2]

`plan`: DATA, such as the Decathlon's Task04 with a splits_final.json, is given twice the same minutes:
`medfuse init` and `run` on fold 0, and `medfuse init --search` and `search`. Both are judged by the held-out
cases of that fold, which no trial has seen. With --long what was chosen is trained for all the minutes, too.
`random`: the phantoms below sample_data, searched by halving and TPE and by random search, each as often as
is said, with other seeds each time; the best Dice to choose by over the minutes, and that of unseen cases.
`frozen`: trials per minute of fusions on an encoder that stands still, on the phantoms; its weights are
random, as only time is measured.

--home is where all of it is kept: what is stopped is carried on by the same command. The results are blocks
of Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from typing import Any

from medfuse.core.device import processor
from medfuse.core.reporter import Reporter
from medfuse.verbs.crews import Workers
from medfuse.verbs.search import search_pipeline

PHANTOMS = Path(__file__).parents[1] / "sample_data"
COMMON = f"""\
data: {{use: decathlon, root: {PHANTOMS}}}
preprocess: {{spacing_mm: [4, 4, 5]}}
augment: {{rotate_degrees: 15, low_resolution: 0}}
infer: {{runtime: torch}}
"""
WIDE = (
    COMMON
    + """\
sample: {patch_size: [48, 48, 24], batch_size: 2, foreground: 0.5}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 8, stages: 4}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*]}
  head: {input: decoded}
  aux: {heads: [decoded.*], schedule: {use: constant, weight: 0.5}}
loss: dice_ce
train: {steps: 150, optimizer: adamw, learning_rate: 0.001, decay: cosine, precision: fp32}
search:
  seeds: 1
  space:
    model.fusion.decoded.use: [unet_decoder, unet_plus_plus, fpn, hypercolumn]
    model.aux.schedule: [{use: constant, weight: 0.5}, {use: linear_decay}, none]
    train.learning_rate: {log: [3e-4, 3e-2]}
    train.optimizer: [adamw, sgd]
    loss: [dice_ce, tversky, {use: sum, terms: [dice_ce, boundary], weights: [1, 0.5]}]
    sample.foreground: {range: [0.1, 0.9]}
"""
)
FROZEN = (
    COMMON
    + """\
sample: {patch_size: [64, 64, 32], batch_size: 2, foreground: 0.5}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 8, stages: 4}
  fusion:
    fused: {use: sum_of_logits, inputs: [encoder.*], channels: 8}
  head: {input: fused}
loss: dice_ce
train:
  steps: 60
  optimizer: adamw
  learning_rate: 0.003
  precision: fp32
  parts: {"backbones.encoder.*": {freeze: always}}
  frozen_maps: {views: 4, patches: 16}
search:
  seeds: 1
  space:
    model.fusion.fused.use: [sum_of_logits, hypercolumn, fpn, projected_concat]
    model.fusion.fused.channels: {int: [4, 16]}
    loss: [dice_ce, tversky]
    train.learning_rate: {log: [1e-3, 1e-2]}
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ways = parser.add_subparsers(required=True)
    plan = ways.add_parser("plan")
    plan.add_argument("data", type=Path)
    plan.add_argument("--minutes", type=float, default=60)
    plan.add_argument("--long", action="store_true")
    plan.set_defaults(run=beside_the_plan)
    beside = ways.add_parser("random")
    beside.add_argument("--minutes", type=float, default=2.3)
    beside.add_argument("--repeats", type=int, default=5)
    beside.set_defaults(run=beside_random)
    frozen = ways.add_parser("frozen")
    frozen.add_argument("--trials", type=int, default=40)
    frozen.set_defaults(run=on_frozen_maps)
    for one in (plan, beside, frozen):
        one.add_argument("--home", type=Path, default=Path("search"))
        one.add_argument("--workers", type=int, default=1 if one is plan else 2)
        one.add_argument("--set", action="append", default=[], dest="overrides", metavar="a.b=c")
    given = parser.parse_args()
    given.home.mkdir(parents=True, exist_ok=True)
    print("\n".join(["", *heading(), *given.run(given)]))


def heading() -> Iterator[str]:
    yield f"- {datetime.now(UTC):%Y-%m-%d}, {processor()}"
    yield f"- command: `python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`"
    yield ""


def beside_the_plan(given: argparse.Namespace) -> Iterator[str]:
    from medfuse.report.candidates import MEAN
    from medfuse.report.compare import compare
    from medfuse.verbs.compare import candidate_of
    from medfuse.verbs.init import init_pipeline
    from medfuse.verbs.run import run_pipeline

    files = {name: given.home / f"{name}.yaml" for name in ("plan", "space")}
    for name, file in files.items():
        if not file.exists():
            how: dict[str, Any] = {"budget": 8 * 2**30, "minutes": given.minutes, "reporter": Reporter()}
            init_pipeline(given.data, output=file, search=name == "space", **how)
    runs = given.home / "runs"
    own = [one for one in given.overrides if not one.startswith("search.")]
    run_pipeline(files["plan"], own, runs=runs, reporter=Reporter())
    crew = Workers(count=given.workers)
    found = search_pipeline(files["space"], given.overrides, runs=runs, workers=crew, reporter=Reporter())
    folder, chosen = Path(found.values["folder"]), found.values["chosen"]
    candidates = [candidate_of("init's plan", [runs / "plan"], ())]
    shown = {"as planned for the search": 0} | ({"chosen": chosen} if chosen else {})
    for whose, trial in shown.items():
        candidates.append(candidate_of(whose, sorted(folder.glob(f"final/trial-{trial:04d}-seed*[0-9]")), ()))
    if given.long:
        long = ["name=long", f"train.minutes={given.minutes:g}"]
        run_pipeline(folder / "chosen.yaml", long, runs=runs, reporter=Reporter())
        candidates.append(candidate_of("chosen, trained for all the minutes", [runs / "long"], ()))
    comparison = compare(candidates)
    yield "| pipeline | trainings | minutes each | Dice of unseen cases | against the plan |"
    yield "|---|---|---|---|---|"
    for one in candidates:
        interval = one.interval(MEAN)
        against = ""
        if one is not candidates[0]:
            difference = comparison.of(one.name, MEAN)
            limits = f"{difference.low:+.4f} … {difference.high:+.4f}"
            against = f"{difference.difference:+.4f} ({limits}): {difference.verdict}"
        minutes = f"{one.seconds / 60:.1f}" if one.seconds else ""
        said = interval.text() if interval else ""
        yield f"| {one.name} | {one.trainings} | {minutes} | {said} | {against} |"
    yield ""
    yield from (f"- {line}" for line in (*found.values["conclusion"], f"trials: {found.values['trials']}"))
    yield f"- optimism of choosing: {found.values['optimism']:+.4f} Dice"


def beside_random(given: argparse.Namespace) -> Iterator[str]:
    courses: dict[str, list[list[tuple[float, float]]]] = {"tpe": [], "random": []}
    unseen: dict[str, list[float]] = {"tpe": [], "random": []}
    file = given.home / "phantoms.yaml"
    file.write_text(WIDE, encoding="utf-8")
    for repeat in range(1, given.repeats + 1):
        for method, own in courses.items():
            words = [
                f"name={method}-{repeat}",
                f"seed={10 * repeat}",
                f"search.seed={repeat}",
                f"search.method={method}",
                f"search.minutes={given.minutes:g}",
                *given.overrides,
            ]
            how: dict[str, Any] = {"workers": Workers(count=given.workers), "reporter": Reporter()}
            values = search_pipeline(file, words, runs=given.home / "runs", **how).values
            own.append(course(Path(values["folder"])))
            unseen[method].append(values["outer_dice"].get("chosen", values["outer_dice"]["as written"]))
    goal = median(best(own) for own in courses["random"])
    head = ["best Dice to choose by, median (all)", "Dice of unseen cases, median"]
    yield f"| search | {' | '.join(head)} | minutes to random search's median of {goal:.4f}, median |"
    yield "|---|---|---|---|"
    for method, own in courses.items():
        ends = sorted(best(one) for one in own)
        reached = [next((at / 60 for at, dice in one if dice >= goal), float("inf")) for one in own]
        alone = ", ".join(f"{end:.4f}" for end in ends)
        cells = [f"{median(ends):.4f} ({alone})", f"{median(unseen[method]):.4f}", f"{median(reached):.1f}"]
        yield f"| {method} | {' | '.join(cells)} |"


def course(folder: Path) -> list[tuple[float, float]]:
    """Seconds, and the Dice of a trial that was trained in full by then."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("told/*.json")]
    top = max(one["rung"] for one in told)
    return sorted((one["at"], one["dice"]) for one in told if one["rung"] == top)


def best(own: Sequence[tuple[float, float]]) -> float:
    return max(dice for _, dice in own)


def on_frozen_maps(given: argparse.Namespace) -> Iterator[str]:
    file = given.home / "frozen.yaml"
    file.write_text(FROZEN, encoding="utf-8")
    words = [f"search.trials={given.trials}", *given.overrides]
    crew = Workers(count=given.workers)
    values = search_pipeline(file, words, runs=given.home / "runs", workers=crew, reporter=Reporter()).values
    told = [json.loads(path.read_text()) for path in Path(values["folder"]).glob("told/*.json")]
    begins = max(one["at"] for one in told if one["number"] == 0)  # maps are computed once by then
    after = [one for one in told if one["at"] > begins]
    minutes = (max(one["at"] for one in after) - begins) / 60
    trials = {one["number"] for one in after}
    yield (
        f"- {given.workers} workers: {len(trials)} trials in {minutes:.1f} minutes once the maps were there, "
        f"{len(trials) / minutes:.1f} a minute; {len(after)} trainings"
    )
    spent = getrusage(RUSAGE_CHILDREN)
    seconds = spent.ru_utime + spent.ru_stime
    yield f"- {seconds:.0f} s of CPU by the workers of this call, their start included"


if __name__ == "__main__":
    main()
