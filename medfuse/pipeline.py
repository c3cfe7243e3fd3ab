"""A pipeline file as one typed model, with the file, line and column of every problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, ValidationError

from medfuse.core.document import Document
from medfuse.core.errors import Path as KeyPath
from medfuse.core.errors import PipelineError, Problem, did_you_mean
from medfuse.core.features import ImageInfo
from medfuse.core.json_text import shortened
from medfuse.core.section import Section
from medfuse.core.staged import STAGES, add_to_schema, finer, list_problems, merged, take_in, view
from medfuse.core.text import yaml_text
from medfuse.data.settings import (
    AugmentSettings,
    CascadeSettings,
    PreprocessSettings,
    SampleSettings,
    SplitSettings,
)
from medfuse.infer.settings import InferSettings
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.settings import ModelSettings
from medfuse.registry import DatasetField, LossField, TrackerField
from medfuse.report.settings import ReportSettings
from medfuse.space.settings import SearchSettings
from medfuse.train.settings import TrainSettings


def _listed(value: Any) -> Any:
    """One tracker as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


class Pipeline(Section):
    """One experiment: data in, model, training, inference, report."""

    further_keys: ClassVar = (STAGES,)
    _first: Pipeline | None = PrivateAttr(None)

    name: str = Field(
        "", pattern=r"^[\w.-]*$", description="names the run's folder; the file's name where empty"
    )
    seed: int = Field(1, ge=0, description="seeds weights, sampling and augmentation")
    data: DatasetField = Field(description="the dataset")
    split: SplitSettings = Field(default_factory=SplitSettings, description="training and held-out cases")
    preprocess: PreprocessSettings = Field(
        default_factory=PreprocessSettings, description="one grid, one scale"
    )
    sample: SampleSettings = Field(default_factory=SampleSettings, description="patches and batches")
    augment: AugmentSettings = Field(default_factory=AugmentSettings, description="random changes to patches")
    model: ModelSettings = Field(description="backbones, taps, fusion, heads")
    loss: LossField = Field("dice_ce", validate_default=True, description="loss of the main head")
    train: TrainSettings = Field(description="budget, optimiser, precision")
    infer: InferSettings = Field(default_factory=InferSettings, description="sliding window")
    report: ReportSettings = Field(
        default_factory=ReportSettings, description="pictures of what is inside the network"
    )
    track: Annotated[
        tuple[TrackerField, ...],
        BeforeValidator(_listed, json_schema_input_type=TrackerField | tuple[TrackerField, ...]),
    ] = Field((), description="who is told of the training, such as mlflow; several in a list")
    search: SearchSettings | None = Field(
        None, description="what `medfuse search` may try; nothing else is changed by it"
    )
    cascade: CascadeSettings | None = Field(
        None, description="in a file with two `stages`: how the second uses the first"
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """What a pipeline file may say: the sections of one pipeline, or of two stages too."""
        schema = super().model_json_schema(*args, **options)
        add_to_schema(schema)
        return schema

    @property
    def first(self) -> Pipeline | None:
        """The first stage, of which this is the second."""
        return self._first


Source = Path | Pipeline
"""What a pipeline is read from: a file, or one that was made in Python."""


def load_pipeline(source: Source, overrides: Iterable[str] = ()) -> tuple[Pipeline, Document]:
    """Read, override and validate a pipeline. Raises PipelineError with every problem, in order.

    Of a cascade it is the second stage, which knows the first.
    """
    return load_stages(source, overrides)[-1]


def load_stages(source: Source, overrides: Iterable[str] = ()) -> list[tuple[Pipeline, Document]]:
    """The pipelines of a source in the order in which they are trained: one, or two of a cascade."""
    if isinstance(source, Pipeline):
        document, name = document_of(source), source.name or "pipeline"
    else:
        document, name = Document.load(source), source.stem
    for override in overrides:
        take_in(document, override)
        document.override(override)
    return pipelines_of(document, name)


def pipelines_of(document: Document, name: str) -> list[tuple[Pipeline, Document]]:
    """As `load_stages`, of what was read. Raises PipelineError with every problem located."""
    if STAGES in document.data:
        return _staged(document, name)
    if document.data.get("cascade") is not None:
        message = f"is of a file with `{STAGES}`; remove it, or write two stages"
        raise document.located(PipelineError([Problem(("cascade",), message, at_key=True)]))
    return [(parse_pipeline(document, default_name=name), document)]


def parse_pipeline(document: Document, *, default_name: str = "") -> Pipeline:
    """Validate the values of `document`, those of one pipeline. Raises PipelineError with every problem
    located."""
    if STAGES in document.data:
        message = "two stages are here where one pipeline is wanted; write the one as a file of its own"
        raise document.located(PipelineError([Problem((STAGES,), message, at_key=True)]))
    try:
        pipeline = Pipeline.model_validate(document.data)
    except ValidationError as error:
        raise document.located(PipelineError(problems_of(error, Pipeline, document.data))) from None
    return pipeline if pipeline.name else pipeline.model_copy(update={"name": default_name})


def _staged(document: Document, default_name: str) -> list[tuple[Pipeline, Document]]:
    """Two stages, the second of which knows the first. Raises PipelineError with the problems of both."""
    if problems := list_problems(document):
        raise document.located(PipelineError(problems))
    views = [view(document, number) for number in (0, 1)]
    found, faults = [], []
    for one in views:
        try:
            found.append(parse_pipeline(one, default_name=default_name))
        except PipelineError as error:
            faults.append(error)
    if faults:
        lines = dict.fromkeys(line for error in faults for line in error.lines)
        raise PipelineError([problem for error in faults for problem in error.problems], [*lines])
    first, second = found
    if problems := [*_pair_problems(first, second)]:
        raise document.located(PipelineError(problems))
    made = second.model_copy(update={"cascade": second.cascade or CascadeSettings()})
    made._first = first.model_copy(update={"name": f"{second.name}.before"})
    return [*zip((made._first, made), views)]


def _pair_problems(first: Pipeline, second: Pipeline) -> Iterable[Problem]:
    """What two stages cannot be together."""
    coarse, fine = first.preprocess.spacing_mm, second.preprocess.spacing_mm
    where = (STAGES, 0, "preprocess", "spacing_mm")
    if coarse == "auto":
        yield Problem(where, "is the scans' own where it is auto; say how coarse, such as [4, 4, 4]")
    elif fine != "auto" and (message := finer(coarse, fine)):
        yield Problem(where, message)
    for number, one in enumerate((first, second)):
        if one.train.teacher:
            message = "the two stages of a cascade are not taught by another network; leave it out"
            yield Problem((STAGES, number, "train", "teacher"), message)
    for key in ("postprocess", "overlap"):
        if getattr(first.infer, key) == "auto":
            message = (
                "is not chosen for a first stage, whose label maps nobody judges; only the second stage's "
                "own `infer` can say auto"
            )
            yield Problem((STAGES, 0, "infer", key), message)


def resolved(pipeline: Pipeline) -> dict[str, Any]:
    """Every value of a pipeline, defaults included, as plain data that reads back as the same pipeline."""
    return pipeline.model_dump(mode="json", exclude_none=True)


def document_of(pipeline: Pipeline, overrides: Iterable[str] = ()) -> Document:
    """The values of a pipeline as its YAML has them, lines included, with `--set` texts applied."""
    named = f"pipeline {pipeline.name}" if pipeline.name else "pipeline"
    document = Document.parse(yaml_of(pipeline), source=named, base=Path.cwd())
    for override in overrides:
        document.override(override)
    return document


def yaml_of(pipeline: Pipeline) -> str:
    """A pipeline as the text of a file, defaults included, which reads back as the same pipeline."""
    return yaml_text(with_stages(resolved(pipeline), pipeline))


def with_stages(values: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The `values` of a pipeline as a file that has its first stage too, where it is the second."""
    return dict(values) if pipeline.first is None else merged(resolved(pipeline.first), values)


def watched_maps(pipeline: Pipeline) -> dict[str, KeyPath]:
    """Maps that training looks at, whatever the graph does with them, and where the file names them."""
    guided, teacher = pipeline.train.guided, pipeline.train.teacher
    found: dict[str, KeyPath] = {guided.map: ("train", "guided", "map")} if guided else {}
    if teacher and teacher.maps != "auto":
        found |= {name: ("train", "teacher", "maps", name) for name in teacher.maps}
    return found


def plan_network(pipeline: Pipeline, image: ImageInfo, classes: int) -> GraphPlan:
    """The graph of a pipeline for images like `image`. Raises PipelineError."""
    return plan_graph(pipeline.model, image, classes, watched_maps(pipeline))


_EITHER = "input should be "
"""How pydantic says of each member of a union what it wants."""


def problems_of(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """What pydantic found in `data`, in words that say what was wanted and what to do."""
    found: list[Problem] = []
    for problem in _problems(error.errors(), (), model, data):
        before = found[-1] if found else None
        if (
            before
            and before.path == problem.path
            and _EITHER in before.message
            and _EITHER in problem.message
        ):
            wanted = before.message.partition("; got ")[0]
            found[-1] = replace(problem, message=f"{wanted}, {problem.message.replace(_EITHER, 'or ')}")
        else:
            found.append(problem)
    return found


def _problems(
    errors: Iterable[Mapping[str, Any]], prefix: KeyPath, model: type[BaseModel], data: Any
) -> Iterable[Problem]:
    for error in errors:
        context = error.get("ctx", {})
        inner = _keys(error["loc"], data, missing=error["type"] == "missing")
        path = (*prefix, *inner)
        if error["type"] == "nested":
            yield from _problems(context["errors"], path, context["model"], _at(data, inner))
        elif error["type"] == "plugin_name":
            yield Problem((*path, "use"), _sentence(error))
        elif error["type"] == "extra_forbidden":
            around = _model_at(model, tuple(error["loc"])[:-1])
            known = [*around.model_fields, *getattr(around, "further_keys", ())] if around else []
            meant = did_you_mean(str(path[-1]), known)
            yield Problem(path, f"unknown key{meant} (known: {', '.join(known)})", at_key=True)
        elif error["type"] == "missing":
            around = _model_at(model, tuple(error["loc"])[:-1])
            field = around.model_fields.get(str(path[-1])) if around else None
            meaning = f": {field.description}" if field and field.description else ""
            yield Problem(path, f"required key is missing; add `{path[-1]}:`{meaning}")
        elif key := context.get("key"):  # of a mapping, that is wrong in it
            yield Problem((*path, key), _sentence(error), at_key=key != "use")
        else:
            yield Problem((*path, *_mentioned(str(error["msg"]), _at(data, inner))), _sentence(error))


def _mentioned(message: str, data: Any) -> KeyPath:
    """The first key of a mapping that a message about all of it names; none where it names none."""
    if not isinstance(data, Mapping):
        return ()
    named = {
        key: found.start() for key in data if (found := re.search(rf"\b{re.escape(str(key))}\b", message))
    }
    return (min(named, key=named.__getitem__),) if named else ()


def _sentence(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    message = (message[:1].lower() + message[1:]).replace("a valid tuple", "a list, such as [1, 2]")
    given = error.get("input")
    if error["type"] in ("plugin", "plugin_name", "value_error") or isinstance(
        given, dict | list | BaseModel
    ):
        return message
    return f"{message}; got {shortened(repr(str(given) if isinstance(given, str) else given))}"


def _keys(loc: Iterable[str | int], data: Any, *, missing: bool) -> KeyPath:
    """A location without the tags that pydantic adds for the members of a union: the keys that `data` has.

    Where the last of them is `missing`, with that one too.
    """
    parts = tuple(loc)
    path: list[str | int] = []
    for number, part in enumerate(parts, 1):
        if _holds(data, part):
            path.append(part)
            data = data[part]
        elif missing and number == len(parts):
            path.append(part)
    return tuple(path)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The section whose keys stand at `loc`, without the names of entries and members of unions."""
    found: type[BaseModel] | None = model
    for part in loc:
        if found and (field := found.model_fields.get(str(part))):
            found = next((t for t in _types(field.annotation) if issubclass(t, BaseModel)), None)
    return found


def _types(annotation: Any) -> Iterable[type]:
    if isinstance(annotation, type):
        yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)
