"""`medfuse quantize`: int8 is taken where held-out cases and the clock say so, and nowhere else."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from phantoms import write_dataset, write_pipeline

pytest.importorskip("nncf", reason="pip install 'medfuse[int8]' to quantise")

FILES = ("int8.json", "int8.xml", "int8.bin", "int8.safetensors")


def split(data: Path, train: int) -> Path:
    """The first cases train, all others are held out."""
    names = [entry["image"].split("/")[-1].split(".")[0] for entry in listing(data)["training"]]
    (data / "splits_final.json").write_text(json.dumps([{"train": names[:train], "val": names[train:]}]))
    return data


def listing(data: Path) -> dict:
    return json.loads((data / "dataset.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A tiny run of four training cases and three held-out ones."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.run import run_pipeline

    home = tmp_path_factory.mktemp("quantize")
    data = split(write_dataset(home / "cubes", cases=7), train=4)
    pipeline = write_pipeline(home / "cubes.yaml", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuse.report.html.page", lambda content: "")
        patch.setattr("medfuse.runs.viewing.write_viewer", lambda run, evaluation: ({}, ""))
        return run_pipeline(pipeline, runs=home / "runs", reporter=Reporter(quiet=True)).folder


@pytest.fixture(scope="module")
def quantized(trained, tmp_path_factory) -> Path:
    """A copy of the run that has passed its gate."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.quantize import quantize_model

    folder = shutil.copytree(trained, tmp_path_factory.mktemp("passed") / "cubes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuse.model.quantized.seconds_in_turns", clock(int8=1.0, others=2.0))
        said = quantize_model(folder, bound=1.0, reporter=Reporter(quiet=True))
    assert said.code == 0, said
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(trained, tmp_path / "cubes")


@pytest.fixture
def passed(quantized, tmp_path) -> Path:
    return shutil.copytree(quantized, tmp_path / "passed")


def clock(*, int8: float, others: float):
    """Stands for what times passes."""
    return lambda runs, example: {name: int8 if name == "int8" else others for name in runs}


@pytest.fixture
def gains(monkeypatch):
    monkeypatch.setattr("medfuse.model.quantized.seconds_in_turns", clock(int8=1.0, others=2.0))


@pytest.fixture
def gains_nothing(monkeypatch):
    monkeypatch.setattr("medfuse.model.quantized.seconds_in_turns", clock(int8=2.0, others=2.0))


def gate(folder: Path) -> dict:
    return json.loads((folder / "int8.json").read_text())


def infer(medfuse, folder, trained, output, *more):
    image = trained.parents[1] / "cubes" / "imagesTr" / "cube_06.nii.gz"
    return medfuse("infer", folder, "-i", image, "-o", output, *more)


INT8 = ("--set", "runtime={use: openvino, precision: int8}")


def engine(output: Path) -> dict:
    (case,) = json.loads((output / "manifest.json").read_text())["cases"].values()
    return case["engines"][0]


def test_what_passes_is_kept_beside_the_weights_with_a_row_for_each_class_and_measure(quantized):
    assert all((quantized / name).is_file() for name in FILES)
    said = gate(quantized)
    assert [(row["label"], row["measure"], row["patients"]) for row in said["rows"]] == [
        ("cube", "Dice", 3),
        ("cube", "NSD", 3),
    ]
    assert said["passed"]
    assert not list(quantized.glob(".unfinished-*"))


def test_calibration_sees_training_cases_alone_and_the_judge_held_out_ones(quantized):
    said, data = gate(quantized), json.loads((quantized / "data.json").read_text())
    assert {*said["calibration"]} <= {*data["train"]}
    assert said["held_out"] == data["validation"]


