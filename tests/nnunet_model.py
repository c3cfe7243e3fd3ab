"""A trained model's folder in nnU-Net's layout, and the network in it with the names that nnU-Net gives."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {
    "InstanceNorm": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "BatchNorm": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}


class Block(nn.Module):
    """Convolution, norm, activation; each stored by two names."""

    def __init__(self, before, after, kernel, stride, style) -> None:
        super().__init__()
        dims, (norm, activation, bias) = len(kernel), style
        self.conv = CONV[dims](before, after, kernel, stride, [k // 2 for k in kernel], bias=bias)
        self.norm = NORM[norm][dims](after, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, getattr(nn, activation)())

    def forward(self, x):
        return self.all_modules(x)


class Blocks(nn.Module):
    def __init__(self, before, after, kernel, stride, count, style) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        first = Block(before, after, kernel, stride, style)
        further = (Block(after, after, kernel, ones, style) for _ in range(count - 1))
        self.convs = nn.Sequential(first, *further)

    def forward(self, x):
        return self.convs(x)


class UNet(nn.Module):
    """The plain U-Net of a plan. style: its norm, its activation, and whether convolutions have a bias."""

    def __init__(
        self,
        channels_in,
        classes,
        channels,
        strides,
        kernels,
        convs,
        style=("InstanceNorm", "LeakyReLU", True),
    ) -> None:
        super().__init__()
        dims, pairs = len(kernels[0]), list(zip([channels_in, *channels], channels))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.stages = nn.Sequential(
            *(nn.Sequential(Blocks(*p, k, s, convs, style)) for p, k, s in zip(pairs, kernels, strides))
        )
        steps = list(zip(channels[:0:-1], channels[-2::-1], strides[:0:-1], kernels[-2::-1]))
        ones = [1] * dims
        self.decoder.encoder = self.encoder
        self.decoder.stages = nn.ModuleList(Blocks(2 * c, c, k, ones, convs, style) for _, c, _, k in steps)
        self.decoder.transpconvs = nn.ModuleList(UP[dims](b, c, s, s, bias=style[2]) for b, c, s, _ in steps)
        self.decoder.seg_layers = nn.ModuleList(CONV[dims](c, classes, 1) for _, c, _, _ in steps)

    def forward(self, x):
        skips = []
        for stage in self.encoder.stages:
            skips.append(stage(skips[-1] if skips else x))
        x = skips.pop()
        for up, stage in zip(self.decoder.transpconvs, self.decoder.stages):
            x = stage(torch.cat([up(x), skips.pop()], 1))
        return self.decoder.seg_layers[-1](x)


def write_model(
    folder: Path,
    *,
    dims=3,
    turned=(0, 1, 2),
    older=False,
    folds=(0,),
    style=("InstanceNorm", "LeakyReLU", True),
    told=True,
    cascade=False,
    **changes,
) -> UNet:
    """A folder nnUNetTrainer__…, its folds with fresh weights; returns the network of the last.

    cascade: whether it is the second stage of one, as `3d_cascade_fullres`. style: see UNet. told: whether
    plans.json says so, as it does not where a trainer changed the network.
    """
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]] if dims == 3 else [[3, 3]] * 3
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]] if dims == 3 else [[1, 1], [2, 2], [2, 2]]
    name = "3d_cascade_fullres" if cascade else changes.get("name", {3: "3d_fullres", 2: "2d"}[dims])
    config = {
        "batch_size": 2,
        "patch_size": [8, 16, 12][-dims:],
        "spacing": [2.5, 0.8, 0.7][-dims:],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True],
        **(older_network(kernels, strides) if older else network(kernels, strides, style if told else None)),
    }
    config |= {key: value for key, value in changes.items() if key in config}
    facts = {"mean": 40.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}
    plans = {
        "transpose_forward": list(turned),
        "original_median_spacing_after_transp": [2.5, 0.8, 0.7],
        "configurations": {
            "parent": config,
            name: {"inherits_from": "parent", **({"previous_stage": "3d_lowres"} if cascade else {})},
        },
        "foreground_intensity_properties_per_channel": {"0": facts, "1": facts},
    }
    labels = changes.get("labels", {"background": 0, "a": 1, "b": 2})
    dataset = {"channel_names": {"0": "CT", "1": "PET"}, "labels": labels}
    if order := changes.get("regions_class_order"):
        dataset["regions_class_order"] = order
    outputs = len(order) if order else len({*labels} - {"ignore"})
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in folds:
        torch.manual_seed(fold)
        shown = len({v for x in labels.values() for v in (x if isinstance(x, list) else [x])} - {0})
        made = UNet(2 + shown * cascade, outputs, [4, 8, 16], strides, kernels, 2, style)
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        for buffer in made.buffers():
            if buffer.is_floating_point():
                buffer.data += 0.1 * torch.rand_like(buffer)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": made.state_dict(),
            "_best_ema": np.float64(0.7),
            "logging": {"ema": [np.float32(0.5), np.int64(3)]},
            "current_epoch": 5,
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": name, "fold": fold, "device": torch.device("cpu")},
            "inference_allowed_mirroring_axes": tuple(range(dims)),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return made.eval()


def network(kernels, strides, style=None):
    dims = len(kernels[0])
    norm, activation, bias = style or ("InstanceNorm", "LeakyReLU", True)
    modules = {"InstanceNorm": "instancenorm", "BatchNorm": "batchnorm"}
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": bias,
        "norm_op": f"torch.nn.modules.{modules[norm]}.{norm}{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": f"torch.nn.{activation}",
        "dropout_op": None,
    }
    kind = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    return {"architecture": {"network_class_name": kind, "arch_kwargs": arguments}}


def older_network(kernels, strides):
    return {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 320,
        "conv_kernel_sizes": kernels,
        "pool_op_kernel_sizes": strides,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
    }
