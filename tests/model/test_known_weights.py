"""Weights that are public: state dicts of their names and shapes, of which the encoder takes all."""

import re
import sys
from pathlib import Path

import pytest
import torch

from medfuse.api import ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.transfer import transfer

sys.path.insert(0, str(Path(__file__).parents[1] / "builtin" / "backbones"))
IMAGE = ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0))


def taken(tmp_path, state, backbone, **transferred):
    """The network that started from `state`, and what became of its tensors."""
    torch.save(state, tmp_path / "weights.pt")
    settings = ModelSettings.model_validate(
        {
            "backbones": {"encoder": backbone},
            "transfer": {"encoder": {"weights": tmp_path / "weights.pt", "at_least": 1, **transferred}},
            "fusion": {"fused": {"use": "hypercolumn", "inputs": ["encoder.*"]}},
            "head": {"input": "fused"},
        }
    )
    network = build_segmenter(plan_graph(settings, IMAGE, 2)).eval()
    return network, transfer(network, settings.transfer)["encoder"]


def noisy(network) -> dict[str, torch.Tensor]:
    """Its tensors, each with a value of its own."""
    return {
        k: t + 0.01 * torch.randn_like(t) if t.is_floating_point() else t
        for k, t in network.state_dict().items()
    }


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("name", ["swinViT", "module.swinViT", "backbone.swin_vit"])
def test_voco_has_all_of_swin_unetr(tmp_path, name, v2):
    from monai.networks.nets import SwinUNETR

    theirs = SwinUNETR(1, 14, feature_size=12, use_v2=v2, spatial_dims=3)
    state = {k.replace("swinViT", name, 1): t for k, t in noisy(theirs).items()}
    backbone = {"use": "swin_unetr", "channels": 12, "v2": v2}
    _, made = taken(tmp_path, {"state_dict": state}, backbone, prefix=name)
    assert made.share == 1


def test_ct_fm_has_all_of_segresnets_encoder(tmp_path):
    from monai.networks.nets import SegResNetDS

    blocks = [1, 2, 2, 4, 4]
    theirs = SegResNetDS(3, init_filters=8, in_channels=1, out_channels=2, blocks_down=blocks, dsdepth=4)
    parameters = {"spatial_dims": 3, "init_filters": 8, "in_channels": 1, "blocks_down": blocks}
    backbone = {
        "use": "module",
        "target": "monai.networks.nets.segresnet_ds:SegResEncoder",
        "parameters": parameters,
    }
    network, made = taken(tmp_path, noisy(theirs), backbone, prefix="encoder")
    assert made.share == 1
    assert network


def mednext_at_its_authors(state) -> dict[str, torch.Tensor]:
    """MONAI's names as those of MedNeXt's authors, and its kernels as on their axes, (z, y, x)."""
    made = {}
    for name, tensor in state.items():
        name = re.sub(r"^enc_stages\.(\d+)\.", r"enc_block_\1.", name)
        name = re.sub(r"^down_blocks\.(\d+)\.", r"down_\1.", name)
        name = re.sub(r"^dec_stages\.(\d+)\.", lambda f: f"dec_block_{3 - int(f[1])}.", name)
        name = re.sub(r"global_resp_(gamma|beta)$", r"grn_\1", name)
        name = re.sub(r"^up_blocks\.(\d+)\.", lambda f: f"up_{3 - int(f[1])}.", name)
        made[name] = tensor.permute(0, 1, 4, 3, 2) if tensor.ndim == 5 else tensor
    return {**made, "dummy_tensor": torch.ones(1)}


@pytest.mark.parametrize("version", [1, 2])
def test_mednext_of_its_authors_is_monais_with_axes_turned(version, tmp_path):
    from monai.networks.nets import MedNeXt

    torch.manual_seed(0)
    theirs = MedNeXt(
        3, init_filters=4, kernel_size=3, use_residual_connection=True, global_resp_norm=version == 2
    ).eval()
    state = noisy(theirs)
    theirs.load_state_dict(state)
    backbone = {"use": "mednext", "size": "S", "kernel": 3, "base_channels": 4}
    backbone["global_response_norm"] = version == 2
    file = {"state_dict": mednext_at_its_authors(state)}  # as nnU-Net 1 saves it
    network, made = taken(tmp_path, file, backbone)
    assert made.share == 1
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        finest = theirs.enc_stages[0](theirs.stem(image))
        ours = network.backbones["encoder"](image)["enc_stages.0"]
    torch.testing.assert_close(ours, finest)


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("nested", [False, True])
def test_3dino_has_all_of_dino3d(tmp_path, chunks, nested):
    from test_vit import dino_state

    state = dino_state(channels=32, depth=4, side=3, chunks=chunks)
    if nested:
        state = {"teacher": {f"backbone.{k}": t for k, t in state.items()}}
    backbone = {"use": "dino3d", "channels": 32, "depth": 4, "heads": 2, "grid": 3}
    _, made = taken(tmp_path, state, backbone)
    assert made.share == 1
