"""One change of a network's layers, as a pipeline says it; reading one imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field, model_validator

from medfuse.core.named import NamedCode, named_in, target_of
from medfuse.core.section import Section

CLASS = r"^[A-Za-z_]\w*(\.\w+)*[.:][A-Za-z_]\w*$"


class Edit(Section):
    """One change: `replace` … `by`, `remove`, or `insert_after` … `module`. Layers by path or glob."""

    replace: str | None = Field(None, min_length=1, description="layers to exchange, such as `*.act`")
    by: str | None = Field(
        None, pattern=CLASS, description="class or function that makes the new layers, such as torch.nn.SiLU"
    )
    remove: str | None = Field(None, min_length=1, description="layers that then pass on what they are given")
    insert_after: str | None = Field(None, min_length=1, description="layers to add another one to")
    module: str | None = Field(
        None, pattern=CLASS, description="class or function that makes the layers to add"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="of that class; $channels stands for the channels of the layer that is named, and "
        "`import:torch.nn.SiLU` for a class or function",
    )

    @model_validator(mode="after")
    def _does_one_thing(self) -> Self:
        given = [key for key in ("replace", "remove", "insert_after") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("an edit does one thing: give one of replace, remove and insert_after")
        needs = {"replace": "by", "insert_after": "module"}.get(given[0])
        for key in ("by", "module"):
            if key == needs and getattr(self, key) is None:
                raise ValueError(f"`{given[0]}` needs `{key}:`, a class such as torch.nn.SiLU")
            if key != needs and getattr(self, key) is not None:
                raise ValueError(f"`{key}` does not go with `{given[0]}`; remove it")
        if self.arguments and not needs:
            raise ValueError("`arguments` are those of a new layer; `remove` makes none: take them out")
        return self

    @property
    def where(self) -> str:
        """The path or glob of the layers that change."""
        return self.replace or self.remove or self.insert_after or ""

    def named_code(self) -> Iterable[NamedCode]:
        """The class of the new layers, and what its arguments name."""
        if target := self.by or self.module:
            yield NamedCode(target_of(target), self.arguments)
        yield from named_in(self.arguments)

    @property
    def verb(self) -> str:
        """`replace`, `remove` or `insert_after`."""
        return "replace" if self.replace else "remove" if self.remove else "insert_after"

    @property
    def text(self) -> str:
        """`replace *.act`."""
        return f"{self.verb} {self.where}"
