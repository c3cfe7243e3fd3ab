"""int8.json: whether a network labels held-out cases in int8 as well as in fp32, and faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medfuse.core.errors import CheckpointError
from medfuse.core.files import file_hash
from medfuse.core.json_text import read_json, validated
from medfuse.core.text import typed

if TYPE_CHECKING:
    from torch import nn

RECORD, NETWORK, WINDOWS = "int8.json", "int8.xml", "int8.safetensors"
FILES = (RECORD, NETWORK, "int8.bin", WINDOWS)
"""What a gate leaves beside the weights: this record and, where it was passed, the network and a few windows
with what it decides of them."""


class NoGateError(CheckpointError):
    """A network has passed no gate, so it is not to be had in int8."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Row(_Part):
    """A class by one measure on held-out cases: means over patients, and the drop with its 95 % interval.

    They are None where too few patients have it. `bears`: whether the interval ends within the bound.
    """

    label: str
    measure: Literal["Dice", "NSD"]
    patients: int = Field(ge=0)
    fp32: float | None
    int8: float | None
    drop: float | None
    low: float | None
    high: float | None
    bears: bool


class Layer(_Part):
    """`error`: what it does to the logits when nothing else is in int8. `kept`: in floating point."""

    name: str
    error: float = Field(ge=0)
    kept: bool


class Gate(_Part):
    """The gate's table. `weights`: the hash of those that it is of.

    seconds: of a window, by precision. reasons: why it was not passed; empty where it was. machine: what
    decides how fast it is. files: the hash of each file beside it.
    """

    format: Literal[1] = 1
    weights: str
    passed: bool
    reasons: tuple[str, ...]
    bound: float
    seed: int
    kind: Literal["softmax", "regions"]
    calibration: tuple[str, ...]
    windows: int
    held_out: tuple[str, ...]
    seconds: dict[str, float]
    rows: tuple[Row, ...]
    layers: tuple[Layer, ...]
    machine: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str]

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in floating point."""
        return tuple(layer.name for layer in self.layers if layer.kept)


@dataclass(frozen=True)
class Beside:
    """The folder and the hash of a network's weights, beside which its gate's record may lie."""

    weights: Path
    digest: str

    @property
    def folder(self) -> Path:
        return self.weights.parent

    def gate(self) -> Gate | None:
        """What was found for these weights; None where nothing was. Raises CheckpointError."""
        path, remedy = (
            self.folder / RECORD,
            f"remove it, and run `medfuse quantize {typed(self.folder)}` again",
        )
        if not path.is_file():
            return None
        found = read_json(path, raises=CheckpointError, remedy=remedy)
        gate = validated(Gate, found, str(path), raises=CheckpointError, remedy=remedy)
        return gate if gate.weights == self.digest else None

    def passed(self) -> Gate:
        """The gate, where it was passed. Raises NoGateError in a line that says what to do.

        And CheckpointError where the files beside it are others than those that it judged.
        """
        gate, command = self.gate(), f"`medfuse quantize {typed(self.folder)}`"
        if gate is None:
            raise NoGateError(f"{self.weights}: precision int8: has passed no gate; run {command} first")
        if not gate.passed:
            raise NoGateError(
                f"{self.weights}: precision int8: did not pass the gate ({'; '.join(gate.reasons)}); choose "
                "another precision"
            )
        for name, digest in gate.files.items():
            path = self.folder / name
            if not path.is_file() or file_hash(path) != digest:
                raise CheckpointError(
                    f"{path}: is not what the gate judged; run {command.rstrip('`')} --overwrite` again"
                )
        return gate


def lay_beside(network: nn.Module, weights: Path, digest: str) -> None:
    """Tell a network where its weights lie, so that it is found in int8."""
    network.beside = Beside(weights, digest)  # type: ignore[assignment]  # an attribute, no module


def beside(network: nn.Module) -> Beside | None:
    """Where a network's weights lie, if it was loaded from a file."""
    found = network.__dict__.get("beside")
    return found if isinstance(found, Beside) else None


def passed(network: nn.Module) -> Gate:
    """The gate that a network has passed. Raises NoGateError where it has none, as `Beside.passed` does."""
    if (where := beside(network)) is None:
        raise NoGateError(
            "precision int8: this network comes from no run folder, and has passed no gate; run "
            "`medfuse quantize RUN` first, and give that run"
        )
    return where.passed()


def offers_int8(network: nn.Module) -> bool:
    """Whether a gate for these weights was passed. Raises CheckpointError for damaged files."""
    try:
        passed(network)
    except NoGateError:
        return False
    return True


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Seconds with four digits."""
    return {name: float(f"{value:.4g}") for name, value in values.items()}
