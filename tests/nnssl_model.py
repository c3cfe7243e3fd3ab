"""A checkpoint in nnssl's layout, and the tensors in it with the names that its networks give."""

from pathlib import Path

import torch
from torch import nn

PLAN = {
    "dataset_name": "Dataset745_OpenMind",
    "plans_name": "nnsslPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
}
CONFIGURATION = {
    "data_identifier": "nnsslPlans_onemmiso",
    "preprocessor_name": "DefaultPreprocessor",
    "spacing_style": "onemmiso",
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3},
    "spacing": [3.0, 2.0, 1.0],
    "patch_size": [32, 32, 32],
}
PLAIN = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 16],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_blocks_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.modules.activation.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def checkpoint(kind, weights, *, keys, arch_kwargs=None, channels=1, **changed) -> dict:
    """What torch.save is given. keys: to the encoder, the stem, and learned positions."""
    encoder, stem, positions = keys
    plan = {
        "architecture_plans": {
            "arch_class_name": kind,
            "arch_kwargs": arch_kwargs,
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {**PLAN, "configurations": {"onemmiso": dict(CONFIGURATION)}},
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": [16, 32, 48],
        "key_to_encoder": encoder,
        "key_to_stem": stem,
        "keys_to_in_proj": (f"{stem}.proj",),
        "key_to_lpe": positions,
    }
    return {
        "network_weights": weights,
        "init_args": {"configuration_name": "onemmiso", "fold": "all", "device": "cpu"},
        "current_epoch": 7,
        "trainer_name": "BaseMAETrainer",
        "nnssl_adaptation_plan": {**plan, **changed},
    }


def plain(path: Path, **changed) -> dict:
    """A checkpoint of a plain U-Net at `path`; returns its tensors."""
    from nnunet_model import UNet

    torch.manual_seed(0)
    kernels, strides = PLAIN["kernel_sizes"], PLAIN["strides"]
    weights = UNet(1, 1, [4, 8, 16], strides, kernels, 2).state_dict()
    keys = ("encoder.stages", "encoder.stages.0", None)
    torch.save(checkpoint("PlainConvUNet", weights, keys=keys, arch_kwargs=dict(PLAIN), **changed), path)
    return weights


def residual(path: Path, kind="ResEncL", channels=(4, 8, 8), **changed) -> dict:
    """A checkpoint of a residual encoder, made of its names and shapes alone."""
    weights = {}
    conv(weights, "encoder.stem.convs.0", 1, channels[0], 3)
    for stage, (before, after) in enumerate(zip((channels[0], *channels), channels)):
        for block in range((1, 3, 4, 6)[min(stage, 3)]):
            at = f"encoder.stages.{stage}.blocks.{block}"
            conv(weights, f"{at}.conv1", before if block == 0 else after, after, 3)
            conv(weights, f"{at}.conv2", after, after, 3)
            if block == 0 and before != after:
                at = f"{at}.skip.{0 if stage == 0 else 1}"
                conv(weights, at, before, after, 1, bias=False)
    conv(weights, "decoder.stages.0.convs.0", 2 * channels[-2], channels[-2], 3)
    keys = ("encoder.stages", "encoder.stem", None)
    torch.save(checkpoint(kind, weights, keys=keys, **changed), path)
    return weights


def conv(weights, name, before, after, kernel, *, bias=True) -> None:
    """A convolution and its norm, each stored by two names."""
    convolution, norm = nn.Conv3d(before, after, kernel, bias=bias), nn.InstanceNorm3d(after, affine=True)
    for part, module, number in (("conv", convolution, 0), ("norm", norm, 1)):
        for key, value in module.state_dict().items():
            value = torch.randn_like(value)
            weights[f"{name}.{part}.{key}"] = weights[f"{name}.all_modules.{number}.{key}"] = value


def primus(path: Path, *, prefix="", channels=36, depth=4, side=4, registers=0, **changed) -> dict:
    """A checkpoint of Primus, made of its names and shapes alone, with a masked autoencoder's decoder."""
    inner = int(channels * 4 * 2 / 3)
    shapes = {
        "down_projection.proj.weight": (channels, 1, 8, 8, 8),
        "down_projection.proj.bias": (channels,),
        "eva.pos_embed": (1, registers + side**3, channels),
        "eva.norm.weight": (channels,),
        "eva.norm.bias": (channels,),
        "mask_token": (1, 1, channels),
        "up_projection.decode.0.weight": (channels, 12, 2, 2, 2),
        "decoder.blocks.0.norm1.weight": (channels,),
    }
    for block in range(depth):
        at = f"eva.blocks.{block}"
        shapes |= {
            **{
                f"{at}.{norm}.{key}": (channels,) for norm in ("norm1", "norm2") for key in ("weight", "bias")
            },
            **{f"{at}.attn.{name}_proj.weight": (channels, channels) for name in "qkv"},
            **{f"{at}.attn.{name}_proj.bias": (channels,) for name in "qv"},
            f"{at}.attn.proj.weight": (channels, channels),
            f"{at}.attn.proj.bias": (channels,),
            **{f"{at}.mlp.{name}.weight": (inner, channels) for name in ("fc1_g", "fc1_x")},
            **{f"{at}.mlp.{name}.bias": (inner,) for name in ("fc1_g", "fc1_x")},
            f"{at}.mlp.norm.weight": (inner,),
            f"{at}.mlp.norm.bias": (inner,),
            f"{at}.mlp.fc2.weight": (channels, inner),
            f"{at}.mlp.fc2.bias": (channels,),
        }
    torch.manual_seed(0)
    start = f"{prefix}." if prefix else ""
    weights = {f"{start}{name}": 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    keys = (f"{start}eva", f"{start}down_projection", f"{start}eva.pos_embed")
    torch.save(checkpoint("PrimusS", weights, keys=keys, **changed), path)
    return weights
