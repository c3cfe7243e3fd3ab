"""Grad-CAM: what the logits ignore is no evidence, and a linear head's evidence is what it weighs."""

import pytest
import torch
from torch import nn

from medfuse.api import ImageInfo
from medfuse.model.gradcam import grad_cam
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings


class Linear(nn.Module):
    """logits = W · tap + b, with the tap and another map to look at."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.tap, self.head = kind(2, 5, 1), kind(5, 3, 1)

    def forward(self, image, aux, maps):
        made = {"image": image, "tap": self.tap(image), "apart": self.tap(image)}
        return self.head(made["tap"]), {}, {name: made[name] for name in maps}


@pytest.mark.parametrize("dims", [2, 3])
def test_of_a_linear_head_it_is_the_weighted_sum_up_to_a_constant(dims):
    model, image = Linear(dims), torch.randn(2, *(6, 5, 4)[:dims])
    logits, _, maps = model(image[None], (), ("tap",))
    for number in range(3):
        heat = grad_cam(model, image, "tap", number)
        weighed = torch.einsum("k,k...->...", model.head.weight[number].flatten(), maps["tap"][0]).relu()
        share = (logits.argmax(1) == number).float().mean()
        assert heat.numpy() == pytest.approx((share * weighed).detach().numpy(), abs=1e-5)


def test_a_map_that_the_logits_ignore_is_no_evidence():
    model, image = Linear(3), torch.randn(2, 6, 5, 4)
    number = int(model(image[None], (), ())[0].argmax(1).mode().values.flatten()[0])
    assert grad_cam(model, image, "tap", number).max() > 0
    assert grad_cam(model, image, "apart", number).abs().max() == 0


def test_a_class_that_is_predicted_nowhere_has_no_evidence():
    model = Linear(3)
    with torch.no_grad():
        model.head.bias[2] = -1e6
    assert grad_cam(model, torch.randn(2, 6, 5, 4), "tap", 2).abs().max() == 0


def test_heat_is_on_the_grid_of_the_map_and_nothing_is_left_behind():
    settings = {
        "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 1}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"], "convs": 1}},
        "head": {"input": "decoded"},
    }
    torch.manual_seed(0)
    graph = plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (16, 16), (1.0, 1.0)), 2)
    model, image = build_segmenter(graph).eval(), torch.randn(1, 16, 16)
    for name, size in (("encoder.stages.2", 4), ("decoded.1", 8), ("image", 16)):
        heat = grad_cam(model, image, name, 1)
        assert heat.shape == (size, size)
        assert heat.min() >= 0
    assert all(p.grad is None for p in model.parameters())
    assert not image.requires_grad


@pytest.mark.parametrize("dims", [2, 3])
def test_of_regions_the_sum_is_over_where_each_is_predicted_though_another_has_a_larger_logit(dims):
    model, image = Linear(dims), torch.randn(2, *(6, 5, 4)[:dims])
    with torch.no_grad():
        model.head.bias[2] = 1e3  # the largest of all, everywhere
    logits, _, maps = model(image[None], (), ("tap",))
    for number in range(3):
        heat = grad_cam(model, image, "tap", number, regions=True)
        weighed = torch.einsum("k,k...->...", model.head.weight[number].flatten(), maps["tap"][0]).relu()
        share = (logits[0, number] > 0).float().mean()
        assert heat.numpy() == pytest.approx((share * weighed).detach().numpy(), abs=1e-5)
        assert share > 0


def test_the_voxels_may_be_given_as_the_label_map_has_them():
    model, image = Linear(3), torch.randn(2, 6, 5, 4)
    everywhere, half = torch.ones(6, 5, 4, dtype=torch.bool), torch.zeros(6, 5, 4, dtype=torch.bool)
    half[:3] = True
    whole, part, none = (grad_cam(model, image, "tap", 1, where=w) for w in (everywhere, half, half & False))
    assert (0.5 * whole).numpy() == pytest.approx(part.numpy(), abs=1e-6)
    assert none.abs().max() == 0
