"""Weights that a backbone starts from."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medfuse.api import ImageInfo
from medfuse.core.errors import CheckpointError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings, TransferSettings
from medfuse.model.transfer import plan_transfer, transfer, transfer_problems
from medfuse.model.weights import save_weights


def segmenter(
    seed: int = 0, *, dims: int = 2, taps="forward_hook", name="encoder", channels=1, backbone=None
) -> Segmenter:
    unet = {"use": "unet_encoder", "base_channels": 4, "stages": 2, "convs": 1}
    settings = {
        "backbones": {name: backbone or unet},
        "taps": {name: {"use": taps}},
        "head": {"input": f"{name}.stages.0"},
    }
    image = ImageInfo(channels, (16,) * dims, (1.0,) * dims)
    torch.manual_seed(seed)
    return build_segmenter(plan_graph(ModelSettings.model_validate(settings), image, 2))


def encoder(model: Segmenter, name: str = "encoder") -> dict[str, torch.Tensor]:
    """The network's own names, without the hooks around it."""
    return model.backbones[name].backbone.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def given(model: Segmenter, path, name: str = "encoder", **settings):
    return transfer(model, {name: TransferSettings(weights=path, **settings)})[name]


def statuses(made) -> list[str]:
    return [row.status.partition(":")[0] for row in made.rows]


def saved(path, tensors, **around):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(around or tensors, path)
    return path


# ---- files and names


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
def test_a_state_dict_of_the_network_is_taken_whole(tmp_path, ending):
    source, target = segmenter(1), segmenter(2)
    made = given(target, saved(tmp_path / f"w.{ending}", encoder(source)))
    assert same(encoder(source), encoder(target))
    assert {*statuses(made)} == {"matched"}


@pytest.mark.parametrize(
    "key",
    ["state_dict", "model", "network_weights", "teacher", "student", "net", "model_state_dict", "generator"],
)
def test_tensors_are_found_where_training_tools_keep_them(tmp_path, key):
    source, target = segmenter(1), segmenter(2)
    moments = {0: {"exp_avg": torch.zeros(9), "exp_avg_sq": torch.zeros(9), "step": torch.zeros(())}}
    said = {"optimizer": {"state": moments | dict.fromkeys(range(9), moments[0])}, "epoch": 3}
    given(target, saved(tmp_path / "w.pt", {}, **{**said, key: encoder(source)}))
    assert same(encoder(source), encoder(target))


def test_of_a_teacher_and_a_student_the_teacher_is_taken_and_a_prefix_takes_the_other(tmp_path):
    teacher, student, target = segmenter(1), segmenter(2), segmenter(3)
    parts = {
        kind: {f"module.backbone.{k}": v for k, v in encoder(network).items()}
        | {"module.head.mlp.0.weight": torch.zeros(3)}
        for kind, network in (("student", student), ("teacher", teacher))
    }
    path = saved(tmp_path / "dino.pth", {}, **parts, args=Namespace(arch="vit_small", lr=0.1))
    given(target, path)
    assert same(encoder(teacher), encoder(target))
    for prefix in ("student", "student.module.backbone"):
        target = segmenter(3)
        given(target, path, prefix=prefix)
        assert same(encoder(student), encoder(target))


