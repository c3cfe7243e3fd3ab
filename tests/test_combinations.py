"""Any backbone with any tap strategy, fusion block and schedule: it trains, or the plan says why it cannot.

The names come from the registry, so that a plugin that is new is combined with everything or asks for a line
here.
"""

import copy
import pickle
from dataclasses import replace
from functools import cache

import pytest
import torch

from medfuse import registry
from medfuse.api import AuxSchedule, Backbone, FusionBlock, ImageInfo, TapStrategy
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify
from medfuse.train.objective import Objective

CLASSES = 3
IMAGES = {2: ImageInfo(2, (24, 16), (1.0, 1.0)), 3: ImageInfo(2, (16, 16, 8), (1.0, 1.0, 3.0))}
ODD = {2: (23, 17), 3: (17, 15, 9)}

SEGRESNET = {"in_channels": 2, "init_filters": 8, "blocks_down": [1, 1, 1]}  # MONAI's, which returns its maps


def backbones(dims: int) -> dict[str, tuple[dict, list[str]]]:
    """Parameters of each backbone, and three of its layers; of `module` two networks of different kinds."""
    unet = {"use": "unet_encoder", "base_channels": 4}
    strides = {2: [[1, 1], [2, 2], [2, 1]], 3: [[1, 1, 1], [2, 2, 1], [2, 2, 2]]}[dims]  # anisotropic
    stages = ["stages.0", "stages.1", "stages.2"]
    edits = [{"replace": "*.act", "by": "torch.nn.SiLU"}]
    segresnet = {
        "target": "monai.networks.nets.segresnet_ds:SegResEncoder",
        "parameters": {"spatial_dims": dims, **SEGRESNET},
    }
    transformer = {
        "size": IMAGES[dims].patch_size,
        "patch": [8, 8, 4][:dims],
        "channels": 2,
        "registers": 1,
    }
    return {
        "unet_encoder": ({**unet, "strides": strides}, stages),
        "resnet": (
            {"use": "resnet", "depth": 10, "conv1_stride": [2, 2, 1][:dims], "max_pool": False},
            ["act", "layer1", "layer2"],
        ),
        "module": ({"use": "module", **segresnet}, ["layers.0.blocks", "layers.1.blocks", "layers.2.blocks"]),
        "module of tokens": (
            {"use": "module", "target": "vits:ViT", "parameters": transformer},
            ["blocks.0", "blocks.1", "blocks.3"],
        ),
        "edited": ({"use": "edited", "of": {**unet, "strides": strides}, "edits": edits}, stages),
        "lora": ({"use": "lora", "of": {**unet, "strides": strides}, "on": ["conv"], "rank": 2}, stages),
        "view": (
            {"use": "view", "of": {**unet, "strides": strides}, "channels": {"a": [0], "b": [1]}},
            ["a.stages.0", "b.stages.1", "a.stages.2"],
        ),
        "slices": ({"use": "slices", "of": {**unet, "strides": [[1, 1], [2, 2], [2, 1]]}}, stages),
        "densenet": (
            {"use": "densenet"},
            ["features.relu0", "features.denseblock1", "features.denseblock2"],
        ),
        "efficientnet": ({"use": "efficientnet"}, ["_blocks.0", "_blocks.1", "_blocks.2"]),
        "mednext": (
            {"use": "mednext", "base_channels": 4},
            ["enc_stages.0", "enc_stages.1", "enc_stages.2"],
        ),
        "swin_unetr": (
            {"use": "swin_unetr", "channels": 12, "heads": [3, 3, 3, 3], "window": 2},
            ["pos_drop", "layers1.0", "layers2.0"],
        ),
        "primus": (
            {"use": "primus", "channels": 12, "depth": 3, "heads": 2, "patch": 4, "grid": 4},
            ["eva.blocks.0", "eva.blocks.1", "eva.blocks.2"],
        ),
        "dino3d": (
            {"use": "dino3d", "channels": 8, "depth": 3, "heads": 2, "patch": 4, "grid": 4},
            ["blocks.0", "blocks.1", "blocks.2"],
        ),
    }


