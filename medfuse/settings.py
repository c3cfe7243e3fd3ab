"""The sections of a pipeline as classes, for building one in Python with an editor's completion.

from medfuse.settings import SampleSettings
pipeline.with_(sample=SampleSettings(patch_size=(64, 64, 32)))
"""

from medfuse.data.settings import AugmentSettings, PreprocessSettings, SampleSettings, SplitSettings
from medfuse.infer.settings import InferSettings
from medfuse.model.settings import ModelSettings
from medfuse.report.settings import ReportSettings
from medfuse.space.settings import SearchSettings
from medfuse.train.settings import TrainSettings

__all__ = [
    "AugmentSettings",
    "InferSettings",
    "ModelSettings",
    "PreprocessSettings",
    "ReportSettings",
    "SampleSettings",
    "SearchSettings",
    "SplitSettings",
    "TrainSettings",
]
