"""A step of training: what a batch teaches, and the weights that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medfuse.core.errors import MedfuseError
from medfuse.core.layout import channels_last
from medfuse.train.average import Average
from medfuse.train.budget import Budget
from medfuse.train.guided import Guided
from medfuse.train.objective import Objective
from medfuse.train.optimizer import peak_rate, rate_factor
from medfuse.train.pseudo import IGNORED, PseudoLabels
from medfuse.train.saving import Saving
from medfuse.train.settings import TrainSettings
from medfuse.train.state import seed_chance
from medfuse.train.teaching import Shown
from medfuse.train.together import Together

Batch = Mapping[str, Any]
"""{"image": (b, c, *patch), "label": (b, 1, *patch), "case": b names}

Perhaps also "spent": seconds that others spent on it for this training.
"""

Batches = Callable[[int], Generator[Batch, None, None]]
"""start step → endless batches."""

Known = Callable[[Batch], Mapping[str, Any]]
"""A batch → what the network is given of it besides the image, by the names of arguments: its frozen maps."""


@dataclass(frozen=True)
class Taken:
    """A step that was taken: `losses` of its heads, unweighted, with the `weights` of the auxiliary ones.

    `taught`: the numbers of what unlabelled patches taught. label: (batch, 1, *patch_size), class indices.
    """

    label: Tensor
    loss: Tensor
    losses: dict[str, Tensor]
    weights: dict[str, float]
    taught: dict[str, float | Tensor]
    rate: float


@dataclass(frozen=True)
class Step:
    """Takes one step after the other with `model`, which is called as `network`.

    What a step draws by chance (dropout) depends on `seed`, its number and the process alone.
    """

    model: nn.Module
    network: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    objective: Objective
    learned: nn.Module
    average: Average | None
    fabric: Fabric
    together: Together
    settings: TrainSettings
    budget: Budget
    seed: int
    guided: Guided | None
    pseudo: PseudoLabels | None
    saving: Saving
    known: Known | None = None

    def __call__(self, batch: Batch, unlabelled: Batch | None, number: int, done: float) -> Taken:
        """Step `number`, at a share `done` of the budget. Raises MedfuseError where its loss is no number.

        Where it runs out of the device's memory, it is taken once more with less of it.
        """
        before = self._statistics() if self.saving.has_more(len(batch["image"])) else []
        while (taken := self._learn_within_memory(batch, unlabelled, number, done)) is None:
            self.optimizer.zero_grad(set_to_none=True)
            for tensor, values in before:
                tensor.copy_(values)
            torch.cuda.empty_cache()
        self.together.add_up(self.model, self.learned)
        follow(self.optimizer, self.settings, taken.rate)
        if self.average:
            self.average.update(self.model, number)
        return taken

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """What a forward pass may change, and what it is now."""
        moving = (b for m in self.model.modules() if m.training for b in m.buffers(recurse=False))
        return [(b, b.clone()) for b in moving if b.is_floating_point() or not b.ndim]

    def _learn_within_memory(
        self, batch: Batch, unlabelled: Batch | None, number: int, done: float
    ) -> Taken | None:
        """None where there was too little memory, and there is a way to take less of it.

        Alone: others of several processes would wait for this one.
        """
        try:
            return self._learn(batch, unlabelled, number, done)
        except torch.OutOfMemoryError as error:
            patches = len(batch["image"])
            if self.together.size > 1 or not self.saving.more(patches):
                raise MedfuseError(
                    f"training: step {number + 1} takes more memory than the device has "
                    f"({str(error).partition('. ')[0][:120]}); set {self.saving.advice(patches)}"
                ) from None
        return None

    def _learn(self, batch: Batch, unlabelled: Batch | None, number: int, done: float) -> Taken:
        """The gradients of a step; what is followed are those of all processes."""
        network = partial(self.network, **self.known(batch)) if self.known else self.network
        network = self.saving.around(network)
        seed_chance(self.seed, number, self.together.rank)
        if self.guided and self.guided.is_due(number, done):
            batch = self._changed(batch, self.guided, number)
        taught: dict[str, float | Tensor] = {}
        if self.pseudo and unlabelled:
            taught = self._teach(self.pseudo, unlabelled, self.pseudo.weight(done))
        weights = self.objective.weights(*self.budget.schedule_step(done))
        image, label = self.fabric.to_device((batch["image"], batch["label"]))
        image = image.contiguous(memory_format=channels_last(image.ndim))
        label = self.together.gather(label)
        whole, shown = self.together.whole(network), self._shown(image)
        total, losses = self.objective(whole, image, label, weights, **shown)
        self.fabric.backward(total)
        loss = total.detach()
        self._stop_where_lost(loss, losses, number + 1, batch)
        rate = peak_rate(self.settings) * rate_factor(done, self.settings)
        return Taken(label, loss, losses, weights, taught, rate)

    def _changed(self, batch: Batch, guided: Guided, number: int) -> dict[str, Any]:
        """The batch as the network's own maps have it changed."""
        image, label = self.fabric.to_device((batch["image"], batch["label"]))
        with self.fabric.autocast():
            laid_out = image.contiguous(memory_format=channels_last(image.ndim))
            activation = guided.look(self.model, laid_out)
        image, label = guided.change(image, label, activation, number)
        return {**batch, "image": image, "label": label}

    def _shown(self, image: Tensor) -> dict[str, Shown]:
        """What the teacher makes of the images of all processes, for the objective; nothing without one."""
        if not self.objective.teaching:
            return {}
        with self.fabric.autocast():
            logits, maps = self.objective.teaching.look(image)
        gather = self.together.gather
        return {"shown": (gather(logits), {name: gather(made) for name, made in maps.items()})}

    def _teach(self, pseudo: PseudoLabels, batch: Batch, weight: float) -> dict[str, float | Tensor]:
        """Adds the gradient of the loss on unlabelled patches to that of the step; numbers for the log.

        Where the teacher is sure of nothing the network is not called, and so nothing in it changes.
        """
        teacher = pseudo.teacher or (self.average.model if self.average else self.model)
        image, weak = self.fabric.to_device((batch["image"], batch["weak"]))
        image, weak = (x.contiguous(memory_format=channels_last(x.ndim)) for x in (image, weak))
        with self.fabric.autocast():
            labels = self.together.gather(pseudo.labels(teacher, weak))
        confident = float((labels != IGNORED).float().mean())
        loss = torch.zeros(())
        if confident:
            loss = pseudo.loss(self.together.whole(self.saving.around(self.network)), image, labels)
            self.fabric.backward(weight * loss)
        return {"loss/pseudo": loss.detach(), "weight/pseudo": weight, "pseudo/confident": confident}

    def _stop_where_lost(self, loss: Tensor, losses: dict[str, Tensor], step: int, batch: Batch) -> None:
        if not math.isfinite(float(loss)):  # in all processes, as the loss is that of the whole batch
            shares = self.together.collect([*batch.get("case", ())])
            cases = ", ".join(dict.fromkeys(name for share in shares for name in share))
            lost = [name for name, part in losses.items() if not math.isfinite(float(part))]
            whose = f" of {', '.join(lost)}" if lost and len(losses) > 1 else ""
            raise MedfuseError(
                f"training: the loss{whose} is not a number at step {step}{f' ({cases})' if cases else ''}; "
                "look at these images, lower train.learning_rate, or set train.precision: fp32"
            )


def follow(optimizer: torch.optim.Optimizer, settings: TrainSettings, rate: float) -> None:
    """Follow the gradients at a learning rate of `rate`, and forget them."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    if settings.clip:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, settings.clip, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
