"""What a run says of its data before it trains."""

import io
import shutil

import pytest
from phantoms import write_dataset, write_pipeline

from medfuse.api import ImageInfo
from medfuse.core.reporter import Reporter
from medfuse.model.graph import plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import load_pipeline
from medfuse.runs.doubts import narrow_doubts
from medfuse.runs.run import open_run, read_dataset
from medfuse.runs.stages import prepare
from medfuse.train.together import Together


def said(file) -> list[str]:
    """The warnings of a run until it trains."""
    pipeline, _ = load_pipeline(file)
    runs, stream = file.parent / "runs", io.StringIO()
    with open_run(
        pipeline, read_dataset(pipeline), runs, runs / "cubes", Reporter(stream), Together()
    ) as run:
        prepare(run)
    return [line for line in stream.getvalue().splitlines() if line.startswith("warning: ")]


def test_what_is_suspicious_is_said_before_training_and_once(tmp_path):
    data = write_dataset(tmp_path / "cubes")
    file = write_pipeline(tmp_path / "cubes.yaml", data)
    shutil.copy(data / "imagesTr" / "cube_00.nii.gz", data / "imagesTr" / "cube_03.nii.gz")
    lines = said(file)
    (few,) = (line for line in lines if "4 labelled cases" in line)
    assert "Dice of 1 held-out case is" in few
    (copies,) = (line for line in lines if "byte for byte: cube_00 = cube_03" in line)
    assert "some of them train and their copies judge" in copies
    assert len(lines) == len({*lines})


def narrow(fusion: dict, *, classes: int = 2, channels: int = 1) -> list[str]:
    settings = {
        "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4}},
        "fusion": fusion,
        "head": {"input": [*fusion][-1]},
    }
    image = ImageInfo(channels, (32, 32), (1.0, 1.0))
    return [*narrow_doubts(plan_graph(ModelSettings.model_validate(settings), image, classes))]


def decoded(decoder: str = "unet_decoder", inputs=("image", "encoder.stages.1"), **more) -> dict:
    return {"decoded": {"use": decoder, "inputs": [*inputs], **more}}


@pytest.mark.parametrize("decoder", ["unet_decoder", "unet_plus_plus"])
def test_a_decoder_that_ends_in_the_channels_of_the_image_is_doubted(decoder):
    (line,) = narrow(decoded(decoder))
    assert line == (
        "warning: model.fusion.decoded makes 1 channel of maps of up to 8, too few to tell labels apart; "
        "give it more, such as channels: 16"
    )
    assert narrow(decoded(decoder, channels=16)) == []
    assert narrow(decoded(decoder, inputs=["encoder.*"])) == []


@pytest.mark.parametrize(
    ("classes", "channels", "is_doubted"),
    [
        (1, 1, True),
        (1, 2, False),
        (2, 2, False),
        (4, 3, True),
        (4, 4, False),
        (117, 7, True),
        (117, 8, False),
    ],
)
def test_channels_are_too_few_by_the_number_of_classes(classes, channels, is_doubted):
    """Of which one is a region and what is outside; and a network of 8 channels may tell a hundred apart."""
    assert bool(narrow(decoded(), classes=classes, channels=channels)) is is_doubted


def test_a_narrow_node_on_the_way_is_doubted_and_a_gate_is_not():
    gate = {"use": "attention", "kind": "gate", "inputs": ["encoder.stages.1", "image"]}
    wide = {"use": "concat", "inputs": ["encoder.stages.0"], "channels": 1}
    last = {"use": "concat", "inputs": ["gate", "one", "encoder.stages.1"], "channels": 8}
    (line,) = narrow({"gate": gate, "one": wide, "last": last})
    assert "model.fusion.one makes 1 channel" in line
