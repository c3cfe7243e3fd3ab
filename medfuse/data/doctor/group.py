"""All cases of a dataset as they were examined, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medfuse.api import DatasetInfo
from medfuse.core.labels import members
from medfuse.data.doctor.atlas import FLIPS, NO_FLIP, NO_ZOOM, ZOOMS, Atlas, Place
from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.exchange import Exchange, by_shape, exchanged
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.fingerprint import CaseFacts

ALIKE = 0.25
"""Correlation with the others from which images are so alike that one can be held against them."""
SHAPELY = 60
"""Voxels of a structure by which its shape can be judged."""
UNLIKE = 4.0
"""Deviations below what is usual at which it is asked what else would fit."""
OFF_EDGES = 3.0
"""The same of the agreement of borders with edges."""
_LESS = 0.95
"""Of the best agreement near by."""
_ENOUGH = 0.75
FITS = 4.0
"""Deviations below what is usual within which something else fits."""


@dataclass(frozen=True, eq=False)
class Group:
    """`info` names channels and labels. `framed` are the cases whose labels can be held against others'."""

    exams: Sequence[Exam]
    info: DatasetInfo

    @cached_property
    def facts(self) -> list[CaseFacts]:
        return [exam.facts for exam in self.exams if exam.facts is not None]

    @cached_property
    def framed(self) -> list[Exam]:
        return [exam for exam in self.exams if exam.frame is not None]

    @cached_property
    def atlas(self) -> Atlas | None:
        """None of few cases."""
        if len(self.framed) < FEW:
            return None
        return Atlas.of([exam.frame for exam in self.framed if exam.frame is not None])

    @cached_property
    def images(self) -> npt.NDArray[np.float64]:
        """(framed cases, flips): agreement of each image with the others'."""
        atlas = self.atlas
        assert atlas is not None
        return np.array([[atlas.image_agreement(n, f) for f in FLIPS] for n in range(len(self.framed))])

    @cached_property
    def labels(self) -> npt.NDArray[np.float64]:
        """The same of labels."""
        atlas = self.atlas
        assert atlas is not None
        return np.array([[atlas.label_agreement(n, f) for f in FLIPS] for n in range(len(self.framed))])

    @cached_property
    def usual_image(self) -> Spread:
        return Spread.of(self.images[:, 0], floor=0.03)

    @cached_property
    def usual_labels(self) -> Spread:
        return Spread.of(self.labels[:, 0], floor=0.02)

    @property
    def is_alike(self) -> bool:
        """Whether an image can be held against the others."""
        return self.atlas is not None and self.usual_image.middle >= ALIKE

    @cached_property
    def usual_edges(self) -> Spread:
        """Of the agreement of borders with the edges under them."""
        return Spread.of([exam.edges.here for exam in self.framed if exam.edges], floor=0.01)

    def is_off_edges(self, exam: Exam) -> bool:
        """Whether its border lies on edges less than any other does, and better elsewhere."""
        edges = exam.edges
        if edges is None or len(self.framed) < FEW:
            return False
        return self.edges_away(exam) < -OFF_EDGES and edges.here < _LESS * edges.best

    def edges_away(self, exam: Exam) -> float:
        """By how many deviations its border lies better on edges than is usual; 0 where nobody knows."""
        return self.usual_edges.away(exam.edges.here) if exam.edges else 0.0

    def fits(self, agreement: float) -> bool:
        """Whether an image that agrees so with the others is one of them."""
        usual = self.usual_image
        return usual.away(agreement) > -FITS and agreement >= _ENOUGH * usual.middle

    def is_odd(self, number: int) -> bool:
        """Whether the image around the labels of a framed case is unlike the others'."""
        return self.is_alike and self.usual_image.away(self.images[number, 0]) < -UNLIKE

    def places(self, number: int) -> list[Place]:
        """Where the image of a framed case is like the others': moved, scaled, and turned round."""
        assert self.atlas is not None
        ways = [(flip, NO_ZOOM) for flip in FLIPS] + [(NO_FLIP, zoom) for zoom in ZOOMS]
        return [self.atlas.found_at(number, flip, zoom) for flip, zoom in ways]

    @cached_property
    def _exchanges(self) -> list[tuple[dict[int, int], float]]:
        atlas = self.atlas
        assert atlas is not None
        found = []
        for number in range(len(self.framed)):
            confusion, total = atlas.confusion(number)
            which, agreeing = exchanged(confusion, atlas.values)
            found.append((which, agreeing / total))
        return found

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """Which labels of each framed case would agree better with the others, were they exchanged."""
        atlas = self.atlas
        assert atlas is not None
        length = np.linalg.norm(atlas.places / len(self.framed), axis=1)
        return [by_shape(atlas.confusion(n)[0], atlas.values, length) for n in range(len(self.framed))]

    def relabelled(self, number: int) -> float:
        """The agreement of labels of a framed case, were they exchanged so that it is best."""
        return self._exchanges[number][1]

    def exchanged(self, number: int) -> dict[int, int]:
        """Which label then stands for which."""
        return {own: other for own, other in self._exchanges[number][0].items() if own != other}

    @cached_property
    def sized(self) -> dict[int, list[Exam]]:
        """Labels that enough cases have, and large enough to judge their shape by, with these; 0 for all."""
        found = {}
        for value in sorted({value for exam in self.framed for value in exam.structures}):
            those = [
                e for e in self.framed if value in e.structures and e.structures[value].voxels >= SHAPELY
            ]
            if len(those) >= FEW:
                found[value] = those
        return found

    def name_of(self, value: int) -> str:
        names = [name for name, v in self.info.labels.items() if value in members(v) and value]
        return names[0] if names else str(value)
