"""Declarations held against the truth."""

import subprocess
import sys

import pytest
from torch import nn

from medfuse.api import Backbone, FeatureInfo, FusionBlock, ImageInfo
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))


class Declares(Backbone):
    """Two strided convolutions, and whatever is declared of the second."""

    channels: int = 6
    stride: tuple[int, ...] = (4, 4)
    wanted: int = 16

    def features(self, image):
        return [FeatureInfo("0", 4, (2, 2)), FeatureInfo("1", self.channels, self.stride)]

    def build(self, image):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.Unflatten(2, (self.wanted // 4, 1)),
        )


class Heavy(Declares):
    """More weights than a machine has memory for, in a layer that does not fit."""

    def build(self, image):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(400_000, 400_000, 3))


class Doubles(FusionBlock):
    """Says that it doubles the channels."""

    def plan(self, inputs):
        return FeatureInfo("doubled", 2 * inputs[0].channels, inputs[0].stride)

    def build(self, inputs):
        return nn.Identity()


def graph(backbone=None, fusion=None, head="encoder.1", image=IMAGE):
    settings = {
        "backbones": {"encoder": backbone or Declares()},
        "fusion": fusion or {},
        "head": {"input": head},
    }
    return plan_graph(ModelSettings.model_validate(settings), image, 2)


def message(*args, **kwargs) -> str:
    with pytest.raises(PipelineError) as caught:
        verify(graph(*args, **kwargs))
    return str(caught.value)


def test_every_parameter_is_counted():
    plan = graph()
    assert verify(plan).parameters == sum(p.numel() for p in build_segmenter(plan).parameters())


def test_real_sizes_are_reported():
    assert verify(graph()).sizes == {"encoder.1": (4, 4)}


def test_wrong_channels_are_blamed_on_the_backbone():
    assert "backbone 'Declares' declares 7 channels for encoder.1 but makes 6" in message(
        Declares(channels=7)
    )


def test_a_wrong_stride_is_blamed_on_the_backbone():
    assert "declares stride 2×2 for encoder.1, 8×8 of 16×16 voxels, but makes 4×4" in message(
        Declares(stride=(2, 2))
    )


def test_wrong_channels_are_blamed_on_the_block():
    text = message(fusion={"doubled": Doubles(inputs=("encoder.1",))}, head="doubled")
    assert text.startswith(
        "model.fusion.doubled: fusion block 'Doubles' declares 12 channels for doubled but makes 6"
    )


class Misread(Backbone):
    """Channels last, declared as if they came first: 4 at 4×4 voxels, so that one size tells nothing."""

    known: bool = False

    def features(self, image):
        return [FeatureInfo("1", 4, (4, 4), channels_last=self.known)]

    def build(self, image):
        return Last()


class Last(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 4, stride=4), nn.LayerNorm(4))

    def forward(self, x):
        return self[1](self[0](x).movedim(1, -1))


def test_channels_that_are_declared_in_the_wrong_place_are_found_at_another_size():
    text = message(Misread())
    assert "backbone 'Misread' declares 4 channels for encoder.1 but makes" in text
    assert "channels_last=True" in text
    assert verify(graph(Misread(known=True))).sizes == {"encoder.1": (4, 4)}


def test_a_network_that_cannot_run_is_blamed():
    text = message(Declares(wanted=20))
    assert text.startswith("model.taps.encoder: fails on a batch of 2×1×16×16: RuntimeError")


def test_a_heavy_network_that_cannot_run_is_blamed_without_being_made():
    text = message(Heavy())
    assert text.startswith("model.taps.encoder: fails on a batch of 2×1×16×16: ")
    assert "a convolution of 400000 channels is given 4" in text


def test_too_deep_a_network_for_the_patch_is_told_with_the_size():
    backbone = {"use": "unet_encoder", "base_channels": 2, "strides": [1, 4, 4]}
    text = message(backbone, head="encoder.stages.2")
    assert "fails on a batch of 2×1×16×16: ValueError: Expected more than 1 spatial element" in text


def test_a_resnet_fused_with_the_image_agrees():
    backbone = {"use": "resnet", "depth": 10}
    fusion = {
        "context": {"use": "concat", "inputs": ["encoder.layer4"], "channels": 8},
        "decoded": {
            "use": "unet_decoder",
            "inputs": ["context", "encoder.layer2", "encoder.layer1"],
            "convs": 1,
        },
        "fused": {"use": "input_concat", "inputs": ["decoded", "image"], "upsample": "transposed"},
    }
    assert verify(graph(backbone, fusion, "fused", ImageInfo(1, (64, 64), (1.0, 1.0)))).sizes["fused"] == (
        64,
        64,
    )


def test_odd_patches_agree_too():
    backbone = {"use": "unet_encoder", "base_channels": 2}
    fusion = {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}}
    assert verify(graph(backbone, fusion, "decoded", ImageInfo(1, (33, 17, 9), (1.0, 1.0, 2.5)))).parameters


@pytest.mark.parametrize("strategy", ["forward_hook", "sequential_truncation", "fx_graph"])
@pytest.mark.parametrize(
    "network", [{"use": "unet_encoder", "base_channels": 2}, {"use": "resnet", "depth": 10}]
)
def test_plain_networks_are_verified_without_real_weights(network, strategy, monkeypatch):
    built = []

    def on(plan):
        built.append(model := build_segmenter(plan))
        return model

    monkeypatch.setattr("medfuse.model.verify.build_segmenter", on)
    settings = {
        "backbones": {"encoder": network},
        "taps": {"encoder": {"use": strategy}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    }
    verify(plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (64, 64), (1.0, 1.0)), 2))
    (model,) = built
    assert all(p.is_meta for p in model.parameters())


def test_verifying_a_graph_imports_neither_monai_nor_the_compiler():
    code = """if True:
        import sys
        from medfuse.api import ImageInfo
        from medfuse.model.graph import plan_graph
        from medfuse.model.settings import ModelSettings
        from medfuse.model.verify import verify
        fusion = {
            "d": {"use": "unet_decoder", "inputs": ["e.*"]},
            "s": {"use": "spp", "inputs": ["e.stages.1"], "bins": [1, 2]},
            "g": {"use": "attention", "kind": "gate", "inputs": ["d", "s"]},
            "p": {"use": "fpn", "inputs": ["e.*"], "channels": 8},
            "f": {"use": "mean", "inputs": ["g", "p"], "channels": 4},
            "c": {"use": "conditional_concat", "inputs": ["image", "f"]},
        }
        settings = {"backbones": {"e": "unet_encoder"}, "fusion": fusion, "head": {"input": "c"}}
        image = ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0))
        verify(plan_graph(ModelSettings.model_validate(settings), image, 2))
        assert not {"monai", "sympy", "torch._dynamo"} & {*sys.modules}
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_strategy_notes_and_what_is_not_tried_is_told(monkeypatch):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": "vits:ViT", "parameters": {"norm": False}}},
        "taps": {"encoder": {"use": "tokens", "layers": 3}},
        "head": {"input": "encoder.blocks.3"},
    }
    plan = plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (32, 48), (1.0, 1.0)), 2)
    (unnormed,) = verify(plan).notes
    assert unnormed.startswith("encoder: no norm stands behind its last block that fits blocks.3")
    monkeypatch.setattr("medfuse.model.verify.HEAVY", 0)
    untried, still = verify(plan).notes
    assert untried.startswith("encoder: not tried whether its tokens lie as the image does, as its weights")
    assert still == unnormed
