"""A network prepared by a runtime, with all that tells what runs it; as it was before, where it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core.device import disagreement, processor, versions
from medfuse.core.engine import Engine, Running, label, told_by
from medfuse.core.errors import MedfuseError, reason
from medfuse.model.gate import NoGateError
from medfuse.model.judged import Judged

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

CLEARLY = 0.25
"""Of the difference that rounding may make: with less an engine is right for other windows, too."""


def engine_of(runtime: Runtime, run: object) -> dict[str, Any]:
    """What `run`, which `runtime` prepared, is: the runtime's name and package, its fields that are not as
    usual, and what `run` tells of itself: of another runtime, where `runtime` has chosen that.
    """
    told = told_by(run)
    name = told.pop("runtime", None)
    made = {"runtime": name} if name else {"runtime": registry.name_of(runtime), **_fields(runtime)}
    engine = {**made, **told}
    packages = {e.package: e.version for e in registry.entries(Runtime.group) if e.name == engine["runtime"]}
    return {**engine, "versions": {**packages, **engine.get("versions", {})}}


def prepare_as(runtime: Runtime, model: nn.Module, example: Tensor, kept: Engine | None = None) -> Running:
    """`model` prepared for windows like `example`, telling its whole engine.

    Where `kept` is one of those that the runtime chooses among, it is taken if it is right here; a line says
    why where it is not.
    """
    run = _as_before(runtime, model, example, kept) if kept else None
    run = run or _described(runtime, runtime.prepare(model, example))
    return Running(run, **whole_engine(run.engine, example.device))


def options_of(runtime: Runtime, model: nn.Module, device: torch.device) -> list[Runtime]:
    """What the runtime chooses among for this network, without what refuses it."""

    def bears(option: Runtime) -> bool:
        try:
            option.refuse(model)
        except NoGateError:
            return False
        except MedfuseError as error:
            log.warning("%s", "; ".join(error.lines))
            return False
        return True

    return [option for option in runtime.choices(device) if bears(option)]


def fault_of(expected: Tensor, run: Running, example: Tensor) -> tuple[str, bool]:
    """In words, how `run` answers otherwise than the network in fp32; nothing where a gate has judged it by
    more than one batch. And whether it is right so clearly that it will be with other windows."""
    given = run(example)
    if "gate" in run.engine:
        return "", True
    return disagreement(expected, given), not disagreement(expected, given, share=CLEARLY)


def whole_engine(engine: Engine, device: torch.device) -> dict[str, Any]:
    """An engine with the machine and the versions that it runs on."""
    import torch

    if device.type == "cpu":
        where: dict[str, Any] = {"hardware": processor(), "threads": torch.get_num_threads()}
    else:
        where = {"hardware": torch.cuda.get_device_name(device)}
    packages = {**versions("medfuse", "torch"), **engine.get("versions", {})}
    return {**engine, "device": device.type, **where, "versions": packages}


def _as_before(runtime: Runtime, model: nn.Module, example: Tensor, kept: Engine) -> Running | None:
    choices = options_of(runtime, model, example.device)
    option = next((one for one in choices if _is(one, kept)), None)
    if option is None:
        log.warning("%s, which made the first cases of this folder, is not to be had here", label(kept))
        return None
    if option == runtime:  # which leaves nothing open
        return None
    import torch

    try:
        judged = Judged(model, example)
        run, fault, clear = _described(option, option.prepare(model, example)), "", False
        if not judged.was_right(option):
            with torch.inference_mode():
                fault, clear = fault_of(model.eval()(example).float(), run, example)
        if label(run.engine) != label(kept):
            fault = fault or f"{label(run.engine)} runs in its stead"
        if clear and not fault:
            judged.remember(option)
    except MedfuseError as error:  # not installed, or not for this device
        fault = "; ".join(error.lines)
    except Exception as error:  # other people's engines fail in any way they like
        fault = reason(error)
    if fault:
        log.warning("%s, which made the first cases of this folder, is not used: %s", label(kept), fault)
        return None
    log.info("%s runs the network, as for the first cases of this folder", label(kept))
    return run


def _described(runtime: Runtime, run: Callable[[Tensor], Tensor]) -> Running:
    return Running(run, **engine_of(runtime, run))


def _is(option: Runtime, kept: Engine) -> bool:
    """Whether `kept` is what this runtime prepares."""
    declared: dict[str, Any] = {"runtime": registry.name_of(option), **_fields(option)}
    precision = getattr(option, "precision", None)
    if precision not in (None, "auto"):
        declared["precision"] = precision
    return all(kept.get(key) == value for key, value in declared.items())


def _fields(runtime: Runtime) -> dict[str, Any]:
    return runtime.model_dump(mode="json", exclude_defaults=True)
