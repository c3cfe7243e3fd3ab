"""medfuse: medical image segmentation from one YAML file, every part of it a plugin."""

from medfuse.api import (
    AuxSchedule,
    Backbone,
    Case,
    ConfigPath,
    Dataset,
    DatasetInfo,
    FeatureInfo,
    FusionBlock,
    ImageInfo,
    Loss,
    Plugin,
    Runtime,
    Split,
    TapStrategy,
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

__version__ = "0.1.0"

__all__ = [
    "AuxSchedule",
    "Backbone",
    "Case",
    "CheckpointError",
    "ConfigPath",
    "DataError",
    "Dataset",
    "DatasetInfo",
    "FeatureInfo",
    "FusionBlock",
    "ImageInfo",
    "Loss",
    "MedfuseError",
    "OutputError",
    "PipelineError",
    "Plugin",
    "PluginError",
    "Runtime",
    "ShapeError",
    "Split",
    "TapStrategy",
    "__version__",
]
