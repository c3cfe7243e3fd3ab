"""The training loop: batches in, weights out; resumes where it stopped."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.layout import channels_last
from medfuse.core.reporter import Reporter
from medfuse.train.budget import Budget
from medfuse.train.doubts import Doubts, wait_advice
from medfuse.train.guided import Guided
from medfuse.train.log import MetricsLog
from medfuse.train.objective import Objective
from medfuse.train.optimizer import make_optimizer, peak_rate, rate_factor
from medfuse.train.parts import Parts, learned_group
from medfuse.train.pseudo import IGNORED, PseudoLabels
from medfuse.train.settings import TrainSettings
from medfuse.train.state import newest_state, read_state, seed_chance, write_state
from medfuse.train.together import Together

Batches = Callable[[int], Generator[Mapping[str, Any], None, None]]
"""start step → endless batches {"image": (b, c, *patch), "label": (b, 1, *patch), "case": b names}."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""The network in eval mode → numbers to log; "dice" chooses the best weights."""

Save = Callable[[str, nn.Module, Mapping[str, float]], None]
"""("best" or "last", the network, facts) → nothing; writes its weights."""

_LOG_EVERY = 10  # steps; the weights of auxiliary heads at each
_LOOKING_SHARE = 0.1  # most of the time of a budget in minutes that goes into validation, the last one aside
_STATE_EVERY = 60.0  # seconds between two training states where `state_every` is not given


@dataclass
class Progress:
    """Where training stands. Saved with every training state."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_step: int = 0


@dataclass
class _Window:
    """Means since the last row of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    def add(self, numbers: Mapping[str, float | Tensor], waited: float) -> None:
        self.steps += 1
        self.waited += waited
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def row(self) -> dict[str, float]:
        seconds = self.seconds()
        return {
            **{name: value / self.counts[name] for name, value in self.sums.items()},
            "steps_per_second": self.steps / seconds,
            "wait_share": self.waited / seconds,
        }