@pytest.mark.parametrize("part", ["net.body.", "encoder.", "module.backbone.", "model.encoder.net."])
def test_the_part_of_a_larger_network_that_is_this_one_is_found(tmp_path, part):
    source, target = segmenter(1), segmenter(2)
    tensors = {f"{part}{k}": v for k, v in encoder(source).items()}
    tensors |= {"decoder.0.conv.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    given(target, saved(tmp_path / "w.pt", tensors))
    assert same(encoder(source), encoder(target))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module.backbone."])
def test_what_wrappers_put_before_every_name_does_not_matter(tmp_path, wrapper):
    source, target = segmenter(1), segmenter(2)
    given(target, saved(tmp_path / "w.pt", {f"{wrapper}{k}": v for k, v in encoder(source).items()}))
    assert same(encoder(source), encoder(target))


def test_a_prefix_chooses_one_network_of_the_file(tmp_path):
    source, target = segmenter(1), segmenter(2)
    tensors = {f"teacher.{k}": v for k, v in encoder(source).items()}
    tensors |= {f"student.{k}": torch.zeros_like(v) for k, v in encoder(source).items()}
    made = given(target, saved(tmp_path / "w.pt", tensors), prefix="teacher")
    assert same(encoder(source), encoder(target))
    assert made.rows[-1].source.startswith("student.")
    assert made.rows[-1].status == "left out: not below teacher"


@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation", "fx_graph"])
@pytest.mark.parametrize("name", ["encoder", "other"])
def test_weights_of_another_run_are_taken(tmp_path, taps, name):
    source, target = segmenter(1), segmenter(2, taps=taps, name=name)
    save_weights(tmp_path / "weights_last.safetensors", source, {})
    given(target, tmp_path / "weights_last.safetensors", name)
    theirs = target.backbones[name].state_dict()
    assert theirs
    assert all(
        torch.equal(theirs[f"backbone.{k}"], v)
        for k, v in encoder(source).items()
        if f"backbone.{k}" in theirs
    )
    assert not torch.equal(source.head.weight, target.head.weight)


def test_layers_that_were_cut_off_are_listed_as_left_out(tmp_path):
    target = segmenter(2, taps="sequential_truncation")
    made = given(target, saved(tmp_path / "w.pt", encoder(segmenter(1))))
    cut = [row for row in made.rows if not row.parameter]
    assert {row.source.split(".")[1] for row in cut} == {"1"}
    assert {row.status for row in cut} == {"left out: not part of this network"}


def test_every_tensor_of_both_sides_has_one_row(tmp_path):
    source, target = encoder(segmenter(1)), segmenter(2)
    source["fc.weight"] = torch.zeros(2, 2)
    lost = source.pop("stages.1.0.conv.bias")
    made = given(target, saved(tmp_path / "w.pt", source))
    assert lost is not None
    assert sorted(r.parameter for r in made.rows if r.parameter) == sorted(
        k for k in target.state_dict() if k.startswith("backbones.")
    )
    assert sorted(r.source for r in made.rows if r.source) == sorted(source)
    assert statuses(made).count("left out") == 2


def test_what_the_file_lacks_stays_as_it_was(tmp_path):
    source, target = encoder(segmenter(1)), segmenter(2)
    del source["stages.1.0.conv.weight"]
    given(target, saved(tmp_path / "w.pt", source), at_least=0.1)
    assert torch.equal(
        encoder(target)["stages.1.0.conv.weight"], encoder(segmenter(2))["stages.1.0.conv.weight"]
    )


def test_a_network_with_other_names_is_matched_by_order(tmp_path):
    source, target = encoder(segmenter(1)), segmenter(2)
    renamed = {f"block{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(source.items())}
    given(target, saved(tmp_path / "w.pt", renamed), match="order")
    assert all(torch.equal(a, b) for a, b in zip(source.values(), encoder(target).values(), strict=True))


def test_a_summary_counts_each_kind(tmp_path):
    made = given(
        segmenter(2, dims=3), saved(tmp_path / "w.pt", {**encoder(segmenter(1)), "fc": torch.zeros(1)})
    )
    assert made.summary() == "8 of 8 tensors from w.pt (2 inflated, 6 matched); 1 of the file are not used"


def test_a_flat_network_of_three_channels_becomes_a_deep_one_of_two(tmp_path):
    source, target = segmenter(1, channels=3), segmenter(2, dims=3, channels=2)
    made = given(target, saved(tmp_path / "w.pt", encoder(source)))
    torch.testing.assert_close(
        encoder(target)["stages.0.0.conv.weight"].sum((1, 4)),
        encoder(source)["stages.0.0.conv.weight"].sum(1),
    )
    assert statuses(made).count("inflated") == 2
    assert "left out" not in statuses(made)


# ---- of which network


def plain(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in zip((1, *widths), widths)))


def planned(network: nn.Module, path, **settings):
    own = {f"backbones.e.{name}": p.shape for name, p in network.named_parameters()}
    return plan_transfer("e", own, TransferSettings(weights=path, **settings))


@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 8, 64), (64, 8, 2), (4, 4)])
@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_what_counts_is_the_share_of_parameters_not_of_tensors(widths, kept, tmp_path):
    network = plain(*widths)
    state = dict([*network.state_dict().items()][:kept])
    path = saved(tmp_path / "w.pt", state)
    share = sum(t.numel() for t in state.values()) / sum(p.numel() for p in network.parameters())
    if share >= 0.5:
        assert planned(network, path).share == pytest.approx(share)
    else:
        with pytest.raises(CheckpointError, match=f"{share:.1%}"):
            planned(network, path)
    assert planned(network, path, at_least=share - 1e-6).share == pytest.approx(share)
    if share < 1:
        with pytest.raises(CheckpointError, match="at_least wants 100%"):
            planned(network, path, at_least=1)


