"""Whose code a weights file may name: what is harmless, the user's own, and what the user allows.

To make the network that a file describes is to call what it names with arguments that it chooses, and a class
of an installed package can often be brought to run a script or to fetch one. So code is named freely in a
pipeline file, as its author runs it; from a weights file it is called only where it is

- a plugin that is installed: its user chose to install it, and its parameters are typed;
- a layer of torch or a network of MONAI on the list below, which do nothing with their arguments but compute;
- named with the same arguments by a pipeline that was run on this machine, by this user;
- of a package that the user allows: `--trust PACKAGE`, or `trust=` in Python.

That a file lies in a run folder says nothing: run folders are passed on as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medfuse.api import NamedCode, Plugin
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.named import named_in, within
from medfuse.core.remembered import recall, remember

_OWN = "own_code.json"

_LAYERS = re.compile(
    r"(Conv|ConvTranspose|BatchNorm|InstanceNorm|MaxPool|AvgPool|LPPool|AdaptiveAvgPool|AdaptiveMaxPool|Dropout"
    r"|ReflectionPad|ReplicationPad|ConstantPad|ZeroPad|CircularPad)[123]d"
    r"|(Group|Layer|RMS|LocalResponse)Norm|SyncBatchNorm|Identity|Linear|(Alpha|FeatureAlpha)?Dropout|Upsample"
    r"|Pixel(Unsh|Sh)uffle|ChannelShuffle|(P|R|Leaky)?ReLU|ReLU6|[CSG]?ELU|GELU|SiLU|Mish|GLU"
    r"|Hard(swish|sigmoid|tanh|shrink)|(Log)?Sigmoid|Tanh|Softplus|Softsign|(Soft|Tanh)shrink|Threshold"
    r"|(Log)?Softmax|Softmax2d|Softmin"
)
_NETWORKS = re.compile(
    r"AttentionUnet|BasicU[Nn]et(PlusPlus)?|DynU[Nn]et|HighResNet|MedNeXt(S|M|B|L)?|SegResNet(VAE|DS2?)?"
    r"|SwinUNETR|U[Nn]et|UNETR|VNet"
)
_LOSSES = re.compile(r"(?!Perceptual)\w+Loss")


def harmless(code: NamedCode) -> bool:
    """Whether it does nothing with its arguments but compute, whatever they are."""
    module, _, name = code.target.partition(":")
    known = {"torch.nn": _LAYERS, "monai.networks.nets": _NETWORKS, "monai.losses": _LOSSES}.get(module)
    return known is not None and known.fullmatch(name) is not None


def named_code(value: Any) -> Iterator[NamedCode]:
    """All that the plugins in a part of a pipeline name, and the plugins inside these."""
    for part in within(value):
        if isinstance(part, Plugin):
            yield from part.named_code()
        if isinstance(part, BaseModel):
            for field in type(part).model_fields:
                yield from named_code(getattr(part, field))


def remember_own(model: BaseModel) -> None:
    """Keep in mind what the user's own pipeline names: its weights need no `--trust` on this machine."""
    for code in named_code(model):
        if not harmless(code) and not _is_own(code):
            remember(_OWN, _key(code), code.target)


@dataclass(frozen=True)
class Trust:
    """What the user allows beyond what is harmless: `packages`, and `own`, keys of calls in a pipeline."""

    packages: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()

    @classmethod
    def of(cls, packages: str | Iterable[str] = (), own: BaseModel | None = None) -> Trust:
        """Raises MedfuseError for what names no package or module."""
        names = (packages,) if isinstance(packages, str) else tuple(packages)
        for name in names:
            if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
                raise MedfuseError(
                    f"--trust {name[:80]}: is no package; name one that can be imported, such as monai"
                )
        return cls(names, frozenset(map(_key, named_code(own))))

    def check(self, path: Path, model: BaseModel, said: Any) -> None:
        """Imports and calls nothing. Raises CheckpointError where the model of `path`, `said` in JSON, names
        code that is not known to be harmless, nor allowed."""
        left = [code for code in (*named_code(model), *named_in(said)) if not self._allows(code)]
        if not left:
            return
        targets = [*dict.fromkeys(code.target for code in left)]
        packages = [*dict.fromkeys(code.package for code in left)]
        raise CheckpointError(
            f"{path}: its model is made by {', '.join(targets[:3])}{', …' if len(targets) > 3 else ''}: code "
            "that the file names, with arguments of its choice, and no pipeline that was run here. As it "
            "could do anything, it is not called; where you trust whoever made the file, give "
            f"{' '.join(f'--trust {p}' for p in packages)} (in Python trust={packages})"
        )

    def _allows(self, code: NamedCode) -> bool:
        of_a_package = any(f"{code.module}.".startswith(f"{package}.") for package in self.packages)
        return harmless(code) or of_a_package or _key(code) in self.own or _is_own(code)


def _is_own(code: NamedCode) -> bool:
    return recall(_OWN, _key(code)) is not None


def _key(code: NamedCode) -> str:
    text = json.dumps([code.target, dict(code.arguments)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