def test_infer_computes_in_int8_and_its_manifest_says_so(quantized, trained, medfuse, tmp_path):
    said = infer(medfuse, quantized, trained, tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    assert (engine(tmp_path / "out")["runtime"], engine(tmp_path / "out")["precision"]) == (
        "openvino",
        "int8",
    )
    assert engine(tmp_path / "out")["gate"]


def test_a_folder_begun_in_int8_is_finished_in_int8(quantized, trained, medfuse, tmp_path):
    infer(medfuse, quantized, trained, tmp_path / "out", *INT8)
    image = trained.parents[1] / "cubes" / "imagesTr" / "cube_05.nii.gz"
    said = medfuse("infer", quantized, "-i", image, "-o", tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    cases = json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"].values()
    assert {case["engines"][0]["precision"] for case in cases} == {"int8"}


def test_without_a_gate_int8_is_refused_in_one_line(trained, medfuse, tmp_path):
    said = infer(medfuse, trained, trained, tmp_path / "out", *INT8)
    assert said.code == 2
    assert said.err.strip().count("\n") == 0
    assert f"medfuse quantize {trained}" in said.err
    assert not (tmp_path / "out" / "cube_06.nii.gz").exists()


def options(folder: Path) -> list[str]:
    from medfuse.builtin.runtimes.auto import Auto, _label
    from medfuse.model.engines import options_of
    from medfuse.trained.loading import load_trained

    network = load_trained([folder / "weights_last.safetensors"], device="cpu").networks[0]
    return [_label(option) for option in options_of(Auto(), network, torch.device("cpu"))]


def test_auto_has_int8_among_its_choices_where_a_gate_was_passed_and_nowhere_else(trained, quantized):
    assert "openvino in int8" in options(quantized)
    assert "openvino in int8" not in options(trained)


def test_a_gate_is_of_its_weights_alone(passed, trained, medfuse, tmp_path):
    from medfuse.model.weights import load_weights, save_tensors

    tensors, facts = load_weights(passed / "weights_last.safetensors")
    save_tensors(passed / "weights_last.safetensors", {n: t + 0.01 for n, t in tensors.items()}, facts)
    assert "openvino in int8" not in options(passed)
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 2
    assert "has passed no gate" in said.err


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_the_gate_did_not_judge_is_refused_and_auto_goes_without(
    passed, trained, medfuse, tmp_path, name
):
    (passed / name).write_bytes((passed / name).read_bytes()[:-1] + b"x")
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 2
    assert f"{name}: is not what the gate judged" in said.err
    assert "openvino in int8" not in options(passed)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_record_is_a_line_that_says_what_to_do(passed, trained, medfuse, tmp_path, text):
    (passed / "int8.json").write_text(text)
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 2
    assert "int8.json" in said.err
    assert "medfuse quantize" in said.err
    assert "openvino in int8" not in options(passed)


def test_what_gains_nothing_is_refused_with_its_times_and_exit_code_1(
    run, medfuse, gains_nothing, trained, tmp_path
):
    said = medfuse("quantize", run, "--bound", 1.0)
    assert said.code == 1, said.err
    assert "it gains nothing: 2 s a window, and 2 s in" in said.out
    assert gate(run)["passed"] is False
    assert not (run / "int8.xml").exists()
    said = infer(medfuse, run, trained, tmp_path / "out", *INT8)
    assert said.code == 2
    assert "did not pass the gate (it gains nothing" in said.err


def test_what_was_judged_is_told_again_and_not_judged_again(passed, medfuse, monkeypatch):
    monkeypatch.setattr("medfuse.model.quantized.quantize", None)
    said = medfuse("quantize", passed, "--bound", 1.0, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["gates"][str(passed)]["rows"] == gate(passed)["rows"]


def test_json_alone_is_on_stdout_while_it_is_judged(run, medfuse, gains):
    said = medfuse("quantize", run, "--bound", 1.0, "--json")
    assert json.loads(said.out)["passed"] is True


def test_what_is_interrupted_leaves_nothing_and_the_same_command_goes_through(
    run, medfuse, gains, monkeypatch
):
    before = {path.name for path in run.iterdir()}

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medfuse.report.evaluate.evaluate_pairs", stop)
        assert medfuse("quantize", run, "--bound", 1.0).code == 130
    assert {path.name for path in run.iterdir()} - before <= {".lock"}
    assert medfuse("quantize", run, "--bound", 1.0).code == 0


def test_weights_that_are_trained_anew_have_no_gate(passed):
    from medfuse.runs.folder import clear

    clear(passed)
    assert not any((passed / name).exists() for name in FILES)


def test_on_another_processor_it_is_looked_at_again_and_taken(
    passed, trained, medfuse, tmp_path, monkeypatch, caplog
):
    elsewhere(passed)
    monkeypatch.setattr("medfuse.model.int8.seconds_in_turns", clock(int8=1.0, others=2.0))
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    assert "on another machine, and gives the same here" in caplog.text
    assert engine(tmp_path / "out")["precision"] == "int8"


def test_on_a_processor_where_it_gains_nothing_it_is_left_with_a_line(
    passed, trained, medfuse, tmp_path, monkeypatch, caplog
):
    elsewhere(passed)
    monkeypatch.setattr("medfuse.model.int8.seconds_in_turns", clock(int8=2.0, others=2.0))
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    assert "not in int8" in caplog.text
    assert "gains nothing" in caplog.text
    assert engine(tmp_path / "out")["precision"] in ("bf16", "fp32")


def test_on_a_processor_that_decides_otherwise_it_is_left_with_a_line(
    passed, trained, medfuse, tmp_path, monkeypatch, caplog
):
    elsewhere(passed)
    monkeypatch.setattr("medfuse.model.int8.seconds_in_turns", clock(int8=1.0, others=2.0))
    monkeypatch.setattr(
        "medfuse.model.int8.decided", lambda logits, kind: 1 - logits.argmax(1).to(torch.int16)
    )
    said = infer(medfuse, passed, trained, tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    assert "of the voxels of 4 stored windows otherwise" in caplog.text
    assert engine(tmp_path / "out")["precision"] in ("bf16", "fp32")


def elsewhere(folder: Path) -> None:
    """As if another processor, which no other test has, had passed the gate."""
    said = gate(folder)
    said["machine"]["processor"] = str(folder)
    (folder / "int8.json").write_text(json.dumps(said))


def test_one_case_calibrates_nothing(run, medfuse):
    said = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**said, "train": said["train"][:1]}))
    said = medfuse("quantize", run)
    assert said.code == 2
    assert "1 training case cannot calibrate int8" in said.err
    assert said.err.strip().count("\n") == 0


def test_constant_windows_calibrate_nothing(run, trained, medfuse, tmp_path):
    data = shutil.copytree(trained.parents[1] / "cubes", tmp_path / "flat")
    for path in sorted((data / "imagesTr").iterdir())[:4]:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), path)
    said = medfuse("quantize", run, "--data", write_pipeline(tmp_path / "flat.yaml", data))
    assert said.code == 2
    assert "0 have a window that is not one constant" in said.err


