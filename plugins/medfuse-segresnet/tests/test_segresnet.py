"""MONAI's encoder is what the plugin declares."""

import pytest
import torch
from medfuse_segresnet import SegResNet
from pydantic import ValidationError

from medfuse import ImageInfo
from medfuse.testing import check_backbone

SLICES = ImageInfo(channels=1, patch_size=(16, 16), spacing_mm=(1.0, 1.0))
THICK = ImageInfo(channels=2, patch_size=(16, 16, 4), spacing_mm=(1.0, 1.0, 4.5))


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("image", [SLICES, THICK])
def test_the_contract_is_kept(image, norm):
    check_backbone(SegResNet(blocks=(1, 1, 2), base_channels=8, norm=norm), image)


def test_thick_slices_are_halved_later():
    strides = [f.stride for f in SegResNet(blocks=(1, 1, 1, 1)).features(THICK)]
    assert strides == [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 2)]


def test_isotropic_means_every_axis_at_each_level():
    strides = [f.stride for f in SegResNet(blocks=(1, 1), anisotropic=False).features(THICK)]
    assert strides == [(1, 1, 1), (2, 2, 2)]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 0.5, 0.9), (3.0, 1.0, 1.0)])
def test_axes_are_halved_as_monai_halves_them(spacing_mm):
    from monai.networks.nets.segresnet_ds import scales_for_resolution

    ours = SegResNet(blocks=(1,) * 5)._strides(ImageInfo(1, (32, 32, 32), spacing_mm))
    assert ours == [tuple(map(int, scale)) for scale in scales_for_resolution(spacing_mm, 5)]


def test_it_is_the_encoder_of_monais_segresnet_ds():
    from monai.networks.nets import SegResNetDS

    torch.manual_seed(0)
    ours = SegResNet(blocks=(1, 2), base_channels=8).build(THICK)
    whole = SegResNetDS(3, 8, 2, blocks_down=(1, 2), resolution=THICK.spacing_mm)
    whole.encoder.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 16, 16, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours(x), whole.encoder(x), strict=True))


def test_channels_that_do_not_part_into_groups_are_refused():
    with pytest.raises(ValidationError, match="give a multiple of 8"):
        SegResNet(base_channels=12, norm="group")
