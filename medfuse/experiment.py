"""A pipeline in Python, as a notebook builds it: changed, checked, trained, compared and searched around.

    import medfuse
    liver = medfuse.Pipeline.load("pipelines/liver.yaml")
    wider = liver.with_("train.minutes=5", loss="tversky", name="tversky")
    wider.check()
    medfuse.compare([liver, wider], seeds=2)
    medfuse.search(liver, {"loss": ["dice_ce", "tversky"]}, minutes=60)

It is the model of the file: `yaml` is its text, and what reads that is the same pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import BaseModel, ValidationError

from medfuse.api import Engine, Plugin
from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError, PipelineError
from medfuse.core.files import write_text
from medfuse.core.json_text import shortened
from medfuse.core.named import within
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.pipeline import Pipeline as _Model
from medfuse.pipeline import document_of, load_pipeline, pipelines_of, problems_of, yaml_of
from medfuse.registry import is_offered, name_of, registered

if TYPE_CHECKING:
    from medfuse.verbs.crews import Workers

Override = str
"""As of `--set`: "train.minutes=5"."""


class Pipeline(_Model):
    """One experiment: data in, model, training, inference, report. It never changes; `with_` makes another.

    Sections are given as mappings, as the YAML has them, or as those of `medfuse.settings`; plugins as
    mappings with `use`, as names, or as objects (`medfuse.plugins.losses.focal(gamma=1)`). Raises
    PipelineError with every problem.
    """

    def __init__(self, **sections: Any) -> None:
        _refuse_unknown(sections)
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise PipelineError(problems_of(error, _Model, sections)) from None

    @classmethod
    def _of(cls, model: _Model) -> Self:
        """The same, of this class."""
        values = {name: getattr(model, name) for name in _Model.model_fields}
        made = cls.model_construct(model.model_fields_set, **values)
        made._first = model.first
        return cast(Self, made)

    @classmethod
    def load(cls, path: str | Path, *overrides: Override) -> Self:
        """The pipeline of a file. Raises PipelineError with every problem, and its line and column."""
        return cls._of(load_pipeline(Path(path), overrides)[0])

    def with_(self, *overrides: Override, **sections: Any) -> Self:
        """Another pipeline. Raises PipelineError with every problem.

        `"train.minutes=5"` sets a value as `--set` does; `train={"minutes": 5}` keeps the other keys of that
        section; a plugin, or a mapping that names another with `use`, takes the place of the one before.
        """
        _refuse_unknown(sections)
        document = document_of(self, overrides)
        for name, value in sections.items():
            document.put(name, _merged(document.data.get(name), value), f"with_({name}=…)")
        return self._of(pipelines_of(document, self.name)[-1][0])

    @property
    def yaml(self) -> str:
        """The text of a file with every value, which reads back as the same pipeline."""
        return yaml_of(self)

    def save(self, path: str | Path) -> Path:
        """Write `yaml` to a file, for `medfuse run`. Raises OutputError."""
        write_text(Path(path), self.yaml)
        return Path(path)

    def check(self) -> Result:
        """As `medfuse check`: the graph is planned, verified and shown; no image is opened."""
        from medfuse.verbs.check import check_pipeline

        return check_pipeline(self)

    def run(
        self,
        runs: str | Path = "runs",
        *,
        folds: Literal["all"] | Sequence[int] | None = None,
        retrain: bool = False,
        workers: int = 1,
        engine: str | Engine = "local",
        quiet: bool = False,
    ) -> Result:
        """As `medfuse run`: prepare, train, predict, evaluate, report; what is finished is not repeated.

        folds: the folds of a cross-validation, into `runs`/NAME/fold_K, for which the pipeline is saved in
        `runs`/pipelines. `workers` of an `engine`, by its name or as an object such as
        `medfuse.plugins.engines.slurm(cores=4)`, train a fold each.
        """
        from medfuse.verbs.folds import run_folds
        from medfuse.verbs.run import run_pipeline

        crew = _crew([self], workers, engine)
        how: dict[str, Any] = {"runs": Path(runs), "retrain": retrain, "reporter": Reporter(quiet=quiet)}
        if folds is None:
            if crew.are_others:
                raise MedfuseError('workers train one fold each; give folds="all", too')
            return run_pipeline(self, **how).result()
        chosen = None if folds == "all" else _numbers(folds)
        return run_folds(_saved(self, Path(runs)), folds=chosen, workers=crew, **how).result()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.yaml)}</pre>"


def compare(
    inputs: Iterable[_Model | str | Path],
    *,
    seeds: int = 1,
    folds: Sequence[int] = (0,),
    runs: str | Path = "runs",
    output: str | Path | None = None,
    overwrite: bool = False,
    retrain: bool = False,
    margin: float | None = None,
    trust: str | Iterable[str] = (),
    workers: int = 1,
    engine: str | Engine = "local",
    quiet: bool = False,
) -> Result:
    """As `medfuse compare`: pipelines, files and folders of finished runs, held against the first of them.

    Pipelines that were made here are saved in `runs`/pipelines first, under their names. `margin`: a
    difference in Dice that does not matter. `workers` of an `engine` train one training each.
    """
    from medfuse.verbs.compare import compare_pipelines

    inputs = [inputs] if isinstance(inputs, str | Path | _Model) else [*inputs]
    if others := [one for one in inputs if not isinstance(one, str | Path | _Model)]:
        raise MedfuseError(f"{shortened(repr(others[0]))}: is no pipeline, nor the path of a file or a run")
    if not isinstance(seeds, int) or seeds < 1:
        raise MedfuseError(f"seeds={shortened(repr(seeds))}: write a whole number, 1 or more")
    numbers, crew = _numbers(folds), _crew(inputs, workers, engine)
    made = [one if isinstance(one, str | Path) else _saved(one, Path(runs)) for one in inputs]
    return compare_pipelines(
        [Path(one) for one in made],
        seeds=seeds,
        folds=numbers,
        runs=Path(runs),
        output=None if output is None else Path(output),
        overwrite=overwrite,
        retrain=retrain,
        margin=margin,
        trust=trust,
        workers=crew,
        reporter=Reporter(quiet=quiet),
    )


def search(
    pipeline: _Model | str | Path,
    space: Mapping[str, Any] | None = None,
    *,
    minutes: float | None = None,
    trials: int | None = None,
    objectives: Sequence[str] | None = None,
    runs: str | Path = "runs",
    retrain: bool = False,
    workers: int = 1,
    engine: str | Engine = "local",
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """As `medfuse search`: which form of a pipeline, or of a file, is best, and is that more than luck?

    `space` says what may be tried, by keys as `--set` has them: `{"loss": ["dice_ce", tversky(…)],
    "train.learning_rate": {"log": [1e-4, 1e-2]}}`. `settings`: other keys of `search:`, such as seeds=5. What
    is not given is as the pipeline's `search` has it. Its folder is `runs`/NAME-search, where the same call,
    or `medfuse search runs/pipelines/NAME.yaml`, goes on. `workers` of an `engine` train a trial each.
    """
    from medfuse.verbs.search import search_pipeline

    words = {"space": space, "minutes": minutes, "trials": trials, "objectives": objectives}
    given = {key: value for key, value in words.items() if value is not None} | settings
    if given or isinstance(pipeline, _Model):
        model = pipeline if isinstance(pipeline, _Model) else _searched(Path(pipeline))
        made = _with_search(model, given) if given else model
        if made.search is None:
            like = '{"loss": ["dice_ce", "tversky"]}, minutes=60'
            raise MedfuseError(f"say what may be tried, and until when: search(pipeline, {like})")
        crew, file = _crew([made], workers, engine), _saved(made, Path(runs))
    else:
        crew, file = _crew([], workers, engine), Path(pipeline)
    return search_pipeline(
        file, runs=Path(runs), retrain=retrain, workers=crew, reporter=Reporter(quiet=quiet)
    )


def _searched(file: Path) -> _Model:
    """The pipeline of a file, or the one that a file of `pipeline:` and `search:` is about."""
    from medfuse.searching.begin import PIPELINE_KEY, read_search

    if PIPELINE_KEY not in Document.load(file).data:
        return load_pipeline(file)[0]
    asked = read_search(file)
    return asked.pipeline.model_copy(update={"search": asked.settings, "name": asked.name})


def _with_search(pipeline: _Model, given: Mapping[str, Any]) -> _Model:
    """With these keys of `search:` in place of those that it has."""
    before = {} if pipeline.search is None else pipeline.search.model_dump(mode="json", exclude_unset=True)
    return Pipeline._of(pipeline).with_(search=None).with_(search={**before, **given})


def _crew(inputs: Iterable[_Model | str | Path], workers: int, engine: str | Engine) -> Workers:
    """Who trains. Raises MedfuseError where other processes would lack a plugin of this one."""
    from medfuse.verbs.crews import Workers

    crew = Workers.of(engine, workers).ready()
    pipelines = [one for one in inputs if isinstance(one, _Model)]
    if crew.are_others and (own := sorted({name for one in pipelines for name in _of_this_process(one)})):
        raise MedfuseError(
            f"{', '.join(own)}: registered in this process alone, and workers are others; leave out "
            "`workers`, or make it a package with `medfuse plugins new`"
        )
    return crew


def _numbers(folds: Any) -> list[int]:
    """Numbers of folds, be they numpy's. Raises MedfuseError."""
    with suppress(TypeError):
        numbers = [] if isinstance(folds, str) else [index(fold) for fold in folds]
        if numbers and min(numbers) >= 0:
            return numbers
    raise MedfuseError(f"folds={shortened(repr(folds))}: write numbers from 0 on, such as [0, 2]")


