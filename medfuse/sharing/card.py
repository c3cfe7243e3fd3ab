"""The page that goes with a model: what it is, how good it is, how it is run, and what it is not for."""

from __future__ import annotations

from collections.abc import Sequence

from medfuse.core.text import number
from medfuse.sharing.description import Description
from medfuse.sharing.licenses import pages
from medfuse.sharing.text import (
    channel_text,
    score_lines,
    source_text,
    spacing_text,
    training_text,
    windows_text,
)

_LARGEST_TABLE = 300


def page(said: Description, run: Sequence[str]) -> str:
    """Markdown, without a header. run: how to run it, as paragraphs and code."""
    parts = [
        f"# {said.name}",
        f"Segments {_few([label.name for label in said.labels])} in {_few(said.modalities)} "
        f"{'slices' if said.dims == 2 else 'volumes'}; trained by "
        "medfuse. This page is what its records say.",
        "It is for research. It is no medical device, and nobody has approved it for the care of patients.",
        "## How to run it",
        *run,
        "## What it segments",
        _labels(said),
        "## What it takes",
        *(f"- {channel_text(channel)}" for channel in said.channels),
        f"- Images of any size and orientation, which it sees at {spacing_text(said)}, in windows of "
        f"{' × '.join(map(str, said.patch_size))} voxels, {windows_text(said)}.",
        *_like(said),
        "## What it was trained on",
        training_text(said.training) + ".",
        *_from(said),
        *(f"- {note[:1].upper()}{note[1:]}." for note in said.notes),
        "## How good it is",
        *_score(said),
        "## Licence",
        _license(said),
        "## Files",
        "`medfuse.json` is all of this for programs, `labels.csv` the labels with their codes, "
        "`fingerprint.json` what the training images were like, and `SHA256SUMS` what every file must be.",
        *(f"- SHA-256 of the weights: `{digest}`" for digest in said.weights),
    ]
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    """Paragraphs, with no gap inside a list."""
    text = ""
    for before, part in zip(["", *parts], parts):
        gap = "\n" if before.startswith("- ") and part.startswith("- ") else "\n\n"
        text += f"{gap if text else ''}{part}"
    return text + "\n"


def _few(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _labels(said: Description) -> str:
    rows = [
        "| value | label | code | colour | Dice | 95 % interval | cases |",
        "|---|---|---|---|---|---|---|",
    ]
    means = {mean.name: mean for mean in said.score.labels} if said.score else {}
    for label in said.labels[:_LARGEST_TABLE]:
        values = ", ".join(map(str, label.values))
        mean = means.get(label.name)
        dice, between, cases = ("–", "–", "–")
        if mean:
            dice, cases = number(mean.dice), str(mean.cases)
            between = "–" if mean.low is None else f"{number(mean.low)} to {number(mean.high)}"
        name = label.name.replace("|", "\\|")
        rows.append(
            f"| {values} | {name} | {label.code or '–'} | {label.color} | {dice} | {between} | {cases} |"
        )
    if len(said.labels) > _LARGEST_TABLE:
        rows.append(f"| … | {len(said.labels) - _LARGEST_TABLE} more in labels.csv | | | | | |")
    return "\n".join(rows)


def _like(said: Description) -> list[str]:
    seen = said.seen
    if seen is None:
        return []
    low, high = seen.spacing_mm
    ends = ", ".join(f"{a:.3g} to {b:.3g}" for a, b in zip(low, high))
    return [
        f"- Its training images had voxels of {ends} mm along x, y and z. Others are told when it is run."
    ]


def _from(said: Description) -> list[str]:
    sources = [f"- It started from {source_text(source)}." for source in said.sources]
    return [*sources, *([f"It was made from {said.imported}."] if said.imported else [])]


def _score(said: Description) -> list[str]:
    lines = score_lines(said)
    first = lines[0][0].upper() + lines[0][1:]
    about = [line.strip() for line in lines[1:] if line.startswith("(")]
    warning = (
        "An interval tells of other cases of the same kind, not of other scanners, protocols or populations: "
        "judge it on your own cases before you rely on it."
    )
    return [" ".join([first + ".", *about]), warning]


def _license(said: Description) -> str:
    if not said.license:
        return "None is given. Ask its owner before you copy, change or distribute it."
    return f"{said.license} ({', '.join(pages(said.license)) or 'its text is in LICENSE'})."
