"""Taps in company: gradients, inference, data parallel training, compilation; and layers chosen by glob."""

import copy

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from medfuse import registry
from medfuse.api import FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))
TRACED = ["forward_hook", "sequential_truncation", "fx_graph"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Sequential(nn.Conv2d(4, 3, 1), nn.Tanh())
    )


def tapped(strategy: str) -> nn.Module:
    taps = [FeatureInfo(name, 1, (1, 1)) for name in ("0", "2.0", "2")]
    return registry.get(TapStrategy.group, strategy)().attach(network(), taps, IMAGE)


def example() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 1, 16, 16)


def loss(made: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(x.square().mean() for x in made.values())


@pytest.fixture
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("strategy", TRACED)
def test_gradients_reach_the_layers_through_their_taps(strategy):
    module = tapped(strategy)
    loss({"0": module(example())["0"]}).backward()
    assert {name for name, p in module.named_parameters() if p.grad is not None} == {
        "backbone.0.weight",
        "backbone.0.bias",
    }


@pytest.mark.parametrize("strategy", TRACED)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_taps_are_detached_in_inference(strategy, mode):
    module = tapped(strategy)
    with mode():
        made = module(example())
    assert not any(x.requires_grad or x.grad_fn for x in made.values())


@pytest.mark.parametrize("strategy", TRACED)
def test_data_parallel_training_gets_the_same_gradients(strategy, one_process):
    alone, parallel = tapped(strategy), DistributedDataParallel(tapped(strategy))
    for _ in range(2):  # the second step finds parameters that the first has left without gradient
        for module in (alone, parallel):
            loss(module(example())).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(alone.parameters(), parallel.parameters()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
@pytest.mark.parametrize("strategy", TRACED)
def test_compiled_taps_agree(strategy):
    module = tapped(strategy)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")  # needs no compiler
    ours, theirs = compiled(example()), module(example())
    torch.testing.assert_close(ours, theirs)
    assert all(x.requires_grad for x in ours.values())


# ---- layers by name or glob


def planned(layers: list[str], *, strategy: str = "forward_hook") -> list[str]:
    settings = {
        "backbones": {"encoder": {"use": "resnet", "depth": 18}},
        "taps": {"encoder": {"use": strategy, "layers": layers}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "all"},
    }
    plan = plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (64, 64), (1.0, 1.0)), 2)
    verify(plan)
    return [tap.name for tap in plan.backbones[0].taps]


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph"])
def test_layers_of_any_depth_are_tapped_by_glob(strategy):
    assert planned(["layer*.1.act"], strategy=strategy) == [f"layer{i}.1.act" for i in (1, 2, 3, 4)]


def test_a_glob_means_declared_features_where_it_fits_some():
    assert planned(["layer*", "layer1.0.conv1"]) == [
        "layer1",
        "layer1.0.conv1",
        "layer2",
        "layer3",
        "layer4",
    ]


def test_an_unknown_layer_has_its_near_match_among_all_layers():
    with pytest.raises(PipelineError) as caught:
        planned(["layer1.0.conv7"])
    (problem,) = caught.value.problems
    assert "no layer 'layer1.0.conv7'; did you mean 'layer1.0.conv" in problem.message
    assert "`medfuse taps FILE` lists every layer" in problem.message