def _of_this_process(pipeline: _Model) -> Iterator[str]:
    """Names of plugins that no package has, in a pipeline and in what its search may try."""
    own = registered()
    space = pipeline.search.space if pipeline.search else {}
    parts = [*_parts(pipeline), *(_parts(pipeline.first) if pipeline.first else ()), *_parts(space)]
    for part in parts:
        name = name_of(part) if isinstance(part, Plugin) else part
        if isinstance(name, str) and name in own:
            yield name


def _saved(pipeline: _Model, runs: Path) -> Path:
    """Its file. Raises MedfuseError where it has no name."""
    if not pipeline.name:
        raise MedfuseError('a pipeline that becomes a file needs a name: pipeline.with_(name="wider")')
    path, text = runs / "pipelines" / f"{pipeline.name}.yaml", yaml_of(pipeline)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def _merged(before: Any, value: Any) -> Any:
    """`value`, with the keys of `before` that it says nothing of, where both are mappings of one thing."""
    if not (isinstance(before, Mapping) and isinstance(value, Mapping)):
        return value
    if value.get("use", before.get("use")) != before.get("use"):
        return dict(value)
    return {**before, **{key: _merged(before.get(key), inner) for key, inner in value.items()}}


def _refuse_unknown(sections: Mapping[str, Any]) -> None:
    """Raises MedfuseError for objects of classes that no name leads to, as their YAML could not be read."""
    for part in _parts(sections):
        if isinstance(part, Plugin) and not is_offered(type(part)):
            name = type(part).__name__
            raise MedfuseError(
                f"{name} has no name in the group {part.group}: write "
                f'@medfuse.register("{name.lower()}") above its class, and make the object anew'
            )


def _parts(value: Any) -> Iterator[Any]:
    """Plugins and sections in a value, and what these hold."""
    for part in within(value):
        yield part
        if isinstance(part, BaseModel):
            for field in type(part).model_fields:
                yield from _parts(getattr(part, field))