def test_held_out_cases_that_it_was_trained_on_judge_nothing(run, trained, medfuse, tmp_path):
    data = split(shutil.copytree(trained.parents[1] / "cubes", tmp_path / "mixed"), train=2)
    said = medfuse("quantize", run, "--data", write_pipeline(tmp_path / "mixed.yaml", data))
    assert said.code == 2
    assert "its weights were trained on cube_02, cube_03, which --data holds out" in said.err


def test_a_run_that_holds_nothing_out_is_refused(run, medfuse):
    said = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**said, "validation": []}))
    said = medfuse("quantize", run)
    assert said.code == 2
    assert "holds no case out" in said.err


def test_a_model_from_elsewhere_is_asked_for_its_cases(run, medfuse):
    for path in run.iterdir():
        if path.name != "weights_last.safetensors":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = medfuse("quantize", run)
    assert said.code == 2
    assert "--data FILE" in said.err


def test_a_model_from_elsewhere_is_judged_on_the_cases_of_a_file(run, trained, medfuse, gains):
    for path in run.iterdir():
        if path.name != "weights_last.safetensors":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = medfuse("quantize", run, "--bound", 1.0, "--data", trained.parents[1] / "cubes.yaml")
    assert said.code == 0, said.err
    assert gate(run)["passed"]


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_what_is_not_installed_is_named_with_its_extra(run, medfuse, monkeypatch, package):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    place = "medfuse.model.openvino" if package == "openvino" else "medfuse.model.quantized"
    monkeypatch.setattr(f"{place}.import_offline", missing)
    said = medfuse("quantize", run)
    assert said.code == 2
    assert said.err.strip().count("\n") == 0
    assert "is not installed (No module named" in said.err
    assert f"pip install 'medfuse[{'int8' if package == 'nncf' else package}]'" in said.err


def test_folds_are_judged_each_by_itself(trained, medfuse, gains, tmp_path):
    for fold in (0, 1):
        shutil.copytree(trained, tmp_path / "cubes" / f"fold_{fold}")
    said = medfuse("quantize", tmp_path / "cubes", "--bound", 1.0)
    assert said.code == 0, said.err
    assert all(gate(tmp_path / "cubes" / f"fold_{fold}")["passed"] for fold in (0, 1))
    out = tmp_path / "out"
    said = infer(medfuse, tmp_path / "cubes", trained, out, *INT8)
    assert said.code == 0, said.err
    assert engine(out)["precision"] == "int8"


def test_a_layer_that_int8_ruins_is_named_where_it_is_refused(run, medfuse, gains_nothing):
    from medfuse.model.weights import load_weights, save_tensors

    tensors, facts = load_weights(run / "weights_last.safetensors")
    stage = "backbones.encoder.backbone.stages.0"
    for name in ("weight", "bias"):
        tensors[f"{stage}.0.norm_act.norm.{name}"][0] *= 1e5
    tensors[f"{stage}.1.conv.weight"][:, 0] /= 1e5
    save_tensors(run / "weights_last.safetensors", tensors, facts)
    said = medfuse("quantize", run)
    assert said.code == 1
    assert "layers that bear it worst, by the relative error of the logits" in said.out
    assert f": {stage}.1.conv (" in said.out


