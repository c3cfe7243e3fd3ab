"""Networks that return their intermediate outputs: by hooks, or as a chain of layers cut at a depth."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from medfuse.core.errors import ShapeError
from medfuse.core.features import ImageInfo
from medfuse.model.trial import trial

log = logging.getLogger("medfuse")


class Hooked(nn.Module):
    """x → {name: Tensor} from forward hooks; the network runs to its end.

    Hooks are bound methods in a `functools.partial`, so a copy or an unpickled network has hooks of its
    own. Outputs are held during the forward pass alone.
    """

    def __init__(self, backbone: nn.Module, names: Sequence[str], copied: Sequence[str] = ()) -> None:
        """`copied` are the taps that a later in-place operation would overwrite."""
        super().__init__()
        self.backbone = backbone
        self.names, self.copied = tuple(names), tuple(copied)
        self._kept: dict[str, Tensor] = {}
        self._open = False  # a call of the backbone by another way, or a recomputation, keeps nothing
        for name in names:
            layer(backbone, name).register_forward_hook(partial(self._keep, name))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self._open = True
        try:
            self.backbone(x)
            silent = [name for name in self.names if name not in self._kept]
            if silent:
                raise ShapeError(
                    f"taps {', '.join(silent)} did not fire: the network did not run these layers, or was "
                    "compiled before it was tapped"
                )
            return {name: self._kept[name] for name in self.names}
        finally:
            self._kept.clear()
            self._open = False

    def _keep(self, name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        if self._open:
            self._kept[name] = output.clone() if name in self.copied else output


class Chain(nn.Module):
    """x → {name: Tensor} by running layers one after the other, up to the deepest tap and no further.

    Layers after it are removed from `backbone`, whose own forward is never called.
    """

    def __init__(self, backbone: nn.Module, names: Sequence[str], copied: Sequence[str] = ()) -> None:
        """`copied` are the taps that a later in-place operation would overwrite."""
        super().__init__()
        self.backbone = backbone
        self.names, self.copied = tuple(names), tuple(copied)
        self.steps = chain_steps(backbone, names)
        _keep_only(backbone, [path for path, _ in self.steps])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for path, ends in self.steps:
            x = self.backbone.get_submodule(path)(x)
            for name in ends:
                kept[name] = x.clone() if name in self.copied else x
        return {name: kept[name] for name in self.names}


Step = tuple[str, tuple[str, ...]]
"""A layer's path, and the taps that its output is: itself, or modules that end with it."""


def chain_steps(backbone: nn.Module, names: Sequence[str]) -> tuple[Step, ...]:
    """The layers to run, in the order of registration, up to the deepest tap."""
    steps = [(path, tuple(n for n in ends if n in names)) for path, ends in _opened(backbone, names, "")]
    while not steps[-1][1]:
        steps.pop()
    return tuple(steps)


def _opened(module: nn.Module, names: Sequence[str], path: str) -> list[Step]:
    """A module as one step, or as its children's where a tap lies inside it."""
    inside = [name for name in names if name != path and (not path or name.startswith(f"{path}."))]
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


