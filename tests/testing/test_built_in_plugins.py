"""The conformance suite passes what comes with medfuse, and reports every fault at once.

What it catches is in test_planted_faults.py, one fault a plugin.
"""

import re

import pytest
from torch import nn

from medfuse import registry, testing
from medfuse.api import ActivationLoss, AuxSchedule, Dataset, FeatureInfo, FusionBlock, Loss, Runtime
from medfuse.testing import (
    check_activation_loss,
    check_aux_schedule,
    check_dataset,
    check_fusion_block,
    check_loss,
    check_runtime,
)

A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 4, (4, 2))
THICK = FeatureInfo("c", 3, (2, 2, 1))


class Terse(FusionBlock):
    """Scales its input, and says no more."""

    def plan(self, inputs):
        return FeatureInfo("terse", 3, inputs[0].stride)

    def build(self, inputs):
        return InPlace()


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_all_faults_come_at_once_each_with_its_reason():
    with pytest.raises(AssertionError) as caught:
        check_fusion_block(Terse(inputs=("a",)), [A])
    said = str(caught.value)
    assert re.match(r"Terse fails \d+ checks:\n", said)
    assert "the docstring has a line and an example: show a YAML example" in said
    assert "inputs stay as they are: a is changed in place" in said
    assert "gradients reach every parameter and input: RuntimeError: a leaf" in said


def test_every_contract_has_its_check():
    assert testing.__all__ == sorted(
        f"check_{registry.noun(contract.group).replace(' ', '_')}" for contract in registry.CONTRACTS
    )


@pytest.mark.parametrize("name", ["constant", "linear_decay"])
def test_built_in_schedules_keep_the_contract(name):
    check_aux_schedule(registry.get(AuxSchedule.group, name)())


@pytest.mark.parametrize("parameters", [{"use": "dice_ce"}, {"use": "monai", "name": "TverskyLoss"}])
def test_built_in_losses_keep_the_contract(parameters):
    name = parameters.pop("use")
    check_loss(registry.get(Loss.group, name)(**parameters))


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        *((name, maps) for name in ("l1", "l2", "orthogonality") for maps in ([A, B], [THICK])),
        ("feature_matching", [A, B]),
        ("feature_matching", [THICK, THICK.named("d")]),
    ],
)
def test_built_in_activation_losses_keep_the_contract(name, maps):
    plugin = registry.get(ActivationLoss.group, name)(maps=[x.name for x in maps], weight=0.1)
    check_activation_loss(plugin, maps)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_built_in_runtime_keeps_the_contract(precision):
    check_runtime(registry.get(Runtime.group, "torch")(precision=precision))


def test_a_built_in_dataset_keeps_the_contract(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in "ab":
            (tmp_path / part / f"{name}.nii.gz").touch()
    check_dataset(registry.get(Dataset.group, "folder")(root=tmp_path, classes={"liver": 1}))
