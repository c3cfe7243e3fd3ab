"""Whether a network may teach another: what both must agree on, and what the teacher must not have seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medfuse.api import DatasetInfo
from medfuse.core.errors import MedfuseError, Problem, ShapeError
from medfuse.core.errors import Path as KeyPath
from medfuse.core.text import by, listed
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.runs.records import DATA, TrainedOn, read_record
from medfuse.runs.teacher import Teacher, read_teacher
from medfuse.runs.teaching import loaded, pair_loss

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan
    from medfuse.train.settings import TeacherSettings

PATH: KeyPath = ("train", "teacher")


def teacher_problems(pipeline: Pipeline, graph: GraphPlan, info: DatasetInfo) -> list[Problem]:
    """What of `train.teacher` can be told to be wrong before any image is opened."""
    settings = pipeline.train.teacher
    if settings is None:
        return []
    problems = []
    if pipeline.train.frozen_maps:
        message = (
            "a teacher looks at whole patches, of which only maps are kept here; take out one of the two"
        )
        problems.append(Problem(("train", "frozen_maps"), message, at_key=True))
    problems += _own_map_problems(settings, graph)
    try:
        teacher = read_teacher(pipeline)
    except MedfuseError as error:
        return [*problems, *(Problem((*PATH, "run"), line) for line in error.lines)]
    assert teacher is not None
    problems += [Problem((*PATH, "run"), line) for line in _differing(teacher, graph, info)]
    problems += _spacing_problems(pipeline, teacher)
    if teacher.plan.image.dims == graph.image.dims and settings.maps != "auto":
        problems += _pair_problems(settings.maps, graph, teacher)
    return problems


def _differing(teacher: Teacher, graph: GraphPlan, info: DatasetInfo) -> Iterator[str]:
    """In how far it is no teacher of networks like `graph` on a dataset like `info`."""
    path, plan = teacher.weights, teacher.plan
    if plan.is_second:
        yield f"{path}: is the second stage of a cascade, which is shown more than an image; give another run"
    if plan.channels != info.channels:
        yield (
            f"{path}: its channels are {', '.join(plan.channels)}, and those here are "
            f"{', '.join(info.channels)}; both must see the same images"
        )
    theirs, ours = _outputs(plan.labels, plan.region_order), _outputs(info.labels, info.region_order)
    if theirs != ours:
        yield (
            f"{path}: its classes are {_said(theirs)}, and those here are {_said(ours)}; train it on these "
            "labels, or take a dataset with its labels"
        )
    if plan.image.dims != graph.image.dims:
        yield (
            f"{path}: is a network of {plan.image.dims} axes, and this one has {graph.image.dims}; give both "
            "patches of as many axes"
        )


def _outputs(labels: Mapping[str, Any], region_order: Sequence[int]) -> list[tuple[str, Any]]:
    """Names and values in the order of their logits."""
    named = [(name, tuple(v) if isinstance(v, list | tuple) else v) for name, v in labels.items()]
    return named if region_order else sorted(named, key=lambda one: (str(type(one[1])), one[1]))


def _said(outputs: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}: {list(v) if isinstance(v, tuple) else v}" for name, v in outputs)


def _spacing_problems(pipeline: Pipeline, teacher: Teacher) -> list[Problem]:
    """A spacing that is another than the teacher's."""
    said, wanted = pipeline.preprocess.spacing_mm, teacher.plan.spacing_mm
    if said == "auto" or _close(said, wanted):
        return []
    message = (
        f"is {_mm(said)} mm, and its teacher, {teacher.weights}, was trained at {_mm(wanted)} mm; both look "
        "at the same patches, so leave it out, or train the teacher at this spacing"
    )
    return [Problem(("preprocess", "spacing_mm"), message)]


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 1e-4 * abs(b) for a, b in zip(one, other, strict=True))


def _mm(spacing: Sequence[float]) -> str:
    return "×".join(f"{s:g}" for s in spacing)


def _own_map_problems(settings: TeacherSettings, graph: GraphPlan) -> Iterator[Problem]:
    """Maps of this network that nothing else teaches, and so stand still."""
    from medfuse.model.still import untaught

    still = untaught(graph) if settings.maps != "auto" else frozenset()
    for name in settings.maps if settings.maps != "auto" else ():
        if name.partition(".")[0] in still:
            message = "leads to no head, and is not trained; name a map that the head is made from"
            yield Problem((*PATH, "maps", name), message)


