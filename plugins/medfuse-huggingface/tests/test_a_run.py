"""From a folder to a trained fusion, and on without the folder."""

import json
import logging
import os
import shutil
import sys
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from medfuse import registry

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

ROOT = Path(__file__).parents[1]
SHAPE = (40, 36, 6)
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    """`use: huggingface` works, as `pip install` leaves it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"medfuse_huggingface-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about)
    points = project["entry-points"]["medfuse.backbones"]
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[medfuse.backbones]\n{lines}")
    monkeypatch.syspath_prepend(str(site))
    registry.forget()
    yield
    registry.forget()


@pytest.fixture
def medfuse(monkeypatch, capsys):
    from medfuse import cli

    def speak(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medfuse", *map(str, words)])
        monkeypatch.setattr(os, "_exit", sys.exit)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logging.getLogger("medfuse").setLevel(logging.INFO)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return speak


def write_network(folder: Path) -> Path:
    from medfuse_huggingface.configs import quiet

    with quiet():
        transformers.Dinov2Model(transformers.Dinov2Config(**TINY)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}'
    )
    return folder


def write_cases(folder: Path, channels: int = 1) -> Path:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    entries = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        label = np.zeros(SHAPE, np.uint8)
        label[10:24, 8:20, 1:5] = 1
        image = np.stack([100 * label + random.normal(0, 20, SHAPE) for _ in range(channels)], -1)
        image = image.squeeze(-1) if channels == 1 else image
        nibabel.save(
            nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"imagesTr/c{seed}.nii.gz"
        )
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / f"labelsTr/c{seed}.nii.gz")
        entries.append({"image": f"./imagesTr/c{seed}.nii.gz", "label": f"./labelsTr/c{seed}.nii.gz"})
    modality = {str(n): f"MRI{n}" for n in range(channels)}
    said = {"modality": modality, "labels": {"0": "background", "1": "cube"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(said))
    return folder


def write_pipeline(home: Path, data: Path, encoder: dict, **changes) -> Path:
    said = {
        "name": "cubes",
        "data": {"use": "decathlon", "root": str(data)},
        "split": {"folds": 3},
        "preprocess": {"normalize": "unit"},
        "sample": {"patch_size": [28, 28, 2], "batch_size": 2, "workers": 0},
        "model": {
            "backbones": {"encoder": encoder},
            "taps": {"encoder": {"use": "tokens", "layers": "quarter"}},
            "fusion": {"fused": {"use": "concat", "inputs": ["encoder.*"], "channels": 8}},
            "head": {"input": "fused"},
        },
        "train": {"steps": 2, "steps_per_epoch": 1, "precision": "fp32"},
        **changes,
    }
    (home / "cubes.yaml").write_text(yaml.safe_dump(said))
    return home / "cubes.yaml"


def test_from_a_folder_to_a_trained_fusion_and_on_without_the_folder(medfuse, tmp_path):
    network, data = write_network(tmp_path / "dino"), write_cases(tmp_path / "cubes")
    # the folder is named as in any pipeline file: from where that file lies
    encoder = {"use": "slices", "of": {"use": "huggingface", "name": "dino"}}
    pipeline = write_pipeline(tmp_path, data, encoder)
    code, said = medfuse("check", pipeline)
    assert code == 0, said
    assert "apache-2.0" in said
    code, said = medfuse("run", pipeline, "--runs", tmp_path / "runs")
    assert code == 0, said
    shutil.rmtree(network)
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(data / "imagesTr/c0.nii.gz", scans)
    code, said = medfuse("infer", tmp_path / "runs/cubes", "--input", scans, "--output", tmp_path / "out")
    assert code == 0, said
    assert nibabel.load(tmp_path / "out/c0.nii.gz").shape == SHAPE


@pytest.mark.parametrize("way", ["each", "repeat", "first"])
def test_four_channels_are_refused_until_it_is_said_how(way, medfuse, tmp_path):
    network, data = write_network(tmp_path / "dino"), write_cases(tmp_path / "cubes", channels=4)
    encoder = {"use": "slices", "neighbours": 0, "of": {"use": "huggingface", "name": str(network)}}
    code, said = medfuse("check", write_pipeline(tmp_path, data, encoder))
    assert code == 2
    assert "sees 3 channels, and is given 4" in said
    assert all(f"channels: {one}" in said for one in ("each", "repeat", "first"))
    for where in ({**encoder, "channels": way}, {**encoder, "of": {**encoder["of"], "channels": way}}):
        code, said = medfuse("check", write_pipeline(tmp_path, data, where))
        assert code == 0, said


@pytest.mark.parametrize("channels", [1, 2])
def test_a_pipeline_planned_around_it_shows_it_slices_as_colours(channels, medfuse, tmp_path):
    """Each channel of an image once, with its neighbours, and not each slice by itself."""
    network, data = write_network(tmp_path / "dino"), write_cases(tmp_path / "cubes", channels=channels)
    file = tmp_path / "planned.yaml"
    code, said = medfuse("init", data, "--from", network, "--minutes", 1, "--output", file)
    assert code == 0, said
    code, said = medfuse("check", file)
    assert code == 0, said
    (last,) = (line for line in said.splitlines() if line.startswith("encoder.") and "layer.3 " in line)
    assert f" {TINY['hidden_size'] * channels} " in last


def test_a_patch_that_is_no_multiple_is_refused_at_its_place(medfuse, tmp_path):
    network, data = write_network(tmp_path / "dino"), write_cases(tmp_path / "cubes")
    encoder = {"use": "slices", "of": {"use": "huggingface", "name": str(network)}}
    changed = {"sample": {"patch_size": [30, 28, 2], "batch_size": 2}}
    code, said = medfuse("check", write_pipeline(tmp_path, data, encoder, **changed))
    assert code == 2
    assert "the next size that fits is [42, 28]" in said
    assert "cubes.yaml:" in said


def test_the_pipeline_that_comes_with_it_passes_its_own_check(medfuse, tmp_path):
    network = write_network(tmp_path / "dino")
    named = f"model.backbones.encoder.of.name={network}"
    code, said = medfuse("check", ROOT / "pipelines/dinov2.yaml", "--set", named)
    assert code == 0, said
    assert "every declared shape agrees with the real one" in said


def test_its_class_token_is_fused_slice_by_slice_where_it_is_named(medfuse, tmp_path):
    network, data = write_network(tmp_path / "dino"), write_cases(tmp_path / "cubes")
    encoder = {"use": "slices", "of": {"use": "huggingface", "name": str(network)}}
    file = write_pipeline(tmp_path, data, encoder)
    said = yaml.safe_load(file.read_text())
    node = next(iter(said["model"]["fusion"].values()))
    node["inputs"] = [*node["inputs"], "encoder.pooled"]
    said["model"]["taps"]["encoder"]["layers"] = ["quarter", "pooled"]
    file.write_text(yaml.safe_dump(said))
    code, text = medfuse("check", file)
    assert code == 0, text
    (line,) = (line for line in text.splitlines() if line.startswith("encoder.pooled"))
    assert f" {TINY['hidden_size']} " in line
