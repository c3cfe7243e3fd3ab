"""What a network says of the whole image, from a pipeline file to weights, features, pictures and exports."""

import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
import yaml
from phantoms import write_dataset, write_pipeline

from medfuse.core.reporter import Reporter
from medfuse.trained.loading import load_trained
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.features import save_features
from medfuse.verbs.run import run_pipeline

MONAI = {
    "use": "module",
    "target": "monai.networks.nets:ResNet",
    "parameters": {
        "block": "import:monai.networks.nets.resnet.ResNetBlock",
        "layers": [1, 1, 1, 1],
        "block_inplanes": [4, 4, 8, 8],
        "n_input_channels": 1,
        "conv1_t_stride": 1,
    },
}
MODEL = {
    "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3}, "classifier": MONAI},
    "fusion": {
        "whole": {"use": "global_pool", "inputs": ["encoder.stages.2"]},
        "decoded": {"use": "unet_decoder", "inputs": ["encoder.*"], "convs": 1},
        "fused": {"use": "concat", "inputs": ["decoded", "whole", "classifier.avgpool"], "channels": 4},
    },
    "head": {"input": "fused"},
    "aux": {"heads": ["decoded.1", "whole", "classifier.fc"], "schedule": "constant"},
}
REPORT = {"maps": ["encoder.stages.1", "whole", "classifier.avgpool"], "gradcam": ["decoded.1"]}


def write(path, root, **changes):
    pipeline = yaml.safe_load(write_pipeline(path, root).read_text())
    model = {**MODEL, **changes.pop("model", {})}
    path.write_text(yaml.safe_dump({**pipeline, "model": model, "report": REPORT, **changes}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_level")
    data = write_dataset(folder / "data", cases=3)
    file = write(folder / "cubes.yaml", data)
    run_pipeline(file, runs=folder / "runs", reporter=Reporter(quiet=True))
    return SimpleNamespace(file=file, data=data, folder=folder / "runs" / "cubes")


def test_check_marks_it_and_what_its_head_is_for(run):
    lines = {line.split()[0]: line for line in check_pipeline(run.file).splitlines() if line}
    assert "whole image" in lines["classifier.avgpool"]
    assert "aux (labels in the patch)" in lines["classifier.fc"]
    assert "aux (labels in the patch)" in lines["whole"]
    assert "labels in the patch" not in lines["decoded.1"]


def test_it_trains_and_every_head_has_its_loss(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for head in ("decoded.1", "whole", "classifier.fc"):
        losses = [row[f"loss/{head}"] for row in rows if f"loss/{head}" in row]
        assert losses
        assert np.isfinite(losses).all()


def test_the_report_draws_it(run):
    text = (run.folder / "report.html").read_text()
    assert "whole: one value for the whole window in each of 16 channels" in text
    assert "classifier.avgpool: one value for the whole window in each of 8 channels" in text


def test_its_features_are_a_vector_for_each_case(run, tmp_path):
    scan = run.data / "imagesTr" / "cube_02.nii.gz"
    names = ["whole", "classifier.avgpool", "classifier.fc", "encoder.stages.2"]
    for pool in ("none", "mean", "max"):
        said = save_features(
            run.folder, [scan], tmp_path / pool, layers=names, pool=pool, reporter=Reporter(quiet=True)
        )
        assert said.code == 0
    saved = {pool: np.load(tmp_path / pool / "cube_02.npz") for pool in ("none", "mean", "max")}
    assert saved["none"]["whole"].shape == (16, 1, 1, 1)
    assert saved["none"]["whole/stride"].tolist() == [20, 18, 16]
    for name in names[:3]:
        assert np.allclose(saved["none"][name].ravel(), saved["mean"][name])
        assert (saved["max"][name] >= saved["mean"][name]).all()
    assert saved["none"]["encoder.stages.2"].shape[1:] == (5, 5, 4)


def test_on_a_volume_of_another_size_it_is_one_voxel_too(run):
    network = load_trained([run.folder / "weights_last.safetensors"]).networks[0]
    with torch.no_grad():
        logits, _, maps = network(torch.randn(1, 1, 23, 32, 17), (), ("whole", "classifier.avgpool"))
    assert logits.shape == (1, 2, 23, 32, 17)
    assert maps["whole"].shape == (1, 16, 1, 1, 1)
    assert maps["classifier.avgpool"].shape == (1, 8, 1, 1, 1)


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("torch", "torch"),
        ("openvino", "openvino"),
        pytest.param("onnxscript", "onnx", marks=pytest.mark.slow),
    ],
)
def test_what_is_exported_gives_the_same_labels(run, medfuse, tmp_path, package, kind):
    pytest.importorskip(package, reason=f"{package} exports to {kind}, and is not installed")
    from medfuse.trained.loading import EXPORTED
    from medfuse.verbs.export import export_network

    export_network(run.folder, tmp_path, kind=kind)
    scan = run.data / "imagesTr" / "cube_02.nii.gz"
    made = []
    for name, model in (("own", run.folder), ("exported", tmp_path / f"cubes{EXPORTED[kind]}")):
        assert medfuse("infer", model, "-i", scan, "-o", tmp_path / name, "-q").code == 0
        made.append(np.asarray(nibabel.load(tmp_path / name / scan.name).dataobj))
    assert (made[0] == made[1]).mean() > 0.99


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"report": {"gradcam": ["whole"]}}, "report.gradcam"),
        (
            {"train": {"steps": 4, "guided": {"map": "whole", "percentile": 90, "erase": 1}}},
            "train.guided.map",
        ),
        ({"train": {"steps": 4, "pseudo_labels": {"heads": ["whole"]}}}, "train.pseudo_labels.heads"),
        ({"model": {"head": {"input": "whole"}}}, "model.head.input"),
    ],
)
def test_what_needs_a_grid_refuses_it_at_its_key(run, medfuse, tmp_path, changes, place):
    said = medfuse("check", write(tmp_path / "bad.yaml", run.data, **changes))
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if place in line]
    assert line.startswith(f"{tmp_path / 'bad.yaml'}:")


@pytest.mark.parametrize("regions", [False, True])
def test_regions_and_voxels_that_nobody_annotated_are_taken_in(run, tmp_path, regions):
    data = tmp_path / "data"
    write_dataset(data, cases=3)
    listing = json.loads((data / "dataset.json").read_text())
    listing["labels"] = {"background": 0, "cube": [1] if regions else 1, "ignore": 2}
    listing |= {"regions_class_order": [1]} if regions else {}
    del listing["training"]
    listing |= {"channel_names": {"0": "MRI"}, "numTraining": 3, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps(listing))
    for image in (data / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    label = data / "labelsTr" / "cube_00.nii.gz"
    volume = nibabel.load(label)
    voxels = np.asarray(volume.dataobj).copy()
    voxels[-3:] = 2
    nibabel.save(nibabel.Nifti1Image(voxels, volume.affine), label)
    file = write(tmp_path / "cubes.yaml", data, data={"use": "nnunet", "root": str(data)}, report={})
    run_pipeline(file, runs=tmp_path / "runs", reporter=Reporter(quiet=True))
    rows = (tmp_path / "runs" / "cubes" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row).get("loss/whole") for row in rows]
    assert all(np.isfinite(loss) for loss in losses if loss is not None)
    assert any(loss is not None for loss in losses)
