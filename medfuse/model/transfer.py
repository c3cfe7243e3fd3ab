"""Weights of another training given to a backbone: matched by name, adapted where their shape differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import floor, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.core.errors import CheckpointError, Problem, did_you_mean
from medfuse.model.checkpoints import read_checkpoint
from medfuse.model.hub import Loaded, fetch
from medfuse.model.kernels import adapt, is_kernel
from medfuse.model.nnunet_names import is_nnunets, turned
from medfuse.model.pairs import Shapes, beginnings, by_name, by_order, likely_prefix
from medfuse.model.settings import ModelSettings, TransferSettings

NESTED = (
    *("state_dict", "model_state_dict", "model", "network_weights", "network", "net"),
    *("teacher", "student", "encoder", "backbone", "module"),
)
"""Where training tools keep a network's tensors, the likeliest first."""
_IDLE = re.compile(r"optim|sched|scaler|loss|callback")


@dataclass(frozen=True)
class Row:
    """What became of a tensor of the network (`parameter`), of the file (`source`), or of both.

    status: `matched`, `inflated: …`, `resized: …`, or `left out: …`.
    """

    parameter: str
    source: str
    status: str


@dataclass(frozen=True)
class Transfer:
    """What a backbone takes from a file: tensors in its own shapes, and a row for every tensor of both."""

    file: Path
    tensors: Mapping[str, Tensor]
    rows: tuple[Row, ...]
    share: float  # of the network's parameters
    hub: Loaded | None = None

    def summary(self) -> str:
        """`58 of 60 tensors from resnet.pth (57 matched, 1 inflated); 2 of the file are not used`."""
        own = [row for row in self.rows if row.parameter]
        kinds = Counter(row.status.partition(":")[0] for row in own)
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        idle = sum(not row.parameter for row in self.rows)
        unused = f"; {idle} of the file are not used" if idle else ""
        name = f"{self.hub.name}, SHA-256 {self.hub.sha256[:12]}…," if self.hub else self.file.name
        return f"{len(self.tensors)} of {len(own)} tensors from {name} ({counts}){unused}"

    def to_json(self) -> dict[str, Any]:
        rows = [{"parameter": r.parameter, "from": r.source, "status": r.status} for r in self.rows]
        hub = (
            {"hub": self.hub.name, "sha256": self.hub.sha256, "license": self.hub.license} if self.hub else {}
        )
        return {"file": str(self.file), **hub, "share_of_parameters": round(self.share, 4), "tensors": rows}


def transfer(model: nn.Module, settings: Mapping[str, TransferSettings]) -> dict[str, Transfer]:
    """Give backbones and fusion blocks the tensors that `settings` name. Raises CheckpointError.

    Parameters and running statistics that the file does not have stay as they are.
    """
    state = model.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    paths: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        paths.setdefault(id(parameter), []).append(path)
    made = {
        name: plan_transfer(name, _of(shapes, name), wanted, parameters=[*paths.values()])
        for name, wanted in settings.items()
    }
    with torch.no_grad():
        for plan in made.values():
            for name, tensor in plan.tensors.items():
                state[name].copy_(tensor)
    return made


def transfer_problems(settings: ModelSettings, shapes: Shapes) -> list[Problem]:
    """What is wrong with `model.transfer`, for parameters of these shapes, before anything is trained."""
    problems = []
    for name, wanted in settings.transfer.items():
        if name not in (parts := [*settings.backbones, *settings.fusion]):
            known = f"{did_you_mean(name, parts)} ({', '.join(parts)})"
            message = f"no backbone and no node is named {name!r}{known}"
            problems.append(Problem(("model", "transfer", name), message, at_key=True))
            continue
        try:
            plan_transfer(name, _of(shapes, name), wanted)
        except CheckpointError as error:
            key = "hub" if wanted.hub else "weights"
            problems += [Problem(("model", "transfer", name, key), line) for line in error.lines]
    return problems


