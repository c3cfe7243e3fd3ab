"""A pipeline file: every mistake as one line with its place and a remedy, all at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medfuse import PipelineError
from medfuse.core.document import Document
from medfuse.pipeline import Pipeline, load_pipeline, parse_pipeline, resolved

GOOD = """\
data: {use: decathlon, root: liver}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*]}
  head: {input: decoded}
  aux:
    heads: [decoded.*]
    schedule: {use: constant, weight: 0.5, ratio: 0.5}
train: {epochs: 3}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "liver.yaml"
    path.write_text(GOOD)
    return path


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load_pipeline(path)
    return [line.removeprefix(str(path)) for line in caught.value.lines]


def test_a_datasets_folder_is_told_without_detours(file):
    file.write_text(GOOD.replace("root: liver", "root: ../data/liver"))
    assert load_pipeline(file)[0].data.root == file.parent.parent / "data" / "liver"


def test_a_good_file_is_typed(file):
    pipeline, _ = load_pipeline(file)
    assert pipeline.name == "liver"
    assert pipeline.train.epochs == 3
    assert pipeline.data.root == file.parent / "liver"
    assert pipeline.model.aux.schedule.weight == 0.5


def test_a_plugin_that_needs_no_parameter_is_just_its_name(file):
    assert load_pipeline(file, ["loss=dice_ce"])[0] == load_pipeline(file)[0]


def test_what_is_resolved_reads_back_as_the_same_pipeline(file):
    pipeline, _ = load_pipeline(file, ["train.learning_rate=1e-3"])
    text = json.dumps(resolved(pipeline))
    again = parse_pipeline(Document.parse(text, source="resolved.yaml", base=Path("/elsewhere")))
    assert again == pipeline


def test_every_problem_is_reported_at_once_in_order(file):
    text = (
        GOOD.replace("unet_decoder", "unet_decodr")
        .replace("epochs: 3", "epocs: 3")
        .replace("0.5, ratio", "-1, ratio")
    )
    lines = problems(file, text)
    assert [line.split(": ")[0] for line in lines] == [":6:20", ":10:39", ":11:9"]
    assert (
        "model.fusion.decoded.use: no fusion block named 'unet_decodr'; did you mean 'unet_decoder'?"
        in lines[0]
    )
    assert "model.aux.schedule.weight: input should be greater than or equal to 0; got -1" in lines[1]
    assert "train.epocs: unknown key; did you mean 'epochs'?" in lines[2]


def test_an_unknown_key_of_a_plugin_names_its_neighbours(file):
    (line,) = problems(file, GOOD.replace("base_channels", "base_chanels"))
    assert ":4:34: model.backbones.encoder.base_chanels: unknown key; did you mean 'base_channels'?" in line


def test_a_missing_key_says_what_it_means(file):
    (line,) = problems(file, GOOD.replace("  head: {input: decoded}\n", ""))
    assert line == ":2:1: model.head: required key is missing; add `head:`: the main output"


def test_a_plugin_without_use_lists_the_choices(file):
    (line,) = problems(file, GOOD.replace("use: unet_encoder, ", ""))
    assert "name a backbone with `use:`, one of densenet, dino3d, " in line
    assert "resnet, " in line


def test_a_problem_of_an_override_is_placed_at_the_override(file):
    with pytest.raises(PipelineError, match=r"^--set train\.optimizer: input should be 'sgd' or"):
        load_pipeline(file, ["train.optimizer=rmsprop"])


def test_the_budget_is_given_once(file):
    (line,) = problems(file, GOOD.replace("epochs: 3", "epochs: 3, steps: 5"))
    assert line.startswith(":11:17: train.epochs: give the budget once: one of epochs, steps or minutes")


def test_the_schema_knows_every_plugin():
    schema = json.dumps(Pipeline.model_json_schema())
    for name in ("unet_encoder", "forward_hook", "input_concat", "linear_decay", "dice_ce", "decathlon"):
        assert f'"const": "{name}"' in schema


def test_reading_a_pipeline_file_imports_no_torch(file):
    code = f"import sys; from medfuse.pipeline import load_pipeline; from pathlib import Path; \
load_pipeline(Path({str(file)!r})); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            "{epochs: 3, parts: {my-part: {rat: 1}}}",
            ":11:38: train.parts.my-part.rat: unknown key; did you mean 'rate'",
        ),
        (
            "{epochs: 3, parts: {my-part: {rate: x}}}",
            ":11:44: train.parts.my-part.rate: input should be a valid number",
        ),
        ("{epochs: 3, clip: .inf}", ":11:26: train.clip: input should be a finite number; got inf"),
        ("{epochs: 3, learning_rate: .nan}", ":11:35: train.learning_rate: input should be"),
    ],
)
def test_values_below_names_of_ones_own_are_placed(file, train, said):
    assert any(line.startswith(said) for line in problems(file, GOOD.replace("{epochs: 3}", train)))


@pytest.mark.parametrize(
    ("root", "said"),
    [("~no-such-user/x", "no home folder"), ("a" * 300, "too long"), ("a/" * 4000, "too long")],
)
def test_paths_that_no_system_takes_are_placed(file, root, said):
    (line,) = problems(file, GOOD.replace("root: liver", f"root: {root}"))
    assert line.startswith(":1:30: data.root: ")
    assert said in line


def test_an_override_is_named_once(file):
    with pytest.raises(PipelineError) as said:
        load_pipeline(file, ["train.epochs=0"])
    assert str(said.value).count("train.epochs") == 1


def test_what_may_be_of_two_kinds_is_one_problem(file):
    with pytest.raises(PipelineError) as said:
        load_pipeline(file, ["sample.patch_size=64"])
    (line,) = said.value.lines
    assert "'auto', or a list, such as [1, 2]; got 64" in line