class Observer:
    """What a trial pass does at some layers: how often each ran, on what, and whether it was overwritten.

    `returned` is what the whole network makes.
    """

    def __init__(self, backbone: nn.Module, names: Iterable[str], image: ImageInfo) -> None:
        self._start()
        handles = [backbone.register_forward_pre_hook(self._root)]
        for name in names:
            module = layer(backbone, name)
            handles.append(module.register_forward_pre_hook(partial(self._before, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._after, name)))
        try:
            self.returned = trial(backbone, image)
        finally:
            for handle in handles:
                handle.remove()

    def _start(self) -> None:
        self.ran: list[str] = []
        self.given: dict[str, tuple[Any, int]] = {}  # the input and its version, as the layer got it
        self.made: dict[str, tuple[Any, int]] = {}
        self.image: Any = None

    def _root(self, _: nn.Module, args: Any) -> None:
        self._start()  # a trial may need a second pass
        self.image = (args[0], args[0]._version)

    def _before(self, name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        self.given[name] = (args[0], args[0]._version) if alone else (None, 0)

    def _after(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        self.ran.append(name)
        self.made[name] = (output, output._version if isinstance(output, Tensor) else 0)

    def overwritten(self, name: str) -> bool:
        """Whether a later in-place operation changed the layer's output."""
        output, version = self.made[name]
        return isinstance(output, Tensor) and output._version != version


def layer(backbone: nn.Module, name: str) -> nn.Module:
    """A module by its path. Raises ShapeError where there is none."""
    try:
        return backbone.get_submodule(name)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [path for path, _ in backbone.named_modules() if path], n=3)
        known = f"near are {', '.join(near)}" if near else f"its parts are {', '.join(_children(backbone))}"
        raise ShapeError(
            f"the network has no layer {name!r}; {known}; `medfuse taps FILE` lists them all"
        ) from error


def _children(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


def hook(backbone: nn.Module, names: Sequence[str], image: ImageInfo) -> Hooked:
    """Tap by hooks, tried out on `image`. Raises ShapeError where a layer never runs or makes no tensor."""
    seen = Observer(backbone, names, image)
    check_taps(seen, names)
    return Hooked(backbone, names, copied=[name for name in names if seen.overwritten(name)])


def check_taps(seen: Observer, names: Sequence[str]) -> None:
    """Each of `names` ran and made a tensor; one that ran more than once is told. Raises ShapeError."""
    for name in names:
        times = seen.ran.count(name)
        if times == 0:
            raise ShapeError(f"layer {name!r} never runs in the network's forward pass; tap another one")
        if not isinstance(seen.made[name][0], Tensor):
            kind = type(seen.made[name][0]).__name__
            raise ShapeError(f"layer {name!r} makes a {kind} rather than a tensor; tap a layer inside it")
        if times > 1:
            log.warning("layer %s runs %d times in a forward pass; its last output is tapped", name, times)


def truncate(backbone: nn.Module, names: Sequence[str], image: ImageInfo) -> Chain:
    """Cut the network after the deepest tap. Raises ShapeError where it is not a chain up to there.

    A chain means that each layer gets the very tensor that the layer before it made, and that a tapped
    container returns what its last layer made, which a trial pass shows without arithmetic: then running the
    layers in turn gives the hooks' outputs to the last bit.
    """
    for name in names:
        layer(backbone, name)
    steps = chain_steps(backbone, names)
    seen = Observer(backbone, {path: None for path, ends in steps for path in (path, *ends)}, image)
    before, passed = "the image", seen.image
    for path, ends in steps:
        if reason := _breaks(seen, path, passed, before) or _adds(seen, path, ends):
            raise ShapeError(
                f"the network is not a chain of its layers: {reason}; tap it with forward_hook instead"
            )
        before, passed = path, seen.made[path]
    overwritten = [name for path, ends in steps[:-1] for name in ends if seen.overwritten(path)]
    return Chain(backbone, names, copied=overwritten)


def _breaks(seen: Observer, path: str, passed: tuple[Any, int], before: str) -> str:
    times = seen.ran.count(path)
    if times != 1:
        return f"{path} runs {times} times in a forward pass"
    given, version = seen.given[path]
    if given is not passed[0] or version != passed[1]:
        return f"{path} is not given the unchanged output of {before}"
    return ""


def _adds(seen: Observer, path: str, ends: Sequence[str]) -> str:
    """Why a tapped container does not return what its last layer made: a chain runs its layers alone."""
    made, version = seen.made[path]
    for container in ends:
        output, later = seen.made.get(container, (None, 0))
        if output is not made or later != version:
            return (
                f"{container} does not return the unchanged output of {path}, its last layer: it has a "
                "hook or work of its own, or never runs"
            )
    return ""
