"""Faults in a plugin's parameters, docstring or YAML, each caught by the law that it breaks."""

from typing import Annotated, Any

from planting import each, failed
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from sound import Block

from medfuse.api import FeatureInfo
from medfuse.testing import check_fusion_block

A = FeatureInfo("a", 3, (2, 2))


class Undocumented(Block):
    __doc__ = Block.__doc__
    width: int = 3


class WithoutExample(Block):
    """A projection."""


class WithStaleExample(Block):
    """A projection.

    mixed: {use: block, inputs: [a], width: 3}
    """


class Drifting(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: n + 1 if isinstance(n, int) else n)] = Field(
        3, description="grows when it is read"
    )


class Ignoring(Block):
    __doc__ = Block.__doc__
    model_config = ConfigDict(extra="ignore")


class Clamping(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: max(n, 1) if isinstance(n, int) else n)] = Field(
        3, ge=1, description="of nothing"
    )


class Mumbling(Block):
    __doc__ = Block.__doc__

    @model_validator(mode="before")
    @classmethod
    def _fits(cls, given: Any) -> Any:
        if isinstance(n := given.get("channels", 3), int) and n < 1:
            raise ValueError("that is too small")
        return given


class Inner(BaseModel):
    width: int = 3


class Lenient(Block):
    __doc__ = Block.__doc__
    inner: Inner = Field(Inner(), description="takes any key")


class Forgiving(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: n if isinstance(n, int) else 3)] = Field(
        3, description="or 3"
    )


class Crashing(Block):
    __doc__ = Block.__doc__
    width: Annotated[int, BeforeValidator(lambda n: n + 1 - 1)] = Field(3, description="a number")


class BadDefault(Block):
    __doc__ = Block.__doc__
    power: float = Field(-1.0, gt=0, description="of the gate")


class Thawed(Block):
    __doc__ = Block.__doc__
    model_config = ConfigDict(frozen=False)


FAULTS = {
    "does not say what a parameter is": ("every parameter is documented", Undocumented, {}),
    "shows no example": ("the docstring has a line and an example", WithoutExample, {}),
    "shows an example of before": ("its example is valid", WithStaleExample, {}),
    "grows when it is read": ("its YAML reads back", Drifting, {}),
    "ignores what it does not know": ("an unknown key is refused", Ignoring, {}),
    "ignores what a part of it does not know": ("an unknown key is refused", Lenient, {}),
    "clamps": ("a value out of range is refused by name", Clamping, {}),
    "refuses without a name": ("a value out of range is refused by name", Mumbling, {}),
    "takes anything": ("a value of another type is refused by name", Forgiving, {}),
    "breaks on another type": ("a value of another type is refused by name", Crashing, {}),
    "has a default out of range": ("its defaults are valid", BadDefault, {"power": 1.0}),
    "can be changed": ("it is frozen", Thawed, {}),
}


@each(FAULTS)
def test_a_faulty_parameter_is_caught(fault):
    check, faulty, given = fault
    assert failed(check_fusion_block, faulty(inputs=("a",), **given), [A]) == {check}