def test_a_class_that_loses_is_named_with_its_measure(run, medfuse, gains, monkeypatch):
    worse(monkeypatch, by=0.1)
    said = medfuse("quantize", run)
    assert said.code == 1
    assert "cube: Dice falls by 0.1000, and by up to 0.1000 on other cases (bound 0.001)" in said.out
    assert {row["bears"] for row in gate(run)["rows"]} == {False}


def test_a_class_that_is_better_here_is_not_said_to_fall():
    from medfuse.model.gate import Row
    from medfuse.runs.int8_judge import unborne

    row = Row(
        label="cube",
        measure="NSD",
        patients=6,
        fp32=0.5,
        int8=0.6,
        drop=-0.1,
        low=-0.2,
        high=0.1,
        bears=False,
    )
    assert unborne([row], 0.001) == [
        "cube: NSD does not fall here, but may by up to 0.1000 on other cases (bound 0.001)"
    ]


def test_what_gains_nothing_once_layers_are_back_says_without_how_many(run, medfuse, monkeypatch):
    worse(monkeypatch, by=0.1)
    turns = iter((1.0, 1.0))  # all in int8, and all but one layer

    def times(runs, example):
        return clock(int8=next(turns, 2.0), others=2.0)(runs, example)

    monkeypatch.setattr("medfuse.model.quantized.seconds_in_turns", times)
    said = medfuse("quantize", run)
    assert said.code == 1
    assert "it gains nothing without 2 layers: 2 s a window, and 2 s in" in said.out
    assert "cube: Dice falls by 0.1000" in said.out


def test_layers_go_back_to_floating_point_until_no_class_loses(run, medfuse, gains, monkeypatch):
    worse(monkeypatch, by=0.1, times=2)
    said = medfuse("quantize", run, "--bound", 0.05)
    assert said.code == 0, said.err
    kept = [layer["name"] for layer in gate(run)["layers"] if layer["kept"]]
    assert len(kept) == 2  # after none and one
    assert f"in floating point: {', '.join(kept)}" in said.out


def worse(monkeypatch, *, by: float, times: int = 10**6) -> None:
    """The first `times` int8 is judged, every measure is `by` less than in fp32; then it is the same."""
    from dataclasses import replace

    from medfuse.report import evaluate

    plain, judged = evaluate.evaluate_pairs, []

    def judge(pairs, *more, **how):
        found = plain(pairs, *more, **how)
        short = "int8" in str(pairs[0].prediction)
        judged.append(short)
        lost = by if short and sum(judged) <= times else 0.0
        cases = [
            replace(c, metrics={n: replace(m, dice=0.5 - lost, nsd=0.5 - lost) for n, m in c.metrics.items()})
            for c in found.cases
        ]
        return replace(found, cases=tuple(cases))

    monkeypatch.setattr(evaluate, "evaluate_pairs", judge)


def test_a_class_that_one_held_out_patient_has_is_not_judged(run, trained, medfuse, gains, tmp_path):
    data = split(shutil.copytree(trained.parents[1] / "cubes", tmp_path / "few"), train=4)
    (data / "splits_final.json").write_text(
        json.dumps([{"train": [f"cube_0{n}" for n in range(4)], "val": ["cube_04"]}])
    )
    said = medfuse("quantize", run, "--bound", 1, "--data", write_pipeline(tmp_path / "few.yaml", data))
    assert said.code == 1, said.err
    assert "cube: 1 held-out patient has it" in said.out


def test_a_run_that_has_no_weights_yet_cannot_ask_for_int8(trained, medfuse, tmp_path):
    pipeline = trained.parents[1] / "cubes.yaml"
    runtime = "infer.runtime={use: openvino, precision: int8}"
    said = medfuse("run", pipeline, "--runs", tmp_path, "--set", runtime)
    assert said.code == 2
    assert "this run has none yet" in said.err


