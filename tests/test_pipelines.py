"""The pipelines that come with medfuse, and the page that points to them."""

import re
from pathlib import Path

import pytest

from medfuse import registry
from medfuse.api import ActivationLoss, AuxSchedule, Backbone, FusionBlock, ImageInfo, TapStrategy
from medfuse.model.segmenter import build_segmenter
from medfuse.model.weights import save_weights
from medfuse.pipeline import load_pipeline, plan_network
from medfuse.verbs.check import check_pipeline

ROOT = Path(__file__).parents[1]
PIPELINES = sorted(path.name for path in (ROOT / "pipelines").glob("*.yaml"))
TECHNIQUES = (ROOT / "docs" / "techniques.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def liver_weights(tmp_path_factory) -> Path:
    """Weights such as `medfuse run pipelines/liver.yaml` leaves."""
    pipeline, _ = load_pipeline(ROOT / "pipelines" / "liver.yaml")
    model = build_segmenter(plan_network(pipeline, ImageInfo(1, (64, 64, 32), (4.0, 4.0, 5.0)), 3))
    path = tmp_path_factory.mktemp("liver") / "weights_last.safetensors"
    save_weights(path, model, {})
    return path


@pytest.mark.parametrize("name", PIPELINES)
def test_it_passes_its_own_check(name, liver_weights, request):
    overrides = []
    if name == "hippocampus.yaml":
        overrides += [f"data.root={request.getfixturevalue('real_data') / 'hippocampus'}"]
    pipeline, _ = load_pipeline(ROOT / "pipelines" / name)
    overrides += [f"model.transfer.{part}.weights={liver_weights}" for part in pipeline.model.transfer]
    said = check_pipeline(ROOT / "pipelines" / name, overrides)
    assert "every declared shape agrees with the real one" in said
    assert "too few to tell labels apart" not in said


@pytest.mark.parametrize("name", PIPELINES)
def test_its_first_line_says_what_it_is_and_then_how_to_run_it(name):
    text = (ROOT / "pipelines" / name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"medfuse run pipelines/{name}" in text


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (contract.group, entry.name)
        for contract in (Backbone, TapStrategy, FusionBlock, AuxSchedule, ActivationLoss)
        for entry in registry.entries(contract.group)
        if entry.package == "medfuse"
    ],
)
def test_every_technique_has_its_row(group, name):
    assert re.search(rf"use: {name}\b", TECHNIQUES)


def test_every_pipeline_that_a_row_names_is_there():
    named = re.findall(r"\(\.\./pipelines/([\w.]+)\)", TECHNIQUES)
    assert set(named) <= set(PIPELINES)
    assert set(PIPELINES) <= set(named)
