"""Any of MONAI's losses, by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from medfuse import Loss, MedfuseError, PluginError
from medfuse.core.named import NamedCode, call, named_in

if TYPE_CHECKING:
    from torch import nn


class Monai(Loss):
    """A loss of monai.losses: `name` is its class, `parameters` are its arguments.

    Multi-class defaults (softmax, one-hot targets) are set where the class knows them.

        loss: {use: monai, name: TverskyLoss, parameters: {alpha: 0.3, beta: 0.7}}
    """

    name: str = Field(description="class in monai.losses, such as TverskyLoss or FocalLoss")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its arguments")

    @field_validator("name")
    @classmethod
    def _a_word(cls, name: str) -> str:
        if not name.isidentifier():
            raise ValueError("write the name of a class in monai.losses, such as TverskyLoss")
        return name

    def looks_at_places(self) -> bool:
        return not self.name.startswith(("Dice", "Focal", "Generalized", "Tversky", "AsymmetricUnified"))

    def named_code(self) -> Iterable[NamedCode]:
        return [NamedCode(f"monai.losses:{self.name}", self.parameters), *named_in(self.parameters)]

    def build(self, classes: int) -> nn.Module:
        import monai.losses

        from medfuse.core.errors import did_you_mean

        known = [n for n in dir(monai.losses) if n.endswith("Loss")]
        made = getattr(monai.losses, self.name, None)
        if not isinstance(made, type):
            raise MedfuseError(
                f"loss monai: monai.losses has no class {self.name!r}{did_you_mean(self.name, known)}"
            )
        takes = inspect.signature(made).parameters
        arguments = {k: v for k, v in {"softmax": True, "to_onehot_y": True}.items() if k in takes}
        try:
            loss: nn.Module = call(f"monai.losses:{self.name}", {**arguments, **self.parameters})
        except PluginError as error:
            raise MedfuseError(f"loss monai: {error}") from error
        return loss
