"""The conformance suite for plugin authors: one call in a test runs every named check of a contract.

    def test_gated_keeps_the_contract():
        a, b = FeatureInfo("a", 8, (2, 2)), FeatureInfo("b", 4, (2, 2))
        check_fusion_block(Gated(inputs=("a", "b")), [a, b])

Every check that fails is reported, by name, in one AssertionError. Checks are loaded when
they are first used, as not all of them need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfuse.testing.activation_losses import check_activation_loss
    from medfuse.testing.augmentations import check_augmentation
    from medfuse.testing.aux_schedules import check_aux_schedule
    from medfuse.testing.backbones import check_backbone
    from medfuse.testing.datasets import check_dataset
    from medfuse.testing.engines import check_engine
    from medfuse.testing.fusion_blocks import check_fusion_block
    from medfuse.testing.losses import check_loss
    from medfuse.testing.runtimes import check_runtime
    from medfuse.testing.tap_strategies import check_tap_strategy
    from medfuse.testing.trackers import check_tracker

__all__ = [
    "check_activation_loss",
    "check_augmentation",
    "check_aux_schedule",
    "check_backbone",
    "check_dataset",
    "check_engine",
    "check_fusion_block",
    "check_loss",
    "check_runtime",
    "check_tap_strategy",
    "check_tracker",
]

_PLACES = {
    "check_activation_loss": "activation_losses",
    "check_augmentation": "augmentations",
    "check_aux_schedule": "aux_schedules",
    "check_backbone": "backbones",
    "check_dataset": "datasets",
    "check_engine": "engines",
    "check_fusion_block": "fusion_blocks",
    "check_loss": "losses",
    "check_runtime": "runtimes",
    "check_tap_strategy": "tap_strategies",
    "check_tracker": "trackers",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'medfuse.testing' has no attribute {name!r}")
    return getattr(import_module(f"medfuse.testing.{_PLACES[name]}"), name)