def plan_transfer(
    name: str, own: Shapes, settings: TransferSettings, *, parameters: Sequence[Sequence[str]] | None = None
) -> Transfer:
    """Which tensor of the file each of `own` gets.

    `parameters` are those of `own` that are learned, each by all of its names; all of them where not given.
    Raises CheckpointError where the file has too few of them.
    """
    hub = fetch(settings.hub, local_files_only=bool(settings.local_files_only)) if settings.hub else None
    path = hub.path if hub else settings.weights
    assert path, "validated by TransferSettings"
    tensors, inner = _tensors(path, settings.prefix.removesuffix("."))
    kind = next(iter(own), "").partition(".")[0]
    prefix = inner or _of_medfuse(tensors, kind, name, path)
    chosen = {k: t for k, t in tensors.items() if not prefix or k.startswith(f"{prefix}.")}
    if not chosen:
        raise CheckpointError(_no_prefix(prefix, tensors, path))
    pairs = by_name(own, chosen)
    if settings.match == "order":
        pairs |= by_order(own, {k: t.shape for k, t in chosen.items()}, pairs)
    stem = next((k for k, shape in own.items() if is_kernel(k, shape)), "")
    taken: dict[str, Tensor] = {}
    rows = []
    for key, shape in own.items():
        source = pairs.get(key, "")
        made, status = None, "left out: not in the file"
        if source:
            made, status = adapt(
                tensors[source],
                shape,
                kernel=is_kernel(key, shape),
                stem=key == stem,
                resize=settings.resize_kernels,
            )
        if made is not None:
            taken[key] = made
        rows.append(Row(key, source, status))
    if not taken:
        raise CheckpointError(_nothing(name, own, chosen, rows, settings, path))
    learned = [names for names in parameters or [(key,) for key in own] if names[0] in own]
    sizes = {names[0]: prod(own[names[0]]) for names in learned}
    found = sum(sizes[names[0]] for names in learned if any(n in taken for n in names))
    share = found / max(1, sum(sizes.values()))
    if share < settings.at_least:
        raise CheckpointError(_too_few(name, found, sum(sizes.values()), len(taken), rows, settings, path))
    used = {*pairs.values()}
    rows += [
        Row("", k, f"left out: not {'part of this network' if k in chosen else f'below {prefix}'}")
        for k in tensors
        if k not in used
    ]
    return Transfer(path, taken, tuple(rows), share, hub)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, from safetensors or a state dict; no code in it is executed.

    Kernels of nnU-Net's networks are turned to medfuse's order of axes. Raises CheckpointError.
    """
    return _tensors(path, "")[0]


def _tensors(path: Path, prefix: str) -> tuple[dict[str, Tensor], str]:
    """The same below `prefix`, as far as that leads into mappings, and what is left of it."""
    state = read_checkpoint(path)
    while isinstance(state, Mapping):
        first, _, rest = prefix.partition(".")
        if isinstance(state.get(first), Mapping):
            state, prefix = state[first], rest
        elif key := _nested(state):
            state = state[key]
        else:
            break
    found = state.items() if isinstance(state, Mapping) else ()
    tensors = {str(name): tensor for name, tensor in found if isinstance(tensor, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name; save model.state_dict() into it")
    if is_nnunets(tensors):
        tensors = {name: turned(name, tensor) for name, tensor in tensors.items()}
    return tensors, prefix


def _nested(state: Mapping[Any, Any]) -> str:
    """The key of a network's tensors among all that a training tool has saved; empty where these are they."""
    inner = {key: _count(value) for key, value in state.items() if isinstance(value, Mapping)}
    if known := [key for key in NESTED if inner.get(key)]:
        return known[0]
    inner = {k: n for k, n in inner.items() if n and isinstance(k, str) and not _IDLE.search(k.lower())}
    if not inner or any(isinstance(value, Tensor) for value in state.values()):
        return ""
    return max(inner, key=inner.__getitem__)


def _count(value: Mapping[Any, Any]) -> int:
    """How many tensors are in there, however deep."""
    inner = (_count(v) if isinstance(v, Mapping) else isinstance(v, Tensor) for v in value.values())
    return sum(inner)


def _of(shapes: Shapes, part: str) -> Shapes:
    """Those of a backbone or of a node."""
    return {k: s for k, s in shapes.items() if k.startswith((f"backbones.{part}.", f"fusion.{part}."))}


def _of_medfuse(tensors: Iterable[str], kind: str, name: str, path: Path) -> str:
    """Where a file that medfuse wrote keeps this part, or its only one of the kind; empty for other files.

    kind: `backbones`, or `fusion` for nodes.
    """
    found = dict.fromkeys(".".join(k.split(".")[:2]) for k in tensors if k.startswith(f"{kind}."))
    if not found or f"{kind}.{name}" in found:
        return f"{kind}.{name}" if found else ""
    if len(found) > 1:
        raise CheckpointError(
            f"{path}: has no {name!r} among its {kind}; say which to take, by `prefix:` {' or '.join(found)}"
        )
    return next(iter(found))


# ---- what to do


def _no_prefix(prefix: str, tensors: Iterable[str], path: Path) -> str:
    known = dict.fromkeys(k.rpartition(".")[0] for k in tensors)
    first = [*dict.fromkeys(k.partition(".")[0] for k in tensors)]
    return (
        f"{path}: no name in it begins with {prefix}.{did_you_mean(prefix, known)}; "
        f"its names begin with {', '.join(first[:6])}{', …' if len(first) > 6 else ''}"
    )


def _nothing(
    name: str,
    own: Shapes,
    chosen: Mapping[str, Tensor],
    rows: Sequence[Row],
    settings: TransferSettings,
    path: Path,
) -> str:
    said = f"{path}: none of its {len(chosen)} tensors fits {name!r}: "
    if not own:
        return f"{said}it has no parameters; remove its transfer"
    if misfit := next((row for row in rows if row.source), None):
        reason = misfit.status.removeprefix("left out: ")
        return f"{said}{misfit.source} is {reason}; use weights of the same architecture and width"
    if guess := likely_prefix(own, chosen):
        return f"{said}those below {guess} have its names; add `prefix: {guess}`"
    short = [k.removeprefix(beginnings(own)[-1]) for k in own]
    near = get_close_matches(short[0], chosen, n=3) or [*chosen][:3]
    order = "" if settings.match == "order" else ", or match by `match: order`"
    return f"{said}it has {', '.join(short[:3])}, … and the file {', '.join(near)}, …; give `prefix:`{order}"


def _too_few(
    name: str,
    found: int,
    wanted: int,
    tensors: int,
    rows: Sequence[Row],
    settings: TransferSettings,
    path: Path,
) -> str:
    own = [row for row in rows if row.parameter]
    left = [row for row in own if row.status.startswith("left out")]
    absent = sum(not row.source for row in left)
    unlike = [row for row in left if row.source]
    shapes = ""
    if unlike:
        reason = unlike[0].status.removeprefix("left out: ")
        shapes = f", {len(unlike)} are of another shape ({unlike[0].source} is {reason})"
    return (
        f"{path}: has {found:,} of the {wanted:,} parameters of {name!r}, {found / wanted:.1%}, where "
        f"at_least wants {settings.at_least:.0%}: {tensors} of {len(own)} tensors fit, {absent} are not in "
        f"the file{shapes}; use weights of the same architecture and width, or take them by "
        f"`at_least: {floor(1000 * found / wanted) / 1000:g}`"
    )
