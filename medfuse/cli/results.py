"""How a verb's result is printed: as text, or as one JSON document where --json is given."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from typing import Annotated, Any, get_type_hints

import typer

from medfuse.core.result import Result, problems

Json = Annotated[
    bool, typer.Option("--json", help="print the result, or what is wrong, as one JSON document")
]


def wants_json() -> bool:
    """Whether --json stands among the command's words."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def printed(verb: Callable[..., Result | None]) -> Callable[..., None]:
    """A verb as a command: it takes --json too, and what it returns is printed.

    With --json nothing else reaches stdout, whoever prints it. A verb that has no result stays as it is.
    """
    kinds = get_type_hints(verb, include_extras=True)
    if kinds["return"] is type(None):
        return verb  # type: ignore[return-value]  # which returns None, as its type says

    @functools.wraps(verb)
    def command(*given: Any, as_json: bool = False, **options: Any) -> None:
        if wants_json():
            with redirect_stdout(sys.stderr):
                result = verb(*given, **options)
        else:
            result = verb(*given, **options)
        if result is None:  # processes that it started print it, or a verb below it
            return
        print(result.json if wants_json() else result)
        if result.code:
            raise typer.Exit(result.code)

    own = [each.replace(annotation=kinds[name]) for name, each in inspect.signature(verb).parameters.items()]
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    command.__signature__ = inspect.Signature([*own, option])  # type: ignore[attr-defined]  # which typer reads
    command.__annotations__ = {**kinds, "as_json": Json}
    return command


def print_problems(lines: Iterable[str], code: int, values: Mapping[str, Any] | None = None) -> None:
    """What is wrong as a JSON document on stdout, where --json is given; the first process speaks for all."""
    if wants_json() and os.environ.get("RANK", "0") == "0":
        print(problems(lines, code, values))
