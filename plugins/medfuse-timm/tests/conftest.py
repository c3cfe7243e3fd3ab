"""timm for its tests: with the torchvision that is installed or, where none can be imported, a stand-in."""

import enum
import importlib.util
import sys
import types
import warnings

import pytest

PARTS = ("", ".datasets", ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".transforms")


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class StandIn(types.ModuleType):
    """A module that has a class of every name, none of which does anything."""

    __version__ = "0.0"
    __path__: list[str] = []  # noqa: RUF012  # so that it has submodules

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def stand_ins() -> dict[str, types.ModuleType]:
    from torch import nn

    made: dict[str, types.ModuleType] = {}
    for part in (*PARTS, ".transforms.functional"):
        name = f"torchvision{part}"
        made[name] = StandIn(name)
        made[name].__spec__ = importlib.util.spec_from_loader(name, loader=None)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(made[parent], own, made[name])
    made["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        made[name].InterpolationMode = InterpolationMode
    return made


@pytest.fixture(scope="session", autouse=True)
def timm():
    """The library. What stood in for torchvision while it was imported is gone afterwards."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install --no-deps timm)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # noqa: F401  whether it can be
        except Exception:  # none is installed, or one of another torch
            stood_in = stand_ins()
            sys.modules.update(stood_in)
            try:
                import timm
            finally:
                for name in stood_in:
                    sys.modules.pop(name, None)
        import timm
    return timm
