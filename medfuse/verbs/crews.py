"""The workers of a verb: `--engine`, `--engine-option` and `--workers` as what starts a crew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from medfuse import registry
from medfuse.api import Command, Crew, Engine
from medfuse.core.errors import MedfuseError, PluginError
from medfuse.core.json_text import faults_of, shortened
from medfuse.core.result import Result
from medfuse.core.yaml_text import Walk

LOCAL = "local"


@dataclass(frozen=True)
class Workers:
    """Who does the work of a verb: `count` workers of an engine. One of `local` is this process itself."""

    engine: str = LOCAL
    options: tuple[str, ...] = ()
    count: int = 1

    @classmethod
    def of(cls, engine: str | Engine, count: int) -> Workers:
        """Those of an engine by its name, or as an object: `medfuse.plugins.engines.slurm(cores=4)`.

        Raises MedfuseError where `count` is none.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise MedfuseError(f"workers={shortened(repr(count))}: write a whole number, 1 or more")
        if not isinstance(engine, Engine):
            return cls(str(engine), (), count)
        values = engine.model_dump(mode="json", exclude_defaults=True)
        options = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
        return cls(registry.name_of(engine), options, count)

    @property
    def are_others(self) -> bool:
        return self.count > 1 or self.engine != LOCAL

    def plugin(self) -> Engine:
        """Raises MedfuseError where there is no such engine, or it has no such options."""
        kind = registry.get(Engine.group, self.engine)
        where, what = f"--engine {self.engine}", f"`medfuse plugins show {self.engine}` lists its options"
        try:
            return cast(Engine, kind.model_validate_json(json.dumps(_options(self.options))))
        except ValidationError as error:
            raise PluginError(*(f"{where}: {fault}; {what}" for fault in faults_of(error))) from None

    def ready(self) -> Workers:
        """The same; raises MedfuseError where they cannot be started, before anything is read or written."""
        engine = self.plugin()
        if self.are_others:
            engine.ready()
        return self

    def printed(self, arguments: Sequence[str], places: Sequence[str | Path] = ()) -> Result:
        """The file by which others start these workers, each with its shard. Raises MedfuseError.

        places: what the arguments name that each of them must see.
        """
        paths = tuple(Path(place) for place in places if not _is_address(place))
        try:
            text = self.plugin().printed(Command(tuple(arguments), Path.cwd(), places=paths), self.count)
        except MedfuseError as error:
            raise MedfuseError(*(_from(self.engine, line) for line in error.lines)) from error
        return Result(text.rstrip(), {"file": text})

    def starter(self, arguments: Sequence[str], folder: Path, device: str = "auto") -> Callable[[int], Crew]:
        """What starts so many workers of `medfuse ARGUMENTS`, which agree in `folder` about who does what."""
        engine = self.plugin()
        command = Command(tuple(arguments), folder.resolve(), device)
        return lambda workers: engine.start(command, workers)


ALONE = Workers()


def _is_address(place: str | Path) -> bool:
    """Whether it is no path: s3://…, dicomweb:https://…, or a model's name elsewhere."""
    return re.match(r"[a-z][a-z0-9+.-]+:", str(place), re.IGNORECASE) is not None


def _from(engine: str, line: str) -> str:
    said = f"--engine {engine}: "
    return line if line.startswith(said) else said + line


def _options(texts: Iterable[str]) -> dict[str, Any]:
    """`address=auto` → {"address": "auto"}; values are read as those of `--set`."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for text in texts:
        said = f"--engine-option {shortened(text, 120)}"
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name == "use":
            faults.append(f"{said}: write it as key=value, such as cores=4")
            continue
        walk = Walk(said, Path.cwd())
        found[name] = walk.read(value)
        faults += [f"{said}: {message}" for _, message in walk.problems]
    if faults:
        raise MedfuseError(*faults)
    return found
