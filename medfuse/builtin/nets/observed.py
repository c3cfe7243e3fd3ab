"""Taps found in a network, and a trial pass that watches what their layers do."""

from __future__ import annotations

import difflib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.text import listed
from medfuse.model.address import Address, Place, as_returned, element, tensors_in
from medfuse.model.blame import told_at
from medfuse.model.borrowed import tensors_of
from medfuse.model.trial import BATCH, of_meta, trial

log = logging.getLogger("medfuse")


@dataclass(frozen=True)
class Tap:
    """A named output of a network: of the layer at `path`, by its first name, the call and the element."""

    name: str
    path: str
    call: int | None = None  # the last where it is not given
    place: Place = ()

    def of(self, output: Any) -> Tensor:
        """The tapped tensor in what the layer returned, as it made it. Raises ShapeError."""
        try:
            found = element(output, self.place)
        except LookupError as error:
            kind = type(output).__name__
            raise ShapeError(
                f"layer {self.path!r} returned a {kind} without what {self.name} names, which was there when "
                "the network was tried out; tap another layer"
            ) from error
        if not isinstance(found, Tensor):
            raise ShapeError(
                f"{self.name} is a {type(found).__name__} rather than a tensor; tap another layer"
            )
        return found


def find_taps(backbone: nn.Module, taps: Sequence[FeatureInfo]) -> list[Tap]:
    """Where each of `taps` is made. Raises ShapeError where the network has no such layer."""
    first_names = {module: path for path, module in backbone.named_modules()}
    paths = {path for path, _ in backbone.named_modules(remove_duplicate=False)}
    found = []
    for tap in taps:
        address = Address(tap.name) if tap.name in paths else Address.of(tap.name)
        path = first_names[layer(backbone, address.path)]
        found.append(Tap(tap.name, path, address.call, address.place))
    return found


def layer(backbone: nn.Module, name: str) -> nn.Module:
    """A module by its path. Raises ShapeError where there is none."""
    try:
        return backbone.get_submodule(name)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [path for path, _ in backbone.named_modules() if path], n=3)
        parts = [path for path, _ in backbone.named_children()]
        known = f"near are {', '.join(near)}" if near else f"its parts are {', '.join(parts)}"
        raise ShapeError(
            f"the network has no layer {name!r}; {known}; `medfuse taps FILE` lists them all"
        ) from error


@dataclass
class Call:
    """One call of a layer: the input if it is a tensor alone, and what was returned, with their versions.

    `kept` is the output as it was then, whatever is done later to the list or dict that it is.
    """

    given: Tensor | None
    given_version: int
    output: Any = None
    kept: Any = None
    versions: dict[Place, int] = field(default_factory=dict)


