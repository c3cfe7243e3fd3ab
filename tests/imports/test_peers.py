"""Models that nnU-Net's own code makes and reads, where nnunetv2 is installed: the same logits."""

import json
import sys

import numpy as np
import pytest
import torch

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.reporter import Reporter
from medfuse.imports.nnunet import read_plan
from medfuse.trained.loading import load_trained
from medfuse.verbs.import_nnunet import import_nnunet

nnunetv2 = pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
RESIDUAL = "residual_encoder" in {entry.name for entry in registry.entries(Backbone.group)}

PLAIN_3D = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 16],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
}
PLAIN_2D = {**PLAIN_3D, "kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
RESENC = {**PLAIN_3D, "n_blocks_per_stage": [1, 3, 4], "n_conv_per_stage_decoder": [1, 1]}
RESENC.pop("n_conv_per_stage")
CLASSES = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3]}


def write(
    folder, *, kind="PlainConvUNet", kwargs=PLAIN_3D, trainer="nnUNetTrainer", labels=CLASSES, cascade=False
):
    """A folder as nnU-Net leaves it after training; its weights are those of a fresh network of its own."""
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dims = len(kwargs["kernel_sizes"][0])
    name = "3d_cascade_fullres" if cascade else {2: "2d", 3: "3d_fullres"}[dims]
    config = {
        "batch_size": 2,
        "patch_size": [8, 16, 12][-dims:],
        "median_image_size_in_voxels": [8, 16, 12][-dims:],
        "spacing": [2.5, 0.8, 0.7][-dims:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
            "arch_kwargs": {
                **kwargs,
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    if cascade:
        config["previous_stage"] = "3d_lowres"
    facts = {"mean": 40.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}
    plans = {
        "dataset_name": "Dataset001_Test",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 0.8, 0.7],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: config},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": facts},
    }
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    if labels is REGIONS:
        dataset["regions_class_order"] = [1, 2, 3]
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    manager = PlansManager(plans)
    configured = manager.get_configuration(name)
    root = nnunetv2.__path__[0]
    made_by = recursive_find_python_class(
        f"{root}/training/nnUNetTrainer", trainer, "nnunetv2.training.nnUNetTrainer"
    )
    torch.manual_seed(0)
    network = made_by.build_network_architecture(
        manager,
        configured,
        determine_num_input_channels(manager, configured, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=True,
    )
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.rand_like(tensor)
    state = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "logging": {"ema_fg_dice": [np.float32(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": name, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": tuple(range(dims)),
    }
    (folder / "fold_0").mkdir()
    torch.save(state, folder / "fold_0" / "checkpoint_final.pth")
    return name


def as_nnunet_reads_it(folder) -> torch.nn.Module:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    return predictor.network.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"kwargs": PLAIN_2D},
        {"trainer": "nnUNetTrainerBN"},
        {"trainer": "nnUNetTrainerNoDeepSupervision"},
        {"labels": REGIONS},
        pytest.param(
            {"kind": "ResidualEncoderUNet", "kwargs": RESENC},
            marks=pytest.mark.skipif(
                not RESIDUAL, reason="residual encoders come with plugins/medfuse-dynamic"
            ),
        ),
    ],
    ids=["3d", "2d", "batch norm", "no deep supervision", "regions", "residual"],
)
def test_the_logits_are_those_of_nnunet(tmp_path, how, monkeypatch, capsys):
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__any"
    name = write(folder, **how)
    theirs = as_nnunet_reads_it(folder)
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    ours = load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu")
    axes = read_plan(folder, name).axes
    turn = (0, 1, *(2 + axis for axis in axes))
    image = torch.randn(2, 1, *[8, 16, 12][-len(axes) :])
    with torch.no_grad():
        expected, made = theirs(image).permute(turn), ours.networks[0](image.permute(turn))
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert "nnunetv2" in sys.modules


@pytest.mark.parametrize(
    "settings", [{}, {"num_register_tokens": 2}, {"init_values": 0.1, "scale_attn_inner": True}]
)
def test_the_tokens_of_primus_are_those_of_its_authors(settings):
    """Block by block, with their names and on their axes, (z, y, x)."""
    authors = pytest.importorskip(
        "dynamic_network_architectures.architectures.primus", reason="its authors' code cannot be imported"
    )
    from medfuse.model.nnunet_names import turned

    torch.manual_seed(0)
    how = {"embed_dim": 48, "patch_embed_size": (8, 8, 8), "eva_depth": 3, "eva_numheads": 2}
    theirs = authors.Primus(1, num_classes=2, input_shape=(32, 32, 32), **how, **settings).eval()
    registers = settings.get("num_register_tokens", 0)
    ours = registry.get(Backbone.group, "primus")(
        channels=48,
        depth=3,
        heads=2,
        grid=4,
        registers=registers,
        layer_scale="init_values" in settings,
        inner_norm="scale_attn_inner" in settings,
    ).build(ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0)))
    state = {name: turned(name, t) for name, t in theirs.state_dict().items() if name in ours.state_dict()}
    ours.eval().load_state_dict(state)
    made = {}
    for who, network in (("theirs", theirs), ("ours", ours)):
        for n, block in enumerate(network.eva.blocks):
            block.register_forward_hook(lambda _, __, output, at=(who, n): made.update({at: output}))
    x = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        theirs(x.permute(0, 1, 4, 3, 2))
        ours(x)
    for n in range(3):
        tokens = made["theirs", n]
        places = tokens[:, registers:].reshape(2, 4, 4, 4, 48).permute(0, 3, 2, 1, 4).reshape(2, 64, 48)
        torch.testing.assert_close(made["ours", n][:, registers:], places)
