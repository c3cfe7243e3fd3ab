"""Plugins with one thing changed, and the names of the checks that this fails."""

from typing import Any

import pytest
from torch import nn


def failed(check, *given) -> set[str]:
    """Names of the checks that fail."""
    with pytest.raises(AssertionError) as caught:
        check(*given)
    return {line.strip().partition(": ")[0] for line in str(caught.value).splitlines()[1:]}


def planted(good: type, **members: Any) -> type:
    """`good` with one thing changed."""
    return type("Planted", (good,), {"__doc__": good.__doc__, "__module__": good.__module__, **members})


def each(faults: dict[str, tuple]) -> Any:
    """One test for each fault, called what it is called."""
    return pytest.mark.parametrize("fault", faults.values(), ids=faults)


class Module(nn.Module):
    """A module with that forward pass and those parts."""

    def __init__(self, forward, **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *given):
        return self.run(self, *given)
