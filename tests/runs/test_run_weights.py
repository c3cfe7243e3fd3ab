"""What is said of weights that backbones bring along, and how images are scaled for them."""

import json

import hubbed
import pytest
import yaml
from phantoms import describe, write_dataset

from medfuse.core.errors import PipelineError
from medfuse.core.reporter import Reporter
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import run_pipeline
from medfuse.verbs.taps import taps_table


@pytest.fixture
def home(tmp_path):
    with hubbed.installed(tmp_path / "site"):
        write_dataset(tmp_path / "cubes")
        yield tmp_path


def pipeline(home, *wanted, ct=False, **values):
    """A file whose backbones `a`, `b`, … want images scaled so; `wanted` is a tuple for each."""
    if ct:
        describe(home / "cubes", [f"cube_{i:02d}" for i in range(4)])
        listing = json.loads((home / "cubes" / "dataset.json").read_text())
        (home / "cubes" / "dataset.json").write_text(json.dumps({**listing, "modality": {"0": "CT"}}))
    backbones = {}
    for name, ways in zip("abc", wanted):
        inputs = 3 if ways[:1] == ("windows",) and "normalize" not in values and ct else 1
        hubbed.write_hub(home / name, channels=values.pop("channels", inputs))
        backbones[name] = {"use": "hubbed", "folder": str(home / name), "normalize": list(ways)}
    said = {
        "name": "cubes",
        "data": {"use": "decathlon", "root": str(home / "cubes")},
        "preprocess": values,
        "sample": {"patch_size": [16, 16, 16], "batch_size": 2, "workers": 0},
        "model": {
            "backbones": backbones,
            "fusion": {"all": {"use": "concat", "inputs": [f"{n}.norm" for n in backbones], "channels": 2}},
            "head": {"input": "all"},
        },
        "train": {"steps": 1, "steps_per_epoch": 1, "precision": "fp32"},
    }
    path = home / "p.yaml"
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    return path


def refusal(path) -> str:
    with pytest.raises(PipelineError) as caught:
        check_pipeline(path)
    (line,) = caught.value.lines
    return line


def test_check_names_source_and_licence(home):
    assert "\na starts from a@1 (cc-by-nc-4.0)\n" in check_pipeline(pipeline(home, ("unit",)))


@pytest.mark.parametrize("said", ["zscore", "none", {"window": [0, 1]}])
def test_a_scaling_that_contradicts_the_weights_is_refused_at_its_key(home, said):
    path = pipeline(home, ("unit", "symmetric"), normalize=said)
    line = refusal(path)
    row = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "normalize" in text)
    assert line.startswith(f"{path}:{row}:")
    assert (
        "preprocess.normalize: the weights of a, a@1, were trained on images scaled by unit or symm" in line
    )
    assert line.endswith("write `normalize: unit`, or leave it to auto")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("unit",), "unit"),
        (("symmetric", "unit"), "unit"),
        ((), "zscore"),
        (("window",), {"window": [0, 80]}),
        (("{window: [-175, 250]}",), {"window": [-175, 250]}),
    ],
)
def test_a_scaling_that_the_weights_take_is_as_good_as_another(home, wanted, said):
    check_pipeline(pipeline(home, wanted, normalize=said))


def test_another_window_than_the_one_that_the_weights_are_for_is_refused(home):
    line = refusal(pipeline(home, ("{window: [-175, 250]}",), normalize={"window": [0, 80]}))
    assert "not by {window: [0, 80]}; write `normalize: {window: [-175, 250]}`" in line


def test_two_backbones_that_disagree_are_told_so(home):
    path = pipeline(home, ("unit",), ("symmetric",))
    line = refusal(path)
    assert "model.backbones.b: the weights of b, b@1, were trained on images scaled by symmetric" in line
    assert "`auto` is unit, as the weights of a, a@1, were trained" in line
    assert "p.yaml:" in line


@pytest.mark.parametrize(
    ("ct", "wanted", "kind"),
    [
        (False, ("unit",), "unit"),
        (True, ("unit",), "window"),
        (True, ("windows", "unit"), "windows"),
        (False, ("windows", "unit"), "unit"),
        (True, (), "ct"),
    ],
)
def test_auto_is_what_the_weights_want_of_such_images(home, ct, wanted, kind):
    path = pipeline(home, wanted, ct=ct)
    inputs = 3 if kind == "windows" else 1
    assert f"{inputs}" in taps_table(path)
    run_pipeline(path, runs=home / "runs", reporter=Reporter(quiet=True))
    data = json.loads((home / "runs" / "cubes" / "plan.json").read_text())["data"]
    assert data["normalization"][0]["kind"] == kind
    reason = data["reasons"][f"normalize.{'CT' if ct else 'MRI'}"]
    assert ("as the weights of a, a@1, were trained" in reason) == bool(wanted)


def test_source_and_licence_stand_in_folder_and_report(home):
    run_pipeline(pipeline(home, ("unit",)), runs=home / "runs", reporter=Reporter(quiet=True))
    page = (home / "runs" / "cubes" / "report.html").read_text()
    said = json.loads((home / "runs" / "cubes" / "transfer.json").read_text())["a"]["brought"]
    assert f"a: a@1 (cc-by-nc-4.0), SHA-256 {said['sha256']}" in page


def test_a_scaling_that_there_is_not_is_blamed_on_the_backbone(home):
    line = refusal(pipeline(home, ("imagenet",)))
    assert (
        "backbone 'hubbed' (hubbed-package 2.0) says that its weights are for `normalize: imagenet`" in line
    )


def test_the_page_of_a_plugin_says_that_it_brings_weights(home, medfuse):
    assert "It may bring weights along" in medfuse("plugins", "show", "hubbed").out
    assert "bring" not in medfuse("plugins", "show", "resnet").out