def test_the_advice_of_a_refusal_works(tmp_path):
    network, path = plain(8, 8), saved(tmp_path / "w.pt", dict(plain(8, 8)[:1].state_dict()))
    with pytest.raises(CheckpointError) as caught:
        planned(network, path)
    (line,) = caught.value.lines
    assert (
        "has 80 of the 664 parameters of 'e', 12.0%, where at_least wants 50%: 2 of 4 tensors fit, 2 are"
        in line
    )
    assert planned(network, path, at_least=float(line.rpartition("at_least: ")[2].strip("`"))).tensors


def test_a_deeper_networks_wishes_are_told_with_shapes(tmp_path):
    path = saved(tmp_path / "w.pt", dict(plain(8, 8).state_dict()))
    with pytest.raises(
        CheckpointError, match=r"1 are of another shape \(1.weight is 8×8×3×3 in place of 64×8×3×3\)|"
    ):
        planned(plain(8, 64), path)


def test_statistics_do_not_count_and_a_shared_weight_counts_once_by_any_of_its_names(tmp_path):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3)
            self.b = nn.ModuleDict({"a": self.a})
            self.norm = nn.BatchNorm2d(4)

    model = nn.Module()
    model.backbones = nn.ModuleDict({"e": Shared()})
    source = Shared()
    state = {k: v for k, v in source.state_dict().items() if k.startswith(("b.a", "norm.running"))}
    made = transfer(model, {"e": TransferSettings(weights=saved(tmp_path / "w.pt", state))})["e"]
    assert made.share == pytest.approx(40 / 48)
    assert torch.equal(model.backbones["e"].a.weight, source.a.weight)
    assert made.to_json()["share_of_parameters"] == pytest.approx(0.8333)


# ---- what to do


