"""A description as the lines that people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medfuse.core.text import by, number
from medfuse.data.plan_facts import NormalizationFacts
from medfuse.sharing.description import Channel, Description, Label, Mean, Score, Source, Training

NO_LICENSE = "none is given; only its owner can give one, by `medfuse export --license`"
MOST_LABELS = 200


def lines(description: Description) -> list[str]:
    """`liver: a run of medfuse`, and a row for each thing that is known."""
    rows = [*_rows(description)]
    width = max(len(name) for name, _ in rows)
    return [
        f"{description.name}: {description.kind}",
        *(f"  {name:<{width}}  {text}" if name else f"  {'':<{width}}  {text}" for name, text in rows),
    ]


def _rows(said: Description) -> Iterator[tuple[str, str]]:
    yield from _headed(
        "labels" if not said.regions else "regions", map(label_text, said.labels[:MOST_LABELS])
    )
    if len(said.labels) > MOST_LABELS:
        yield "", f"… {len(said.labels) - MOST_LABELS} more; --json has all"
    yield from _headed("images", map(channel_text, said.channels))
    yield "spacing", f"{spacing_text(said)}, windows of {by(said.patch_size)} voxels, {windows_text(said)}"
    if said.cascade:
        yield "cascade", said.cascade
    yield "trained on", training_text(said.training)
    yield from _headed("score", score_lines(said))
    if said.parameters is not None:
        yield "parameters", f"{said.parameters:,}"
    yield from _headed("weights", (f"SHA-256 {digest}" for digest in said.weights))
    yield "licence", said.license or NO_LICENSE
    yield from _headed("started from", map(source_text, said.sources))
    if said.imported:
        yield "imported", f"from {said.imported}"
    if said.versions:
        yield "software", ", ".join(f"{name} {version}" for name, version in said.versions.items())
    yield from _headed("note", said.notes)


def _headed(name: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for place, text in enumerate(texts):
        yield name if place == 0 else "", text


def label_text(label: Label) -> str:
    """`2 tumour #e04b4b SCT 108369006 Neoplasm`; of a region, the values that it unites."""
    united = f" (unites {', '.join(map(str, label.values))})" if len(label.values) > 1 else ""
    return f"{label.value} {label.name}{united} {label.color} {label.code or 'no code'}"


def channel_text(channel: Channel) -> str:
    """`CT, clipped to -24 … 93, minus 59, divided by 19.2`."""
    modality = f" ({channel.modality})" if channel.modality not in ("", channel.name) else ""
    return f"{channel.name}{modality}, {scaling_text(channel.normalization)}"


def scaling_text(how: NormalizationFacts) -> str:
    """What is done to intensities, in words."""
    if how.kind in ("ct", "window"):
        return f"clipped to {how.lower:g} … {how.upper:g}, minus {how.mean:.5g}, divided by {how.std:.5g}"
    if how.kind == "windows":
        return "seen through " + ", ".join(f"{low:g} … {high:g}" for low, high in how.windows)
    return {
        "none": "as it is",
        "zscore": "minus its mean, divided by its deviation",
        "nonzero_zscore": "minus the mean of what is not 0, divided by its deviation",
        "unit": "from 0 to 1 between its 0.5 and 99.5 percentiles",
        "symmetric": "from -1 to 1 between its 0.05 and 99.95 percentiles",
    }[how.kind]


def spacing_text(said: Description) -> str:
    """`1.5 × 1.5 × 2 mm`."""
    return " × ".join(f"{mm:g}" for mm in said.spacing_mm) + " mm"


def windows_text(said: Description) -> str:
    """How windows lie."""
    mirrored = f", mirrored along {', '.join(said.windows.mirror)}" if said.windows.mirror else ""
    flat = "2-D, slice by slice, " if said.dims == 2 else ""
    return f"{flat}which overlap by {said.windows.overlap:.0%}{mirrored}"


def training_text(trained: Training) -> str:
    """`9 cases, 1,200 steps in 3.0 minutes, on 2026-11-29 (data 1a2b3c4d…)`."""
    parts = []
    if trained.cases is not None:
        parts.append(f"{trained.cases:,} case{'s' * (trained.cases != 1)}")
        if trained.folds:
            parts[-1] += f" in {trained.folds} folds"
        elif trained.fold == "all":
            parts[-1] += ", all that there are"
    if trained.steps is not None:
        parts.append(f"{trained.steps:,} steps" + (" each" if trained.folds else ""))
    if trained.minutes is not None:
        parts.append(f"{trained.minutes:.1f} minutes")
    if trained.date:
        parts.append(trained.date)
    if trained.data_sha256:
        parts.append(f"data of SHA-256 {trained.data_sha256[:16]}…")
    return ", ".join(parts) or "what is not said"


def score_lines(said: Description) -> list[str]:
    """Mean Dice with its interval, over all and of each label; or why there is none."""
    score = said.score
    if score is None and said.is_final:
        return ["none: all cases trained it, so no case judges it, and no cross-validation is beside it"]
    if score is None:
        return ["none: no held-out case was judged"]
    about = ["(of its cross-validation, as all cases trained it and none judges it)"] if said.is_final else []
    return [_overall(score), *(f"  Dice {label.name}: {mean_text(label)}" for label in score.labels), *about]


def _overall(score: Score) -> str:
    folds = f" in {score.folds} folds" if score.folds else ""
    cases = f"{score.overall.cases} held-out case{'s' * (score.overall.cases != 1)}{folds}"
    return f"mean foreground Dice {mean_text(score.overall, cases)}"


def mean_text(mean: Mean, of: str = "") -> str:
    """`0.8123 (95 % interval 0.7011 to 0.8544, 12 cases)`."""
    of = of or f"{mean.cases} case{'s' * (mean.cases != 1)}"
    between = "" if mean.low is None else f"95 % interval {number(mean.low)} to {number(mean.high)}, "
    return f"{number(mean.dice)} ({between}{of})"


def source_text(source: Source) -> str:
    """`encoder: facebook/dinov2-small@1a2b, licence apache-2.0`."""
    share = "" if source.share is None else f", {source.share:.0%} of its parameters"
    digest = f", SHA-256 {source.sha256[:16]}…" if source.sha256 else ""
    return f"{source.part}: {source.source}, licence {source.license or 'not said'}{share}{digest}"
