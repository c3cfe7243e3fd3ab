"""A frozen network with low-rank changes: nothing at first, and the changes alone learn."""

import copy
from pathlib import Path

import hubbed
import pytest
import torch
from torch import nn
from torch.nn import functional

from medfuse.api import ImageInfo
from medfuse.builtin.nets.lora import LowRank, adapted
from medfuse.core.errors import PipelineError, ShapeError
from medfuse.core.merged import merge
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings, TransferSettings
from medfuse.model.transfer import transfer
from medfuse.model.weights import load_into, load_weights, save_weights
from medfuse.testing import check_backbone
from medfuse.train.parts import Parts
from medfuse.train.settings import PartSettings

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 2, "convs": 1}


def segmenter(
    backbone, *, seed=0, bring_weights=False, layer="stages.1", image=IMAGE, taps="forward_hook"
) -> Segmenter:
    settings = {
        "backbones": {"encoder": backbone},
        "taps": {"encoder": {"use": taps}},
        "head": {"input": f"encoder.{layer}"},
    }
    torch.manual_seed(seed)
    plan = plan_graph(ModelSettings.model_validate(settings), image, 2)
    return build_segmenter(plan, bring_weights=bring_weights)


def lora(of=UNET, on=("conv",), **more):
    return {"use": "lora", "of": of, "on": [*on], "rank": 2, **more}


def shaken(network: nn.Module) -> nn.Module:
    """With changes that are no longer zero."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LowRank):
                module.up.weight.normal_()
    return network


class Attention(nn.Module):
    """Linear layers that are called, and some whose weights are only taken."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.proj = nn.Linear(4, 4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1)

    def forward(self, x):
        q, k, v = self.qkv(x.expand(-1, 4, -1, -1).movedim(1, -1)).chunk(3, -1)
        made = functional.linear(q * k * v, self.proj.weight, self.proj.bias).movedim(-1, 1)
        return self.strided(self.grouped(made))


MODULE = {"use": "module", "target": f"{__name__}:Attention"}


def test_it_begins_as_the_other_network_to_the_last_bit():
    base, made = segmenter(UNET), segmenter(lora())
    x = torch.randn(2, 1, 16, 16)
    base.head.load_state_dict(made.head.state_dict())
    assert torch.equal(base(x), made(x))
    assert not torch.equal(base(x), shaken(made)(x))


@pytest.mark.parametrize("taps", ["sequential_truncation", "fx_graph"])
def test_changes_are_in_the_maps_of_every_tap_strategy(taps):
    hooked = shaken(segmenter(lora()))
    other = segmenter(lora(), taps=taps)
    names = {name.rpartition("stages.")[2]: t for name, t in hooked.backbones.state_dict().items()}
    with torch.no_grad():
        for name, tensor in other.backbones.state_dict().items():
            tensor.copy_(names[name.rpartition("stages.")[2]])
    other.head.load_state_dict(hooked.head.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(hooked(x), other(x))


def test_names_of_the_other_network_stay_and_the_changes_alone_learn():
    base, made = segmenter(UNET).backbones, segmenter(lora()).backbones
    new = {*made.state_dict()} - {*base.state_dict()}
    assert {*base.state_dict()} < {*made.state_dict()}
    assert new == {name for name, p in made.named_parameters() if p.requires_grad}
    assert all(".conv.lora." in name for name in new)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(5, 7), nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv3d(2, 4, (3, 1, 3), padding="same")],
)
def test_it_is_the_layer_with_a_change_of_its_weights_of_that_rank(layer):
    network = shaken(adapted(nn.Sequential(copy.deepcopy(layer)), ["0"], 2, 0.5))
    change = network[0].lora
    down, up = change.down.weight.flatten(1), change.up.weight.flatten(1)
    assert torch.linalg.matrix_rank(up @ down) == 2
    with torch.no_grad():
        layer.weight += 0.5 * (up @ down).view_as(layer.weight)
    x = torch.randn(2, 5) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 8, 8, 8)
    x = x[..., 0] if isinstance(layer, nn.Conv2d) else x
    torch.testing.assert_close(network(x), layer(x))


@pytest.mark.parametrize(
    ("on", "index", "words"),
    [
        (
            ["qvk"],
            0,
            r"no layer is called 'qvk'; did you mean 'qkv'\?; layers to adapt are qkv, proj, strided",
        ),
        (["qkv", "blocks.*"], 1, r"no layer is called 'blocks\.\*'"),
        (["grouped"], 0, "grouped is a convolution in groups; layers to adapt are"),
        (["proj"], 0, "the network takes the weights of proj without calling it, so that no change would"),
    ],
)
def test_layers_that_cannot_be_adapted_are_told_at_their_glob(on, index, words):
    with pytest.raises(PipelineError, match=words) as caught:
        segmenter(lora(MODULE, on), layer="strided")
    assert caught.value.problems[0].path == ("model", "backbones", "encoder", "on", index)


def test_globs_mean_paths_and_their_ends():
    made = segmenter(lora(MODULE, ["q*v", "strid*"]), layer="strided").backbones
    changed = {name.partition(".lora")[0].rpartition(".")[2] for name in made.state_dict() if "lora" in name}
    assert changed == {"qkv", "strided"}


