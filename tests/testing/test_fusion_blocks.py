"""Faults that authors of fusion blocks make, each caught by the law that it breaks."""

import random
from dataclasses import replace

import numpy as np
import torch
from planting import Module, each, failed, planted
from pydantic import Field, PrivateAttr
from sound import Block
from torch import nn
from torch.nn import functional

from medfuse.api import FeatureInfo
from medfuse.testing import check_fusion_block

A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 5, (2, 2))


def made_by(forward, **parts):
    """A block with that forward pass; each of `parts` is a function that makes a layer."""

    def build(self, inputs):
        made = {name: make() for name, make in parts.items()}
        return Module(forward, conv=nn.Conv2d(inputs[0].channels, self.channels, 1), **made)

    return planted(Block, build=build)


def test_without_a_fault_it_passes():
    check_fusion_block(Block(inputs=("a",)), [A])
    check_fusion_block(made_by(Block.forward)(inputs=("a",)), [A])


# ---- what a call leaves behind


def normalised_by_the_first(module, x):
    if module.scale is None:
        module.scale = float(x.detach().abs().mean())
    return module.conv(x) / module.scale


def on_the_first_grid(module, x):
    if module.grid is None:
        module.grid = [torch.linspace(-1, 1, n).tolist() for n in x.shape[2:]]
    rows = torch.tensor(module.grid[0], device=x.device)
    return module.conv(x) + functional.interpolate(rows[None, None], x.shape[2])[..., None].to(x)


def with_a_running_scale(module, x):
    with torch.no_grad():
        module.level.mul_(0.9).add_(0.1 * x.mean())
    return module.conv(x) + module.level


def into_one_buffer(module, x):
    made = module.conv(x)
    key = tuple(made.shape)
    with torch.no_grad():
        kept = module.buffers_by_size.setdefault(key, torch.empty_like(made))
        kept.copy_(made)
    return kept + 0 * made if made.requires_grad and module.training else kept


def with_a_history(module, x):
    made = module.conv(x)
    module.history.append(made.detach())
    return made


def counting_calls(module, x):
    module.calls += 1
    return module.conv(x) * (1 if module.calls < 3 else 1.5)


def with_a_hook_at_each_call(module, x):
    module.conv.register_forward_hook(nothing)
    return module.conv(x)


def nothing(*_):
    return None


def keeping_its_last(module, x):
    module.last = module.conv(x)
    return module.last


def evaluating_its_layers(module, x):
    module.conv.eval()
    return module.conv(x)


def freezing_once_it_runs(module, x):
    for parameter in module.conv.parameters():
        parameter.requires_grad_(False)
    return module.conv(x) + x.mean() * 0


def clipping_its_weights(module, x):
    with torch.no_grad():
        module.conv.weight.clamp_(-0.1, 0.1)
    return module.conv(x)


# ---- neighbours


def added_up_over_the_batch(module, x):
    return module.conv(x.cumsum(0))


def of_four_cases(module, x):
    return torch.cat([module.conv(x[:4]), module.conv(x[4:]) * 0])


def scaled_by_the_largest(module, x):
    return module.conv(x / x.abs().amax())


def of_two_cases(module, x):
    return torch.cat([x[:1], x[1:2]])


def centred_on_the_batch(module, x):
    return x - x.mean(0)


# ---- weights


def kept_in_a_dict(module, x):
    return module.layers["one"](x)


def with_drawn_constants(module, x):
    return module.conv(x) + x.new_tensor(module.drawn)


def folded_once(module, x):
    if module.training:
        module.folded = None
        return module.conv(x) * module.gain
    if module.folded is None:
        module.folded = (module.conv.weight * module.gain).detach().clone()
    return functional.conv2d(x, module.folded + 0 * module.conv.weight, module.conv.bias * module.gain)


class Unsaved(nn.Module):
    """An average that training moves, and that no state dict has."""

    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1)
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return self.conv(x - self.mean)


class Bound(nn.Module):
    """A function that was bound to the first module follows its copies."""

    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1)
        self.run = Call(self)

    def forward(self, x):
        return self.run(x)


class Call:
    def __init__(self, module):
        self.module = [module]

    def __deepcopy__(self, memo):
        return self

    def __call__(self, x):
        return self.module[0].conv(x)


SHARED = nn.Conv2d(3, 3, 1)


def of_the_class(module, x):
    return SHARED(x)


