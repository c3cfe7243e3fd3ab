"""Maps that never change while a network learns, as all that makes them is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from medfuse.core.text import listed
from medfuse.model.plan import IMAGE, GraphPlan, NodePlan, names_of
from medfuse.model.still import untaught


@dataclass(frozen=True)
class Frozen:
    """`maps`: those that what learns is given, by their names in the graph; `parts`: all that makes them.

    A part is a backbone or a node. `needs_image`: whether what learns looks at the image too. `learning`:
    backbone → its parameters that are not frozen for good.
    """

    maps: tuple[str, ...]
    parts: tuple[str, ...]
    needs_image: bool
    learning: Mapping[str, tuple[str, ...]]

    def reason(self) -> str:
        """Why no map can be kept."""
        found = [f"{name} learns ({listed(names, 2)})" for name, names in self.learning.items()]
        return "; ".join(found) or "what learns takes nothing but the image"


def frozen_maps(plan: GraphPlan, parameters: Iterable[str], is_frozen: Callable[[str], bool]) -> Frozen:
    """What stands still, where `is_frozen` tells it of each of the network's `parameters`.

    A part stands still where it has parameters and all are frozen, or where no loss teaches it, and where
    all that it takes stands still. Parts without parameters cost little, may draw by chance (dropout), and
    run at each step.
    """
    names, untouched = list(parameters), untaught(plan)

    def learning(prefix: str) -> tuple[str, ...]:
        return tuple(name for name in names if name.startswith(prefix) and not is_frozen(name))

    def stands_still(part: str, prefix: str) -> bool:
        has_any = any(name.startswith(prefix) for name in names)
        return part in untouched or (has_any and not learning(prefix))

    parts, still = [], {IMAGE}
    for b in plan.backbones:
        if stands_still(b.name, f"backbones.{b.name}."):
            parts.append(b.name)
            still |= {f"{b.name}.{tap.name}" for tap in b.taps}
    for node in plan.nodes:
        if still.issuperset(names_of(node.inputs)) and stands_still(node.name, f"fusion.{node.name}."):
            parts.append(node.name)
            still |= _made_by(node)
    needed = {plan.head, *plan.aux, *(f.name for a in plan.activations for f in a.maps)}
    for node in reversed(plan.nodes):
        if node.name not in parts and needed & _made_by(node):
            needed.update(names_of(node.inputs))
    kept = tuple(name for name in plan.features if name in needed & still - {IMAGE})
    moving = [b for b in plan.backbones if b.name not in parts]
    return Frozen(
        kept,
        tuple(parts),
        IMAGE in needed or any(needed & {f"{b.name}.{tap.name}" for tap in b.taps} for b in moving),
        {b.name: learning(f"backbones.{b.name}.") for b in moving},
    )


def _made_by(node: NodePlan) -> set[str]:
    return set(names_of((node.output, *node.sides)))
