"""The space that `medfuse init --search` writes: what is worth trying on these data in these minutes."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from medfuse.core.labels import members
from medfuse.planning.lines import comment, entry

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.planning.candidates import Candidate

TRAININGS = 6
"""At the end of a search: two pipelines, three seeds each."""
SHARE_OF_A_TRAINING = 0.8 * 0.4 / TRAININGS
"""Of a search's minutes, what each training has; see search.budget."""
FOR_FUSION, FOR_DATA = 20.0, 60.0
"""Minutes from which on fusion and deep supervision, and patches and augmentation, are searched too."""
SMALL = 0.01
"""Share of a case's volume below which a structure is small."""


def space_text(candidate: Candidate, fingerprint: Fingerprint, rate: float, minutes: float) -> str:
    """The section, every key below its reason. `rate`: the learning rate that the file has."""
    lines = [
        *comment(
            "What `medfuse search` may try within these minutes, trainings at the end and judging included; "
            "the file as it is written is trial 0."
        ),
        "search:",
        f"  minutes: {minutes:g}",
        "  space:",
    ]
    for key, value, reason in _entries(candidate, fingerprint, rate, minutes):
        lines += entry(4, key, value, reason)
    return "\n".join(lines) + "\n"


def _entries(
    candidate: Candidate, fingerprint: Fingerprint, rate: float, minutes: float
) -> Iterator[tuple[str, Any, str]]:
    least, most = float(f"{rate / 3:.2g}"), float(f"{3 * rate:.2g}")
    yield "train.learning_rate", {"log": [least, most]}, "a third to three times the rate of the file"
    small = smallest_share(candidate, fingerprint)
    losses: list[Any] = ["dice_ce", "tversky"]
    if small < SMALL:
        reason = (
            f"the smallest structure is {small:.2%} of a case, which Tversky's loss and more patches help"
        )
        yield "loss", [*losses, {"use": "tversky", "false_positives": 0.15, "false_negatives": 0.85}], reason
        yield "sample.foreground", {"range": [0.33, 0.8]}, "share of patches that are centred on a label"
    else:
        yield (
            "loss",
            [*losses, {"use": "sum", "terms": ["dice_ce", "boundary"], "weights": [1, 0.5]}],
            "of the main head",
        )
    if minutes >= FOR_FUSION:
        yield (
            "model.fusion.decoded.use",
            ["unet_decoder", "unet_plus_plus", "fpn", "hypercolumn"],
            "how the encoder's maps are fused; what has no inner maps goes without deep supervision",
        )
        aux = candidate.bench.model(candidate.size.width, candidate.size.patch_size).get("aux")
        if aux:
            own = aux["schedule"]
            decays = {"use": "linear_decay", "start": 0.5, "end": 0.0}
            yield "model.aux.schedule", [own, decays, "none"], "deep supervision: as planned, fading, or none"
    if minutes >= FOR_DATA:
        yield "augment.rotate", {"range": [0.1, 0.7]}, "probability of a rotation"
        yield "augment.gamma", {"range": [0.0, 0.5]}, "probability of a change of contrast"
        if small >= SMALL:
            yield "sample.foreground", {"range": [0.2, 0.7]}, "share of patches that are centred on a label"


def smallest_share(candidate: Candidate, fingerprint: Fingerprint) -> float:
    """Of the usual case's volume, that of the usual smallest structure; 1 where nothing is labelled."""
    shares = []
    for name, value in candidate.plan.labels.items():
        if members(value) == (0,):
            continue
        found = []
        for case in fingerprint.cases:
            volume = case.shape[0] * case.shape[1] * case.shape[2]
            x, y, z = case.spacing_mm
            if (ml := case.volumes_ml.get(name, 0.0)) > 0:
                found.append(1000 * ml / (volume * x * y * z))
        if found:
            shares.append(median(found))
    return min(shares, default=1.0)
