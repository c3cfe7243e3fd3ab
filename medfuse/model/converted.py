"""Networks that were converted to OpenVINO before, kept in the cache folder so that none is traced again.

A network is known again by all that it is made of and all that is installed (see model.known), and by the
size of the windows. One that cannot be known is converted each time, and so is one whose file is damaged.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.remembered import cache_folder, make_private
from medfuse.model.identity import digest
from medfuse.model.known import known

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

    key = _key(model, example)
    try:
        folder = cache_folder()
    except MedfuseError:  # there is none
        key = None
    if key is None:
        return convert(model, example)
    path = folder / _FOLDER / f"{key}.xml"
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


def _key(model: nn.Module, example: Tensor) -> str | None:
    of_model = known(model)
    return None if of_model is None else digest([of_model, [*example.shape[1:]]])


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
