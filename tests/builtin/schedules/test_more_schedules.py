"""Cosine, steps, weights by depth, warm-up: the laws of each, and a schedule within a schedule in a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from medfuse import PipelineError, registry
from medfuse.api import AuxSchedule
from medfuse.core.document import Document
from medfuse.pipeline import load_pipeline, parse_pipeline, resolved
from medfuse.testing import check_aux_schedule

STEPS = 101  # so that step n is n hundredths of the training

PIPELINE = """\
data: {use: decathlon, root: liver}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4}
  head: {input: encoder.stages.0}
  aux:
    heads: [encoder.stages.1]
    schedule:
      use: warmup
      over: 0.2
      then: {use: cosine, start: 0.4}
train: {epochs: 3}
"""


def schedule(name: str, **parameters) -> AuxSchedule:
    return registry.get(AuxSchedule.group, name)(**parameters)


def curve(name: str, **parameters) -> list[float]:
    """The first head's weight at every hundredth of the training."""
    made = schedule(name, **parameters)
    return [made.weights(step, STEPS, 1)[0] for step in range(STEPS)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cosine", {}),
        ("cosine", {"start": 0.0, "end": 1e9, "until": 0.01}),
        ("step", {}),
        ("step", {"values": [1.0, 0.0, 0.3], "at": [0.2, 0.21]}),
        ("step", {"values": [0.3], "at": []}),
        ("exponential_by_depth", {}),
        ("exponential_by_depth", {"ratio": 3, "normalize": True}),
        ("warmup", {"then": "cosine"}),
        ("warmup", {"then": {"use": "warmup", "then": {"use": "constant", "ratio": 0.5}}, "over": 1.0}),
    ],
)
def test_the_contract_is_kept(name, parameters):
    check_aux_schedule(schedule(name, **parameters))


# ---- cosine


def test_a_cosine_goes_from_start_to_end_through_their_mean():
    weights = curve("cosine", start=0.8, end=0.2, until=0.5)
    assert (weights[0], weights[50], weights[100]) == (0.8, 0.2, 0.2)
    assert weights[25] == pytest.approx(0.5)


def test_a_cosine_never_rises_on_its_way_down():
    weights = curve("cosine", start=0.8, end=0.2)
    assert weights == sorted(weights, reverse=True)


def test_a_cosine_is_a_mirror_image_of_itself_upside_down():
    weights = curve("cosine", start=1.0, end=0.0)
    assert [a + b for a, b in zip(weights, reversed(weights))] == pytest.approx([1.0] * STEPS)


# ---- step


def test_steps_hold_until_the_next_moment_is_reached():
    weights = curve("step", values=[0.5, 0.2, 0.0], at=[0.4, 0.8])
    assert weights == [0.5] * 40 + [0.2] * 40 + [0.0] * 21


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"values": [0.5, 0.1], "at": [0.2, 0.4]}, "2 values and 2 moments; give one value more"),
        ({"values": [0.5, 0.2, 0.1], "at": [0.4, 0.2]}, r"the moments \[0.4, 0.2\] do not ascend"),
        ({"values": [0.5, -0.2], "at": [0.4]}, "greater than or equal to 0"),
        ({"values": [0.5, 0.2], "at": [1.0]}, "less than 1"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        schedule("step", **parameters)


# ---- by depth


def test_weights_by_depth_are_one_a_half_a_quarter():
    assert schedule("exponential_by_depth").weights(7, STEPS, 4) == [1, 0.5, 0.25, 0.125]


def test_weights_by_depth_are_those_of_constant_with_the_same_numbers():
    ours, theirs = (schedule(n, weight=0.7, ratio=0.3) for n in ("exponential_by_depth", "constant"))
    assert ours.weights(0, STEPS, 5) == theirs.weights(0, STEPS, 5)


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("ratio", [0.5, 1, 2])
def test_normalized_weights_add_up_to_weight(heads, ratio):
    made = schedule("exponential_by_depth", weight=0.6, ratio=ratio, normalize=True)
    assert sum(made.weights(0, STEPS, heads)) == pytest.approx(0.6)


# ---- warm-up


def test_a_warmup_rises_along_a_line_and_then_is_the_schedule_itself():
    then = {"use": "cosine", "start": 0.4, "end": 0.1}
    weights, itself = curve("warmup", over=0.2, then=then), curve("cosine", start=0.4, end=0.1)
    assert weights[:20] == pytest.approx([i / 20 * w for i, w in enumerate(itself[:20])])
    assert weights[20:] == itself[20:]


def test_a_warmup_keeps_the_proportions_of_the_heads():
    made = schedule("warmup", over=0.5, then={"use": "constant", "weight": 0.8, "ratio": 0.5})
    assert made.weights(25, STEPS, 3) == pytest.approx([0.4, 0.2, 0.1])


def test_learned_weights_are_not_warmed_up():
    with pytest.raises(ValidationError, match="`then` learns its weights, so they cannot be warmed up"):
        schedule("warmup", then="uncertainty")


# ---- in a file


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "p.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load_pipeline(path)
    return [line.removeprefix(str(path)) for line in caught.value.lines]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("start: -1", ":11:34: model.aux.schedule.then.start: input should be greater than or equal to 0"),
        ("strat: 1", ":11:27: model.aux.schedule.then.strat: unknown key; did you mean 'start'?"),
    ],
)
def test_a_mistake_in_the_inner_schedule_has_its_own_place(tmp_path, wrong, message):
    (line,) = problems(tmp_path, PIPELINE.replace("start: 0.4", wrong))
    assert line.startswith(message)


def test_an_unknown_inner_schedule_is_placed_at_its_name(tmp_path):
    (line,) = problems(tmp_path, PIPELINE.replace("use: cosine", "use: cosin"))
    assert line.startswith(":11:19: model.aux.schedule.then.use: no aux schedule named 'cosin'; did you mean")


def test_a_warmup_without_a_schedule_says_what_is_missing(tmp_path):
    (line,) = problems(tmp_path, PIPELINE.replace("      then: {use: cosine, start: 0.4}\n", ""))
    assert "model.aux.schedule.then: required key is missing; add `then:`: the schedule that is" in line


def test_a_schedule_within_a_schedule_is_resolved_to_every_value(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(PIPELINE)
    pipeline, _ = load_pipeline(path)
    values = resolved(pipeline)
    assert values["model"]["aux"]["schedule"]["then"] == {
        "use": "cosine",
        "start": 0.4,
        "end": 0.0,
        "until": 1.0,
    }
    again = parse_pipeline(Document.parse(json.dumps(values), source="resolved.yaml", base=Path("/")))
    assert again == pipeline


def test_the_schema_of_a_schedule_that_holds_another_comes_to_an_end():
    schema = TypeAdapter(registry.AuxScheduleField).json_schema()
    (warmup,) = (o for o in schema["anyOf"] if "then" in o.get("properties", {}))
    assert "cosine" in json.dumps(warmup["properties"]["then"])


def test_a_warmup_of_another_schedule_imports_no_torch():
    code = (
        "import sys; from medfuse import registry;"
        "registry.get('medfuse.aux_schedules', 'warmup')(then='cosine'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
