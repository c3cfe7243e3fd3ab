"""All that a label map depends on, apart from its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, map_values, outputs
from medfuse.infer.formats import FORMATS, LabelFiles
from medfuse.infer.postprocess import logit_shifts, tidy
from medfuse.infer.probabilities import (
    ProbabilityFormat,
    files_beside,
    probability_file,
    uncertainty_file,
)
from medfuse.infer.settings import InferSettings, PostprocessSettings
from medfuse.quality.usual import UsualVolume
from medfuse.volumes.endings import LABEL_ENDINGS

if TYPE_CHECKING:
    from medfuse.infer.decide import Kind
    from medfuse.infer.export import Exporter
    from medfuse.infer.probabilities import Box
    from medfuse.quality.case import CaseScores


@dataclass(frozen=True)
class Recipe:
    """All that a label map depends on, apart from its images. While it stays, finished cases are skipped.

    weights: one hash per fold. labels: name → value, in the order of the network's classes; a region
    has several. region_order: where labels are regions, the value to write for each, later ones over earlier
    ones. `probabilities`: the file that those of all classes are written into, if they are wanted.
    `label_files`: the formats of label maps, and what they say.
    """

    weights: tuple[str, ...]
    labels: Mapping[str, LabelValue]
    patch_size: tuple[int, ...]
    settings: InferSettings
    region_order: tuple[int, ...] = ()
    probabilities: ProbabilityFormat | None = None
    label_files: LabelFiles = field(default_factory=LabelFiles)

    @property
    def written(self) -> tuple[int, ...]:
        """The value that is written for each of the network's outputs."""
        return self.region_order or map_values(self.labels.values())

    @property
    def kind(self) -> Kind:
        """How labels are decided."""
        return "regions" if self.region_order else "softmax"

    @property
    def steps(self) -> PostprocessSettings | None:
        """What is done to the label map in the end."""
        steps = self.settings.postprocess
        return steps if isinstance(steps, PostprocessSettings) else None

    def files(self, case: Case) -> list[str]:
        """The names of what is written for a case, its label maps first."""
        more = [probability_file(case.name, self.probabilities)] if self.probabilities else []
        unsure = [uncertainty_file(case.name)] if self.settings.uncertainty else []
        return [*self.label_files.names(case), *more, *unsure]

    def former(self, case: Case) -> dict[str, str]:
        """What earlier calls may have written for a case and this one does not, and the name of what is
        written in its place; none for probabilities and label maps in formats that were asked for, which may
        still be wanted."""
        label_map, *_ = now = self.files(case)
        others = {case.name + known.ending: "" for known in FORMATS.values()}
        if not self.label_files.formats:
            others |= {case.name + ending: label_map for ending in LABEL_ENDINGS}
        others |= dict.fromkeys(files_beside(case.name), "")
        return {name: instead for name, instead in others.items() if name not in now}

    def exporter(
        self,
        shape: tuple[int, int, int],
        geometry: Geometry,
        *,
        sweep: int,
        probabilities: Callable[[Box], None] | None = None,
    ) -> Exporter:
        """What makes labels of the logits of an image of `shape`."""
        from medfuse.infer.export import Exporter

        regions = [name for name, value in self.labels.items() if value != 0]
        shifts = logit_shifts(self.steps, regions) if self.steps and self.steps.threshold else ()
        return Exporter(
            shape,
            geometry,
            self.written,
            kind=self.kind,
            sweep=sweep,
            shifts=shifts,
            probabilities=probabilities,
        )

    def scores(
        self,
        shape: tuple[int, int, int],
        geometry: Geometry,
        volumes: Mapping[str, UsualVolume],
        *,
        sweep: int,
    ) -> CaseScores:
        """What gathers the scores of an image of `shape`. `volumes`: what is usual in training, by class."""
        from medfuse.quality.case import CaseScores

        names = outputs(self.labels, self.region_order)
        whole = zip(geometry.ras_spacing_mm, geometry.ras_shape, shape)
        spacing = [mm * fine / coarse for mm, fine, coarse in whole]
        how: dict[str, Any] = {"sweep": sweep, "volumes": volumes, "sided": geometry.spaced}
        return CaseScores(names, self.kind, shape, spacing, **how)

    def tidied(self, label_map: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[Any]:
        """A finished label map (i, j, k) after its steps."""
        assert self.steps is not None
        return tidy(label_map, self.steps, self.labels, self.region_order, geometry.voxel_ml)

    @property
    def _younger(self) -> list[str]:
        """Settings that are not given, and that folders which were begun earlier do not know."""
        younger = ("stepped", "compare_heads", "uncertainty", "windows")
        return [name for name in younger if not getattr(self.settings, name)]

    def facts(self) -> dict[str, Any]:
        regions = {"region_order": list(self.region_order)} if self.region_order else {}
        return {
            **regions,
            "weights": list(self.weights),
            "labels": {n: list(v) if isinstance(v, tuple) else v for n, v in self.labels.items()},
            "patch_size": list(self.patch_size),
            "settings": self.settings.model_dump(mode="json", exclude={"batch_size", *self._younger}),
            **({"probabilities": self.probabilities} if self.probabilities else {}),
            **self.label_files.facts(),
        }
