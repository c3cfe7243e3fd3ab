"""Networks that were converted to OpenVINO before, kept in the cache folder so that none is traced again.

A network is known again by all that it is made of (see model.identity), by the size of the windows, and by
the versions of what converts it. A file that is damaged is converted anew.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.device import versions
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.remembered import cache_folder, make_private
from medfuse.model.identity import contents, digest

if TYPE_CHECKING:
    import openvino
    from torch import Tensor, nn

log = logging.getLogger(__name__)

_FOLDER = "openvino"
_MOST_BYTES = 2**30
"""Of all that is kept; what was not used for longest goes first."""


def converted(model: nn.Module, example: Tensor) -> openvino.Model:
    """The network for windows of `example`'s size, in any number; kept for the next call that asks for it.

    Raises MedfuseError without OpenVINO.
    """
    from medfuse.model.openvino import convert, load, save

    try:
        path = cache_folder() / _FOLDER / f"{_key(model, example)}.xml"
    except MedfuseError:  # no folder for caches
        return convert(model, example)
    try:
        network, _ = load(path) if path.is_file() else (None, {})
        if network is not None:
            with suppress(OSError):
                path.touch()
            return network
    except CheckpointError as error:
        log.info("%s; it is made anew", error)
    network = convert(model, example)
    try:
        make_private(path.parent)
        save(network, path, {})
        _make_room(path)
    except (MedfuseError, OSError) as error:
        log.info("what was converted for OpenVINO is not kept: %s", error)
    return network


def _key(model: nn.Module, example: Tensor) -> str:
    return digest([contents(model), [*example.shape[1:]], versions("medfuse", "openvino", "torch", "monai")])


def _make_room(newest: Path) -> None:
    """What was used last stays, up to the size that is kept; `newest` always does."""
    kept = 0
    for path in sorted(newest.parent.glob("*.xml"), key=_last_used, reverse=True):
        with suppress(OSError):
            kept += path.stat().st_size + path.with_suffix(".bin").stat().st_size
            if kept > _MOST_BYTES and path != newest:
                path.unlink()
                path.with_suffix(".bin").unlink()


def _last_used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
