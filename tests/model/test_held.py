"""Which modules are computed again, with taps of every kind, and what a step holds by the estimate."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from medfuse import registry
from medfuse.core.features import ImageInfo
from medfuse.core.recompute import in_parts, recomputed
from medfuse.model.graph import plan_graph
from medfuse.model.held import held
from medfuse.model.segmenter import Given, build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.train.objective import ActivationTerm, Objective

IMAGE = ImageInfo(1, (16, 16, 16), (1.0, 1.0, 1.0))
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3}


def graph(encoder=None, tap=None, layers=None, head="decoded", norm="instance", image=IMAGE, **model):
    encoder = encoder or {**UNET, "norm": norm}
    tapped = {"use": tap or "forward_hook", **({"layers": layers} if layers else {})}
    settings = {
        "backbones": {"encoder": encoder},
        "taps": {"encoder": tapped},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"], "norm": norm}},
        "head": {"input": head},
        "aux": {"heads": ["decoded.*"], "schedule": {"use": "constant", "weight": 0.5}},
        **model,
    }
    return plan_graph(ModelSettings.model_validate(settings), image, 3)


def learn(model, plan, called=None, batch=2):
    """Gradients, all that the model holds afterwards, and the maps that losses were given."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, *plan.image.patch_size, generator=generator)
    label = torch.randint(3, (batch, 1, *plan.image.patch_size), generator=generator)
    seen = []

    class Watched(nn.Module):
        def forward(self, *maps):
            seen.extend(maps)
            return sum(m.square().mean() for m in maps)

    taps = tuple(f"encoder.{tap.name}" for tap in plan.backbones[0].taps)
    loss = registry.get("medfuse.losses", "dice_ce")().build(3)
    schedule = registry.get("medfuse.aux_schedules", "constant")(weight=0.5)
    terms = (ActivationTerm("l2", taps, 0.1, Watched()),)
    objective = Objective(loss, plan.aux, schedule, activations=terms)
    torch.manual_seed(7)
    total, _ = objective(called or model, x, label, dict.fromkeys(plan.aux, 0.5))
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, model.state_dict(), seen


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)
    return True


TAPS = {
    "hooks": graph,
    "hooks inside of blocks": lambda: graph(layers=["stages.0.0.conv", "stages.1.1", "stages.2"]),
    "traced": lambda: graph(tap="fx_graph"),
    "truncated": lambda: graph(tap="sequential_truncation"),
    "batch norm": lambda: graph(norm="batch"),
    "blocks of a resnet": lambda: graph({"use": "resnet", "depth": 10}, image=WIDE),
    "native": lambda: graph(
        {"use": "view", "of": UNET, "channels": {"a": [0], "b": [0]}},
        "native",
        fusion={"decoded": {"use": "subtract", "inputs": ["encoder.a.stages.0", "encoder.b.stages.0"]}},
        aux={"heads": ["encoder.b.stages.1"], "schedule": {"use": "constant", "weight": 0.5}},
    ),
    "tokens": lambda: graph(
        {"use": "primus", "channels": 24, "depth": 3, "heads": 2},
        "tokens",
        [0, 2],
        fusion={"decoded": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        aux={"heads": ["encoder.*"], "schedule": {"use": "constant", "weight": 0.5}},
        image=WIDE,
    ),
    "low rank": lambda: graph(
        {"use": "lora", "of": {"use": "resnet", "depth": 10}, "rank": 2, "on": ["*.conv1"]}, image=WIDE
    ),
}
WIDE = ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("kind", TAPS)
def test_gradients_taps_and_statistics_are_those_of_keeping_all(kind):
    plan = TAPS[kind]()
    torch.manual_seed(0)
    kept = build_segmenter(plan)
    again = copy.deepcopy(kept)
    segments = held(again, plan.image, plan.aux, batch=2).segments
    assert segments
    expected, state, maps = learn(kept, plan)
    with recomputed(again, segments):
        found, moved, tapped = learn(again, plan)
    assert same(expected, found)
    assert same(state, moved)
    assert len(maps) == len(tapped)
    assert all(torch.equal(a, b) for a, b in zip(maps, tapped))


@pytest.mark.parametrize("kind", ["hooks", "hooks inside of blocks", "traced", "truncated"])
def test_taps_of_a_batch_in_parts_are_those_of_the_whole(kind):
    plan = TAPS[kind]()
    torch.manual_seed(0)
    kept = build_segmenter(plan)
    cut = copy.deepcopy(kept)
    expected, _, maps = learn(kept, plan, batch=3)
    found, _, tapped = learn(cut, plan, in_parts(cut, 3, cut), batch=3)
    assert same(expected, found, tolerance=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(maps, tapped))


def test_given_maps_go_in_parts_with_the_batch():
    plan = graph()
    model = build_segmenter(plan)
    x = torch.randn(3, 1, *IMAGE.patch_size)
    maps = model.maps_of(x, [f"encoder.{tap.name}" for tap in plan.backbones[0].taps])
    given = Given({name: made.detach() + 1 for name, made in maps.items()})
    whole = model(x, given=given)
    assert not torch.allclose(whole, model(x))
    assert torch.allclose(whole, in_parts(model, 2, model)(x, given=given), atol=1e-5)


def test_no_hook_of_a_network_fires_twice():
    plan, fired = graph(layers=["stages.0.0.conv", "stages.1.1", "stages.2"]), []
    model = build_segmenter(plan)
    for path in ("stages.0.0.conv", "stages.1.1", "stages.2"):
        model.get_submodule(f"backbones.encoder.backbone.{path}").register_forward_hook(
            lambda *_, path=path: fired.append(path)
        )
    segments = held(model, plan.image, plan.aux, batch=2).segments
    fired.clear()
    with recomputed(model, segments):
        learn(model, plan)
    assert sorted(fired) == ["stages.0.0.conv", "stages.1.1", "stages.2"]


def saved_bytes(run) -> int:
    """Of all that autograd keeps of a forward pass, each memory once."""
    sizes, alive = {}, []

    def pack(x):
        sizes[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        made = run()
    assert tree_leaves(made)
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["hooks", "traced", "batch norm", "blocks of a resnet"])
def test_the_estimate_is_near_what_autograd_keeps(kind):
    plan = TAPS[kind]()
    model = build_segmenter(plan)
    found = held(model, plan.image, plan.aux, batch=2)
    x = torch.randn(2, 1, *plan.image.patch_size)
    kept = saved_bytes(lambda: model(x, aux=plan.aux)) - sum(
        p.numel() * 4 for p in model.parameters() if p.ndim > 1
    )
    assert 0.7 * kept < found.all < 1.5 * kept
    assert found.recomputed < 0.9 * found.all


def test_a_step_takes_less_with_each_way_and_with_half_precision():
    found = held(build_segmenter(graph()), IMAGE, batch=4)
    usual = {"checkpointing": False, "parts": 1, "half": False, "states": 1}
    whole = found.step(**usual)
    for change in ({"checkpointing": True}, {"parts": 2}, {"half": True}):
        assert found.step(**{**usual, **change}) < whole
    assert found.step(**{**usual, "states": 2}) > whole


def test_the_model_is_left_as_it_was():
    model = build_segmenter(graph())
    before = {path: len(m._forward_hooks) + len(m._forward_pre_hooks) for path, m in model.named_modules()}
    held(model, IMAGE, batch=2)
    assert before == {
        path: len(m._forward_hooks) + len(m._forward_pre_hooks) for path, m in model.named_modules()
    }
