"""The training loop: batches in, weights out; resumes where it stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from medfuse.core.reporter import Reporter
from medfuse.train.average import Average
from medfuse.train.budget import Budget
from medfuse.train.course import Course, Progress
from medfuse.train.curve import Curve
from medfuse.train.doubts import Doubts, wait_advice
from medfuse.train.epoch import EpochEnd, Save, Validate
from medfuse.train.guided import Guided
from medfuse.train.kept import Keeper, Trained
from medfuse.train.log import MetricsLog
from medfuse.train.objective import Objective
from medfuse.train.optimizer import make_optimizer
from medfuse.train.parts import Parts, learned_group
from medfuse.train.pseudo import PseudoLabels
from medfuse.train.saving import Saving
from medfuse.train.settings import TrainSettings
from medfuse.train.step import Batches, Known, Step
from medfuse.train.together import Together


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
    labels: Sequence[str] = (),
    depths: Mapping[str, int] | None = None,
    known: Known | None = None,
    segments: Sequence[str] = (),
    tell: Callable[[Mapping[str, float]], None] = lambda row: None,
) -> Progress:
    """Train until the budget is spent, or carry on from the training state in `folder`.

    Carrying on gives what going on would have given: to the last bit where kernels are deterministic and the
    budget is in steps or epochs; with a budget in minutes the clock decides how many steps there are. So what
    a step draws by chance (dropout) depends on `seed` and the step alone.
    Where several processes train together, each calls this; the first writes and speaks for all.
    Each epoch ends with `validate` and `save`; with a budget in minutes `validate` is left out while it has
    taken more than a tenth of the time. Raises MedfuseError where the loss stops being a number.
    `labels` are the names of class numbers, for what is to be said of them. `depths` are those of backbones'
    parameters, where learning rates depend on them (Parts). `known`: what of a batch need not be
    computed in the network, as it stands still. `segments`: paths of modules whose maps may be computed
    again rather than kept (Saving). `tell` is given each row of the log as it is written.
    """
    together, budget = Together(), Budget.of(settings)
    if not together.is_first:
        save, reporter = _no_save, Reporter(quiet=True)
    learned = objective.learned().to(fabric.device)
    by_part = Parts(model, settings.parts, depths)
    optimizer = make_optimizer([*by_part.groups(), learned_group(learned)], settings)
    average = Average(model, settings.average) if settings.average else None
    judged = average.model if average else model
    trained = Trained(model, optimizer, learned, average.model if average else None)

    progress = trained.restore(folder, reporter.say)
    if budget.progress(progress.step, progress.seconds) >= 1:
        save("last", judged, {"step": progress.step})
        return progress
    together.start_alike(model, learned, *([average.model] if average else []))
    if progress.step:
        reporter.say(f"carrying on from step {progress.step}")
    course = Course(budget, progress, together, steps_per_epoch=settings.steps_per_epoch)
    by_part.enter(course.epoch)
    keeper = Keeper(trained, folder, course, settings)
    doubts = Doubts(reporter.say, fresh=progress.step == 0, labels=labels)
    with (
        Saving(model, settings, segments, reporter.say) as saving,
        closing(batches(progress.step)) as stream,
        closing(pseudo) if pseudo else nullcontext(),
        MetricsLog(folder if together.is_first else None, step=progress.step, tell=tell) as log,
        reporter.track("training", 1000) as advance,
    ):
        network, optimizer = _set_up(model, optimizer, fabric, settings, saving, batches, objective, reporter)
        step = Step(
            model=model,
            network=network,
            optimizer=optimizer,
            objective=objective,
            learned=learned,
            average=average,
            fabric=fabric,
            together=together,
            settings=settings,
            budget=budget,
            seed=seed,
            guided=guided,
            pseudo=pseudo,
            saving=saving,
            known=known,
        )
        curve, end_epoch = Curve(log, course), EpochEnd(judged, course, validate, save, log)
        done = course.done()
        while done < 1 or progress.step == 0:  # setting up may take all of the time
            with curve.waiting():
                batch, unlabelled = next(stream), pseudo.draw(progress.step, done) if pseudo else None
            course.charge(batch.get("spent", 0.0))
            taken = step(batch, unlabelled, progress.step, done)
            doubts.look(taken.label, float(taken.loss))
            progress.step += 1
            done = course.done()
            if budget.seconds:
                doubts.pace(progress.step, done)
            epoch_ends = done >= 1 or progress.step % settings.steps_per_epoch == 0
            curve.add(taken, epoch_ends=epoch_ends)
            advance(int(1000 * done), f"step {progress.step}{curve.note}{end_epoch.note}")
            if epoch_ends:
                end_epoch(last=done >= 1)
                by_part.enter(course.epoch)
                curve.restart()
                done = course.done()
            if epoch_ends or keeper.is_due():
                keeper.keep()
        if not end_epoch.looked:  # the time ran out while the weights were saved
            end_epoch(last=True)
            keeper.keep()
    doubts.end()
    reporter.say(wait_advice(curve.wait_share()))
    return progress


def _set_up(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    settings: TrainSettings,
    saving: Saving,
    batches: Batches,
    objective: Objective,
    reporter: Reporter,
) -> tuple[Callable[..., Any], torch.optim.Optimizer]:
    """The network as it is called in training: placed, autocast and, where asked for, compiled."""
    if settings.compile:
        compiled = torch.compile(copy.deepcopy(model))
        with closing(batches(0)) as stream:
            image = next(stream)["image"].chunk(saving.parts)[0]
        try:
            with fabric.autocast():
                output = compiled(image.to(next(model.parameters()).device), aux=objective.heads)
                (output[0] if isinstance(output, tuple) else output).float().mean().backward()
        except Exception as error:  # whatever a compiler may raise, training can go on without it
            reason = (str(error) or type(error).__name__).splitlines()[0]
            reporter.say(f"not compiled: {reason[:160]}")
        else:
            network, optimizer = fabric.setup(torch.compile(model), optimizer)
            return network, optimizer
    network, optimizer = fabric.setup(model, optimizer)
    return network, optimizer


def _no_save(kind: str, model: nn.Module, facts: Mapping[str, float]) -> None:
    """What a process does that is not the first."""
