"""What every torch module keeps that a plugin builds, whatever it is for."""

from __future__ import annotations

from functools import partial

from medfuse.testing import calls, chance, placement, weights
from medfuse.testing.report import Check
from medfuse.testing.tested import Tested


def module_laws(tested: Tested, plural: str) -> dict[str, Check]:
    """The laws of all modules, by name. `plural` is what this kind is called."""
    laws = {
        "every parameter is registered": weights.all_are_registered,
        "inputs stay as they are": calls.leave_inputs,
        "evaluation is deterministic": calls.are_deterministic,
        "a call leaves nothing for the next": calls.leave_nothing,
        "outputs outlive the next call": calls.give_outputs_of_their_own,
        "nothing is hoarded": calls.hoard_nothing,
        "modes, weights and hooks stay as they are": calls.leave_the_module,
        "a copy agrees": weights.copies_agree,
        "an unpickled one agrees": weights.pickles_agree,
        "the same seed agrees": weights.follow_the_seed,
        "a state dict holds all": weights.state_dicts_hold_all,
        f"two {plural} share nothing": weights.are_not_shared,
        "chance is torch's": chance.is_torchs,
        "nobody else's chance is reseeded": chance.is_left_alone,
        "float32 stays float32": placement.keeps_float32,
        "runs under bf16 autocast": placement.bears_autocast,
        "any layout in memory": placement.bears_any_layout,
        "follows its device": placement.follows_its_device,
    }
    return {name: partial(law, tested) for name, law in laws.items()}
