"""What `medfuse check` says of each kind of fault in the graph: where it is, what was wanted, what to do."""

from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).parents[1]
PIPELINE = f"""\
data: {{use: decathlon, root: {ROOT / "sample_data"}}}
preprocess: {{spacing_mm: [4, 4, 5]}}
sample: {{patch_size: [32, 32, 16], batch_size: 1}}
model:
  backbones:
    encoder: {{use: unet_encoder, base_channels: 4, stages: 3}}
    other: {{use: unet_encoder, base_channels: 6, stages: 3}}
  taps:
    encoder: {{use: forward_hook, layers: [stages.0, stages.1, stages.2]}}
  fusion:
    decoded: {{use: unet_decoder, inputs: [encoder.*]}}
    fused: {{use: concat, inputs: [decoded, other.stages.0]}}
  head: {{input: fused}}
  aux: {{heads: [decoded.1], schedule: {{use: constant, weight: 0.5}}}}
loss: dice_ce
train: {{steps: 1}}
"""


class Idle(nn.Module):
    """Has a layer that its forward pass never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 1)

    def forward(self, x):
        return self.first(x)


IDLE = f"{{use: module, target: '{__name__}:Idle'}}"
FAULTS = {
    "an unknown layer": (
        "layers: [stages.0, stages.1, stages.2]",
        "layers: [stages.0, stages.1, stage.2]",
        "stage.2",
        ["no layer 'stage.2'", "did you mean 'stages.2'?", "`medfuse taps FILE` lists every layer"],
    ),
    "an unknown layer in an input": (
        "other.stages.0]",
        "other.stages.9]",
        "other.stages.9",
        ["no feature map 'other.stages.9'", "did you mean"],
    ),
    "an input that does not exist": (
        "[decoded, other.stages.0]",
        "[decodet, other.stages.0]",
        "decodet",
        ["no feature map is named 'decodet'", "did you mean 'decoded'?"],
    ),
    "a circle": (
        "inputs: [decoded, other.stages.0]",
        "inputs: [decoded, other.stages.0, fused]",
        "fused]",
        ["the nodes need each other in a circle: fused → fused", "take one input out"],
    ),
    "a node that nobody uses": (
        "  head: {input: fused}",
        "    idle: {use: concat, inputs: [decoded, image]}\n  head: {input: fused}",
        "idle: {",
        ["no head uses this node", "remove it"],
    ),
    "a backbone that nobody uses": (
        "[decoded, other.stages.0]",
        "[decoded, image]",
        "other: {",
        ["nothing uses this backbone", "remove it"],
    ),
    "a tap that never fires": (
        "other: {use: unet_encoder, base_channels: 6, stages: 3}\n  taps:",
        f"other: {IDLE}\n  taps:\n    other: {{use: forward_hook, layers: [idle]}}",
        "idle]}",
        ["layer 'idle' of backbone 'other' never runs", "it has: first"],
        ("other.stages.0]", "other.idle]"),
    ),
    "a schedule that is negative": (
        "weight: 0.5",
        "weight: -0.5",
        "-0.5",
        ["greater than or equal to 0", "got -0.5"],
    ),
    "a schedule that is not finite": ("weight: 0.5", "weight: .inf", ".inf", ["finite", "got inf"]),
    "channels that do not go together": (
        "fused: {use: concat,",
        "fused: {use: add,",
        "fused: {",
        ["needs maps of equal channels", "other.stages.0 has 6", "write `channels: N`"],
    ),
    "strides that do not go together": (
        "[encoder.*]",
        "[encoder.stages.1, other.stages.1]",
        "decoded: {",
        ["unet_decoder cannot go from other.stages.1 (stride 3×3×3)", "must be a multiple"],
        ("base_channels: 6, stages: 3}", "base_channels: 6, strides: [1, 3]}"),
    ),
    "a strategy that does not fit the network": (
        "other: {use: unet_encoder, base_channels: 6, stages: 3}\n  taps:",
        "other: {use: resnet, depth: 10}\n  taps:\n    other: "
        "{use: sequential_truncation, layers: [layer1.0.conv2]}",
        "other: {use: seq",
        ["is not a chain of its layers", "tap it with forward_hook instead"],
        ("other.stages.0]", "other.layer1.0.conv2]"),
    ),
    "a head that does not exist": (
        "head: {input: fused}",
        "head: {input: fusd}",
        "fusd",
        ["no feature map is named 'fusd'", "did you mean 'fused'?"],
    ),
    "an auxiliary head on nothing": (
        "heads: [decoded.1]",
        "heads: [decoded.7]",
        "decoded.7",
        ["no feature map 'decoded.7'", "did you mean 'decoded.1'?"],
    ),
    "an unknown grid": (
        "inputs: [decoded, other.stages.0]",
        "inputs: [decoded, other.stages.0], resample_to: decodet",
        "decodet",
        ["'decodet' is not an input of this node", "did you mean 'decoded'?"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_at_its_place_with_a_remedy(fault, medfuse, tmp_path):
    before, after, place, words, *more = FAULTS[fault]
    text = PIPELINE
    for old, new in ((before, after), *more):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = tmp_path / "faulty.yaml"
    file.write_text(text)
    said = medfuse("check", file)
    assert said.code == 2, said.out
    start = text.index(after) + after.index(place) if place in after else text.index(place)
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    assert f"faulty.yaml:{line}:{column}: " in said.err, said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def test_the_file_has_no_fault_otherwise(medfuse, tmp_path):
    file = tmp_path / "sound.yaml"
    file.write_text(PIPELINE)
    assert medfuse("check", file).code == 0


def test_several_faults_are_told_at_once(medfuse, tmp_path):
    file = tmp_path / "faulty.yaml"
    file.write_text(PIPELINE.replace("stages.2]", "stage.2]").replace("[decoded.1]", "[decoded.7]"))
    lines = medfuse("check", file).err.strip().splitlines()
    assert len(lines) == 2
