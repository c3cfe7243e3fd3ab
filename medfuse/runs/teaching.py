"""The teacher of a distillation: which run it is, whether it suits this one, and what is learned from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from medfuse.api import ActivationLoss, DatasetInfo, FeatureInfo
from medfuse.core.errors import CheckpointError, MedfuseError, Problem, ShapeError
from medfuse.core.errors import Path as KeyPath
from medfuse.core.files import file_hash
from medfuse.core.text import by, listed
from medfuse.model.plan import IMAGE, GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.registry import ActivationLossField
from medfuse.runs.folder import fold_folders
from medfuse.runs.records import DATA, Record, TrainedOn, read_record
from medfuse.trained.loading import EXPORTED, graph_of, load_trained, read_weights, weights_file
from medfuse.trained.trained import Trained

if TYPE_CHECKING:
    import torch

    from medfuse.data.plan import DataPlan
    from medfuse.train.settings import TeacherSettings
    from medfuse.train.teaching import Teaching

RECORD = "teacher.json"
PATH: KeyPath = ("train", "teacher")
_ACTIVATION_LOSS: TypeAdapter[ActivationLoss] = TypeAdapter(ActivationLossField)


class TeacherRecord(Record):
    """teacher.json: who taught a run, and what. maps: the student's → the teacher's."""

    run: str
    sha256: str
    parameters: int
    weight: float
    temperature: float
    maps: dict[str, str]
    maps_weight: float
    distance: str

    @property
    def taught(self) -> bool:
        """Whether anything was learned from it."""
        return bool(self.weight or (self.maps and self.maps_weight))

    def note(self) -> str:
        """A line for the summary and the report."""
        who = f"{self.run} ({self.parameters:,} parameters, weights SHA-256 {self.sha256[:12]}…)"
        if not self.taught:
            return f"images are scaled as for {who}, and nothing was learned from it"
        return f"taught by {who}: besides labels it learned {self._what()}; none of it is in the weights"

    def foretold(self) -> str:
        """The same before training, in short."""
        return f"taught by {self.run}: {self._what()}" if self.taught else f"scaled as for {self.run}"

    def _what(self) -> str:
        learned = [
            *([f"its probabilities at temperature {self.temperature:g}"] if self.weight else []),
            *([f"its maps {listed([*self.maps.values()])}"] if self.maps and self.maps_weight else []),
        ]
        return " and ".join(learned)


@dataclass(frozen=True)
class Teacher:
    """A trained network as its file describes it."""

    weights: Path
    plan: DataPlan
    graph: GraphPlan


def teacher_weights(pipeline: Pipeline) -> Path | None:
    """The weights of the teacher, where a pipeline has one: of a cross-validation those of the same fold.

    Raises CheckpointError.
    """
    settings = pipeline.train.teacher
    if settings is None:
        return None
    folder, folds = settings.run, fold_folders(settings.run) if settings.run.is_dir() else []
    if folds and not any(folder.glob("weights_*.safetensors")):
        folder = folder / f"fold_{pipeline.split.fold}"
        if not folder.is_dir():
            raise CheckpointError(
                f"{settings.run}: holds {', '.join(fold.name for fold in folds)}, and this run is of fold "
                f"{pipeline.split.fold}; choose one of these folds, as each teacher must not know the cases "
                "that its student is judged by"
            )
    found = weights_file(folder, best=False)
    if found.suffix in EXPORTED.values():
        raise CheckpointError(
            f"{found}: was exported, and cannot be looked into; give the run that it comes from"
        )
    return found


def read_teacher(pipeline: Pipeline) -> Teacher | None:
    """What is known of the teacher without making its network. Raises MedfuseError."""
    path = teacher_weights(pipeline)
    if path is None:
        return None
    settings = pipeline.train.teacher
    assert settings is not None
    return _read(path, path.stat().st_mtime_ns, settings.trust or ())


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, trust: tuple[str, ...]) -> Teacher:
    from medfuse.trained.facts import read_facts

    return Teacher(path, read_facts(path, read_weights(path)[1]).plan, graph_of(path, trust))


def hash_of_teacher(pipeline: Pipeline) -> str | None:
    """SHA-256 of its weights; None where there is none, or it is gone."""
    try:
        path = teacher_weights(pipeline)
    except CheckpointError:  # who trains says so
        return None
    return file_hash(path) if path else None


def as_shown(plan: DataPlan, pipeline: Pipeline) -> DataPlan:
    """The plan of a student: where its pipeline leaves it open, it is shown what its teacher is shown.

    Numbers of a normalisation of one kind are the teacher's, which those of this dataset may not quite be.
    """
    try:
        teacher = read_teacher(pipeline)
    except MedfuseError:  # which `teacher_problems` tells with all others
        return plan
    if teacher is None or teacher.plan.channels != plan.channels:
        return plan
    reasons, why = dict(plan.reasons), f"as its teacher, {teacher.weights.parent.name}, was trained"
    if pipeline.preprocess.spacing_mm == "auto":
        plan = replace(plan, spacing_mm=teacher.plan.spacing_mm)
        reasons["spacing_mm"] = why
    kinds = [[how.kind for how in one.normalization] for one in (plan, teacher.plan)]
    if pipeline.preprocess.normalize == "auto" or kinds[0] == kinds[1]:
        plan = replace(plan, normalization=teacher.plan.normalization)
        reasons |= {key: why for key in reasons if key.startswith("normalize.")}
    return replace(plan, reasons=reasons)


# ------------------------------------------------------------------------------------------ what is wrong


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
    problems += spacing_problems(pipeline, teacher)
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


def spacing_problems(pipeline: Pipeline, teacher: Teacher) -> list[Problem]:
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
                _loss(graph.features[mine], found[0], "squared")[0].plan((graph.features[mine], found[0]))
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
    network = _load(settings, teacher, "cpu").segmenter()
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


# ------------------------------------------------------------------------------------------ what is learned


def teaching(
    pipeline: Pipeline, plan: DataPlan, graph: GraphPlan, device: torch.device
) -> tuple[Teaching, TeacherRecord] | None:
    """The teacher on the device of training, and a record of it; None where a pipeline has none."""
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.train.teaching import Match, Teaching

    settings, teacher = pipeline.train.teacher, read_teacher(pipeline)
    if settings is None or teacher is None:
        return None
    pairs = {} if not settings.maps_weight else pairs_of(settings, graph, teacher.graph)
    trained = _load(settings, teacher, str(device.type), maps=[*pairs.values()])
    network, theirs = trained.segmenter().to(device), trained.graph or teacher.graph
    axes = len(plan.patch_size) + 2
    lay_out(network, axes, channels_last(axes))
    matches = []
    for mine, its in pairs.items():
        loss, maps = _loss(graph.features[mine], theirs.features[its], settings.distance)
        matches.append(Match(mine, its, loss.build(maps)))
    record = TeacherRecord(
        run=str(teacher.weights.parent),
        sha256=trained.hashes[0],
        parameters=sum(p.numel() for p in network.parameters()),
        weight=settings.weight,
        temperature=settings.temperature,
        maps=dict(pairs),
        maps_weight=settings.maps_weight,
        distance=settings.distance,
    )
    made = Teaching(
        network,
        weight=settings.weight,
        temperature=settings.temperature,
        matches=matches,
        maps_weight=settings.maps_weight,
        regions=bool(plan.regions),
    )
    return made, record


def _load(settings: TeacherSettings, teacher: Teacher, device: str, maps: Sequence[str] = ()) -> Trained:
    return load_trained([teacher.weights], device=device, maps=maps, trust=settings.trust or ())


def pairs_of(settings: TeacherSettings, graph: GraphPlan, teacher: GraphPlan) -> Mapping[str, str]:
    """The student's maps that are drawn to the teacher's: as the settings say, or a pair for each stride."""
    return matched(graph, teacher) if settings.maps == "auto" else settings.maps


def matched(student: GraphPlan, teacher: GraphPlan) -> dict[str, str]:
    """Of each stride that both have but the image's own: maps of one name, or the last ones of each.

    What comes last is nearest to the head. At the image's own stride the probabilities say it all.
    """
    from medfuse.model.still import untaught

    still = untaught(student)
    mine = _by_stride(f for f in student.features.values() if f.name.partition(".")[0] not in still)
    its = _by_stride(teacher.features.values())
    found = {}
    for stride, own in mine.items():
        if max(stride) == 1 or stride not in its:
            continue
        names = [f.name for f in its[stride]]
        same = [f.name for f in own if f.name in names]
        found[same[-1] if same else own[-1].name] = same[-1] if same else names[-1]
    return found


def _by_stride(features: Any) -> dict[tuple[int, ...], list[FeatureInfo]]:
    found: dict[tuple[int, ...], list[FeatureInfo]] = {}
    for feature in features:
        if feature.name != IMAGE and not feature.image_level:
            found.setdefault(tuple(feature.stride), []).append(feature)
    return found


def _loss(
    student: FeatureInfo, teacher: FeatureInfo, distance: str
) -> tuple[ActivationLoss, tuple[FeatureInfo, FeatureInfo]]:
    """The loss of a pair, and the maps that it is planned and built with."""
    said = {"use": "feature_matching", "maps": [student.name, teacher.name], "weight": 1.0}
    return _ACTIVATION_LOSS.validate_python({**said, "distance": distance}), (student, teacher)


def taught_note(folder: Path) -> tuple[str, ...]:
    """What a run's summary says of its teacher in a line; nothing where it has none."""
    path = folder / RECORD
    return (read_record(TeacherRecord, path).note(),) if path.exists() else ()


def recorded_teacher(folder: Path) -> dict[str, Any] | None:
    """The same as values."""
    path = folder / RECORD
    return read_record(TeacherRecord, path).model_dump(mode="json") if path.exists() else None
