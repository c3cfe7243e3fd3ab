"""The model that runs and weights stand for: the mean of its folds, and what held-out cases chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.infer.settings import USUAL_OVERLAP, PostprocessSettings
from medfuse.runs.folder import FOLD_ALL, WEIGHTS, fold_folders
from medfuse.runs.overlap import overlap_for
from medfuse.runs.postprocess import steps_for
from medfuse.trained.loading import load_trained, weights_file
from medfuse.trained.trained import Trained


def load_model(
    weights: Sequence[Path],
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    trust: str | Iterable[str] = (),
    networks: bool = True,
    reporter: Reporter,
) -> Trained:
    """Run folders, weights and exported files as one model, whose answers are averaged; of a cross-validation
    its folds. `networks`: see load_trained. Raises CheckpointError."""
    runs = [run for path in weights for run in fold_folders(path) or [path]]
    files = [weights_file(run, best=best) for run in runs]
    if len(files) > len(weights):
        finals = [path / FOLD_ALL for path in weights if (path / FOLD_ALL / WEIGHTS).is_file()]
        other = f"; {finals[0]} is one network that all cases trained" if finals else ""
        reporter.say(f"the mean of {len(files)} folds{other}")
    model = load_trained(files, device=device, overrides=overrides, trust=trust, networks=networks)
    model = _with_chosen_overlap(model, weights, files, reporter)
    return _with_chosen_steps(model, weights, files, reporter)


def _with_chosen_overlap(
    model: Trained, weights: Sequence[Path], files: Sequence[Path], reporter: Reporter
) -> Trained:
    """The model with the overlap that its held-out cases chose, where it is left to them."""
    if model.settings.overlap != "auto":
        return model
    chosen = overlap_for(weights)
    chosen = overlap_for(files) if chosen is None else chosen
    if chosen is None:
        reporter.say(f"overlap: auto: nothing was chosen for these weights, so it is {USUAL_OVERLAP:g}")
    settings = model.settings.model_copy(update={"overlap": USUAL_OVERLAP if chosen is None else chosen})
    return replace(model, settings=settings)


def _with_chosen_steps(
    model: Trained, weights: Sequence[Path], files: Sequence[Path], reporter: Reporter
) -> Trained:
    """The model with the postprocessing that its held-out cases chose, where it is left to them."""
    given = model.settings.postprocess
    if isinstance(given, PostprocessSettings) and (unknown := given.unknown(model.plan.classes)):
        raise MedfuseError(
            f"infer.postprocess: no label is called {unknown[0]!r}; name one of these weights'"
        )
    if given != "auto":
        return model
    steps = steps_for(weights) or steps_for(files)
    if steps is None:
        reporter.say("postprocess: auto: nothing was chosen for these weights, so nothing is done")
    settings = model.settings.model_copy(update={"postprocess": steps or "none"})
    return replace(model, settings=settings)
