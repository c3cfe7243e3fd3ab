"""Channels that are in another order in some cases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from medfuse.data.doctor.atlas import standard
from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.volumes.dicom.origins import place_of

_FAR = 5.0
_GAIN = 0.04


def look(group: Group) -> Iterator[Finding]:
    """By which channel of the others each is most like, around what is labelled."""
    channels = group.info.channels
    known = group.framed
    if len(channels) < 2 or len(known) < FEW:
        return
    images = np.stack([_rows(exam) for exam in known])  # (cases, channels, voxels)
    total = images.sum(axis=0)
    orders = [_order(own, _unit(total - own)) for own in images]
    usual = Spread.of([gain for _, gain in orders], floor=0.008)
    for exam, (order, gain) in zip(known, orders):
        if gain < _GAIN or usual.away(gain) < _FAR:
            continue
        told = ", ".join(f"{channels[a]} is like {channels[b]}" for a, b in enumerate(order) if a != b)
        yield Finding(
            "channels",
            exam.name,
            ", ".join(map(place_of, exam.case.images)),
            f"its channels are in another order than those of the other cases: {told}",
            "likely",
            "put its files, or its channels, in the order of the dataset",
        )


def _rows(exam: Exam) -> npt.NDArray[np.float32]:
    assert exam.frame is not None
    return standard(exam.frame.core).reshape(len(exam.frame.core), -1)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def _order(own: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> tuple[list[int], float]:
    """Which channel of the others each is, and by how much a channel then agrees better."""
    alike = own @ others.T
    rows, columns = linear_sum_assignment(-alike)
    return columns.tolist(), float(alike[rows, columns].mean() - np.trace(alike) / len(own))