def listed(module, x):
    return module.listed[0](x)


def with_a_lambda():
    module = nn.Conv2d(3, 3, 1)
    module.register_forward_hook(lambda *_: None)
    return module


def with_weights_of_its_own_dice():
    module = nn.Conv2d(3, 3, 1)
    nn.init.constant_(module.weight, random.random())
    return module


def half_detached(module, x):
    return module.conv(x).detach() + module.conv.bias.sum()


def ungated(module, x, y):
    return module.conv(x) + 0 * y.mean()


# ---- chance


def reseeding(module, x):
    torch.manual_seed(0)
    return functional.dropout(module.conv(x), 0.1, module.training)


def random_in_evaluation(module, x):
    return functional.dropout(x, 0.5, training=True)


def rolling_pythons_dice(module, x):
    made = module.conv(x)
    return made * (1 + 0.1 * random.random()) if module.training else made


def rolling_numpys_dice(module, x):
    made = module.conv(x)
    return made + float(np.random.normal()) if module.training else made


def rolling_its_own_dice(module, x):
    made = module.conv(x)
    return made + torch.rand((), generator=OWN) if module.training else made


OWN = torch.Generator()


def seeded_before_building(self, inputs):
    random.seed(0)
    torch.manual_seed(0)
    return Block.build(self, inputs)


# ---- memory, devices, precision


def viewed(module, x):
    return module.conv(x.view(len(x), -1).view(x.shape))


def strided(module, x):
    return module.conv(torch.as_strided(x, x.shape, torch.empty(x.shape, device="meta").stride()))


def positioned(module, x):
    return module.conv(x) + torch.arange(x.shape[-1])


def weighed_by_a_list(module, x):
    return module.conv(x) * module.weights_by_channel[0]


def with_a_kernel_that_stays(module, x):
    return functional.conv2d(module.conv(x), module.kernel)


def through_numpy(module, x):
    made = module.conv(x)
    return made + torch.from_numpy(np.ones(1)) if module.training else made


def in_half_unless_told(module, x):
    return module.conv(x).half()


def written_into_float32(module, x):
    made = module.conv(x)
    table = torch.zeros(made.shape, device=x.device)
    table.index_add_(0, torch.arange(len(made), device=x.device), made)
    return table


# ---- inputs and channels


def in_place(module, x):
    return x.mul_(2)


def down_and_up(module, x):
    return functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2)


def doubled_in_training(module, x):
    return module.conv(x.mul_(2) if module.training else x * 2)


def of_two_channels(module, x):
    return module.conv(torch.cat([x[:, :2], torch.zeros_like(x[:, 2:])], 1))


def unlearned_in_evaluation(module, x):
    with torch.set_grad_enabled(module.training):
        return module.conv(x)