KINDS = [*backbones(2)]

SOLID = ("slices", "primus", "dino3d")
"""They see volumes alone."""

DEEP = ("densenet", "efficientnet", "mednext", "swin_unetr")
"""They take time to build: quick tests combine them with the tap strategies alone, slow ones with all."""


ALL, PROJECTED = ["encoder.*"], {"inputs": ["encoder.*"], "channels": 4}
BLOCKS = {
    "concat": [{"inputs": [*ALL, "image"]}, {"inputs": ALL, "channels": 4, "resample_to": "coarsest"}],
    "projected_concat": [PROJECTED],
    "input_concat": [
        {"inputs": ["encoder.*", "image"], "upsample": upsample}
        for upsample in ("linear", "nearest", "transposed", "pixelshuffle")
    ],
    "conditional_concat": [
        {"inputs": ["image", *ALL], "mask": mask} for mask in ("per_voxel", "per_channel")
    ],
    "weighted": [{**PROJECTED, "per": per} for per in ("input", "channel")],
    "attention": [
        {"inputs": ALL, "kind": "squeeze_excite"},
        {"inputs": ALL, "kind": "spatial"},
        {"inputs": ALL, "kind": "gate"},
        {"inputs": ALL, "kind": "cross", "resample_to": "coarsest"},
    ],
    "spp": [{"inputs": ALL, "bins": [1, 2], "pool": pool} for pool in ("max", "average", "both")],
    "aspp": [{"inputs": ALL, "rates": [1, 2], "channels": 4}],
    "global_pool": [{"inputs": ALL, "pool": pool} for pool in ("average", "max", "both")],
    "to_pyramid": [
        {"inputs": ALL, "strides": [2, 4, 8], "learned": learned, "channels": 4} for learned in (True, False)
    ],
    "hypercolumn": [PROJECTED],
    "sum_of_logits": [{"inputs": ALL, "channels": 3}],
    "unet_decoder": [{"inputs": ALL}],
    "unet_plus_plus": [{"inputs": ALL}],
    "fpn": [PROJECTED],
    **{name: [PROJECTED] for name in ("add", "subtract", "multiply", "divide", "max", "mean")},
}

HEADED = {"global_pool": {"use": "concat", "inputs": [*ALL, "fused"], "channels": 4}}
"""What stands between a block whose result is no map and the head."""

DECODERS = {
    "unet_decoder": {"inputs": ["image", "pyramid.*"], "convs": 1},
    "unet_plus_plus": {"inputs": ["image", "pyramid.*"], "convs": 1},
    "fpn": {"inputs": ["pyramid.*"], "channels": 4},
    "hypercolumn": {"inputs": ["image", "pyramid.*"], "channels": 4},
    "sum_of_logits": {"inputs": ["pyramid.*"], "channels": 3},
    "conditional_concat": {"inputs": ["image", "pyramid.*"], "channels": 4},
    "input_concat": {"inputs": ["image", "pyramid.*"], "upsample": "transposed", "channels": 4},
}
"""What takes the levels of a pyramid."""

REFUSED = {
    **{("native", backbone): "does not return" for backbone in ("unet_encoder", "resnet", "edited", "lora")},
    ("native", "module of tokens"): "does not return",
    **{
        ("native", backbone): "does not return"
        for backbone in ("densenet", "mednext", "swin_unetr", "primus", "dino3d")
    },
    **{
        ("sequential_truncation", backbone): "is not a chain of its layers"
        for backbone in (
            "view",
            "slices",
            "efficientnet",
            "mednext",
            "swin_unetr",
            "module of tokens",
            "primus",
            "dino3d",
        )
    },
    **{
        ("fx_graph", backbone): "cannot be traced"
        for backbone in ("view", "slices", "efficientnet", "swin_unetr", "primus", "dino3d")
    },
}
"""(tap strategy, backbone) that cannot be combined, and what the reason says."""


