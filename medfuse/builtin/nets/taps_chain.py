"""A network as a chain of layers that is cut off behind its deepest tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from medfuse.builtin.nets.observed import Call, Observer, Tap, check_taps, find_taps
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.maps import other_sizes

REMEDY = "tap it with forward_hook instead"

Step = tuple[str, tuple[str, ...]]
"""A layer's path, and the tapped layers that its output is that of: itself, or modules that end with it."""


class Chain(nn.Module):
    """x → {name: Tensor} by running layers one after the other, up to the deepest tap and no further.

    Layers after it are removed from `backbone`, whose own forward is never called.
    """

    def __init__(self, backbone: nn.Module, taps: Sequence[Tap], copied: Sequence[str] = ()) -> None:
        """`copied` are the taps that a later in-place operation would overwrite."""
        super().__init__()
        self.backbone = backbone
        self.taps, self.copied = tuple(taps), tuple(copied)
        self.steps = chain_steps(backbone, [tap.path for tap in taps])
        _keep_only(backbone, [path for path, _ in self.steps])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for path, ends in self.steps:
            x = self.backbone.get_submodule(path)(x)
            for tap in self.taps:
                if tap.path in ends:
                    made = tap.of(x)
                    kept[tap.name] = made.clone() if tap.name in self.copied else made
        return {tap.name: kept[tap.name] for tap in self.taps}


def chain_steps(backbone: nn.Module, paths: Sequence[str]) -> tuple[Step, ...]:
    """The layers to run, in the order of registration, up to the deepest of `paths`."""
    steps = [(path, tuple(n for n in ends if n in paths)) for path, ends in _opened(backbone, paths, "")]
    while not steps[-1][1]:
        steps.pop()
    return tuple(steps)


def _opened(module: nn.Module, paths: Sequence[str], path: str) -> list[Step]:
    """A module as one step, or as its children's where a tap lies inside it."""
    inside = [p for p in paths if p != path and (not path or p.startswith(f"{path}."))]
    if not inside:
        return [(path, (path,))]
    children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    steps = [step for child_path, child in children for step in _opened(child, inside, child_path)]
    last, ends = steps[-1]
    return [*steps[:-1], (last, (*ends, path))]


def _keep_only(module: nn.Module, paths: Sequence[str]) -> None:
    """Remove every layer that is neither in `paths` nor around one of them."""
    for path, child in list(module.named_children()):
        inner = [p.removeprefix(f"{path}.") for p in paths if p.startswith(f"{path}.")]
        if inner:
            _keep_only(child, inner)
        elif path not in paths:
            delattr(module, path)


def truncate(backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> Chain:
    """Cut the network after the deepest tap. Raises ShapeError where it is not a chain up to there.

    A chain means that each layer gets the very tensor that the layer before it made, and that a tapped
    container returns what its last layer made, in both modes, for one image and for several, and for images
    of another size; and that no code between the layers looks at values. Trial passes show it: then running
    the layers in turn gives the hooks' outputs to the last bit. What lies behind the last tap need not run.
    """
    found = find_taps(backbone, taps)
    steps = chain_steps(backbone, [tap.path for tap in found])
    passes = [*_passes(backbone, steps, found, image)]
    for seen in passes:
        if reason := _no_chain(seen, steps):
            raise ShapeError(f"the network is not a chain of its layers: {reason}; {REMEDY}")
    check_taps(found, *passes[:2])
    deepest = steps[-1][0]
    overwritten = [
        tap.name
        for tap in found
        if not _ends_with(steps, tap.path, deepest) and any(seen.overwritten(tap) for seen in passes)
    ]
    return Chain(backbone, found, copied=overwritten)


def _passes(
    backbone: nn.Module, steps: Sequence[Step], taps: Sequence[Tap], image: ImageInfo
) -> Iterator[Observer]:
    """In training and in inference; then on one image alone and on one of another size, if it takes that."""
    paths = [path for step, ends in steps for path in (step, *ends)]

    def observed(image: ImageInfo, **settings: int) -> Observer:
        training = bool(settings.pop("training", False))
        names = [path for path, _ in steps]
        return Observer(backbone, paths, image, training=training, enough=taps, steps=names, **settings)

    yield observed(image, training=True)
    yield observed(image)
    with suppress(Exception):  # some need more than one, and may raise anything
        yield observed(image, batch=1)
    for size in other_sizes(image.patch_size, real=True):
        try:
            seen = observed(replace(image, patch_size=size))
        except Exception:
            continue
        yield seen
        return


def _ends_with(steps: Sequence[Step], path: str, deepest: str) -> bool:
    return any(step == deepest and path in ends for step, ends in steps)


def _no_chain(seen: Observer, steps: Sequence[Step]) -> str:
    """Why running the steps in turn would not be what the network does, or nothing."""
    before, passed = "the image", seen.image
    for path, ends in steps:
        if reason := _breaks(seen, path, passed, before) or _adds(seen, path, ends):
            return reason
        before, passed = path, seen.calls[path][0]
    if seen.depends_on:
        return f"code between its layers depends on {seen.depends_on}"
    return ""


def _breaks(seen: Observer, path: str, passed: Call, before: str) -> str:
    times = seen.times(path)
    if times != 1:
        return f"{path} runs {times} times in a forward pass"
    call = seen.calls[path][0]
    if call.given is not passed.output or call.given_version != passed.versions.get(()):
        return f"{path} is not given the unchanged output of {before}"
    return ""


def _adds(seen: Observer, path: str, ends: Sequence[str]) -> str:
    """Why a tapped container does not return what its last layer made: a chain runs its layers alone."""
    made = seen.calls[path][0]
    for container in ends:
        calls = seen.calls.get(container, [])
        if len(calls) != 1 or calls[0].output is not made.output or calls[0].versions != made.versions:
            return (
                f"{container} does not return the unchanged output of {path}, its last layer: it has a "
                "hook or work of its own, or never runs"
            )
    return ""
