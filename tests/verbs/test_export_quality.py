"""What a cross-validation told of the quality of label maps goes with an exported network."""

import json
import random
from dataclasses import replace

import pytest
from sharing.models import write_model, write_scans

from medfuse.core.errors import CheckpointError
from medfuse.core.files import file_hash
from medfuse.model.weights import load_weights, save_tensors
from medfuse.quality.calibration import JudgedCase, by_name
from medfuse.quality.stored import SETTINGS, StoredCalibration, write_calibration
from medfuse.trained.loading import load_trained
from medfuse.verbs.export import export_model


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    """A fold of a run whose cross-validation told of the liver."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    folder = run / "fold_0"
    folder.mkdir(parents=True)
    weights = write_model(folder / "weights_last.safetensors")
    chance = random.Random(1)
    cases = [
        JudgedCase(f"{n}", {"entropy": entropy, "volume": 0.0}, 0.9 - entropy / 2, f"{n}", f"{n % 5}")
        for n, entropy in enumerate(chance.random() for _ in range(40))
    ]
    infer = load_trained([weights], device="cpu").settings.model_dump()
    stored = StoredCalibration(
        by_name({"liver": cases}),
        (file_hash(weights),),
        {name: infer.get(name) for name in SETTINGS},
        {"liver": {"cases": 40}},
    )
    write_calibration(run / "quality.json", stored, by="1.0")
    return folder


@pytest.fixture(scope="module")
def told(fold):
    return load_trained([fold / "weights_last.safetensors"], device="cpu").calibration


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_a_file_takes_it_along(fold, told, kind, tmp_path):
    pytest.importorskip("openvino" if kind == "openvino" else "onnxruntime", reason="needs its extra")
    (file, *_) = export_model(fold, tmp_path, kind=kind).values["files"]
    assert load_trained([file], device="cpu").calibration.to_json() == {**told.to_json(), "told": {}}


@pytest.mark.parametrize("kind", ["huggingface", "bundle", "docker"])
def test_a_folder_takes_it_along(fold, told, kind, tmp_path):
    from medfuse.trained.loading import weights_file

    export_model(fold, tmp_path / "shared", kind=kind)
    file = weights_file(tmp_path / "shared", best=False)
    assert load_trained([file], device="cpu").calibration.to_json() == {**told.to_json(), "told": {}}


def test_what_is_exported_again_still_has_it(fold, told, tmp_path):
    export_model(fold, tmp_path / "shared", kind="huggingface")
    (file,) = export_model(tmp_path / "shared", tmp_path / "file", kind="torch").values["files"]
    assert load_trained([file], device="cpu").calibration.classes == told.classes


def test_infer_says_of_new_scans_what_is_expected(fold, tmp_path, medfuse):
    export_model(fold, tmp_path / "shared", kind="huggingface")
    scans = write_scans(tmp_path / "scans")
    for name, model in (("run", fold), ("shared", tmp_path / "shared")):
        said = medfuse("infer", model, "-i", scans, "-o", tmp_path / name, "--device", "cpu", "-q")
        assert said.code == 0, said.err
    qualities = [
        {case: one["quality"] for case, one in json.loads(path.read_text())["cases"].items()}
        for path in (tmp_path / "run" / "manifest.json", tmp_path / "shared" / "manifest.json")
    ]
    assert qualities[0] == qualities[1]
    assert "reasons" in str(qualities[0]) or "expected" in str(qualities[0])


def test_folds_that_were_told_otherwise_have_none(fold, told, tmp_path):
    files = []
    for number, level in enumerate((0.1, 0.2)):
        state, facts = load_weights(fold / "weights_last.safetensors")
        liver = replace(told.classes["liver"], low=level)
        other = replace(told, classes={"liver": liver}, told={})
        files.append(tmp_path / f"{number}.safetensors")
        save_tensors(files[-1], state, {**facts, "quality": other.to_json()})
    assert load_trained(files, device="cpu").calibration is None
    assert load_trained(files[:1], device="cpu").calibration is not None


def test_one_that_nobody_can_read_is_a_line(fold, told, tmp_path):
    state, facts = load_weights(fold / "weights_last.safetensors")
    said = {**told.to_json(), "classes": {"liver": {"low": "much"}}}
    save_tensors(tmp_path / "odd.safetensors", state, {**facts, "quality": said})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: quality.*train again"):
        load_trained([tmp_path / "odd.safetensors"], device="cpu")
