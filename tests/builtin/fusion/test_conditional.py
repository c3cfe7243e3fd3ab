"""The conditional concatenation: what its mask does, and where it is made."""

import pytest
import torch

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock, ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.resample import resize
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

IMAGE, FINE, DEEP = (
    FeatureInfo("image", 2, (1, 1)),
    FeatureInfo("fine", 3, (2, 2)),
    FeatureInfo("deep", 4, (4, 2)),
)
ConditionalConcat = registry.get(FusionBlock.group, "conditional_concat")


def made(*inputs: FeatureInfo, **parameters):
    torch.manual_seed(0)
    return ConditionalConcat(inputs=tuple(x.name for x in inputs), **parameters).build(inputs)


def maps(*inputs: FeatureInfo) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, x.channels, *x.size((10, 7))) for x in inputs]


def randomize(block) -> None:
    for parameter in block.mask.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("mask", ["per_voxel", "per_channel"])
def test_where_the_mask_is_zero_the_image_passes_alone(mask):
    block, (image, deep) = made(IMAGE, DEEP, mask=mask), maps(IMAGE, DEEP)
    torch.nn.init.constant_(block.mask[0].bias, -1000)
    fused, _ = block(image, deep)
    assert torch.equal(fused[:, :2], 2 * image)
    assert not fused[:, 2:].any()


@pytest.mark.parametrize("mask", ["per_voxel", "per_channel"])
def test_where_the_mask_is_one_the_features_pass_and_the_image_vanishes(mask):
    block, (image, deep) = made(IMAGE, DEEP, mask=mask), maps(IMAGE, DEEP)
    torch.nn.init.constant_(block.mask[0].bias, 1000)
    fused, _ = block(image, deep)
    torch.testing.assert_close(fused[:, :2], torch.zeros_like(image))
    torch.testing.assert_close(fused[:, 2:], 2 * resize(deep, (10, 7)))


def test_it_begins_as_the_concatenation():
    image, deep = maps(IMAGE, DEEP)
    fused, _ = made(IMAGE, DEEP)(image, deep)
    torch.testing.assert_close(fused, torch.cat([image, resize(deep, (10, 7))], dim=1))


def test_what_is_taken_from_the_image_is_given_to_the_features():
    block, ones = made(IMAGE, FeatureInfo("deep", 2, (1, 1))), torch.ones(2, 2, 10, 7)
    randomize(block)
    fused, _ = block(ones, ones)
    torch.testing.assert_close(fused[:, :2] + fused[:, 2:], 2 * ones)


@pytest.mark.parametrize("mask", ["per_voxel", "per_channel"])
def test_the_mask_stays_between_zero_and_one(mask):
    block = made(IMAGE, DEEP, FINE, mask=mask)
    randomize(block)
    _, found = block(*maps(IMAGE, DEEP, FINE))
    assert 0 <= found.min() < 0.5 < found.max() <= 1


def test_the_mask_is_predicted_on_the_grid_of_the_features():
    block, (image, deep) = made(IMAGE, DEEP), maps(IMAGE, DEEP)
    randomize(block)
    _, mask = block(image, deep)
    torch.testing.assert_close(mask, resize(block.mask[0](deep).sigmoid(), (10, 7)))


def test_of_two_feature_maps_the_finer_ones_grid_counts():
    block, (image, deep, fine) = made(IMAGE, DEEP, FINE), maps(IMAGE, DEEP, FINE)
    randomize(block)
    _, mask = block(image, deep, fine)
    logits = resize(block.mask[0](deep), fine.shape[2:]) + block.mask[1](fine)
    torch.testing.assert_close(mask, resize(logits.sigmoid(), (10, 7)))


def test_what_is_fused_is_what_the_published_mask_says():
    block, (image, deep) = made(IMAGE, DEEP, mask="per_channel"), maps(IMAGE, DEEP)
    randomize(block)
    fused, mask = block(image, deep)
    torch.testing.assert_close(fused[:, :2], 2 * (1 - mask[:, :2]) * image)
    torch.testing.assert_close(fused[:, 2:], 2 * mask[:, 2:] * resize(deep, (10, 7)))


def test_the_mask_learns_from_what_is_fused():
    block = made(IMAGE, DEEP)
    block(*maps(IMAGE, DEEP))[0].square().mean().backward()
    assert block.mask[0].weight.grad.abs().min() > 0


def test_the_image_is_the_finest_map_where_none_has_that_name():
    inputs = [DEEP, FINE]
    block = ConditionalConcat(inputs=("deep", "fine"), channels=5)
    assert block.plan(inputs) == FeatureInfo("conditional_concat", 3 + 5, FINE.stride)


def test_the_image_is_the_one_of_that_name_though_another_be_as_fine():
    inputs = [FeatureInfo("stem", 8, (1, 1)), IMAGE]
    stem, image = torch.zeros(1, 8, 4, 4), torch.ones(1, 2, 4, 4)
    fused, _ = made(*inputs)(stem, image)
    assert torch.equal(fused[:, :2], image)


def test_a_mask_per_channel_has_the_channels_of_the_result():
    (side,) = ConditionalConcat(inputs=("image", "deep"), mask="per_channel").side_outputs([IMAGE, DEEP])
    assert side == FeatureInfo("mask", 2 + 4, (1, 1))


def test_the_image_alone_is_refused():
    with pytest.raises(ShapeError, match="at least one feature map; add what is missing"):
        ConditionalConcat(inputs=("image",)).plan([IMAGE])


def test_an_auxiliary_head_can_sit_on_the_mask():
    settings = ModelSettings.model_validate(
        {
            "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3}},
            "fusion": {"fused": {"use": "conditional_concat", "inputs": ["image", "encoder.*"]}},
            "head": {"input": "fused"},
            "aux": {"heads": ["fused.mask"], "schedule": "constant"},
        }
    )
    plan = plan_graph(settings, ImageInfo(1, (32, 24), (1.0, 1.0)), 3)
    assert verify(plan).sizes["fused.mask"] == (32, 24)
