"""`medfuse taps`: every layer of a pipeline's backbones, without opening an image."""

import pytest
from phantoms import write_dataset, write_pipeline


@pytest.fixture
def pipeline(tmp_path):
    return write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "cubes"))


def row(text: str, layer: str) -> list[str]:
    """The cells of a layer."""
    (line,) = [line for line in text.splitlines() if line.split(" ")[0] == layer]
    return line.split()


def test_every_layer_has_a_row_that_says_what_it_makes(medfuse, pipeline):
    said = medfuse("taps", pipeline)
    assert said.code == 0
    assert row(said.out, "stages.1")[1:5] == ["Sequential", "8", "8×8×8", "2×2×2"]
    assert row(said.out, "stages.0.0.conv")[1:6] == ["Conv3d", "4", "16×16×16", "1×1×1", "112"]


def test_tapped_layers_are_marked(medfuse, pipeline):
    inputs = "model.fusion.decoded.inputs=[encoder.stages.2, encoder.stages.1]"
    said = medfuse("taps", pipeline, "--set", inputs, "--set", "model.aux.heads=[encoder.stages.1]")
    assert [row(said.out, f"stages.{i}")[-1] == "tapped" for i in range(3)] == [False, True, True]
    assert said.out.startswith("encoder: unet_encoder on a patch of 16×16×16, 2 of ")


def test_shares_of_the_compute_add_up(medfuse, pipeline):
    said = medfuse("taps", pipeline)
    shares = [float(row(said.out, f"stages.{i}")[6].rstrip("%")) for i in range(3)]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_no_image_is_opened(medfuse, pipeline):
    for image in (pipeline.parent / "cubes" / "imagesTr").iterdir():
        image.write_bytes(b"not an image")
    assert medfuse("taps", pipeline).code == 0


def test_one_backbone_can_be_asked_for(medfuse, pipeline):
    text = pipeline.read_text()
    encoder = "    encoder: {use: unet_encoder, base_channels: 4, stages: 3}\n"
    pipeline.write_text(text.replace(encoder, encoder + encoder.replace("encoder:", "second:", 1)))
    overrides = ("--set", "model.fusion.decoded.inputs=[encoder.*, second.stages.0]")
    assert "encoder: unet_encoder" in medfuse("taps", pipeline, *overrides).out
    assert "encoder: unet_encoder" not in medfuse("taps", pipeline, "--backbone", "second", *overrides).out


def test_an_unknown_backbone_is_one_line_with_the_near_match(medfuse, pipeline):
    said = medfuse("taps", pipeline, "--backbone", "encodr")
    assert said.code == 2
    (line,) = said.err.strip().splitlines()
    assert "did you mean 'encoder'?" in line


def test_a_mistyped_layer_still_shows_which_there_are(medfuse, pipeline):
    said = medfuse("taps", pipeline, "--set", "model.taps.encoder={use: forward_hook, layers: [stages.7]}")
    assert said.code == 0
    assert row(said.out, "stages.2")[1] == "Sequential"
    assert "no layer 'stages.7'; did you mean 'stages." in said.out


WITHIN = {
    "slices": "{use: slices, of: {use: resnet, depth: 10}}",
    "view": "{use: view, of: {use: resnet, depth: 10}, channels: {a: [0], b: [0]}}",
    "both": "{use: slices, channels: each, of: {use: resnet, depth: 10}}",
}


@pytest.mark.parametrize("way", WITHIN)
def test_of_a_network_within_another_one_the_layers_that_can_be_named_are_listed(way, medfuse, tmp_path):
    file = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "cubes"))
    text = file.read_text()
    encoder = "{use: unet_encoder, base_channels: 4, stages: 3}"
    assert encoder in text
    file.write_text(text.replace(encoder, WITHIN[way]))
    said = medfuse("taps", file)
    assert said.code == 0
    assert "inner" not in said.out
    ends = ["a.layer1", "b.layer1"] if way == "view" else ["layer1"]
    for end in ends:
        cells = row(said.out, end)
        assert cells[1] == "Sequential"
        assert int(cells[5].replace(",", "")) > 10_000
        assert cells[-1] == "tapped"
    assert "layers inside see slices or parts of the image" in said.out
