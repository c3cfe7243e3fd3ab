"""medfuse: medical image segmentation from one YAML file, every part of it a plugin.

What users and plugin authors import. Names are loaded when they are first used, so that `import medfuse`
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfuse.api import (
        ActivationLoss,
        Augmentation,
        AuxSchedule,
        Backbone,
        Case,
        Command,
        ConfigPath,
        Crew,
        Dataset,
        DatasetInfo,
        Engine,
        FeatureInfo,
        FusionBlock,
        ImageInfo,
        KnownTokens,
        Loss,
        NamedCode,
        Origin,
        Plugin,
        Runtime,
        Split,
        TapStrategy,
        TokenLayout,
        TrackedRun,
        Tracker,
        Tracking,
    )
    from medfuse.core.errors import (
        CheckpointError,
        DataError,
        MedfuseError,
        OutputError,
        PipelineError,
        PluginError,
        ShapeError,
    )
    from medfuse.experiment import Pipeline, compare, search
    from medfuse.registry import register
    from medfuse.trained.predictor import Predictor

__version__ = "0.1.0"

__all__ = [
    "ActivationLoss",
    "Augmentation",
    "AuxSchedule",
    "Backbone",
    "Case",
    "CheckpointError",
    "Command",
    "ConfigPath",
    "Crew",
    "DataError",
    "Dataset",
    "DatasetInfo",
    "Engine",
    "FeatureInfo",
    "FusionBlock",
    "ImageInfo",
    "KnownTokens",
    "Loss",
    "MedfuseError",
    "NamedCode",
    "Origin",
    "OutputError",
    "Pipeline",
    "PipelineError",
    "Plugin",
    "PluginError",
    "Predictor",
    "Runtime",
    "ShapeError",
    "Split",
    "TapStrategy",
    "TokenLayout",
    "TrackedRun",
    "Tracker",
    "Tracking",
    "__version__",
    "compare",
    "plugins",
    "register",
    "search",
    "settings",
]

_PLACES = {
    "Pipeline": "experiment",
    "Predictor": "trained.predictor",
    "compare": "experiment",
    "register": "registry",
    "search": "experiment",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'medfuse' has no attribute {name!r}")
    if name in ("plugins", "settings"):
        return import_module(f"medfuse.{name}")
    module = _PLACES.get(name, "core.errors" if name.endswith("Error") else "api")
    return getattr(import_module(f"medfuse.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