def refusal(path, model=None, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        given(model or segmenter(), path, **settings)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    return line


def test_of_two_networks_in_one_file_one_is_asked_for(tmp_path):
    tensors = {f"{part}.{k}": v for part in ("a", "b") for k, v in encoder(segmenter()).items()}
    assert "add `prefix: a`" in refusal(saved(tmp_path / "w.pt", tensors))


def test_other_names_are_shown_beside_the_networks(tmp_path):
    line = refusal(saved(tmp_path / "w.pt", {"stages.0.0.convolution.weight": torch.zeros(4, 1, 3, 3)}))
    assert "it has 0.0.conv.weight" in line
    assert "the file stages.0.0.convolution.weight" in line
    assert "match: order" in line


def test_another_width_is_said_with_its_shapes(tmp_path):
    tensors = {k: torch.zeros(9, *v.shape[1:]) for k, v in encoder(segmenter()).items()}
    line = refusal(saved(tmp_path / "w.pt", tensors))
    assert (
        "stages.0.0.conv.weight is 9×1×3×3 in place of 4×1×3×3; use weights of the same architecture" in line
    )


def test_a_mistyped_prefix_is_said(tmp_path):
    path = saved(tmp_path / "w.pt", {"teacher.a": torch.zeros(1)})
    assert "did you mean 'teacher'" in refusal(path, prefix="techer")


def test_a_run_with_several_backbones_asks_which(tmp_path):
    tensors = {"backbones.a.w": torch.zeros(1), "backbones.b.w": torch.zeros(1)}
    assert "by `prefix:` backbones.a or backbones.b" in refusal(saved(tmp_path / "w.pt", tensors))


def test_a_missing_or_damaged_file_is_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    assert "must hold tensors alone" in refusal(tmp_path / "bad.pt")
    assert "holds no tensors" in refusal(saved(tmp_path / "empty.pt", {"epoch": 3}))


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    assert "torch.save(model.state_dict(), …)" in refusal(tmp_path / "whole.pt")


def test_problems_are_placed_before_anything_is_trained(tmp_path):
    model = segmenter()
    shapes = {k: tuple(p.shape) for k, p in model.named_parameters()}
    good = saved(tmp_path / "w.pt", encoder(model))
    settings = ModelSettings.model_validate(
        {
            "backbones": {"encoder": "unet_encoder", "second": "unet_encoder"},
            "head": {"input": "encoder.stages.0"},
            "transfer": {
                "encoder": {"weights": good},
                "encodr": {"weights": good},
                "second": {"weights": tmp_path / "none.pt"},
            },
        }
    )
    mistyped, missing = transfer_problems(settings, shapes)
    assert mistyped.path == ("model", "transfer", "encodr")
    assert "did you mean 'encoder'" in mistyped.message
    assert missing.path == ("model", "transfer", "second", "weights")


def test_planning_changes_nothing(tmp_path):
    model = segmenter(2)
    own = {k: t.shape for k, t in model.state_dict().items() if k.startswith("backbones.encoder.")}
    path = saved(tmp_path / "w.pt", encoder(segmenter(1)))
    plan_transfer("encoder", own, TransferSettings(weights=path))
    assert same(encoder(model), encoder(segmenter(2)))


# ---- layouts of others


def resnet(seed: int, *, dims: int, channels: int) -> Segmenter:
    settings = {
        "backbones": {"encoder": {"use": "resnet", "depth": 10}},
        "head": {"input": "encoder.layer4"},
    }
    image = ImageInfo(channels, (32,) * dims, (1.0,) * dims)
    torch.manual_seed(seed)
    return build_segmenter(plan_graph(ModelSettings.model_validate(settings), image, 2))


def test_medicalnets_layout_is_taken_whole(tmp_path):
    source, target = resnet(1, dims=3, channels=1), resnet(2, dims=3, channels=1)
    wrapped = {f"module.{k}": v for k, v in encoder(source).items()}
    given(target, saved(tmp_path / "resnet_10_23dataset.pth", {}, state_dict=wrapped))
    assert same(encoder(source), encoder(target))


def test_torchvisions_layout_starts_a_volume_network(tmp_path):
    source, target = resnet(1, dims=2, channels=3), resnet(2, dims=3, channels=2)
    tensors = {**encoder(source), "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    made = given(target, saved(tmp_path / "resnet10.pth", tensors))
    assert statuses(made).count("left out") == 2
    assert torch.equal(encoder(target)["bn1.weight"], encoder(source)["bn1.weight"])
    deep, flat = (encoder(m)["layer1.0.conv1.weight"] for m in (target, source))
    torch.testing.assert_close(deep.sum(-1), flat)


SWIN = {"use": "swin_unetr", "channels": 12, "window": 2, "depths": [1, 1, 1, 1]}


@pytest.mark.parametrize("start", ["swinViT.", "module.swin_vit.", "module.backbone.swinViT.", "module."])
def test_swin_unetrs_layouts_are_taken_whole(tmp_path, start):
    """MONAI's own, that of its self-supervised weights (whose blocks have `fc1`), and VoCo's."""
    pytest.importorskip("einops", reason="MONAI's SwinUNETR needs it: pip install 'medfuse[swin]'")
    settings = {"backbones": {"encoder": SWIN}, "head": {"input": "encoder.layers1.0"}}
    plan = plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (32,) * 3, (1.0,) * 3), 2)
    source, target = build_segmenter(plan), build_segmenter(plan)
    names = {k: k if "ViT" in start else k.replace("linear", "fc") for k in encoder(source)}
    tensors = {f"{start}{names[k]}": v for k, v in encoder(source).items()}
    tensors |= {f"{start.partition('swin')[0]}encoder1.layer.conv1.weight": torch.zeros(1)}
    given(target, saved(tmp_path / "swin.pt", {}, state_dict=tensors))
    assert same(encoder(source), encoder(target))


@pytest.mark.parametrize("prefix", ["encoder", ""])
@pytest.mark.parametrize("other", [{}, {"nnssl_adaptation_plan": {"key_to_encoder": "encoder.stages"}}])
def test_nnunets_and_nnssls_layout_is_taken_with_its_axes_turned(tmp_path, other, prefix):
    source, target = segmenter(1, dims=3), segmenter(2, dims=3)
    tensors = {"decoder.stages.0.convs.0.conv.weight": torch.zeros(1)}
    for name, tensor in encoder(source).items():
        _, stage, conv, kind, *rest = name.split(".")
        part = "norm" if kind == "norm_act" else "conv"
        theirs = tensor.permute(0, 1, 4, 3, 2) if tensor.ndim == 5 else tensor
        key = f"encoder.stages.{stage}.0.convs.{conv}"
        tensors[f"{key}.{part}.{rest[-1]}"] = theirs
        tensors[f"{key}.all_modules.{'01'[part == 'norm']}.{rest[-1]}"] = theirs
    given(target, saved(tmp_path / "w.pth", {}, network_weights=tensors, **other), prefix=prefix)
    assert same(encoder(source), encoder(target))
