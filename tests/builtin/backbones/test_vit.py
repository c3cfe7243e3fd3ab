"""Transformers of volumes: their tokens are where they should be, and are what others' networks make."""

import nnssl_model
import pytest
import torch

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.builtin.nets import vit
from medfuse.core.errors import ShapeError
from medfuse.model.nnunet_names import turned

IMAGE = ImageInfo(1, (16, 24, 32), (1.0, 1.0, 1.0))


def backbone(name, **parameters):
    return registry.get(Backbone.group, name)(**parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"use": "primus", "channels": 24, "depth": 2, "heads": 2},
        {"use": "primus", "channels": 24, "depth": 1, "heads": 4, "registers": 3, "layer_scale": True},
        {"use": "primus", "channels": 12, "depth": 1, "heads": 1, "inner_norm": True, "patch": 4, "grid": 3},
        {"use": "dino3d", "channels": 16, "depth": 2, "heads": 2, "patch": 8},
    ],
    ids=["primus", "registers", "inner norm", "dino3d"],
)
def test_the_contract_is_kept(parameters):
    from medfuse.testing import check_backbone

    use = parameters.pop("use")
    check_backbone(backbone(use, **parameters), IMAGE)


@pytest.mark.parametrize(("name", "patch"), [("primus", 8), ("dino3d", 16)])
def test_a_patch_that_is_no_multiple_is_told_the_next_one(name, patch):
    sides = [-(-n // patch) * patch for n in (17, 20, 23)]
    with pytest.raises(ShapeError, match=rf"sample\.patch_size: \[{sides[0]}, {sides[1]}, {sides[2]}\]"):
        backbone(name).features(ImageInfo(1, (17, 20, 23), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("name", ["primus", "dino3d"])
def test_they_are_for_volumes(name):
    with pytest.raises(ShapeError, match="patches of 3 sides"):
        backbone(name).features(ImageInfo(1, (32, 32), (1.0, 1.0)))


def test_heads_that_cannot_be_turned_along_three_axes_are_refused():
    with pytest.raises(ShapeError, match="multiple of 6"):
        backbone("primus", channels=16, heads=2).features(IMAGE)


@pytest.mark.parametrize("size", ["S", "B", "M", "L"])
def test_each_size_has_heads_that_can_be_turned(size):
    assert backbone("primus", size=size).features(IMAGE)


def test_positions_of_the_grid_that_was_learned_stay_as_they_are():
    learned = torch.randn(1, 2 + 24, 5)
    assert vit.positions(learned, 2, (2, 3, 4), (2, 3, 4)) is learned


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_positions_of_another_grid_keep_a_constant_and_what_has_no_place(shift):
    learned = torch.ones(1, 1 + 8, 5)
    learned[:, 0] = 7
    made = vit.positions(learned, 1, (2, 2, 2), (3, 4, 5), shift)
    assert made.shape == (1, 61, 5)
    assert torch.equal(made[:, 0], learned[:, 0])
    torch.testing.assert_close(made[:, 1:], torch.ones(1, 60, 5))


def test_positions_rise_along_the_axis_along_which_they_rose():
    x = torch.arange(2.0)[:, None, None].expand(2, 2, 2).reshape(1, 8, 1)
    made = vit.positions(x, 0, (2, 2, 2), (4, 2, 2)).reshape(4, 2, 2)
    assert (made.diff(dim=0) >= 0).all()
    assert (made.diff(dim=1) == 0).all()


def network(**changed):
    torch.manual_seed(0)
    settings = {"channels": 24, "depth": 2, "heads": 2, "patch": 8, "grid": (2, 3, 4), **changed}
    return vit.Primus(1, **settings).eval()


def test_each_token_has_learned_where_it_is():
    """Of two bright places, those that are shown the other way round, tokens are the other way round."""
    ours = network(grid=(2, 2, 2))
    for name in ("eva.pos_embed",):
        ours.get_parameter(name).data.zero_()
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        made, flipped = ours(image), ours(image.roll(8, 2))
    assert not torch.allclose(made, flipped.unflatten(1, (2, 2, 2)).roll(1, 1).flatten(1, 3), atol=1e-4)


def dynamic():
    return pytest.importorskip(
        "dynamic_network_architectures.architectures.primus", reason="needs timm, which needs torchvision"
    )


def handed_over(theirs, ours):
    """Their tensors in our network, as `transfer` reads them."""
    own = ours.state_dict()
    ours.load_state_dict({name: turned(name, theirs.state_dict()[name]) for name in own})


@pytest.mark.parametrize(
    "options", [{}, {"num_register_tokens": 2}, {"init_values": 0.3, "scale_attn_inner": True}]
)
def test_primus_makes_what_its_authors_makes(options):
    torch.manual_seed(0)
    theirs = dynamic().Primus(1, 24, (8, 8, 8), 2, 3, 2, (24, 24, 24), **options).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    registers = options.get("num_register_tokens", 0)
    ours = vit.Primus(
        1,
        channels=24,
        depth=3,
        heads=2,
        patch=8,
        grid=(3, 3, 3),
        registers=registers,
        layer_scale="init_values" in options,
        inner_norm="scale_attn_inner" in options,
    ).eval()
    handed_over(theirs, ours)
    image = torch.randn(2, 1, 24, 24, 24)  # z, y, x
    with torch.no_grad():
        tokens = theirs.down_projection(image).flatten(2).mT
        if registers:
            tokens = torch.cat([theirs.register_tokens.expand(2, -1, -1), tokens], 1)
        expected, _ = theirs.eva(tokens)
        made = ours(image.permute(0, 1, 4, 3, 2))
    placed = expected[:, registers:].unflatten(1, (3, 3, 3)).permute(0, 3, 2, 1, 4).flatten(1, 3)
    expected = torch.cat([expected[:, :registers], placed], 1)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_on_a_patch_of_unlike_sides_primus_makes_what_its_authors_makes():
    torch.manual_seed(0)
    theirs = dynamic().Primus(1, 24, (8, 8, 8), 2, 2, 2, (16, 24, 32)).eval()
    ours = network(grid=(4, 3, 2))
    state = dict(theirs.state_dict())
    state["eva.pos_embed"] = (
        state["eva.pos_embed"].unflatten(1, (2, 3, 4)).permute(0, 3, 2, 1, 4).flatten(1, 3)
    )
    own = ours.state_dict()
    ours.load_state_dict({k: state[k] if k == "eva.pos_embed" else turned(k, state[k]) for k in own})
    image = torch.randn(1, 1, 16, 24, 32)
    with torch.no_grad():
        expected, _ = theirs.eva(theirs.down_projection(image).flatten(2).mT)
        made = ours(image.permute(0, 1, 4, 3, 2))
    expected = expected.unflatten(1, (2, 3, 4)).permute(0, 3, 2, 1, 4).flatten(1, 3)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_positions_that_lie_on_no_cube_are_not_guessed():
    from medfuse.core.errors import CheckpointError

    with pytest.raises(CheckpointError, match="no cube"):
        turned("eva.pos_embed", torch.randn(1, 45, 4))


def test_the_names_of_nnssl_are_ours(tmp_path):
    weights = nnssl_model.primus(tmp_path / "primus.pth", channels=24, depth=2, side=4)
    own = network(channels=24, depth=2, heads=2, grid=(4, 4, 4)).state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {
        name: tensor.shape for name, tensor in weights.items() if name in own
    }


def dino_state(channels=32, depth=2, side=3, chunks=0) -> dict[str, torch.Tensor]:
    """3DINO's names and shapes; with chunks, block i is blocks.CHUNK.i."""
    shapes = {
        "cls_token": (1, 1, channels),
        "mask_token": (1, channels),
        "pos_embed": (1, 1 + side**3, channels),
        "patch_embed.proj.weight": (channels, 1, 16, 16, 16),
        "patch_embed.proj.bias": (channels,),
        "norm.weight": (channels,),
        "norm.bias": (channels,),
    }
    for block in range(depth):
        at = f"blocks.{block * chunks // depth}.{block}" if chunks else f"blocks.{block}"
        shapes |= {
            **{
                f"{at}.{norm}.{key}": (channels,) for norm in ("norm1", "norm2") for key in ("weight", "bias")
            },
            **{f"{at}.{scale}.gamma": (channels,) for scale in ("ls1", "ls2")},
            f"{at}.attn.qkv.weight": (3 * channels, channels),
            f"{at}.attn.qkv.bias": (3 * channels,),
            f"{at}.attn.proj.weight": (channels, channels),
            f"{at}.attn.proj.bias": (channels,),
            f"{at}.mlp.fc1.weight": (4 * channels, channels),
            f"{at}.mlp.fc1.bias": (4 * channels,),
            f"{at}.mlp.fc2.weight": (channels, 4 * channels),
            f"{at}.mlp.fc2.bias": (channels,),
        }
    return {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def test_dino3d_has_the_names_and_shapes_of_3dino():
    ours = vit.Dino(1, channels=32, depth=2, heads=2, patch=16, grid=(3, 3, 3)).state_dict()
    theirs = dino_state()
    assert {k: t.shape for k, t in ours.items()} == {
        k: t.shape for k, t in theirs.items() if k != "mask_token"
    }