def test_a_network_is_adapted_once():
    with pytest.raises(ShapeError, match="has a change already"):
        adapted(adapted(nn.Sequential(nn.Linear(2, 2)), ["0"], 1, 1.0), ["0"], 1, 1.0)


def test_what_a_wrapped_backbone_brings_is_given_to_it_under_its_own_names(tmp_path):
    weights = hubbed.write_hub(tmp_path, dims=2)
    made = segmenter(lora(hubbed.Hubbed(folder=str(tmp_path)), ["stem"]), bring_weights=True, layer="deep")
    state = made.backbones.encoder.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert made.brought["encoder"].tensors == len(weights)


def test_transferred_weights_are_given_to_it_under_its_own_names(tmp_path):
    source, made = segmenter(UNET, seed=1), segmenter(lora(), seed=2)
    torch.save(source.backbones.encoder.backbone.state_dict(), tmp_path / "w.pt")
    transfer(made, {"encoder": TransferSettings(weights=Path(tmp_path / "w.pt"))})
    source.head.load_state_dict(made.head.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(source(x), made(x))


def test_saved_changes_come_back(tmp_path):
    made, again = shaken(segmenter(lora(), seed=1)), segmenter(lora(), seed=2)
    save_weights(tmp_path / "w.safetensors", made, {})
    load_into(again, load_weights(tmp_path / "w.safetensors")[0], tmp_path / "w.safetensors")
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(made(x), again(x))


def test_running_statistics_of_the_frozen_network_stay_as_they_are(tmp_path):
    hubbed.write_hub(tmp_path, dims=2)
    made = segmenter(lora(hubbed.Hubbed(folder=str(tmp_path)), ["deep"]), bring_weights=True, layer="deep")
    made.train()
    before = made.backbones.encoder.backbone.norm.running_mean.clone()
    made(torch.randn(2, 1, 16, 16) + 5).sum().backward()
    assert torch.equal(made.backbones.encoder.backbone.norm.running_mean, before)


def test_a_part_that_thaws_leaves_the_frozen_network_frozen():
    made = segmenter(lora())
    parts = Parts(made, {"backbones.encoder.*": PartSettings(freeze=1)})
    parts.enter(0)
    assert not any(p.requires_grad for p in made.backbones.parameters())
    parts.enter(1)
    assert {n for n, p in made.backbones.named_parameters() if p.requires_grad} == {
        n for n, _ in made.backbones.named_parameters() if ".lora." in n
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_the_laws_of_backbones_hold(dims):
    (plugin,) = ModelSettings.model_validate(
        {"backbones": {"a": lora()}, "head": {"input": "a.stages.0"}}
    ).backbones.values()
    check_backbone(plugin, ImageInfo(1, (16,) * dims, (1.0,) * dims))


LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "linear on tokens": (lambda: nn.Linear(5, 7, bias=False), (2, 6, 5)),
    "1-D": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "2-D": (lambda: nn.Conv2d(3, 4, (3, 1), padding=(1, 0), padding_mode="circular"), (2, 3, 8, 6)),
    "3-D": (lambda: nn.Conv3d(2, 4, 3, dilation=2, padding=2), (1, 2, 6, 7, 8)),
}


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_merged_into_the_weights_it_answers_the_same_up_to_rounding(kind, scale):
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    network = shaken(adapted(nn.Sequential(make(), nn.ReLU()), ["0"], 2, scale)).double()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        before, plain = network(x), make().double()
        merge(network)
        torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)
    assert {*network[0].state_dict()} == {*plain.state_dict()}
    assert not any(isinstance(module, LowRank) for module in network.modules())


def test_without_changes_merging_changes_nothing():
    network = segmenter(lora())
    with torch.no_grad():
        x = torch.randn(2, 1, 16, 16)
        before = network.eval()(x)
        merge(network)
        assert torch.equal(network(x), before)


def test_a_change_that_is_tapped_stays():
    network = shaken(adapted(nn.Sequential(nn.Linear(5, 7)), ["0"], 2, 1.0))
    network[0].lora.up.register_forward_hook(lambda *_: None)
    merge(network)
    assert isinstance(network[0].lora, LowRank)


def test_loaded_for_inference_nothing_of_it_is_left_and_logits_are_the_same(tmp_path, monkeypatch):
    from phantoms import write_dataset, write_pipeline

    from medfuse.core.reporter import Reporter
    from medfuse.trained.loading import load_trained
    from medfuse.verbs.run import run_pipeline

    file = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "cubes"))
    encoder = "{use: unet_encoder, base_channels: 4, stages: 3}"
    assert encoder in file.read_text()
    file.write_text(file.read_text().replace(encoder, f"{{use: lora, of: {encoder}, on: [conv], rank: 2}}"))
    result = run_pipeline(file, runs=tmp_path / "runs", reporter=Reporter(quiet=True))
    weights = [result.folder / "weights_last.safetensors"]
    (merged,) = load_trained(weights, device="cpu").networks
    monkeypatch.setattr("medfuse.core.merged.merge", lambda network: None)
    (apart,) = load_trained(weights, device="cpu").networks
    changes = [module for module in apart.modules() if isinstance(module, LowRank)]
    assert any(change.up.weight.any() for change in changes)
    assert not any(isinstance(module, LowRank) for module in merged.modules())
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), apart(x), rtol=1e-4, atol=1e-4)
