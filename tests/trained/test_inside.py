"""Grad-CAM in the report's pictures is summed over the voxels that the written label map has."""

import numpy as np
import pytest
import torch
from torch import nn

from medfuse.api import FeatureInfo, ImageInfo
from medfuse.trained import inside
from medfuse.trained.inside import CaseInside, Output, draw_inside

SIZE = (8, 6, 4)
WHOLE, CORE = Output("whole", 0, (1, 2)), Output("core", 1, (2,))


class Two(nn.Module):
    """Two logits of a copy of the image, the second the higher one everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.shift = nn.Parameter(torch.tensor([0.0, 9.0]))

    def forward(self, image, aux, maps):
        copy = 1 * image
        shape = (1, 2, *[1] * (image.ndim - 2))
        logits = copy * self.scale.view(shape) + self.shift.view(shape)
        return logits, {}, dict.fromkeys(maps, copy)


def evidence_of(monkeypatch, predicted, size=SIZE):
    """Label → the mean of its heat map, and the voxels that its gradient came from."""
    seen = {}

    def noted(model, image, name, number, **options):
        heat = real(model, image, name, number, **options)
        seen[number] = (float(heat.mean()), options["where"].numpy())
        return heat

    real = inside.grad_cam
    monkeypatch.setattr(inside, "grad_cam", noted)
    info = ImageInfo(1, size, (1.0,) * len(size))
    made = FeatureInfo("copy", 1, (1,) * len(size))
    case = CaseInside(np.ones((1, *SIZE), np.float32), predicted)
    (picture,) = draw_inside(Two().eval(), case, info, gradcam=[made], labels=[WHOLE, CORE])
    assert picture.png
    return seen


@pytest.mark.parametrize("size", [SIZE, SIZE[:2]])
def test_a_region_around_another_is_of_both_and_the_inner_one_of_its_own(monkeypatch, size):
    predicted = np.zeros(SIZE, np.uint8)
    predicted[1:7, 1:5] = 1
    predicted[3:5, 2:4] = 2
    seen = evidence_of(monkeypatch, predicted, size)
    slices = predicted if len(size) == 3 else predicted[..., 0]
    assert (seen[0][1] == (slices > 0)).all()
    assert (seen[1][1] == (slices == 2)).all()
    assert seen[0][0] == pytest.approx((slices > 0).mean(), rel=1e-5)
    assert seen[1][0] == pytest.approx((slices == 2).mean(), rel=1e-5)


def test_what_postprocessing_took_away_or_nobody_annotated_is_not_looked_at(monkeypatch):
    predicted = np.zeros(SIZE, np.uint8)
    predicted[0] = 1
    predicted[5] = 3  # `ignore`, the number after the last
    seen = evidence_of(monkeypatch, predicted)
    assert seen[0][1].sum() == predicted[0].size
    assert seen[1] == (0.0, pytest.approx(np.zeros(SIZE)))
