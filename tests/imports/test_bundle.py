"""MONAI bundles as runs: the label maps of MONAI's own pipeline, and nothing in them is run."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from medfuse.core.errors import CheckpointError, OutputError
from medfuse.core.reporter import Reporter
from medfuse.trained.loading import load_trained
from medfuse.verbs.import_bundle import import_bundle
from medfuse.verbs.infer import infer_volumes

ROI = (32, 32, 16)
UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
SEGRESNET = {
    "_target_": "monai.networks.nets.SegResNet",
    "spatial_dims": 3,
    "in_channels": "@channels",
    "out_channels": "$1 + 2",
    "init_filters": 8,
    "blocks_down": [1, 1, 1],
    "blocks_up": [1, 1],
}
DYNUNET = {
    "_target_": "DynUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 16],
    "res_block": True,
}
RANGE = {
    "_target_": "ScaleIntensityRanged",
    "keys": "@image_key",
    "a_min": -57,
    "a_max": 164,
    "b_min": 0,
    "b_max": 1,
}


def transforms(*more) -> dict:
    known = [
        {"_target_": "LoadImaged", "keys": "@image_key"},
        {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
        {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    ]
    return {
        "_target_": "Compose",
        "transforms": [*known, *more, {"_target_": "EnsureTyped", "keys": "@image_key"}],
    }


def configuration(**changed) -> dict:
    said = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "channels": 1,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": transforms({**RANGE, "clip": True}),
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(ROI),
            "sw_batch_size": 2,
            "overlap": "@more::overlap",
            "mode": "gaussian",
        },
        "more": {"overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dtype": "$numpy.float32"},
            ],
        },
    }
    return {**said, **changed}


METADATA = {
    "name": "Spleen and more",
    "network_data_format": {
        "inputs": {
            "image": {
                "num_channels": 1,
                "modality": "CT",
                "spatial_shape": list(ROI),
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "spleen", "2": "tumour"}}
        },
    },
}


def write_bundle(
    folder: Path, said: dict | None = None, *, metadata=METADATA, form="json"
) -> torch.nn.Module:
    """A bundle whose weights MONAI's own network has; returns that network."""
    from monai.bundle import ConfigParser

    said = configuration() if said is None else said
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    text = json.dumps(said, indent=4) if form == "json" else yaml.safe_dump(said, sort_keys=False)
    (folder / f"configs/inference.{form}").write_text(text)
    parser = ConfigParser(deepcopy(said))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
    torch.save(network.state_dict(), folder / "models/model.pt")
    return network.eval()


def phantom(path: Path, size=ROI, affine=None, seed=0) -> Path:
    voxels = np.random.default_rng(seed).normal(50, 120, size).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 2, 1]) if affine is None else affine), path)
    return path


def by_monai(said: dict, network: torch.nn.Module, path: Path) -> np.ndarray:
    """The label map of the bundle's own pipeline."""
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch

    said = deepcopy(said)
    said["postprocessing"]["transforms"].pop()  # writes a file
    parser = ConfigParser(said)
    before = parser.get_parsed_content("preprocessing")({"image": str(path)})
    inferer = parser.get_parsed_content("inferer")
    with torch.no_grad():
        made = inferer(before["image"][None], network)
    item = {**before, "pred": decollate_batch(made)[0]}
    return np.asarray(parser.get_parsed_content("postprocessing")(item)["pred"][0])


def by_medfuse(tmp_path: Path, bundle: Path, path: Path, **how) -> np.ndarray:
    import_bundle(bundle, tmp_path / "run", reporter=Reporter(quiet=True), **how)
    exact = ["runtime={use: torch, precision: fp32}"]
    run, labels = tmp_path / "run", tmp_path / "labels"
    infer_volumes([run], [path], labels, overrides=exact, device="cpu", reporter=Reporter(quiet=True))
    return np.asarray(nibabel.load(tmp_path / "labels" / path.name).dataobj)


