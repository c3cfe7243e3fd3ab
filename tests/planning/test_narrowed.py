"""A narrower form of a pipeline: about the share that was asked for, by channels alone, or a refusal."""

from pathlib import Path

import pytest

from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError
from medfuse.core.features import ImageInfo
from medfuse.pipeline import parse_pipeline, plan_network, resolved
from medfuse.planning.narrowed import compute_of, narrowed

TEXT = """\
data: {{use: decathlon, root: x}}
model:
  backbones:
    encoder: {encoder}
  fusion:
    {node}
  head: {{input: node}}
train: {{steps: 1}}
"""
DECODER = "node: {use: unet_decoder, inputs: [encoder.*]}"


def document(encoder: str, node: str = DECODER) -> Document:
    return Document.parse(TEXT.format(encoder=encoder, node=node), source="x.yaml", base=Path())


def image(axes: int) -> ImageInfo:
    return ImageInfo(1, (32,) * axes, (1.0,) * axes)


FORMS = [
    ("{use: unet_encoder, base_channels: 16, stages: 4}", DECODER),
    ("{use: unet_encoder, channels: [16, 32, 64, 64], strides: [1, 2, 2, 2]}", DECODER),
    (
        "{use: unet_encoder, base_channels: 16, stages: 4}",
        "node: {use: fpn, inputs: [encoder.*], channels: 32}",
    ),
]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize(("encoder", "node"), FORMS)
def test_it_has_about_the_share_that_was_asked_for(encoder, node, share):
    source = document(encoder, node)
    made = narrowed(source, image(3), 2, share)
    whole, part = (
        compute_of(plan_network(one, image(3), 2)) for one in (parse_pipeline(source), made.pipeline)
    )
    assert made.share == pytest.approx(part / whole)
    assert 0.7 * share < made.share <= 1.05 * share


def test_only_numbers_of_channels_are_others():
    source = document(FORMS[0][0])
    before, after = resolved(parse_pipeline(source)), resolved(narrowed(source, image(2), 2, 0.25).pipeline)
    assert after["model"]["backbones"]["encoder"].pop("base_channels") == 8
    before["model"]["backbones"]["encoder"].pop("base_channels")
    assert before == after


def test_channels_of_the_image_are_no_width():
    around = "{use: view, of: {use: unet_encoder, base_channels: 16, stages: 3}, channels: [5, 7]}"
    made = narrowed(document(around), ImageInfo(8, (32,) * 3, (1.0,) * 3), 2, 0.25)
    encoder = resolved(made.pipeline)["model"]["backbones"]["encoder"]
    assert encoder["channels"] == [5, 7]
    assert encoder["of"]["base_channels"] < 16


def test_a_network_without_channels_to_set_is_refused():
    with pytest.raises(MedfuseError, match=r"x\.yaml: no form of this network with fewer channels.*--into"):
        narrowed(document("{use: resnet, depth: 10}"), image(3), 2, 0.25)
