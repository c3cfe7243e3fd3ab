"""A weights file calls no code but what is harmless, the user's own, or allowed."""

import sys
from pathlib import Path

import pytest
import strangers
import torch
from torch import nn

from medfuse.api import NamedCode
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.data.plan import DataPlan
from medfuse.model.segmenter import build_segmenter
from medfuse.model.weights import save_weights
from medfuse.pipeline import plan_network
from medfuse.trained.loading import graph_of, load_trained, weights_facts
from medfuse.trained.predictor import Predictor
from medfuse.trained.trust import Trust, harmless, named_code, remember_own

PLAN: DataPlan = strangers.PLAN


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def flag(monkeypatch, tmp_path):
    """A package, `theirs`, that leaves a trace when it is imported, and another when its class is made."""
    package = tmp_path / "site"
    package.mkdir()
    (package / "theirs.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(tmp_path / 'imported')!r}).touch()\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width=4, leave=None, norm=None):\n"
        "        super().__init__()\n"
        f"        Path({str(tmp_path / 'made')!r}).touch()\n"
        "        self.conv = nn.Conv3d(1, width, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return self.conv(x)\n"
    )
    monkeypatch.syspath_prepend(package)
    yield lambda: sorted(path.name for path in tmp_path.glob("*") if path.name in ("imported", "made"))
    sys.modules.pop("theirs", None)


THEIRS = {"use": "module", "target": "theirs:Net"}
GATES = [
    THEIRS,
    {**THEIRS, "parameters": {"width": 5}},
    {"use": "view", "of": THEIRS, "channels": [0]},
    {"use": "slices", "of": THEIRS},
    {"use": "edited", "of": "resnet", "edits": [{"replace": "*bn?", "by": "theirs.Net"}]},
    {"use": "edited", "of": THEIRS, "edits": [{"remove": "conv"}]},
    {"use": "edited", "of": "resnet", "edits": [{"insert_after": "layer1", "module": "theirs:Net"}]},
    {
        "use": "edited",
        "of": "resnet",
        "edits": [{"replace": "*bn?", "by": "torch.nn.GroupNorm", "arguments": {"x": ["import:theirs.Net"]}}],
    },
    {
        "use": "module",
        "target": "monai.networks.nets:UNet",
        "parameters": {"norm": {"a": [{"b": "import:theirs:Net"}]}},
    },
]


def file(tmp_path: Path, encoder) -> Path:
    """A stranger's, made without any of our plugins."""
    said = strangers.changed(lambda f: f["model"]["backbones"].update(encoder=encoder))
    return strangers.write(tmp_path / "given.safetensors", said)


@pytest.mark.parametrize("encoder", GATES)
def test_no_gate_lets_a_strangers_code_in(tmp_path, flag, encoder):
    path = file(tmp_path, encoder)
    with pytest.raises(CheckpointError, match=r"given\.safetensors: .*theirs:Net.*--trust theirs") as caught:
        load_trained([path], device="cpu")
    assert len(caught.value.lines) == 1
    with pytest.raises(CheckpointError, match="--trust theirs"):
        graph_of(path)
    with pytest.raises(CheckpointError, match="trust="):
        Predictor.load(path, device="cpu")
    assert flag() == []


def test_code_among_values_that_no_plugin_reads_is_refused_too(tmp_path, flag):
    said = strangers.changed(
        lambda f: f["model"].update(transfer={"encoder": {"prefix": "import:theirs.Net"}})
    )
    with pytest.raises(CheckpointError):
        load_trained([strangers.write(tmp_path / "given.safetensors", said)], device="cpu")
    assert flag() == []


def theirs(tmp_path: Path, **parameters) -> Path:
    """Weights of their class, as a run writes them."""
    own = strangers.pipeline({**THEIRS, "parameters": parameters}, "encoder.conv")
    network = build_segmenter(plan_network(own, PLAN.image, 2))
    path = tmp_path / "theirs.safetensors"
    save_weights(path, network, weights_facts(own, PLAN))
    return path


