"""A pipeline file as one typed model, with the file, line and column of every problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from medfuse.core.document import Document
from medfuse.core.errors import Path as KeyPath
from medfuse.core.errors import PipelineError, Problem, did_you_mean
from medfuse.core.features import ImageInfo
from medfuse.core.json_text import shortened
from medfuse.core.section import Section
from medfuse.core.text import yaml_text
from medfuse.data.settings import AugmentSettings, PreprocessSettings, SampleSettings, SplitSettings
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


Source = Path | Pipeline
"""What a pipeline is read from: a file, or one that was made in Python."""


def load_pipeline(source: Source, overrides: Iterable[str] = ()) -> tuple[Pipeline, Document]:
    """Read, override and validate a pipeline. Raises PipelineError with every problem, in order."""
    if isinstance(source, Pipeline):
        document, name = document_of(source, overrides), source.name or "pipeline"
    else:
        document, name = Document.load(source, overrides), source.stem
    return parse_pipeline(document, default_name=name), document


def parse_pipeline(document: Document, *, default_name: str = "") -> Pipeline:
    """Validate the values of `document`. Raises PipelineError with every problem located."""
    try:
        pipeline = Pipeline.model_validate(document.data)
    except ValidationError as error:
        raise document.located(PipelineError(problems_of(error, Pipeline, document.data))) from None
    return pipeline if pipeline.name else pipeline.model_copy(update={"name": default_name})


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
    return yaml_text(resolved(pipeline))


def watched_maps(pipeline: Pipeline) -> dict[str, KeyPath]:
    """Maps that training looks at, whatever the graph does with them, and where the file names them."""
    guided = pipeline.train.guided
    return {guided.map: ("train", "guided", "map")} if guided else {}


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
            known = [*around.model_fields] if around else []
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