def test_export_writes_int8_for_openvino_as_it_was_judged(quantized, trained, medfuse, tmp_path):
    said = medfuse(
        "export", quantized, "--format", "openvino", "--precision", "int8", "-o", tmp_path / "x.xml"
    )
    assert said.code == 0, said.err
    infer(medfuse, quantized, trained, tmp_path / "run", *INT8)
    infer(medfuse, tmp_path / "x.xml", trained, tmp_path / "file")
    assert engine(tmp_path / "file")["precision"] == "int8"
    maps = [nibabel.load(tmp_path / name / "cube_06.nii.gz").get_fdata() for name in ("run", "file")]
    assert (maps[0] == maps[1]).all()


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_export_refuses_int8_without_a_gate(trained, medfuse, tmp_path, kind):
    said = medfuse("export", trained, "--format", kind, "--precision", "int8", "-o", tmp_path / "out")
    assert said.code == 2
    assert "has passed no gate; run `medfuse quantize" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["torch", "bundle", "huggingface", "docker"])
def test_other_formats_have_no_int8(quantized, medfuse, tmp_path, kind):
    said = medfuse("export", quantized, "--format", kind, "--precision", "int8", "-o", tmp_path / "out")
    assert said.code == 2
    assert "--precision int8: is of --format onnx and openvino" in said.err


@pytest.mark.slow
def test_export_writes_int8_for_onnx_and_judges_it(quantized, trained, medfuse, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install 'medfuse[onnx]' to export to it")
    path = tmp_path / "cubes.onnx"
    said = medfuse("export", quantized, "--format", "onnx", "--precision", "int8", "-o", path)
    assert said.code == 0, said.err
    proto = onnx.load(path)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    zeros = [values[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)  # as TensorRT wants them
    assert infer(medfuse, path, trained, tmp_path / "out").code == 0
    assert engine(tmp_path / "out")["precision"] == "int8"


@pytest.mark.slow
def test_export_writes_no_onnx_whose_classes_lose(quantized, medfuse, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="pip install 'medfuse[onnx]' to export to it")
    monkeypatch.setattr("medfuse.verbs.export_int8.Int8.fault", lambda *_: "cube: Dice falls")
    how = ("--format", "onnx", "--precision", "int8", "-o", tmp_path / "x.onnx")
    said = medfuse("export", quantized, *how)
    assert said.code == 2
    assert not [*tmp_path.glob("**/*.onnx")]


VARIANTS = {
    "slices": ["sample.patch_size=[16, 16]"],
    "mirroring": ["infer.mirror=[x, y]"],
    "batches": ["infer.batch_size=4"],
    "two backbones": [
        "model.backbones={encoder: {use: unet_encoder, base_channels: 4, stages: 3},"
        " other: {use: unet_encoder, base_channels: 4, stages: 2}}",
        "model.fusion={decoded: {use: unet_decoder, inputs: [encoder.*]},"
        " both: {use: concat, inputs: [decoded, other.*]}}",
        "model.head={input: both}",
        "model.aux=null",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_other_networks_go_the_same_way(trained, medfuse, gains, tmp_path, overrides):
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.run import run_pipeline

    pipeline = trained.parents[1] / "cubes.yaml"
    folder = run_pipeline(pipeline, overrides, runs=tmp_path, reporter=Reporter(quiet=True)).folder
    said = medfuse("quantize", folder, "--bound", 1)
    assert said.code == 0, said.err + said.out
    said = infer(medfuse, folder, trained, tmp_path / "out", *INT8)
    assert said.code == 0, said.err
    assert engine(tmp_path / "out")["precision"] == "int8"


def test_auto_does_not_count_twice_what_falls_back_on_another_processor(
    passed, trained, medfuse, tmp_path, monkeypatch, caplog
):
    elsewhere(passed)
    monkeypatch.setattr("medfuse.model.int8.seconds_in_turns", clock(int8=2.0, others=2.0))
    said = infer(medfuse, passed, trained, tmp_path / "out")
    assert said.code == 0, said.err
    assert "openvino in int8" not in next(line for line in caplog.messages if " runs the network" in line)
    assert engine(tmp_path / "out")["precision"] != "int8"


def test_a_run_that_is_in_use_is_left_alone(run, medfuse):
    from medfuse.core.lock import locked

    with locked(run, instead="wait"):
        said = medfuse("quantize", run)
    assert said.code == 2
    assert "quantise a copy of the folder" in said.err


@pytest.mark.parametrize("place", ["medfuse.model.openvino.convert", "nncf.quantize"])
def test_a_network_that_cannot_be_quantised_is_refused_in_one_line(run, medfuse, monkeypatch, place):
    def fails(*_, **__):
        raise RuntimeError("No conversion rule for aten::odd")

    monkeypatch.setattr(place, fails)
    said = medfuse("quantize", run, "-q")
    assert said.code == 2
    assert said.err.strip().count("\n") == 0
    assert "No conversion rule for aten::odd" in said.err
    assert not any((run / name).exists() for name in FILES)
