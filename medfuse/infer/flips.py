"""Along which axes windows are mirrored, in all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from medfuse.core.errors import PipelineError, Problem


def flip_combinations(mirror: Sequence[str], dims: int) -> list[tuple[int, ...]]:
    """Tensor axes of (batch, channels, *spatial) to flip: every subset of `mirror`, beginning with none."""
    spatial = "xyz"[:dims]
    if unknown := [axis for axis in mirror if axis not in spatial]:
        message = f"{', '.join(unknown)}: a {dims}-D network can be mirrored along {', '.join(spatial)} only"
        raise PipelineError([Problem(("infer", "mirror"), message)])
    axes = [2 + spatial.index(axis) for axis in spatial if axis in mirror]
    return [subset for n in range(len(axes) + 1) for subset in itertools.combinations(axes, n)]