FORWARD = {
    "scales by what it saw first": (
        "a call leaves nothing for the next",
        normalised_by_the_first,
        {"scale": lambda: None},
    ),
    "keeps the grid of its first size": (
        "a call leaves nothing for the next",
        on_the_first_grid,
        {"grid": lambda: None},
    ),
    "learns from images in evaluation": (
        "modes, weights and hooks stay as they are",
        with_a_running_scale,
        {"level": lambda: nn.Parameter(torch.zeros(()), requires_grad=False)},
    ),
    "hands out one buffer": ("outputs outlive the next call", into_one_buffer, {"buffers_by_size": dict}),
    "keeps all that it made": ("nothing is hoarded", with_a_history, {"history": list}),
    "counts its calls": ("evaluation is deterministic", counting_calls, {"calls": lambda: 0}),
    "registers a hook at each call": (
        "modes, weights and hooks stay as they are",
        with_a_hook_at_each_call,
        {},
    ),
    "puts a layer into evaluation": ("modes, weights and hooks stay as they are", evaluating_its_layers, {}),
    "freezes itself": ("modes, weights and hooks stay as they are", freezing_once_it_runs, {}),
    "clips its weights as it runs": ("modes, weights and hooks stay as they are", clipping_its_weights, {}),
    "adds up over the batch": ("any batch", added_up_over_the_batch, {}),
    "answers four cases alone": ("any batch", of_four_cases, {}),
    "scales by the largest of a batch": ("any batch", scaled_by_the_largest, {}),
    "keeps layers in a dict": (
        "every parameter is registered",
        kept_in_a_dict,
        {"layers": lambda: {"one": nn.Conv2d(3, 3, 1)}},
    ),
    "draws constants that nobody saves": (
        "a state dict holds all",
        with_drawn_constants,
        {"drawn": lambda: float(torch.rand(()))},
    ),
    "folds its weights once": (
        "a state dict holds all",
        folded_once,
        {"gain": lambda: nn.Parameter(torch.full((), 1.5)), "folded": lambda: None},
    ),
    "sets the seed at each call": ("nobody else's chance is reseeded", reseeding, {}),
    "is random by `random`": ("chance is torch's", rolling_pythons_dice, {}),
    "is random by numpy": ("chance is torch's", rolling_numpys_dice, {}),
    "is random by a generator of its own": ("chance is torch's", rolling_its_own_dice, {}),
    "uses view() on what may be strided": ("any layout in memory", viewed, {}),
    "reads memory as if it were contiguous": ("any layout in memory", strided, {}),
    "makes positions on the CPU": ("follows its device", positioned, {}),
    "keeps constants in a list": (
        "follows its device",
        weighed_by_a_list,
        {"weights_by_channel": lambda: [torch.full((3, 1, 1), 2.0)]},
    ),
    "keeps a kernel that is no buffer": (
        "follows its device",
        with_a_kernel_that_stays,
        {"kernel": lambda: torch.eye(3)[:, :, None, None]},
    ),
    "adds float64 in training": ("float32 stays float32", through_numpy, {}),
    "answers in half precision": ("float32 stays float32", in_half_unless_told, {}),
    "multiplies float32 with what is bf16": ("runs under bf16 autocast", written_into_float32, {}),
    "works in place in training alone": ("inputs stay as they are", doubled_in_training, {}),
    "overlooks a channel": ("every channel counts", of_two_channels, {}),
    "has no gradients in evaluation": ("gradients are alive", unlearned_in_evaluation, {}),
}


@each(FORWARD)
def test_a_faulty_forward_pass_is_caught(fault):
    check, forward, parts = fault
    assert check in failed(check_fusion_block, made_by(forward, **parts)(inputs=("a",)), [A])


BUILT = {
    "makes a channel more": ("planned equals real", lambda: nn.Conv2d(3, 4, 1)),
    "halves the size": ("planned equals real", lambda: nn.Conv2d(3, 3, 1, stride=2)),
    "makes a map more": ("planned equals real", lambda: Module(lambda module, x: [x, x])),
    "takes sizes to be even": ("planned equals real at odd sizes", lambda: Module(down_and_up)),
    "answers two cases": ("any batch", lambda: Module(of_two_cases)),
    "is centred on the batch": ("any batch", lambda: Module(centred_on_the_batch)),
    "works in place": ("inputs stay as they are", lambda: Module(in_place)),
    "detaches a half": (
        "gradients reach every parameter and input",
        lambda: Module(half_detached, conv=nn.Conv2d(3, 3, 1)),
    ),
    "keeps layers in a list": (
        "every parameter is registered",
        lambda: Module(listed, listed=[nn.Conv2d(3, 3, 1)]),
    ),
    "uses a layer of the file": ("every parameter is registered", lambda: Module(of_the_class)),
    "shares a layer of the file": ("two blocks share nothing", lambda: Module(of_the_class)),
    "is always the same module": ("two blocks share nothing", lambda: SHARED),
    "drops out in evaluation": ("evaluation is deterministic", lambda: Module(random_in_evaluation)),
    "draws its weights by `random`": ("the same seed agrees", with_weights_of_its_own_dice),
    "keeps its last map": ("a copy agrees", lambda: Module(keeping_its_last, conv=nn.Conv2d(3, 3, 1))),
    "holds a lambda": ("an unpickled one agrees", with_a_lambda),
    "moves what no state dict has": ("a state dict holds all", lambda: Unsaved(3, 3)),
    "is bound to the first of its copies": ("a state dict holds all", lambda: Bound(3, 3)),
}


@each(BUILT)
def test_a_faulty_module_is_caught(fault):
    check, build = fault
    faulty = planted(Block, build=lambda self, inputs: build())
    assert check in failed(check_fusion_block, faulty(inputs=("a",)), [A])


def test_a_block_that_sets_the_seed_when_it_is_built_is_caught():
    faulty = planted(Block, build=seeded_before_building)
    assert "nobody else's chance is reseeded" in failed(check_fusion_block, faulty(inputs=("a",)), [A])


