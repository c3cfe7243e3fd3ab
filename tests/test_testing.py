"""The conformance suite catches what plugin authors get wrong."""

import pytest
import torch
from pydantic import Field
from torch import nn

from medfuse import registry
from medfuse.api import AuxSchedule, Backbone, FeatureInfo, FusionBlock, ImageInfo, Loss, TapStrategy
from medfuse.testing import (
    check_aux_schedule,
    check_backbone,
    check_fusion_block,
    check_loss,
    check_tap_strategy,
)

A = FeatureInfo("a", 3, (2, 2))
SHARED = nn.Conv2d(3, 3, 1)


class Block(FusionBlock):
    """Scales its input.

    scaled: {use: block, inputs: [a]}
    """

    channels: int = Field(3, description="said to be made")

    def plan(self, inputs):
        return FeatureInfo("block", self.channels, inputs[0].stride)

    def build(self, inputs):
        return nn.Conv2d(3, 3, 1)


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


class Detaches(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).detach() + self.bias.sum()


def made_by(build, name="Planted", **members):
    return type(name, (Block,), {"__doc__": Block.__doc__, "build": lambda self, inputs: build(), **members})


def lambda_hooked():
    module = nn.Conv2d(3, 3, 1)
    module.register_forward_hook(lambda *_: None)
    return module


def failure(plugin) -> str:
    with pytest.raises(AssertionError) as caught:
        check_fusion_block(plugin(inputs=("a",)), [A])
    return str(caught.value)


def test_a_good_block_passes():
    check_fusion_block(Block(inputs=("a",)), [A])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 1), "planned equals real: block declares 3 channels, makes 4"),
        (lambda: nn.Conv2d(3, 3, 1, stride=2), "planned equals real: block declares"),
        (InPlace, "inputs stay as they are: a is changed in place"),
        (lambda: SHARED, "two blocks share nothing: 2 parameters belong to both"),
        (lambda_hooked, "an unpickled one agrees"),
        (
            lambda: Detaches(3, 3, 1),
            "gradients reach every parameter and input: no gradient reaches weight, a",
        ),
    ],
)
def test_a_planted_fault_is_caught(build, message):
    assert message in failure(made_by(build))


def test_an_undocumented_parameter_is_caught():
    class Bare(Block):
        __doc__ = Block.__doc__
        width: int = 3

    assert "every parameter is documented: give width a Field(description=...)" in failure(Bare)


def test_a_missing_example_is_caught():
    class Terse(Block):
        """Scales its input."""

    assert "show a YAML example" in failure(Terse)


def test_all_faults_come_at_once():
    class Terse(Block):
        """Scales its input."""

        def build(self, inputs):
            return InPlace()

    assert "Terse fails 3 checks" in failure(Terse)


def test_a_wrong_declaration_of_a_backbone_is_caught():
    class Wrong(Backbone):
        """One convolution. {use: wrong}"""

        def features(self, image):
            return [FeatureInfo("0", 4, (2, 2))]

        def build(self, image):
            return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))

    with pytest.raises(AssertionError, match=r"0 declares .* makes"):
        check_backbone(Wrong(), ImageInfo(1, (8, 8), (1.0, 1.0)))


def test_a_tap_strategy_that_keeps_outputs_is_caught():
    class Keeper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.kept = inner, None

        def forward(self, x):
            self.kept = self.inner(x)
            return self.kept

    class Hoards(registry.get(TapStrategy.group, "forward_hook")):
        """Never lets go. {use: hoards}"""

        def attach(self, backbone, taps, image):
            return Keeper(super().attach(backbone, taps, image))

    with pytest.raises(AssertionError, match="nothing is kept: outputs are still held"):
        check_tap_strategy(Hoards())


def test_a_negative_schedule_is_caught():
    class Falls(AuxSchedule):
        """Falls below zero. {use: falls}"""

        def weights(self, step, total_steps, heads):
            return [-float(step)] * heads

    with pytest.raises(AssertionError, match="not finite and ≥ 0"):
        check_aux_schedule(Falls())


def test_a_loss_that_prefers_what_is_wrong_is_caught():
    class Backwards(Loss):
        """Upside down. {use: backwards}"""

        def build(self, classes):
            return lambda logits, target: -nn.functional.cross_entropy(logits, target[:, 0])

    with pytest.raises(AssertionError, match="prefers what is right: right logits cost"):
        check_loss(Backwards())


@pytest.mark.parametrize("name", ["constant", "linear_decay"])
def test_built_in_schedules_keep_the_contract(name):
    check_aux_schedule(registry.get(AuxSchedule.group, name)())


@pytest.mark.parametrize("parameters", [{"use": "dice_ce"}, {"use": "monai", "name": "TverskyLoss"}])
def test_built_in_losses_keep_the_contract(parameters):
    torch.manual_seed(0)
    name = parameters.pop("use")
    check_loss(registry.get(Loss.group, name)(**parameters))