def fit(
    model: nn.Module,
    *,
    fabric: Fabric,
    settings: TrainSettings,
    objective: Objective,
    batches: Batches,
    validate: Validate,
    save: Save,
    folder: Path,
    reporter: Reporter,
    seed: int = 1,
    guided: Guided | None = None,
    pseudo: PseudoLabels | None = None,
) -> Progress:
    """Train until the budget is spent, or carry on from the training state in `folder`.

    Carrying on gives what going on would have given: to the last bit where kernels are deterministic and the
    budget is in steps or epochs; with a budget in minutes the clock decides how many steps there are. So what
    a step draws by chance (dropout) depends on `seed` and the step alone.
    Where several processes train together, each calls this; the first writes and speaks for all.
    Each epoch ends with `validate` and `save`; with a budget in minutes `validate` is left out while it has
    taken more than a tenth of the time. Raises MedfuseError where the loss stops being a number.
    """
    together, budget = Together(), Budget.of(settings)
    if not together.is_first:
        save, reporter = _no_save, Reporter(quiet=True)
    learned = objective.learned().to(fabric.device)
    by_part = Parts(model, settings.parts)
    optimizer = make_optimizer([*by_part.groups(), learned_group(learned)], settings)
    average = _Average(model, settings.average) if settings.average else None
    trained = _Trained(model, optimizer, learned, average.model if average else None)
    progress = trained.restore(folder, reporter)
    if budget.progress(progress.step, progress.seconds) >= 1:
        save("last", average.model if average else model, {"step": progress.step})
        return progress
    together.start_alike(model, learned, *([average.model] if average else []))
    if progress.step:
        reporter.say(f"carrying on from step {progress.step}")
    by_part.enter(progress.step // settings.steps_per_epoch)
    clock = _Clock(progress.seconds)  # compiling takes of the minutes too
    network, optimizer = _set_up(model, optimizer, fabric, settings, batches, objective, reporter)

    doubts = Doubts(reporter.say, fresh=progress.step == 0)

    def spent() -> float:
        """The share of the budget, the same in all processes."""
        if budget.seconds is None:
            return budget.progress(progress.step, 0.0)
        return together.first(lambda: budget.progress(progress.step, clock.seconds()))

    stepping, waited_all, looked, dice, look = 0.0, 0.0, 0.0, "", True

    def may_look() -> bool:
        """Whether validation has not had its share of the time yet, the same in all processes."""
        if budget.seconds is None:
            return True
        return together.first(lambda: looked / clock.seconds()) <= _LOOKING_SHARE

    def end_epoch(look: bool, log: MetricsLog) -> None:
        """Save the weights, judged by held-out cases where that is wanted."""
        nonlocal looked, dice
        judged = average.model if average else model
        scores: dict[str, float] = {}
        if look:
            looking = time.perf_counter()
            scores = _validate(judged, validate)
            looked += time.perf_counter() - looking
            dice = f"  Dice {scores['dice']:.3f}" if "dice" in scores else ""
        log.write({"step": progress.step, "seconds": clock.seconds(), **scores})
        facts = {"step": progress.step, **scores}
        if scores.get("dice", -math.inf) > progress.best:
            progress.best, progress.best_step = scores["dice"], progress.step
            save("best", judged, facts)
        save("last", judged, facts)

    saved = time.monotonic()
    with (
        closing(batches(progress.step)) as stream,
        closing(pseudo) if pseudo else nullcontext(),
        MetricsLog(folder if together.is_first else None, step=progress.step) as log,
        reporter.track("training", 1000) as advance,
    ):
        window, loss, done = _Window(), "", spent()
        while done < 1 or progress.step == 0:  # setting up may take all of the time
            waiting = time.perf_counter()
            batch, unlabelled = next(stream), pseudo.draw(progress.step, done) if pseudo else None
            waited = time.perf_counter() - waiting
            seed_chance(seed, progress.step, together.rank)
            if guided and guided.is_due(progress.step, done):
                batch = _changed(batch, guided, model, fabric, progress.step)
            taught: dict[str, float | Tensor] = {}
            if pseudo and unlabelled:
                teacher = pseudo.teacher or (average.model if average else model)
                weight = pseudo.weight(done)
                taught = _teach(together, network, teacher, fabric, pseudo, unlabelled, weight)
            weights = objective.weights(*budget.schedule_step(done))
            rate = peak_rate(settings) * rate_factor(done, settings)
            image, label = fabric.to_device((batch["image"], batch["label"]))
            image, label = image.contiguous(memory_format=channels_last(image.ndim)), together.gather(label)
            total, parts = objective(together.whole(network), image, label, weights)
            fabric.backward(total)
            total = total.detach()
            _stop_where_lost(together, total, progress.step + 1, batch)
            together.add_up(model, learned)
            step_of(optimizer, settings, rate)
            doubts.look(label, float(total))
            if average:
                average.update(model, progress.step)
            progress.step += 1
            done = spent()
            epoch_ends = done >= 1 or progress.step % settings.steps_per_epoch == 0

            losses = {f"loss/{name}": part for name, part in parts.items()}
            extra = taught["weight/pseudo"] * taught["loss/pseudo"] if taught else 0.0
            weighed = {f"weight/{name}": weight for name, weight in weights.items()}
            window.add({"loss": total + extra, **losses, **taught}, waited)
            if epoch_ends or window.steps == _LOG_EVERY:
                row = window.row()
                stepping, waited_all = stepping + window.seconds(), waited_all + window.waited
                window = _Window()
                now = {"step": progress.step, "epoch": progress.step / settings.steps_per_epoch}
                now |= {"seconds": clock.seconds(), "learning_rate": rate}
                log.write({**now, **row, **weighed})
                loss = f"  loss {row['loss']:.3f}"
            elif weighed:
                log.write({"step": progress.step, "seconds": clock.seconds(), **weighed})
            advance(int(1000 * done), f"step {progress.step}{loss}{dice}")

            if epoch_ends:
                end_epoch(look := done >= 1 or may_look(), log)
                by_part.enter(progress.step // settings.steps_per_epoch)
                window, done = _Window(), spent()
            due = epoch_ends or _state_is_due(settings, progress.step, time.monotonic() - saved)
            if due and together.is_first:
                progress.seconds = clock.seconds()
                trained.keep(folder, progress)
                saved = time.monotonic()
        if not look:  # the time ran out while the weights were saved
            end_epoch(True, log)
            if together.is_first:
                trained.keep(folder, progress)
    reporter.say(wait_advice(waited_all / max(stepping, 1e-9)))
    return progress


def is_finished(folder: Path, settings: TrainSettings) -> bool:
    """Whether the training in `folder` has spent its budget, so that nothing needs to be set up for it."""
    state = read_state(folder)
    if state is None:
        return False
    done = state["progress"]
    return Budget.of(settings).progress(done["step"], done["seconds"]) >= 1


def _set_up(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    settings: TrainSettings,
    batches: Batches,
    objective: Objective,
    reporter: Reporter,
) -> tuple[Callable[..., Any], torch.optim.Optimizer]:
    """The network as it is called in training: placed, autocast and, where asked for, compiled."""
    if settings.compile:
        compiled = torch.compile(copy.deepcopy(model))
        with closing(batches(0)) as stream:
            batch = next(stream)
        try:
            with fabric.autocast():
                output = compiled(batch["image"].to(next(model.parameters()).device), aux=objective.heads)
                (output[0] if isinstance(output, tuple) else output).float().mean().backward()
        except Exception as error:  # whatever a compiler may raise, training can go on without it
            reason = (str(error) or type(error).__name__).splitlines()[0]
            reporter.say(f"not compiled: {reason[:160]}")
        else:
            network, optimizer = fabric.setup(torch.compile(model), optimizer)
            return network, optimizer
    network, optimizer = fabric.setup(model, optimizer)
    return network, optimizer


def step_of(optimizer: torch.optim.Optimizer, settings: TrainSettings, rate: float) -> None:
    """Follow the gradients at a learning rate of `rate`, and forget them."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    if settings.clip:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, settings.clip, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _changed(
    batch: Mapping[str, Any], guided: Guided, model: nn.Module, fabric: Fabric, step: int
) -> dict[str, Any]:
    """The batch as the network's own maps have it changed."""
    image, label = fabric.to_device((batch["image"], batch["label"]))
    with fabric.autocast():
        activation = guided.look(model, image.contiguous(memory_format=channels_last(image.ndim)))
    image, label = guided.change(image, label, activation, step)
    return {**batch, "image": image, "label": label}


def _teach(
    together: Together,
    network: Callable[..., Any],
    teacher: nn.Module,
    fabric: Fabric,
    pseudo: PseudoLabels,
    batch: Mapping[str, Tensor],
    weight: float,
) -> dict[str, float | Tensor]:
    """Adds the gradient of the loss on unlabelled patches to that of the step; numbers for the log.

    Where the teacher is sure of nothing the network is not called, and so nothing in it changes.
    """
    image, weak = fabric.to_device((batch["image"], batch["weak"]))
    image, weak = (x.contiguous(memory_format=channels_last(x.ndim)) for x in (image, weak))
    with fabric.autocast():
        labels = together.gather(pseudo.labels(teacher, weak))
    confident = float((labels != IGNORED).float().mean())
    loss = torch.zeros(())
    if confident:
        loss = pseudo.loss(together.whole(network), image, labels)
        fabric.backward(weight * loss)
    return {"loss/pseudo": loss.detach(), "weight/pseudo": weight, "pseudo/confident": confident}


def _validate(model: nn.Module, validate: Validate) -> dict[str, float]:
    model.eval()
    try:
        with torch.inference_mode():
            return dict(validate(model))
    finally:
        model.train()


def _state_is_due(settings: TrainSettings, step: int, seconds: float) -> bool:
    """`seconds` since the last training state."""
    return step % settings.state_every == 0 if settings.state_every else seconds > _STATE_EVERY


def _stop_where_lost(together: Together, loss: Tensor, step: int, batch: Mapping[str, Any]) -> None:
    if not math.isfinite(float(loss)):  # in all processes, as the loss is that of the whole batch
        shares = together.collect([*batch.get("case", ())])
        cases = ", ".join(dict.fromkeys(name for share in shares for name in share))
        raise MedfuseError(
            f"training: the loss is not a number at step {step}{f' ({cases})' if cases else ''}; look at "
            "these images, lower train.learning_rate, or set train.precision: fp32"
        )


def _no_save(kind: str, model: nn.Module, facts: Mapping[str, float]) -> None:
    """What a process does that is not the first."""


class _Clock:
    """Seconds of training, those before a resume included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._start


class _Average:
    """A running mean of the weights: w̄ ← d·w̄ + (1 - d)·w, with d rising to `decay` over the first steps.

    Averaging over the last steps does what a smaller learning rate would, without waiting for it (Polyak and
    Juditsky 1992).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        mine = [p for p in self.model.state_dict().values() if p.is_floating_point()]
        theirs = [p for p in model.state_dict().values() if p.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)


@dataclass(frozen=True)
class _Trained:
    """Everything that training changes, and so what carrying on needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: nn.Module
    average: nn.Module | None

    def keep(self, folder: Path, progress: Progress) -> None:
        """Write it down. Plain tensors and numbers: loading executes no code."""
        state = {name: None if part is None else part.state_dict() for name, part in vars(self).items()}
        write_state(folder, {**state, "progress": vars(progress)})

    def restore(self, folder: Path, reporter: Reporter) -> Progress:
        """Read it back where there is any. Raises CheckpointError."""
        state = read_state(folder, reporter.say)
        if state is None:
            return Progress()
        try:
            for name, part in vars(self).items():
                if part is not None:
                    part.load_state_dict(state[name])
            return Progress(**state["progress"])
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{newest_state(folder)}: is the training state of another model ({reason[:120]}); "
                "delete it to train again from the start, or give the run another name"
            ) from error