# ---- plans


class Remembering(Block):
    __doc__ = Block.__doc__
    _seen: list = PrivateAttr(default_factory=list)

    def plan(self, inputs):
        self._seen[:] = [self._seen[0] if self._seen else inputs[0].stride]
        return FeatureInfo("block", self.channels, self._seen[0])


class Planned(Block):
    """build() needs what plan() was asked."""

    __doc__ = Block.__doc__
    _channels: int = PrivateAttr(0)

    def plan(self, inputs):
        self._channels = inputs[0].channels
        return super().plan(inputs)

    def build(self, inputs):
        return nn.Conv2d(self._channels, self.channels, 1)


class Sorting(Block):
    __doc__ = Block.__doc__

    def plan(self, inputs):
        inputs.sort(key=lambda x: x.channels) if isinstance(inputs, list) else None
        return super().plan(inputs)


class Raising(Block):
    __doc__ = Block.__doc__

    def plan(self, inputs):
        if inputs[0].channels != 3:
            raise ValueError("three channels")
        return super().plan(inputs)


class Growing(Block):
    __doc__ = Block.__doc__
    widths: list[int] = Field([3], description="widths so far")

    def plan(self, inputs):
        self.widths.append(inputs[0].channels)
        return super().plan(inputs)


def of_half(self, inputs):
    return FeatureInfo("block", self.channels, tuple(s / 1 for s in inputs[0].stride))


def with_isotropic_stride(self, inputs):
    return FeatureInfo("block", self.channels, (inputs[0].stride[0],) * inputs[0].dims)


def of_three_channels(self, inputs):
    return nn.Conv2d(3, self.channels, 1)


def quadrupled(self, inputs):
    return FeatureInfo(
        "block", 3 * inputs[0].channels // 3 if inputs[0].channels < 5 else 4, inputs[0].stride
    )


def as_wide_as_it_is_given(self, inputs):
    return nn.Conv2d(inputs[0].channels, inputs[0].channels, 1)


def with_a_changed_default_type(self, inputs):
    torch.set_default_dtype(torch.float64)
    return Block.build(self, inputs)


def without_gradients_from_now_on(self, inputs):
    torch.set_grad_enabled(False)
    return Block.build(self, inputs)


PLANS = {
    "plans half a stride": ("plans whole numbers", planted(Block, plan=of_half)),
    "takes three channels": (
        "planned equals real for other inputs",
        planted(Block, build=of_three_channels),
    ),
    "raises what is no ShapeError": ("planned equals real for other inputs", Raising),
    "takes strides to be alike": (
        "planned equals real for other inputs",
        planted(Block, plan=with_isotropic_stride),
    ),
    "plans few channels for many": (
        "planned equals real for other inputs",
        planted(Block, plan=quadrupled, build=as_wide_as_it_is_given),
    ),
    "plans what it planned first": ("a plan is pure", Remembering),
    "builds what it planned last": ("a plan is pure", Planned),
    "grows as it plans": ("the plugin stays as it is", Growing),
    "changes the default type": (
        "the process's settings stay as they are",
        planted(Block, build=with_a_changed_default_type),
    ),
    "turns gradients off": (
        "the process's settings stay as they are",
        planted(Block, build=without_gradients_from_now_on),
    ),
    "declares a side output that it does not make": (
        "planned equals real",
        planted(Block, side_outputs=lambda self, inputs: [A]),
    ),
}


@each(PLANS)
def test_a_faulty_plan_is_caught(fault):
    check, faulty = fault
    assert check in failed(check_fusion_block, faulty(inputs=("a",)), [A])


def test_a_plan_that_sorts_what_it_is_given_is_caught():
    assert "a plan is pure" in failed(check_fusion_block, Sorting(inputs=("a", "b")), [A, B])


def test_an_input_that_changes_nothing_is_caught():
    faulty = made_by(ungated)
    assert "every channel counts" in failed(check_fusion_block, faulty(inputs=("a", "b")), [A, B])


def test_two_side_outputs_of_one_name_are_caught():
    faulty = planted(Block, side_outputs=lambda self, inputs: [replace(inputs[0], name="1")] * 2)
    assert "plans whole numbers" in failed(check_fusion_block, faulty(inputs=("a",)), [A])
