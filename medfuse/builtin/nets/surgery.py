"""Layers of a network exchanged, taken out or added, by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from torch import nn

from medfuse.builtin.nets.observed import layer
from medfuse.builtin.nets.probe import construct, find_features
from medfuse.core.errors import MedfuseError, PluginError, ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.named import target_of
from medfuse.model.trial import try_out

if TYPE_CHECKING:
    from medfuse.builtin.nets.edits import Edit

CHANNELS = "$channels"


def edited(network: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """`network`, changed in place by each edit in turn. Raises MedfuseError that names the edit."""
    for index, edit in enumerate(edits):
        try:
            _apply(network, edit)
        except MedfuseError as error:
            raise _of_edit(error, edits, index, f"{error}") from error
    return network


def left_alone(build: Callable[[], nn.Module], edits: Sequence[Edit]) -> set[str]:
    """The names of the tensors that edits leave where they were."""

    def compare(network: nn.Module) -> set[str]:
        before = _tensors(network)
        after = _tensors(edited(network, edits))
        return {name for name, tensor in after.items() if before.get(name) is tensor}

    return try_out(build, compare)


def _tensors(network: nn.Module) -> dict[str, Any]:
    named = [network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)]
    return {name: tensor for tensors in named for name, tensor in tensors}


def find_edited(build: Callable[[], nn.Module], edits: Sequence[Edit], image: ImageInfo) -> list[FeatureInfo]:
    """What the edited network offers. Raises ShapeError that names the edit after which it cannot run."""

    def after(n: int) -> Callable[[], nn.Module]:
        return lambda: edited(build(), edits[:n])

    try_out(after(len(edits)), lambda _: None)  # an edit that cannot be made says so itself
    try:
        return find_features(after(len(edits)), image)
    except (ShapeError, PluginError) as error:
        if not _runs(build, image):  # no fault of the edits: a strategy may leave out what cannot run
            return find_features(after(len(edits)), image, partial=True)
        index = next(i for i in range(len(edits)) if not _runs(after(i + 1), image))
        raise _of_edit(error, edits, index, f"the edited network {error}") from error


def _of_edit(error: MedfuseError, edits: Sequence[Edit], index: int, said: str) -> MedfuseError:
    """The same about one edit, at its layers or at what it makes."""
    edit = edits[index]
    named = type(error)(f"edits[{index}], {edit.text}: {said}")
    first, *rest = error.at or ("",)
    key = {"target": "by" if edit.by else "module", "parameters": "arguments"}.get(str(first), edit.verb)
    named.at = ("edits", index, key, *rest)
    return named


def _runs(build: Callable[[], nn.Module], image: ImageInfo) -> bool:
    try:
        find_features(build, image)
    except (ShapeError, PluginError):
        return False
    return True


def _apply(network: nn.Module, edit: Edit) -> None:
    made: dict[nn.Module, nn.Module] = {}  # a layer that the network has in two places stays one
    for path in _outermost(network, edit.where):
        old = network.get_submodule(path)
        if old not in made:
            made[old] = _new(edit, old)
            if edit.insert_after:
                _insert(old, made[old], path)
        if not edit.insert_after:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, made[old])


def _outermost(network: nn.Module, glob: str) -> list[str]:
    """The layers that match, without those inside another one that does. Raises ShapeError."""
    paths = [path for path, _ in network.named_modules(remove_duplicate=False) if path]
    found = {path for path in paths if fnmatchcase(path, glob)}
    if not found:
        layer(network, glob)  # says which names are near
    return [p for p in paths if p in found and not any(p.startswith(f"{outer}.") for outer in found)]


def _new(edit: Edit, old: nn.Module) -> nn.Module:
    target = edit.by or edit.module
    if target is None:
        return nn.Identity()
    arguments = {k: _channels(old, k) if v == CHANNELS else v for k, v in edit.arguments.items()}
    return construct(target_of(target), arguments)


def _channels(old: nn.Module, argument: str) -> int:
    for name in ("num_features", "num_channels", "out_channels", "out_features"):
        if isinstance(channels := getattr(old, name, None), int):
            return channels
    raise PluginError(
        f"arguments.{argument}: a {type(old).__name__} does not say its channels; "
        f"give the number in place of {CHANNELS}"
    )


def _insert(old: nn.Module, new: nn.Module, path: str) -> None:
    """Run `new` on what `old` makes. Nothing is renamed, so taps and weights are found as before."""
    if isinstance(old, nn.ModuleList | nn.ModuleDict):
        raise ShapeError(f"{path} is a list of layers and never runs itself; name one of them")
    name = next(n for i in count(1) if not hasattr(old, n := f"inserted{i if i > 1 else ''}"))
    old.add_module(name, new)
    if type(old).forward is not nn.Sequential.forward:  # which runs its children in turn
        old.register_forward_hook(partial(_then, name))


def _then(name: str, module: nn.Module, _: Any, output: Any) -> Any:
    return getattr(module, name)(output)
