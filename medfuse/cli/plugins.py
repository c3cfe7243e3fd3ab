"""`medfuse plugins`: list, explain and write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfuse.cli.results import printed
from medfuse.cli.words import Verbs
from medfuse.core.result import Result

plugins_app = typer.Typer(
    cls=Verbs, help="List, explain and write plugins.", rich_markup_mode=None, add_completion=False
)
Describe = Annotated[
    bool, typer.Option("--describe", help="import each plugin for the first line of its docstring")
]


@plugins_app.callback(invoke_without_command=True)
@printed
def plugins(context: typer.Context, describe: Describe = False) -> Result | None:
    """List every installed plugin: kind, name, package, version."""
    if context.invoked_subcommand is not None:
        return None
    from medfuse.verbs.plugins import listing

    return listing(describe=describe)


@plugins_app.command("list")
@printed
def list_plugins(describe: Describe = False) -> Result:
    """List every installed plugin, as `medfuse plugins` alone does."""
    from medfuse.verbs.plugins import listing

    return listing(describe=describe)


def _plugin_names(incomplete: str) -> list[str]:
    """The plugins that a shell can complete a name to."""
    from medfuse import registry

    found = {e.name for c in registry.CONTRACTS for e in registry.entries(c.group)}
    return sorted(name for name in found if name.startswith(incomplete))


def _kinds(incomplete: str) -> list[str]:
    """The kinds of plugins that a shell can complete a word to."""
    from medfuse.scaffold import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


@plugins_app.command()
@printed
def show(
    name: Annotated[str, typer.Argument(help="a plugin's name", autocompletion=_plugin_names)],
) -> Result:
    """Explain one plugin: parameters, defaults, a YAML example."""
    from medfuse.verbs.plugins import page

    return page(name)


@plugins_app.command()
@printed
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=_kinds,
            help="backbone, tap_strategy, fusion_block, aux_schedule, loss, activation_loss, augmentation, "
            "dataset, runtime, tracker or engine",
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="what `use:` will say")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder in which medfuse-NAME is made")
    ] = Path(),
) -> Result:
    """Write a package with one plugin, and tests that pass."""
    from medfuse.scaffold import new_package

    made = new_package(kind, name, output)
    return Result(f"{made}: run `pip install -e .` and `pytest` there", {"folder": made})
