"""The zip file for Slicer's MONAIAuto3DSeg: it makes the network as that extension does."""

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sharing.models import MODELS, PLAN, write_model

from medfuse.core.errors import MedfuseError
from medfuse.sharing.formats import write_model as share
from medfuse.sharing.slicer import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::FutureWarning:torch.*")


@pytest.fixture(scope="module", params=["ct", "windows", "many labels"])
def shared(request, tmp_path_factory):
    """Its weights file and its folder, unzipped."""
    around = tmp_path_factory.mktemp("slicer")
    weights = write_model(around / "small.safetensors", request.param)
    share(weights, around / "small.zip", kind="slicer", license="CC-BY-4.0")
    zipfile.ZipFile(around / "small.zip").extractall(around / "small")
    return weights, around / "small"


def test_its_network_answers_raw_intensities_as_the_run_does(shared):
    from medfuse.data.prepare import scale
    from medfuse.trained.loading import load_trained

    weights, folder = shared
    trained = load_trained([weights], device="cpu")
    raw = np.random.default_rng(0).normal(40, 120, trained.plan.patch_size).astype(np.float32)
    inputs = [(raw.copy(), one) for how in trained.plan.normalization for one in how.inputs]
    for voxels, how in inputs:
        scale(voxels, how)
    ours = torch.from_numpy(np.stack([voxels for voxels, _ in inputs]))[None]
    with torch.inference_mode():
        expected, found = (
            trained.segmenter()(ours),
            load(folder / "model.pt")(torch.from_numpy(raw)[None, None]),
        )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_its_checkpoint_is_read_without_running_what_is_in_it(shared):
    read = torch.load(shared[1] / "model.pt", weights_only=True)
    assert {*read} == {"config", "state_dict"}
    assert {"network", "normalize_mode", "intensity_bounds", "roi_size", "resample_resolution"} <= {
        *read["config"]
    }


def test_it_does_not_tell_where_it_was_made(shared):
    content = (shared[1] / "model.pt").read_bytes()
    for place in (
        Path(torch.__file__).parent,
        Path(load.__code__.co_filename).parent,
        Path.home(),
        shared[0].parent,
    ):
        assert str(place).encode() not in content


def test_its_labels_are_the_numbers_that_the_extension_writes(shared):
    rows = [*csv.DictReader(io.StringIO((shared[1] / "labels.csv").read_text()))]
    assert [int(row["LabelValue"]) for row in rows] == [*range(1, len(rows) + 1)]


def test_its_entry_says_what_the_extensions_list_asks_for(shared):
    (entry,) = json.loads((shared[1] / "Models.json").read_text())["models"]
    assert {"title", "description", "subject", "imagingModality", "versions", "segmentNames"} <= {*entry}
    assert entry["license"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("name", "told"),
    [("slices", "slices"), ("regions", "regions"), ("two channels", "zscore"), ("percentiles", "unit")],
)
def test_what_the_extension_cannot_do_is_refused_in_a_line(name, told, tmp_path):
    weights = write_model(tmp_path / "small.safetensors", name)
    with pytest.raises(MedfuseError, match=told) as said:
        share(weights, tmp_path / "small.zip", kind="slicer")
    assert len(said.value.lines) == 1
    assert "medfuse serve" in said.value.lines[0]
    assert not (tmp_path / "small.zip").exists()


def test_a_model_of_more_labels_than_it_writes_is_refused(tmp_path, monkeypatch):
    labels = {"background": 0, **{f"label {n}": n for n in range(1, 300)}}
    monkeypatch.setitem(MODELS, "too many", (replace(PLAN, labels=labels), MODELS["ct"][1], {}))
    weights = write_model(tmp_path / "small.safetensors", "too many")
    with pytest.raises(MedfuseError, match="300 labels"):
        share(weights, tmp_path / "small.zip", kind="slicer")
