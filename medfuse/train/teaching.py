"""Distillation: besides labels a network learns what another one, its teacher, makes of the same patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Shown = tuple[Tensor, Mapping[str, Tensor]]
"""What a teacher makes of a batch: its logits, and maps by their names in its graph."""


@dataclass(frozen=True)
class Match:
    """A map of the student that is drawn to one of the teacher by `loss`: (student's, teacher's) → scalar."""

    student: str
    teacher: str
    loss: nn.Module

    @property
    def name(self) -> str:
        """What the log calls its loss."""
        return f"teacher/{self.student}"


class Teaching:
    """A frozen network, and what is to be learned from it; never a part of the model that is trained.

    `network` is called as the model is: `network(image)` → logits, or `network(image, maps=names)` →
    (logits, _, {name: map}). `weight` is that of the divergence of probabilities at `temperature`, and
    `maps_weight` that of each of the `matches`. What has a weight of 0 is not computed.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weight: float,
        temperature: float,
        matches: Sequence[Match] = (),
        maps_weight: float = 0.0,
        regions: bool = False,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.weight, self.temperature, self.regions = weight, temperature, regions
        self.matches, self.maps_weight = tuple(matches) if maps_weight else (), maps_weight

    def __bool__(self) -> bool:
        """Whether anything is learned from it at all."""
        return bool(self.weight or self.matches)

    @property
    def maps(self) -> tuple[str, ...]:
        """The student's maps that it looks at."""
        return tuple(dict.fromkeys(match.student for match in self.matches))

    def learned(self) -> list[nn.Module]:
        """What is learned beside the student, and left behind: projections of its maps."""
        return [match.loss for match in self.matches]

    def look(self, image: Tensor) -> Shown:
        """What it makes of images (batch, channels, *patch_size), without gradient."""
        names = tuple(dict.fromkeys(match.teacher for match in self.matches))
        with torch.no_grad():
            made = self.network(image, maps=names) if names else self.network(image)
        return (made, {}) if isinstance(made, Tensor) else (made[0], made[2])

    def losses(
        self, logits: Tensor, maps: Mapping[str, Tensor], shown: Shown
    ) -> Iterator[tuple[str, float, Tensor]]:
        """(name, weight, loss) of all that is learned, given what the student makes of the same images."""
        wanted, inner = shown
        if self.weight:
            loss = divergence(logits, wanted, self.temperature, regions=self.regions)
            yield "teacher/probabilities", self.weight, loss
        for match in self.matches:
            yield match.name, self.maps_weight, match.loss(maps[match.student], inner[match.teacher])


def divergence(student: Tensor, teacher: Tensor, temperature: float, *, regions: bool = False) -> Tensor:
    """T² · KL(teacher ‖ student) of softmax(logits / T), the mean over voxels (Hinton et al. 2015).

    Logits (batch, classes, *spatial). T² keeps the gradient's size whatever the temperature. Each of
    `regions` is two classes, inside and outside, and the mean is over regions too.
    """
    made, wanted = student.float() / temperature, teacher.float() / temperature
    if regions:  # a logit z is that of two classes, (0, z)
        sides = [
            (functional.logsigmoid(sign * made), functional.logsigmoid(sign * wanted)) for sign in (1, -1)
        ]
    else:
        sides = [(made.log_softmax(1), wanted.log_softmax(1))]
    parts = [functional.kl_div(own, other, reduction="none", log_target=True) for own, other in sides]
    if regions:
        return temperature**2 * torch.stack(parts).sum(0).mean()
    return temperature**2 * parts[0].sum(1).mean()
