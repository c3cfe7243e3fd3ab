"""`medfuse features`, and what the report shows of the inside of a network."""

import importlib.util
import json
import re
import runpy
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from crews import HERE
from phantoms import write_case

from medfuse.core.errors import OutputError
from medfuse.core.files import file_hash
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import installed
from medfuse.infer.fleet_files import FOLDER, Listed, Work, write_work
from medfuse.infer.records import record_files
from medfuse.trained.loading import load_trained
from medfuse.verbs.crews import ALONE
from medfuse.verbs.feature_maps import FeatureJob, HowFeatures
from medfuse.verbs.features import save_features
from medfuse.verbs.run import run_pipeline
from medfuse.verbs.work import work_on

QUIET = Reporter(quiet=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def features(finished_run, medfuse, tmp_path):
    """Runs the verb on the dataset of the finished run."""

    def save(*words, inputs=None, output=tmp_path / "out"):
        inputs = inputs or finished_run.data / "imagesTr" / "cube_03.nii.gz"
        return medfuse("features", finished_run.folder, "-i", inputs, "-o", output, "-q", *words)

    return save


def test_taps_nodes_and_side_outputs_are_saved_with_their_grids(features, tmp_path):
    assert features("--layers", "encoder.stages.1, decoded*").code == 0
    saved = np.load(tmp_path / "out" / "cube_03.npz")
    assert saved["encoder.stages.1"].shape == (8, 10, 9, 8)
    assert saved["decoded"].shape == (4, 20, 18, 16)
    assert saved["decoded.1"].shape == (8, 10, 9, 8)
    assert saved["encoder.stages.1/spacing_mm"].tolist() == [3, 3, 4]


def test_the_head_on_the_saved_map_gives_the_predicted_labels(finished_run, features, tmp_path):
    features("--layers", "decoded")
    head = load_trained([finished_run.folder / "weights_last.safetensors"]).networks[0].head
    logits = head(torch.from_numpy(np.load(tmp_path / "out" / "cube_03.npz")["decoded"])[None])[0]
    ours = logits.argmax(0).numpy()
    theirs = nibabel.load(finished_run.folder / "predictions" / "cube_03.nii.gz").get_fdata()
    assert (ours == theirs).mean() > 0.98  # bf16 may have made the labels


def test_pooled_features_are_one_number_a_channel(features, tmp_path):
    features("--layers", "encoder.*")
    features("--layers", "encoder.*", "--pool", "max", output=tmp_path / "max")
    whole, most = (np.load(tmp_path / name / "cube_03.npz") for name in ("out", "max"))
    assert np.allclose(most["encoder.stages.2"], whole["encoder.stages.2"].max((1, 2, 3)))


def test_a_layer_that_the_graph_does_not_tap_can_be_saved(finished_run, features, tmp_path):
    table = json.loads((finished_run.folder / "plan.json").read_text())
    assert not any(row["name"].startswith("encoder.stages.1.") for row in table["graph"])
    assert features("--layers", "encoder.stages.1.*").code == 0
    layers = json.loads((tmp_path / "out" / "manifest.json").read_text())["layers"]
    assert layers
    assert all(name.startswith("encoder.stages.1.") for name in layers)


def test_finished_cases_are_skipped_and_other_layers_are_not(finished_run, features):
    folder = finished_run.data / "imagesTr"
    assert "4 written, 0 were finished" in features("--layers", "decoded", inputs=folder).out
    assert "0 written, 4 were finished" in features("--layers", "decoded", inputs=folder).out
    assert "4 written, 0 were finished" in features("--layers", "decoded.1", inputs=folder).out


def test_files_of_another_format_stay_and_are_told(features, tmp_path, caplog):
    features("--layers", "decoded")
    features("--layers", "decoded", "--format", "nifti")
    assert "from earlier calls, and not of the cases as they are now: cube_03.npz" in caplog.text
    assert (tmp_path / "out" / "cube_03.npz").is_file()


def test_a_failing_case_is_named_and_the_rest_go_on(features, tmp_path):
    write_case(tmp_path, "good")
    (tmp_path / "imagesTr" / "bad.nii.gz").write_text("no image")
    said = features("--layers", "decoded", "--pool", "mean", inputs=tmp_path / "imagesTr")
    assert said.code == 2
    assert "1 written" in said.out
    assert "bad.nii.gz: is not a gzip file" in said.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"good.npz", "manifest.json", *record_files()}