def _pair_problems(pairs: Mapping[str, str], graph: GraphPlan, teacher: Teacher) -> Iterator[Problem]:
    """Maps that the teacher does not have, and pairs that cannot be compared."""
    from medfuse.model.selection import matching, tap_further

    for mine, its in pairs.items():
        path = (*PATH, "maps", mine)
        try:
            found = matching(tap_further(teacher.graph, [its]), its)
        except MedfuseError as error:
            yield from (Problem(path, f"of the teacher: {line}") for line in error.lines)
            continue
        if len(found) != 1 or found[0].name != its:
            yield Problem(
                path, f"{its!r} means {listed([f.name for f in found])}; name one map of the teacher"
            )
        elif mine in graph.features:
            try:
                pair_loss(graph.features[mine], found[0], "squared")[0].plan((graph.features[mine], found[0]))
            except ShapeError as error:
                yield Problem(path, str(error))


def seen_problems(pipeline: Pipeline, info: DatasetInfo, plan: DataPlan, data: TrainedOn) -> list[Problem]:
    """What is wrong with the teacher once images are known: what it has seen, and how it is shown them."""
    settings = pipeline.train.teacher
    if settings is None:
        return []
    try:
        teacher = read_teacher(pipeline)
    except MedfuseError:  # see `teacher_problems`
        return []
    assert teacher is not None
    problems = [Problem((*PATH, "run"), line) for line in _leaks(pipeline, info, data, teacher)]
    if plan.normalization != teacher.plan.normalization and plan.channels == teacher.plan.channels:
        message = (
            f"scales images otherwise than its teacher's, {teacher.weights} "
            f"({', '.join(how.kind for how in teacher.plan.normalization)}); leave it out"
        )
        problems.append(Problem(("preprocess", "normalize"), message))
    if not problems and plan.image.channels == teacher.plan.image.channels:
        problems += _patch_problems(settings, plan, teacher)
    return problems


def _leaks(pipeline: Pipeline, info: DatasetInfo, data: TrainedOn, teacher: Teacher) -> Iterator[str]:
    """That held-out cases, or other scans of their patients, trained the teacher."""
    from medfuse.data.split import patients

    settings, record = pipeline.train.teacher, teacher.weights.parent / DATA
    assert settings is not None
    if not data.validation:
        return
    if not record.is_file():
        if not settings.unseen:
            yield (
                f"{teacher.weights}: nothing says which cases it was trained on, as of a model from "
                "elsewhere, so that held-out cases of this run may be among them; give a run of medfuse, or "
                "say `unseen: true` where you know that none is"
            )
        return
    before = read_record(TrainedOn, record)
    learned = {
        images for name in before.train if name in before.cases for images in before.cases[name].images
    }
    patient_of = patients(info.cases, pipeline.split)
    known = {patient_of[name] for name, case in data.cases.items() if learned & {*case.images}}
    if names := [name for name in data.validation if patient_of[name] in known]:
        others = f" ({len(data.validation)} are held out)" if len(names) < len(data.validation) else ""
        yield (
            f"{teacher.weights}: was trained on {len(names)} held-out case{'s' * (len(names) != 1)} of this "
            f"run{others}: {listed(names, 5)}; the student would be judged by what its teacher knows: "
            "take the run of the same fold, or hold out what it held out (split.fold)"
        )


def _patch_problems(settings: TeacherSettings, plan: DataPlan, teacher: Teacher) -> list[Problem]:
    """A patch that it does not take, found out by one pass."""
    import torch

    patch = plan.patch_size
    if patch == teacher.plan.patch_size:
        return []
    network = loaded(settings, teacher, "cpu").segmenter()
    try:
        with torch.inference_mode():
            made = network(torch.zeros(1, plan.image.channels, *patch))
        fault = "" if tuple(made.shape[2:]) == tuple(patch) else f"makes {by(made.shape[2:])} of it"
    except Exception as error:  # whatever a network of one size says of another
        fault = str(error).partition("\n")[0][:160]
    if not fault:
        return []
    message = (
        f"is {by(patch)}, and its teacher, {teacher.weights}, takes patches of {by(teacher.plan.patch_size)} "
        f"alone ({fault}); write `patch_size: {list(teacher.plan.patch_size)}`"
    )
    return [Problem(("sample", "patch_size"), message)]