class Observer:
    """A trial pass of a network that notes every call of some layers, in the order in which they end.

    `returned` is what the whole network makes. Where it cannot run to its end although every tap of `enough`
    has been made by then, the pass is good: `failure` says why it ended.
    """

    def __init__(
        self,
        backbone: nn.Module,
        paths: Sequence[str],
        image: ImageInfo,
        *,
        training: bool,
        batch: int = BATCH,
        enough: Sequence[Tap] = (),
        steps: Sequence[str] = (),
    ) -> None:
        """`steps` are layers between which it matters whether code looks at values or draws at random."""
        self._enough, self._steps = list(enough), {*steps}
        self.failure: Exception | None = None
        self.returned: Any = None
        self._start()
        if isinstance(backbone, torch.jit.ScriptModule):
            raise ShapeError("the network is scripted, and takes no hooks; give the one that was scripted")
        handles = [backbone.register_forward_pre_hook(self._root, prepend=True)]
        for path in dict.fromkeys(paths):
            module = backbone.get_submodule(path)
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            handles.append(module.register_forward_pre_hook(partial(self._before, path), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._after, path)))
        try:
            within: Any = self._watching_values if steps else None
            more = {"within": within} if within else {}
            self.returned = trial(backbone, image, training=training, batch=batch, **more)
        except Exception as error:
            real_could = of_meta(error) and any(t.is_meta for t in tensors_of(backbone))
            if not self._has_enough() or real_could:
                raise
            self.failure = error
        finally:
            for handle in handles:
                handle.remove()

    def times(self, path: str) -> int:
        return len(self.calls.get(path, ()))

    def call(self, tap: Tap) -> Call | None:
        """The call whose output is tapped, if there was one."""
        calls = self.calls.get(tap.path, [])
        number = tap.call or len(calls)
        return calls[number - 1] if 0 < number <= len(calls) else None

    def tensor(self, tap: Tap) -> Tensor | None:
        """What was tapped, if it was made and is a tensor."""
        call = self.call(tap)
        try:
            made = element(call.kept, tap.place) if call else None
        except LookupError:
            return None
        return made if isinstance(made, Tensor) else None

    def overwritten(self, tap: Tap) -> bool:
        """Whether a later in-place operation changed what is tapped."""
        call, made = self.call(tap), self.tensor(tap)
        if call is None or made is None:
            return False
        return any(x is made and x._version != call.versions[p] for p, x in tensors_in(call.kept))

    def _start(self) -> None:
        self.ran: list[str] = []
        self.calls: dict[str, list[Call]] = {}
        self.image: Any = None
        self.depends_on = ""  # what code between steps looked at
        self._open: list[tuple[str, Call]] = []
        self._inside = 0  # steps that are running
        self._chance: Any = None

    def _root(self, _: nn.Module, args: Any) -> None:
        stopped_between = self.image is not None and not self._inside and not self._has_enough()
        self._start()  # a trial may need a second pass, with real numbers where the first asked for values
        if stopped_between:
            self.depends_on = "values"
        self._chance = random.getstate()
        self.image = Call(None, 0, args[0], args[0], {(): args[0]._version})

    def _before(self, path: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        self._open.append((path, Call(args[0], args[0]._version) if alone else Call(None, 0)))
        if path in self._steps:
            if not self._inside and self._chance is not None and random.getstate() != self._chance:
                self._depends("random numbers")
            self._inside += 1

    def _after(self, path: str, _: nn.Module, __: Any, output: Any) -> None:
        while self._open and self._open[-1][0] != path:
            self._open.pop()  # of a call that an exception ended
        call = self._open.pop()[1] if self._open else Call(None, 0)
        call.output, call.kept = output, as_returned(output)
        call.versions = {place: x._version for place, x in tensors_in(output)}
        self.ran.append(path)
        self.calls.setdefault(path, []).append(call)
        if path in self._steps:
            self._inside -= 1
            self._chance = random.getstate()

    def _has_enough(self) -> bool:
        return bool(self._enough) and all(self.tensor(tap) is not None for tap in self._enough)

    def _depends(self, what: str) -> None:
        if not self._has_enough():
            self.depends_on = what

    @contextmanager
    def _watching_values(self) -> Iterator[None]:
        def read() -> None:
            if not self._inside:
                self._depends("values")

        with _Reads(read):
            yield


class _Reads(TorchDispatchMode):
    """Tells when code takes a number out of a tensor, as `if x.mean() > 0` and `float(x.max())` do."""

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READING:
            self._told()
        return func(*args, **(kwargs or {}))


_ATEN = torch.ops.aten
_READING = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.equal.default}


def check_taps(taps: Sequence[Tap], training: Observer, inference: Observer) -> None:
    """Each of `taps` is made, in both modes alike; one that runs more often is told. Raises ShapeError."""
    for tap in taps:
        passes = {"training": training, "inference": inference}
        runs = {mode: seen for mode, seen in passes.items() if seen.call(tap)}
        if not runs:
            raise ShapeError(_missing(tap, training))
        if len(runs) == 1:
            mode = next(iter(runs))
            raise ShapeError(
                f"layer {tap.name!r} runs in {mode} only, and its map is needed in both; tap another one"
            )
        for seen in passes.values():
            if seen.tensor(tap) is None:
                raise ShapeError(_no_tensor(tap, seen))
        shapes = {
            mode: tuple(made.shape) for mode, seen in passes.items() if (made := seen.tensor(tap)) is not None
        }
        if len({*shapes.values()}) > 1:
            raise ShapeError(
                f"layer {tap.name!r} makes a map of shape {[*shapes['training']]} in training and of "
                f"{[*shapes['inference']]} in inference; tap another one"
            )
        if tap.call is None and training.times(tap.path) > 1:
            _tell_once(
                told_at(
                    f"layer {tap.name} runs {training.times(tap.path)} times in a forward pass; "
                    f"its last output is tapped, its first is {tap.path}#1"
                )
            )


_told: set[str] = set()  # a line a process: a network is tried out more than once


def _tell_once(line: str) -> None:
    if line not in _told:
        _told.add(line)
        log.warning("%s", line)


def _missing(tap: Tap, seen: Observer) -> str:
    times = seen.times(tap.path)
    if not times:
        return f"layer {tap.name!r} never runs in the network's forward pass; tap another one"
    often = f"{times} time{'s' * (times > 1)}"
    return f"layer {tap.path!r} runs {often} in a forward pass, so there is no {tap.name}"


def _no_tensor(tap: Tap, seen: Observer) -> str:
    call = seen.call(tap)
    assert call is not None
    head = Address(tap.path, tap.call)
    names = [Address(head.path, head.call, place).text for place, _ in tensors_in(call.kept) if place]
    kind = type(call.output).__name__
    if not names:
        return f"layer {tap.name!r} makes a {kind} rather than a tensor; tap a layer inside it"
    if not tap.place:
        return (
            f"layer {tap.name!r} makes a {kind} rather than a tensor; name an element of it: {listed(names)}"
        )
    return f"layer {tap.path!r} makes a {kind} without {tap.name}; name one of {listed(names)}"