def test_what_the_user_allows_is_called(tmp_path, flag):
    path = theirs(tmp_path)
    for allowed in ("theirs", ["monai", "theirs"]):
        assert load_trained([path], device="cpu", trust=allowed).segmenter()
    for other in ("their", "theirs.net", "monai"):
        with pytest.raises(CheckpointError, match="--trust theirs"):
            load_trained([path], device="cpu", trust=other)


def test_what_the_users_own_pipelines_call_needs_no_leave(tmp_path, flag):
    path = theirs(tmp_path, width=3)
    own = strangers.pipeline({**THEIRS, "parameters": {"width": 3}}, "encoder.conv")
    assert load_trained([path], device="cpu", own=own.model).segmenter()
    remember_own(own.model)
    assert load_trained([path], device="cpu").segmenter()


def test_other_arguments_of_the_users_own_class_need_leave(tmp_path, flag):
    remember_own(strangers.pipeline({**THEIRS, "parameters": {"width": 3}}, "encoder.conv").model)
    with pytest.raises(CheckpointError, match="--trust theirs"):
        load_trained([theirs(tmp_path, width=3, leave="a trace")], device="cpu")


def test_a_whole_run_folder_of_somebody_else_needs_leave(tmp_path, flag, medfuse):
    run = tmp_path / "runs" / "p"
    run.mkdir(parents=True)
    file(tmp_path, THEIRS).rename(run / "weights_last.safetensors")
    (run / "resolved.yaml").write_text("model: {}")
    (tmp_path / "in").mkdir()
    for words in (
        ("infer", run, "-i", tmp_path / "in", "-o", tmp_path / "out"),
        ("infer", run, "-i", tmp_path / "in", "--explain"),
        ("features", run, "--layers", "decoded", "-i", tmp_path / "in", "-o", tmp_path / "out"),
        ("export", run, "--format", "torch", "-o", tmp_path / "out.pt2"),
    ):
        said = medfuse(*words)
        assert said.code == 2
        assert "--trust theirs" in said.err
    assert flag() == []


@pytest.mark.parametrize("name", ["", "a b", "os;rm", "../x", "a..b"])
def test_what_is_no_package_is_told(name):
    with pytest.raises(MedfuseError, match="--trust"):
        Trust.of(name)


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn:GroupNorm",
        "torch.nn:InstanceNorm3d",
        "torch.nn:SiLU",
        "monai.networks.nets:SegResNet",
        "monai.networks.nets:DynUNet",
        "monai.losses:TverskyLoss",
    ],
)
def test_layers_and_plain_networks_are_harmless(target):
    import importlib

    module, _, name = target.partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), nn.Module)
    assert harmless(NamedCode(target))


@pytest.mark.parametrize(
    "target",
    [
        "monai.losses.perceptual:PerceptualLoss",
        "monai.losses:PerceptualLoss",
        "monai.networks.nets:TorchVisionFCModel",
        "monai.networks.nets:AHNet",
        "monai.networks.nets:resnet18",
        "monai.networks.nets:Transchex",
        "torch.nn:Module",
        "torch.nn.modules.module:Module",
        "torch.hub:load",
        "torch:load",
        "builtins:eval",
        "os:system",
        "medfuse.builtin.nets.probe:construct",
        "torch.nn:Conv3d.__init__.__globals__",
        "torch.nn:init",
        "torch.nn.xConv3d:y",
    ],
)
def test_what_could_read_fetch_or_run_is_not(target):
    assert not harmless(NamedCode(target))


def test_a_strangers_plain_network_is_made(tmp_path):
    parameters = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "init_filters": 8}
    own = strangers.pipeline(
        {"use": "module", "target": "monai.networks.nets:SegResNet", "parameters": parameters},
        "encoder.down_layers.0",
    )
    path = tmp_path / "w.safetensors"
    save_weights(path, build_segmenter(plan_network(own, PLAN.image, 2)), weights_facts(own, PLAN))
    network = load_trained([path], device="cpu").segmenter()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 16, 16, 8)).shape[1] == 2


def test_losses_and_what_lies_inside_other_plugins_are_seen():
    own = strangers.pipeline({"use": "view", "of": THEIRS, "channels": [0]}, "encoder.conv")
    assert [code.target for code in named_code(own.model)] == ["theirs:Net"]