def names(contract: type) -> list[str]:
    return sorted(e.name for e in registry.entries(contract.group) if e.package == "medfuse")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Networks as small as the others: the layers matter here, not their widths or number."""
    monkeypatch.setattr("medfuse.builtin.backbones.resnet.PLANES", (8, 8, 16, 16))
    monkeypatch.setattr("medfuse.builtin.backbones.densenet.BLOCKS", {121: (1, 1, 1, 1)})


def test_the_tables_name_every_plugin():
    assert sorted({key.partition(" ")[0] for key in KINDS}) == names(Backbone)
    assert sorted(BLOCKS) == names(FusionBlock)


def even(backbone: str, dims: int) -> ImageInfo:
    """A small image; the last pooling of densenet needs two voxels after four halvings."""
    small = IMAGES[dims]
    return replace(small, patch_size=(32, 32, 32)) if (backbone, dims) == ("densenet", 3) else small


def odd(backbone: str, dims: int) -> tuple[int, ...]:
    if backbone in ("primus", "dino3d"):
        return (20, 12, 12)  # other multiples of the patch
    return (33, 35, 37) if (backbone, dims) == ("densenet", 3) else ODD[dims]


def plan(backbone: str, taps: str, block: str, number: int, dims: int) -> GraphPlan:
    parameters, layers = backbones(dims)[backbone]
    settings = {
        "backbones": {"encoder": parameters},
        "taps": {"encoder": {"use": taps, "layers": layers}},
        "fusion": {
            "fused": {"use": block, **BLOCKS[block][number]},
            **({"headed": HEADED[block]} if block in HEADED else {}),
        },
        "head": {"input": "headed" if block in HEADED else "fused"},
        "aux": {"heads": [f"encoder.{layers[1]}", f"encoder.{layers[2]}"], "schedule": "constant"},
    }
    return plan_graph(ModelSettings.model_validate(settings), even(backbone, dims), CLASSES)


def example(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, *size, generator=generator)
    return image, torch.randint(0, CLASSES, (2, 1, *size), generator=generator)


def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, label[:, 0])


@cache
def schedules() -> dict[str, AuxSchedule]:
    given = {"step": {"values": [0.5, 0.2], "at": [0.8]}, "warmup": {"over": 0.1, "then": "cosine"}}
    return {
        name: registry.get(AuxSchedule.group, name).model_validate(given.get(name, {}))
        for name in names(AuxSchedule)
    }


def learn(
    model: torch.nn.Module, heads: tuple[str, ...], schedule: AuxSchedule, size: tuple[int, ...]
) -> None:
    """One step: a finite loss of every head, a gradient in every part of the network."""
    image, label = example(size)
    objective = Objective(loss, heads, schedule, balance=schedule.balance(len(heads)))
    model.zero_grad()
    weights = objective.weights(50, 100)
    assert any(weight > 0 for weight in weights.values())
    total, parts = objective(model, image, label, weights)
    total.backward()
    assert total.isfinite()
    assert parts.keys() == {"main", *heads}
    for part in (*model.backbones.values(), *model.fusion.values(), model.head, *model.aux.values()):
        learned = [p for p in part.parameters() if p.requires_grad]
        assert not learned or any(p.grad is not None and p.grad.abs().sum() > 0 for p in learned)


def refused(planned: GraphPlan, backbone: str, taps: str) -> bool:
    """Whether the two do not go together; then the plan is refused and says why."""
    reason = REFUSED.get((taps, backbone))
    if reason:
        with pytest.raises(PipelineError) as caught:
            verify(planned)
        assert reason in str(caught.value)
    else:
        verify(planned)
    return bool(reason)


def place(backbone: str, taps: str, block: str) -> int:
    return KINDS.index(backbone) + names(TapStrategy).index(taps) + names(FusionBlock).index(block)


def meetings() -> list[tuple[str, str, str, int]]:
    """Every two of backbone, strategy and block meet somewhere; the slow test has all three of them."""
    met = []
    for block in names(FusionBlock):
        for taps in names(TapStrategy):
            for backbone in KINDS:
                number = place(backbone, taps, block)
                if backbone in DEEP and block == "concat":
                    met.append((backbone, taps, block, 2))
                elif backbone not in DEEP and number % 4 == 0:
                    met.append((backbone, taps, block, 3 if backbone in SOLID else 2 + number // 4 % 2))
    return met


@pytest.mark.parametrize(("backbone", "taps", "block", "dims"), meetings())
def test_it_trains_or_is_refused_with_the_reason(backbone, taps, block, dims):
    """With one of the schedules, so that every two plugins meet somewhere."""
    torch.manual_seed(0)
    planned = plan(backbone, taps, block, 0, dims)
    if refused(planned, backbone, taps):
        return
    schedule = [*schedules().values()][place(backbone, taps, block) % len(schedules())]
    learn(build_segmenter(planned), planned.aux, schedule, odd(backbone, dims))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("block", names(FusionBlock))
@pytest.mark.parametrize("taps", names(TapStrategy))
@pytest.mark.parametrize("backbone", KINDS)
def test_every_kind_of_block_trains_with_every_schedule(backbone, taps, block, dims):
    """All there is: each backbone × strategy × block and its variants × schedule, at even and odd sizes."""
    if backbone in SOLID and dims == 2:
        pytest.skip("it sees volumes alone")
    torch.manual_seed(0)
    for number in range(len(BLOCKS[block])):
        planned = plan(backbone, taps, block, number, dims)
        if refused(planned, backbone, taps):
            return
        model = build_segmenter(planned)
        for schedule in schedules().values():
            learn(model, planned.aux, schedule, even(backbone, dims).patch_size)
        learn(model, planned.aux, schedules()["constant"], odd(backbone, dims))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_trains_on_the_levels_of_a_pyramid_of_one_stride(decoder, learned, dims):
    """The same layer thrice, as a transformer's blocks are of one stride."""
    parameters, layers = backbones(dims)["unet_encoder"]
    settings = {
        "backbones": {"encoder": parameters},
        "taps": {"encoder": {"use": "forward_hook", "layers": layers[-1:]}},
        "fusion": {
            "pyramid": {"use": "to_pyramid", "inputs": ALL * 3, "strides": [2, 4, 8], "learned": learned},
            "fused": {"use": decoder, **DECODERS[decoder]},
        },
        "head": {"input": "fused"},
        "aux": {"heads": ["pyramid.2", "pyramid.3"], "schedule": "constant"},
    }
    torch.manual_seed(0)
    planned = plan_graph(ModelSettings.model_validate(settings), IMAGES[dims], CLASSES)
    verify(planned)
    model = build_segmenter(planned)
    for size in (IMAGES[dims].patch_size, ODD[dims]):
        learn(model, planned.aux, schedules()["constant"], size)