@pytest.mark.parametrize(
    ("changed", "form"),
    [
        ({}, "json"),
        ({}, "yaml"),
        ({"network_def": SEGRESNET}, "json"),
        ({"network_def": DYNUNET}, "json"),
        ({"preprocessing": transforms({**RANGE, "b_min": -1.0, "clip": True})}, "json"),
        ({"preprocessing": transforms({**RANGE, "clip": False})}, "json"),
        (
            {
                "preprocessing": transforms(
                    {
                        "_target_": "NormalizeIntensityd",
                        "keys": "image",
                        "nonzero": True,
                        "channel_wise": True,
                    }
                )
            },
            "json",
        ),
        (
            {
                "preprocessing": transforms(
                    {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 40, "divisor": 80}
                )
            },
            "json",
        ),
    ],
    ids=["unet", "yaml", "segresnet", "dynunet", "other range", "no clip", "z-score", "fixed"],
)
def test_label_maps_are_those_of_monais_own_pipeline(tmp_path, changed, form):
    said = configuration(**changed)
    network = write_bundle(tmp_path / "bundle", said, form=form)
    image = phantom(tmp_path / "case.nii.gz")
    expected, made = by_monai(said, network, image), by_medfuse(tmp_path, tmp_path / "bundle", image)
    assert len(np.unique(expected)) > 1
    assert (made != expected).mean() < 1e-3  # ties, as sums are rounded in another order


@pytest.mark.parametrize(("size", "overlap"), [((50, 40, 20), 0.25), ((33, 70, 17), 0.6), ((20, 40, 30), 0)])
def test_windows_are_those_of_monai(tmp_path, size, overlap):
    said = configuration()
    said["inferer"] |= {"mode": "constant", "overlap": overlap}
    network = write_bundle(tmp_path / "bundle", said)
    image = phantom(tmp_path / "case.nii.gz", size)
    expected, made = by_monai(said, network, image), by_medfuse(tmp_path, tmp_path / "bundle", image)
    assert (made != expected).mean() < 1e-3


def test_an_image_whose_axes_point_elsewhere_is_turned_as_monai_turns_it(tmp_path):
    affine = np.array([[0, 0, -1.5, 3], [-1.5, 0, 0, 5], [0, 2, 0, 1], [0, 0, 0, 1]], float)
    network = write_bundle(tmp_path / "bundle")
    image = phantom(tmp_path / "case.nii.gz", (ROI[1], ROI[2], ROI[0]), affine)
    expected = by_monai(configuration(), network, image)
    made = by_medfuse(tmp_path, tmp_path / "bundle", image)
    assert made.shape == expected.shape
    assert (made != expected).mean() < 1e-3


def test_a_zip_file_is_taken_as_its_folder(tmp_path):
    write_bundle(tmp_path / "around" / "spleen")
    archive = Path(shutil.make_archive(tmp_path / "spleen", "zip", tmp_path / "around"))
    image = phantom(tmp_path / "case.nii.gz")
    zipped = by_medfuse(tmp_path / "a", archive, image)
    assert np.array_equal(zipped, by_medfuse(tmp_path / "b", tmp_path / "around" / "spleen", image))


def test_names_channels_and_windows_are_the_bundles(tmp_path):
    write_bundle(tmp_path / "bundle")
    import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter(quiet=True))
    ours = load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu")
    assert ours.plan.labels == {"background": 0, "spleen": 1, "tumour": 2}
    assert (ours.plan.channels, ours.plan.spacing_mm) == (("CT",), (1.5, 1.5, 2.0))
    assert (ours.plan.patch_size, ours.settings.overlap, ours.settings.batch_size) == (ROI, 0.25, 2)


def test_outputs_that_are_decided_one_by_one_are_regions(tmp_path):
    said = configuration()
    said["postprocessing"]["transforms"][0] = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    metadata = deepcopy(METADATA)
    names = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = names
    network = write_bundle(tmp_path / "bundle", said, metadata=metadata)
    import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter(quiet=True))
    plan = load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu").plan
    assert (plan.classes, plan.region_order) == (tuple(names.values()), (1, 2, 3))
    assert network


