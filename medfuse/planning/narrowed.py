"""A pipeline like another with a share of its compute: every number of channels is smaller by one factor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError, PipelineError
from medfuse.core.features import ImageInfo
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline, parse_pipeline, plan_network

CHANNELS = ("channels", "base_channels", "max_channels")
"""What numbers of channels are called, in plugins and in the arguments of networks."""
ABOVE = 1.05
"""How much of what was asked for a plan may have, as channels are whole numbers."""
NEAR = 0.93
"""Of what was asked for: no wider plan is looked for above it."""
_FEWEST = 2
_TRIES = 8


@dataclass(frozen=True)
class Narrowed:
    """A narrower pipeline, and the share of the compute that it has."""

    pipeline: Pipeline
    share: float


def narrowed(document: Document, image: ImageInfo, classes: int, share: float) -> Narrowed:
    """The widest form of a pipeline whose network, for such images, has that share of the multiplications.

    Weights that it starts from are left out, as they are of another width. Raises MedfuseError where no
    number of channels leads there.
    """
    whole = _compute(parse_pipeline(document), image, classes)
    best: Narrowed | None = None
    reason = ""
    low, high = share * share, min(1.0, 2 * sqrt(share))
    for number in range(_TRIES):
        if best is not None and best.share >= NEAR * share:
            break
        factor = sqrt(share) if number == 0 else (low + high) / 2
        pipeline = parse_pipeline(_with(document, _scaled(document, factor)))
        try:
            found = _compute(pipeline, image, classes) / whole
        except PipelineError as error:  # such as channels that heads of attention do not divide
            reason, high = error.lines[0], factor
            continue
        if found <= share * ABOVE:
            if best is None or found > best.share:
                best = Narrowed(pipeline, found)
            low = factor
        else:
            reason, high = f"the narrowest that was tried has {found:.0%} of the compute", factor
    if best is None or best.share < share / 3:
        had = f"it has {best.share:.1%}" if best else reason
        raise MedfuseError(
            f"{document.source}: no form of this network with fewer channels has about {share:.0%} of its "
            f"compute ({had}); write a smaller pipeline, and give it: --into PLAN.yaml"
        )
    return best


def compute_of(graph: GraphPlan) -> int:
    """Multiplications and additions of convolutions and linear layers, for a patch, auxiliary heads aside."""
    from medfuse.model.layers import find_layers
    from medfuse.model.segmenter import build_segmenter

    network, *_ = find_layers(lambda: build_segmenter(graph), graph.image)
    return network.flops


def _compute(pipeline: Pipeline, image: ImageInfo, classes: int) -> int:
    return compute_of(plan_network(pipeline, image, classes))


def _with(document: Document, values: dict[str, Any]) -> Document:
    made = document.copy()
    made.data = values
    return made


def _scaled(document: Document, factor: float) -> dict[str, Any]:
    values = copy.deepcopy(document.data)
    model = values["model"]
    model.pop("transfer", None)
    for part in ("backbones", "fusion"):
        model[part] = {name: _narrow(said, factor) for name, said in model.get(part, {}).items()}
    return values


def _narrow(said: Any, factor: float) -> Any:
    """The same with smaller numbers where channels are counted, at whatever depth.

    Of a backbone that is put around another one, `channels` are those of the image that it sees.
    """
    if isinstance(said, list):
        return [_narrow(one, factor) for one in said]
    if not isinstance(said, Mapping):
        return said
    around = "of" in said
    return {
        key: _fewer(value, factor) if key in CHANNELS and not around else _narrow(value, factor)
        for key, value in said.items()
    }


def _fewer(value: Any, factor: float) -> Any:
    if isinstance(value, list) and value and all(_is_count(one) for one in value):
        return [_fewer(one, factor) for one in value]
    return min(value, max(_FEWEST, round(value * factor))) if _is_count(value) else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
