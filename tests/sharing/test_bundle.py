"""MONAI bundles: MONAI alone gives the labels of `medfuse infer`, in every voxel, whatever the model is."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from sharing.models import MODELS, write_model, write_scans

from medfuse.core.reporter import Reporter
from medfuse.sharing.bundle import scripts
from medfuse.sharing.formats import write_model as share
from medfuse.verbs.infer import infer_volumes

PLAIN = ["runtime.use=torch", "runtime.precision=fp32"]


def run_by_monai(bundle: Path, scans: Path, output: Path) -> None:
    """As `python -m monai.bundle run` does, in this process."""
    from monai.bundle import ConfigWorkflow

    before = {name for name in sys.modules if name.partition(".")[0] == "scripts"}
    path = [*sys.path]
    try:
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / "inference.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type="infer",
            bundle_root=str(bundle),
            dataset_dir=str(scans),
            output_dir=str(output),
        )
        workflow.initialize()
        workflow.run()
    finally:
        sys.path[:] = path
        for name in {name for name in sys.modules if name.partition(".")[0] == "scripts"} - before:
            del sys.modules[name]


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize("name", MODELS)
def test_monai_alone_gives_the_same_labels(name, tmp_path):
    weights = write_model(tmp_path / "small.safetensors", name)
    scans = write_scans(tmp_path / "scans", len(MODELS[name][0].channels))
    share(weights, tmp_path / "bundle", kind="bundle")
    run_by_monai(tmp_path / "bundle", scans, tmp_path / "theirs")
    infer_volumes(
        [weights], [scans], tmp_path / "ours", overrides=PLAIN, device="cpu", reporter=Reporter(quiet=True)
    )
    ours, theirs = labels_in(tmp_path / "ours"), labels_in(tmp_path / "theirs")
    assert [*ours] == [*theirs]
    assert {file: int((ours[file] != theirs[file]).sum()) for file in ours} == dict.fromkeys(ours, 0)
    assert all(ours[file].dtype == theirs[file].dtype for file in ours)
    assert len(np.unique(np.concatenate([one.ravel() for one in ours.values()]))) > 1
    for file in ours:
        affines = [nibabel.load(tmp_path / which / file).affine for which in ("ours", "theirs")]
        np.testing.assert_allclose(*affines, atol=1e-5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_model(folder / "small.safetensors")
    share(folder / "small.safetensors", folder / "bundle", kind="bundle", license="CC-BY-4.0")
    return folder / "bundle"


BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "medfuse":
            raise ImportError("medfuse is not here")

sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.slow  # a process of its own imports torch and MONAI
def test_the_command_of_its_page_runs_where_there_is_no_medfuse(bundle, tmp_path):
    pytest.importorskip("fire", reason="pip install fire: MONAI's own command line needs it")
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    scans = write_scans(tmp_path / "scans")
    command = next(
        line for line in (bundle / "docs/README.md").read_text().splitlines() if line.startswith("python -m")
    )
    words = command.replace("SCANS", str(scans)).replace("LABELS", str(tmp_path / "out")).split()
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=bundle,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(labels_in(tmp_path / "out")) == 6


def test_its_scripts_import_torch_numpy_and_monai_alone():
    known = {
        "__future__",
        "itertools",
        "math",
        "pathlib",
        "collections",
        "typing",
        "numpy",
        "torch",
        "monai",
        "scipy",
    }
    for name, text in scripts().items():
        for node in ast.walk(ast.parse(text)):
            found = []
            if isinstance(node, ast.Import):
                found = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module]
            assert {one.partition(".")[0] for one in found} <= known, name


def test_its_network_is_the_one_that_was_trained(bundle):
    from medfuse.trained.loading import load_trained

    names: dict = {}
    exec((bundle / "scripts/network.py").read_text(), names)
    theirs = names["Network"]()
    theirs.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    ours = load_trained([bundle / "models/model.pt"], device="cpu").segmenter()
    for number in (1, 3):
        windows = torch.randn((number, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(ours(windows), theirs.eval()(windows))


def test_infer_reads_it(bundle, medfuse, tmp_path):
    scans = write_scans(tmp_path / "scans")
    said = medfuse("infer", bundle, "-i", scans, "-o", tmp_path / "out", "-q")
    assert said.code == 0, said.err
    assert len(labels_in(tmp_path / "out")) == 6


def test_import_bundle_gives_the_very_weights_back(bundle, medfuse, tmp_path):
    said = medfuse("import-bundle", bundle, "-o", tmp_path / "run", "-q")
    assert said.code == 0, said.err
    imported = (tmp_path / "run" / "weights_last.safetensors").read_bytes()
    assert imported == (bundle.parent / "small.safetensors").read_bytes()


def test_info_says_what_it_is(bundle, medfuse):
    said = json.loads(medfuse("info", bundle, "--json").out)
    assert said["license"] == "CC-BY-4.0"
    assert [label["name"] for label in said["labels"]] == ["liver", "tumour"]


def test_two_exports_are_the_same_bytes(bundle, tmp_path):
    share(bundle.parent / "small.safetensors", tmp_path / "again", kind="bundle", license="CC-BY-4.0")
    for name in ("one.zip", "two.zip"):
        share(bundle.parent / "small.safetensors", tmp_path / name, kind="bundle", license="CC-BY-4.0")
    files = {p.relative_to(bundle): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    again = tmp_path / "again"
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_zip_file_is_described_and_imported_too(bundle, medfuse, tmp_path):
    share(bundle.parent / "small.safetensors", tmp_path / "small.zip", kind="bundle")
    assert "liver" in medfuse("info", tmp_path / "small.zip").out
    said = medfuse("import-bundle", tmp_path / "small.zip", "-o", tmp_path / "run", "-q")
    assert said.code == 0, said.err


def test_its_metadata_say_what_monai_asks_for(bundle):
    said = json.loads((bundle / "configs/metadata.json").read_text())
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"):
        assert said[key]
    for key in ("task", "description", "authors", "copyright", "changelog", "schema"):
        assert said[key]
    image, pred = (said["network_data_format"][side] for side in ("inputs", "outputs"))
    for one, channels in ((image["image"], ["CT"]), (pred["pred"], ["background", "liver", "tumour"])):
        assert one["num_channels"] == len(channels)
        assert one["spatial_shape"] == [16, 16, 16]
        assert [*one["channel_def"].values()] == channels
        assert {"type", "format", "dtype", "value_range", "is_patch_data"} <= {*one}


def test_its_configuration_has_every_part_that_monai_names(bundle):
    from monai.bundle.properties import InferProperties, MetaProperties
    from monai.utils import BundleProperty, BundlePropertyConfig

    said = json.loads((bundle / "configs/inference.json").read_text())
    said["_meta_"] = json.loads((bundle / "configs/metadata.json").read_text())
    for about in (InferProperties | MetaProperties).values():
        inner = said
        for key in about[BundlePropertyConfig.ID].split("::"):
            if about[BundleProperty.REQUIRED]:
                assert key in inner
            inner = inner.get(key, {})


def test_a_bundle_of_others_is_to_be_imported(tmp_path, medfuse):
    from imports.test_bundle import write_bundle

    write_bundle(tmp_path / "bundle")
    told = medfuse("infer", tmp_path / "bundle", "-i", tmp_path, "-o", tmp_path / "out", "-q")
    assert told.code == 2
    assert "medfuse import-bundle" in told.err


def test_a_bundle_of_others_says_what_it_is(tmp_path, medfuse):
    from imports.test_bundle import write_bundle

    write_bundle(tmp_path / "bundle")
    told = medfuse("info", tmp_path / "bundle", "--json")
    assert told.code == 0, told.err
    said = json.loads(told.out)
    assert said["kind"] == "a MONAI bundle of others"
    assert said["spacing_mm"] == [1.5, 1.5, 2.0]


def test_a_damaged_model_is_told(bundle, tmp_path, medfuse):
    import shutil

    other = shutil.copytree(bundle, tmp_path / "other")
    said = json.loads((other / "configs/medfuse_model.json").read_text())
    said["facts"]["name"] = "another"
    (other / "configs/medfuse_model.json").write_text(json.dumps(said))
    told = medfuse("infer", other, "-i", tmp_path, "-o", tmp_path / "out", "-q")
    assert told.code == 2
    assert "damaged" in told.err