def test_what_is_done_otherwise_is_told(tmp_path, capsys):
    said = configuration()
    said["postprocessing"]["transforms"].insert(
        3, {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}
    )
    write_bundle(tmp_path / "bundle", said)
    import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter())
    told = capsys.readouterr()
    assert "gaussians are not cut off" in told.out + told.err
    assert "postprocessing by KeepLargestConnectedComponent is left out" in told.out + told.err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"network_def": {**UNET, "_target_": "os.system"}},
            r"inference\.json:\d+: network_def\._target_: is no network",
        ),
        ({"network_def": {**UNET, "_target_": "scripts.net.UNet"}}, "is no network of monai.networks.nets"),
        (
            {"network_def": {**UNET, "_target_": "monai.networks.nets.TorchVisionFCModel"}},
            "TorchVisionFCModel",
        ),
        ({"network_def": {**UNET, "channels": "$list(range(3))"}}, "is code, and none in a bundle is run"),
        (
            {"network_def": {**UNET, "norm": {"_target_": "os.system", "command": "ls"}}},
            "makes os.system as an argument",
        ),
        ({"network_def": {**UNET, "channels": "@nowhere::0"}}, "refers to nowhere::0, which there is not"),
        ({"network_def": {**UNET, "channels": "@a"}, "a": "@b", "b": "@a"}, "in a circle"),
        ({"network_def": "$monai.networks.nets.UNet(3, 1, 2)"}, "names no class by _target_"),
        ({"network_def": {**UNET, "num_res_units": "many"}}, "network_def"),
        ({"network_def": {**UNET, "out_channels": 5}}, "of another shape"),
        (
            {
                "preprocessing": transforms(
                    {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]}
                )
            },
            "Resize",
        ),
        (
            {"preprocessing": transforms({"_target_": "scripts.my.Loadd", "keys": "image"})},
            "is no transform of MONAI",
        ),
        ({"preprocessing": transforms({"_target_": "RandFlipd", "keys": "image"})}, "RandFlip is none of"),
        ({"preprocessing": {"_target_": "Compose", "transforms": []}}, "has no Spacingd"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": ["a", 2, 3]}}, "roi_size"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_its_place(tmp_path, changed, words):
    write_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle/configs/inference.json"
    path.write_text(json.dumps(configuration(**changed), indent=4))
    with pytest.raises(CheckpointError, match=words) as caught:
        import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter(quiet=True))
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "run/weights_last.safetensors").exists()


def test_a_bundle_without_a_spacing_takes_one_from_its_user(tmp_path):
    without = [t for t in transforms({**RANGE, "clip": True})["transforms"] if t["_target_"] != "Spacingd"]
    said = configuration(preprocessing={"_target_": "Compose", "transforms": without})
    network = write_bundle(tmp_path / "bundle", said)
    image = phantom(tmp_path / "case.nii.gz")
    made = by_medfuse(tmp_path, tmp_path / "bundle", image, spacing_mm=(1.5, 1.5, 2.0))
    assert (made != by_monai(said, network, image)).mean() < 1e-3


def test_code_in_weights_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pwned",)

    write_bundle(tmp_path / "bundle")
    torch.save({"model": Code()}, tmp_path / "bundle/models/model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: cannot be read as weights"):
        import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter(quiet=True))
    assert not (tmp_path / "pwned").exists()


def test_missing_weights_are_named_with_what_there_is(tmp_path):
    write_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/models/model.pt").rename(tmp_path / "bundle/models/model_lowres.pt")
    with pytest.raises(CheckpointError, match=r"it has model_lowres\.pt; name one by --weights"):
        import_bundle(tmp_path / "bundle", tmp_path / "run", reporter=Reporter(quiet=True))
    import_bundle(
        tmp_path / "bundle", tmp_path / "run", weights="model_lowres.pt", reporter=Reporter(quiet=True)
    )
    with pytest.raises(OutputError, match="is there already"):
        import_bundle(
            tmp_path / "bundle", tmp_path / "run", weights="model_lowres.pt", reporter=Reporter(quiet=True)
        )


def test_the_command_takes_a_spacing_in_mm(medfuse, tmp_path):
    said = medfuse("import-bundle", tmp_path, "-o", tmp_path / "run", "--spacing", "1,1")
    assert said.code == 2
    assert "write three numbers of mm" in said.err
    assert "holds no configs/metadata.json" in medfuse("import-bundle", tmp_path, "-o", tmp_path / "run").err


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("@more::overlap", 0.25),
        ("$@more#overlap * 2", 0.5),
        ("$[1.5, 2] if @channels else [3, 3]", [1.5, 2]),
        ("$-@channels + 2 ** 3", None),
        ("$'a' + 'b'", "ab"),
        ("$(1, 2)", [1, 2]),
        ("$not @channels", False),
        ("$__import__('os').system('ls')", None),
        ("$'a' * 10", None),
        ("$1 / 0", None),
        ("$" + "(" * 300 + "1" + ")" * 300, None),
        ("%more::overlap", None),
        ("@##more", None),
    ],
)
def test_references_and_sums_are_worked_out_and_nothing_is_called(tmp_path, text, made):
    from medfuse.imports.bundle_config import Config

    path = tmp_path / "inference.json"
    path.write_text(json.dumps(configuration(value=text)))
    config = Config.read(path)
    if made is not None:
        assert config.get("value") == made
        return
    with pytest.raises(CheckpointError, match=r"inference\.json:1: value: "):
        config.get("value")