# ---- what a trained network goes through


SAMPLES = [
    ("unet_encoder", "forward_hook", "unet_decoder", 3),
    ("resnet", "sequential_truncation", "fpn", 2),
    ("module", "fx_graph", "projected_concat", 3),
    ("edited", "forward_hook", "conditional_concat", 2),
    ("view", "native", "attention", 2),
    ("unet_encoder", "fx_graph", "spp", 3),
    ("module of tokens", "tokens", "projected_concat", 2),
]


@pytest.fixture(params=SAMPLES, ids=lambda sample: "-".join(map(str, sample)))
def sample(request) -> tuple[torch.nn.Module, torch.Tensor]:
    backbone, taps, block, dims = request.param
    torch.manual_seed(0)
    model = build_segmenter(plan(backbone, taps, block, 0, dims)).eval()
    return model, example(IMAGES[dims].patch_size)[0]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_does_the_same_and_is_its_own(sample, again):
    model, image = sample
    with torch.no_grad():
        before = model(image)
        other = again(model)
        assert torch.equal(other(image), before)
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(other(image), before)
        assert torch.equal(model(image), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
def test_compiled_it_does_the_same(sample):
    model, image = sample
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")  # needs no compiler
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of its exporter
def test_exported_to_onnx_it_does_the_same(sample, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime to run exported models")
    pytest.importorskip("onnxscript", reason="torch exports by onnxscript: pip install onnxscript")
    model, image = sample
    torch.onnx.export(model, (image,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), model(image), rtol=1e-3, atol=1e-4)
