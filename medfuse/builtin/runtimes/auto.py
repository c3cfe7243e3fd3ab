"""The runtime that is right and fastest here."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core.errors import MedfuseError, reason
from medfuse.registry import RuntimeField

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from medfuse.core.engine import Running

    Run = Callable[[Tensor], Tensor]

log = logging.getLogger(__name__)

_FILE = "runtimes.json"
_HOPELESS = 3.0  # a choice whose pass takes this many times the best one's is not timed again


class Auto(Runtime):
    """The fastest of the other runtimes on this machine, in a precision that is right.

    Each candidate (one whose precision is `auto`: in each precision that the device has units for) answers
    the first windows. Of those that answer as plain fp32 does, the fastest is taken, and remembered for
    this machine and this structure of a network; where one was not right, for these weights. What is
    remembered is held against fp32 again with weights, versions or a machine that it was not held against
    before. int8 is among them only where `medfuse quantize` has judged it on held-out cases.

        runtime: {use: auto, candidates: [torch, torch_compile, openvino], precision: auto}
    """

    candidates: tuple[RuntimeField, ...] = Field(
        (),
        description="runtimes to choose from; empty: torch, and torch_winograd and openvino on a CPU, "
        "onnxruntime on a GPU",
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto", description="fp32: candidates whose precision is auto run in nothing shorter"
    )

    @field_validator("candidates")
    @classmethod
    def _no_choice_of_choices(cls, candidates: tuple[Runtime, ...]) -> tuple[Runtime, ...]:
        if any(isinstance(one, Auto) for one in candidates):
            raise ValueError("auto chooses among other runtimes; leave it out of its own candidates")
        return candidates

    def prepare(self, model: nn.Module, example: Tensor) -> Run:
        """What the remembered or the winning runtime prepares. Where all fail it is torch in fp32."""
        from medfuse.core.remembered import recall, remember
        from medfuse.model.engines import options_of

        options = {_label(option): option for option in options_of(self, model, example.device)}
        trials = _Trials(options, model, example)
        key = _key(model, example, options)
        known = recall(_FILE, key)
        choice = known.get("choice") if isinstance(known, dict) else None
        if (
            isinstance(choice, str)
            and choice in options
            and _still_holds(known, model)
            and (run := trials.right(choice))
        ):
            log.info("%s runs the network, as was found before: %s", choice, known.get("reason"))
            trials.remember(choice)
            return run
        choice, run, why = trials.fastest()
        trials.remember(choice)
        log.info("%s runs the network: %s", choice, why)
        weights = {"weights": _digest(model)} if trials.wrong else {}  # others may be right with others
        remember(_FILE, key, {"choice": choice, "reason": why, **weights})
        return run

    def choices(self, device: torch.device) -> Sequence[Runtime]:
        """Every candidate, in every precision that may be worth a try."""
        on_cpu = device.type == "cpu"
        usual = ("torch", "torch_winograd", "openvino") if on_cpu else ("torch", "onnxruntime")
        candidates = self.candidates or [registry.get(Runtime.group, name)() for name in usual]
        found: list[Runtime] = []
        for candidate in candidates:
            assert isinstance(candidate, Runtime)
            for one in candidate.choices(device):
                chosen_here = getattr(candidate, "precision", None) == "auto"
                if self.precision == "auto" or not chosen_here or getattr(one, "precision", None) == "fp32":
                    found.append(one)
        return found


class _Trials:
    """Options held against what `model` answers to `example` by itself.

    wrong: what answers otherwise. found_right: what clearly does not, and was not known to.
    """

    def __init__(self, options: dict[str, Runtime], model: nn.Module, example: Tensor) -> None:
        from medfuse.model.judged import Judged

        self.options, self.model, self.example = options, model.eval(), example
        self._judged = Judged(model, example)  # before engines change it for themselves
        self.wrong: list[str] = []
        self.found_right: list[str] = []
        self._told: set[str] = set()

    @cached_property
    def _reference(self) -> Tensor:
        """What the network answers by itself, in fp32."""
        import torch

        with torch.inference_mode():
            return self.model(self.example).float()

    def right(self, choice: str) -> Run | None:
        """A choice, prepared, where it answers with the reference; else None, and a line why, told once.

        One that ends with what is another of the options is left to that.
        """
        from medfuse.core.engine import label
        from medfuse.model.engines import fault_of

        option = self.options[choice]
        name = registry.name_of(option)
        try:
            run = self._prepared(option)
            precision = run.engine.get("precision")
            as_asked = run.engine["runtime"] == name and precision == getattr(option, "precision", precision)
            if not as_asked and label(run.engine) in self.options:
                return None
            fault, clear = "", False
            if not self._judged.was_right(option):
                fault, clear = fault_of(self._reference, run, self.example)
            if fault:
                self.wrong.append(choice)
            elif clear:
                self.found_right.append(choice)
        except MedfuseError as error:  # not installed, or not for this device; the same in every precision
            line = f"not {name}: {error}"
            if line not in self._told:
                log.info("%s", line)
                self._told.add(line)
            return None
        except Exception as error:  # other people's engines fail in any way they like
            fault = reason(error)
        if fault:
            log.warning("not %s: %s", choice, fault)
        return None if fault else run

    def remember(self, choice: str) -> None:
        """That a choice was found clearly right just now, so that it need not be found out again."""
        if choice in self.found_right:
            self._judged.remember(self.options[choice])

    def fastest(self) -> tuple[str, Run, str]:
        """The name of the best option, the option prepared, and why it is that."""
        from medfuse.core.device import TURNS, seconds_of

        runs: dict[str, Run] = {}
        seconds: dict[str, float] = {}
        for choice in self.options:
            if run := self.right(choice):
                runs[choice], seconds[choice] = run, seconds_of(run, self.example)
        if not runs:
            plain = registry.get(Runtime.group, "torch").model_validate({"precision": "fp32"})
            assert isinstance(plain, Runtime)
            return "torch in fp32", self._prepared(plain), "nothing else that was tried works here"
        for _ in range(TURNS):  # in turns, so that a pause of the machine decides nothing
            limit = _HOPELESS * min(seconds.values())
            for choice, run in runs.items():
                if seconds[choice] <= limit:
                    seconds[choice] = min(seconds[choice], seconds_of(run, self.example))
        ranks = sorted(seconds, key=lambda choice: seconds[choice])
        times = ", ".join(f"{choice} {seconds[choice]:.3g} s" for choice in ranks)
        return ranks[0], runs[ranks[0]], f"a batch of windows takes {times}"

    def _prepared(self, option: Runtime) -> Running:
        from medfuse.core.engine import Running
        from medfuse.model.engines import engine_of

        made = option.prepare(self.model, self.example)
        return Running(made, **engine_of(option, made))


def _still_holds(known: dict[str, Any], model: nn.Module) -> bool:
    """Whether nothing was left out for the answers that it gave with other weights."""
    return known.get("weights") in (None, _digest(model))


def _digest(model: nn.Module) -> str:
    import torch

    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _label(option: Runtime) -> str:
    """`openvino in bf16`, and whatever else is not as usual."""
    said = {
        k: v for k, v in option.model_dump(mode="json", exclude_defaults=True).items() if k != "precision"
    }
    precision = f" in {option.precision}" if hasattr(option, "precision") else ""
    return f"{registry.name_of(option)}{precision}{f' {json.dumps(said)}' if said else ''}"


def _key(model: nn.Module, example: Tensor, options: dict[str, Runtime]) -> str:
    """All that decides which option is fastest: machine, software, the network's structure, the windows."""
    from medfuse.core.device import machine_facts, versions

    facts = {
        "machine": machine_facts(example.device),
        "versions": versions("medfuse", "torch", "openvino", "onnxruntime"),
        "options": [*options],
        "network": str(model),
        "tensors": [[name, [*t.shape], str(t.dtype)] for name, t in model.state_dict().items()],
        "windows": [*example.shape],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