def test_a_nifti_map_of_stride_1_lies_on_its_image(finished_run, features, tmp_path):
    assert features("--layers", "decoded,image", "--format", "nifti").code == 0
    image = nibabel.load(finished_run.data / "imagesTr" / "cube_03.nii.gz")
    ours = nibabel.load(tmp_path / "out" / "decoded" / "cube_03.nii.gz")
    assert ours.shape == (*image.shape, 4)
    assert np.allclose(ours.affine, image.affine)
    same = nibabel.load(tmp_path / "out" / "image" / "cube_03.nii.gz").get_fdata()
    assert np.corrcoef(same.ravel(), image.get_fdata().ravel())[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--layers", "decodd"), "no feature map is named 'decodd'; did you mean 'decoded'?"),
        (("--layers", ","), "--layers: name taps or nodes"),
        (("--layers", "decoded", "--format", "nifti", "--pool", "mean"), "is for whole maps"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(features, tmp_path, words, said):
    spoken = features(*words)
    assert spoken.code == 2
    assert said in spoken.err
    assert not (tmp_path / "out").exists()


PICTURES = ["report.maps=[decoded, encoder.*]", "report.gradcam=[decoded.1]"]


def test_the_report_shows_maps_and_grad_cam_of_chosen_cases(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "cubes")
    run_pipeline(finished_run.pipeline, PICTURES, runs=tmp_path, reporter=Reporter(quiet=True))
    page = (tmp_path / "cubes" / "report.html").read_text()
    captions = re.findall("<figcaption>([^<]*cube_03: [^<]*)</figcaption>", page.partition("Inside the")[2])
    assert len(captions) == 5
    assert "Grad-CAM on decoded.1 for cube" in captions[-1]
    assert "Inside the network" not in (finished_run.folder / "report.html").read_text()


def test_a_2d_network_can_be_looked_into(finished_run, tmp_path):
    overrides = ["sample.patch_size=[16,16]", "name=flat", "train.steps=2", *PICTURES]
    result = run_pipeline(finished_run.pipeline, overrides, runs=tmp_path, reporter=Reporter(quiet=True))
    assert "Inside the network" in (result.folder / "report.html").read_text()


def test_a_map_that_the_report_cannot_show_is_found_by_check(finished_run, medfuse):
    said = medfuse("check", finished_run.pipeline, "--set", "report.gradcam=[decoded, encoder.stages.9]")
    assert said.code == 2
    assert "report.gradcam[1]: no feature map is named 'encoder.stages.9'; did you mean" in said.err


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="the snippet needs scikit-learn, which medfuse does not",
)
def test_the_snippet_of_the_documentation_runs(finished_run, features, tmp_path, monkeypatch):
    features("--layers", "encoder.stages.2", "--pool", "mean", inputs=finished_run.data / "imagesTr")
    (tmp_path / "groups.csv").write_text("\n".join(f"cube_{n:02d},{n % 2}" for n in range(4)))
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "features.md").read_text(), re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet.replace('"features"', '"out"').replace("cv=5", "cv=2"))
    monkeypatch.chdir(tmp_path)
    assert 0 <= runpy.run_path(str(tmp_path / "snippet.py"))["scores"].mean() <= 1


@pytest.mark.parametrize("words", [{}, {"pool": "mean"}, {"kind": "zarr"}, {"kind": "nifti"}])
def test_workers_make_the_maps_of_one_process_and_the_same_manifest(words, finished_run, tmp_path):
    made = []
    for workers in (ALONE, HERE):
        output = tmp_path / type(workers).__name__
        layers = {"layers": ["decoded", "encoder.stages.1"], **words}
        inputs = [finished_run.data / "imagesTr"]
        said = save_features(finished_run.folder, inputs, output, **layers, workers=workers, reporter=QUIET)
        assert len(said.values["written"]) == 4
        assert not (output / FOLDER).exists()
        again = save_features(finished_run.folder, inputs, output, **layers, workers=workers, reporter=QUIET)
        assert len(again.values["finished_already"]) == 4
        cases = json.loads((output / "manifest.json").read_text())["cases"]
        shapes = {name: (case["layers"], case["windows"]) for name, case in cases.items()}
        hashes = {str(p.relative_to(output)): file_hash(p) for p in output.rglob("*") if p.is_file()}
        for name in ("manifest.json", *record_files()):
            del hashes[name]
        made.append((shapes, hashes))
    assert made[0] == made[1]


def test_a_worker_with_other_layers_is_refused(finished_run, tmp_path):
    how = HowFeatures(weights=finished_run.folder / "weights_last.safetensors", layers=("decoded",))
    facts = {**FeatureJob.of(how, ()).facts, "layers": ["encoder.stages.1"]}
    images = (finished_run.data / "imagesTr" / "cube_03.nii.gz",)
    (tmp_path / FOLDER).mkdir()
    given = {"medfuse": installed(), "facts": facts, "how": how.model_dump(mode="json"), "began": "now"}
    write_work(tmp_path, Work(cases=(Listed(name="a", images=images),), workers=2, verb="features", **given))
    with pytest.raises(OutputError, match="works with other layers"):
        work_on(tmp_path, reporter=QUIET)


@pytest.mark.slow
def test_processes_make_the_maps_of_one(features, finished_run, tmp_path):
    inputs = finished_run.data / "imagesTr"
    for count in ("1", "2"):
        words = ("--layers", "decoded", "--workers", count)
        assert features(*words, inputs=inputs, output=tmp_path / count).code == 0
    one, two = ({p.name: file_hash(p) for p in (tmp_path / n).glob("*.npz")} for n in "12")
    assert one == two
