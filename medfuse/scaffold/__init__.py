"""`medfuse plugins new`: a package with one plugin, which passes its own tests as it stands.

Beside this file lie the texts: in `package` those that every package has, and for each kind its plugin, its
torch module if it has one, and its tests. They are code as it runs. A package puts its own words for
`plugin_name` and `PluginName`, and in pyproject.toml and README.md also for {kind}, {group} and {example}.
"""

from __future__ import annotations

import ast
import keyword
import os
import re
import tempfile
import textwrap
from pathlib import Path

from medfuse.core.errors import MedfuseError, PluginError, did_you_mean
from medfuse.core.files import make_folder, reported, write_text
from medfuse.registry import CONTRACTS, entries, noun

TEXTS = Path(__file__).parent
KINDS = {noun(contract.group).replace(" ", "_"): contract.group for contract in CONTRACTS}
"""`fusion_block` → `medfuse.fusion_blocks`, for all eleven."""


def new_package(kind: str, name: str, parent: Path) -> Path:
    """Write PARENT/medfuse-NAME, whole or not at all, and return it.

    Raises PluginError for an unknown kind, and for a name that is odd or taken.
    """
    if kind not in KINDS:
        raise PluginError(
            f"no kind of plugin is {kind!r}{did_you_mean(kind, KINDS)} (kinds: {', '.join(KINDS)})"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise PluginError(
            f"{name!r} names no plugin; write lower-case letters, digits and single _, a letter first"
        )
    package = f"medfuse-{name.replace('_', '-')}"
    for taken in (entry for group in KINDS.values() for entry in entries(group)):
        if taken.package == package or (taken.group, taken.name) == (KINDS[kind], name):
            what = noun(taken.group)
            article = "an" if what[0] in "aeiou" else "a"
            raise PluginError(f"there is {article} {what} {taken} already; choose another name")
    files = _files(kind, name)
    folder = parent / package
    if os.path.lexists(folder):
        raise MedfuseError(f"{folder}: exists already; choose another name or --output, or delete it")
    make_folder(parent)
    with reported(folder), tempfile.TemporaryDirectory(dir=parent, prefix=".unfinished-") as temporary:
        made = Path(temporary) / folder.name
        for path, text in files.items():
            write_text(made / path, text)
        made.rename(folder)
    return folder


def _files(kind: str, name: str) -> dict[str, str]:
    """Path in the package → text. Raises PluginError where the class would hide a name that the code uses."""
    texts = {path.name.removesuffix(".txt"): path.read_text() for path in TEXTS.glob(f"{kind}/*.txt")}
    cls = "".join(part.capitalize() for part in name.split("_"))
    if keyword.iskeyword(cls) or any(cls in _names(code) for code in texts.values()):
        raise PluginError(f"a plugin {name!r} would be a class {cls}, which means something else; rename it")
    module = f"medfuse_{name}"
    places = {
        "plugin.py": f"{module}/__init__.py",
        "net.py": f"{module}/net.py",
        "test.py": f"tests/test_{name}.py",
    }
    files = {places[path]: text for path, text in texts.items()}
    facts = {
        "{kind}": kind.replace("_", " "),
        "{group}": KINDS[kind],
        "{example}": _example(texts["plugin.py"]),
    }
    for path in ("pyproject.toml", "README.md"):
        text = (TEXTS / "package" / f"{path}.txt").read_text()
        for word, fact in facts.items():
            text = text.replace(word, fact)
        files[path] = text
    files[f"{module}/py.typed"] = ""
    words = {"plugin_name": name, "plugin-name": name.replace("_", "-"), "PluginName": cls}
    return {path: _in_its_words(text, words) for path, text in files.items()}


def _names(code: str) -> set[str]:
    """What is defined, imported or used."""
    nodes = list(ast.walk(ast.parse(code)))
    return {getattr(node, word) for node in nodes for word in ("id", "name") if hasattr(node, word)}


def _example(plugin: str) -> str:
    """The YAML of the docstring: its last block, which is indented further than the text."""
    docstring = plugin.partition("class PluginName")[2].split('"""')[1]
    return textwrap.dedent(docstring.rstrip().rpartition("\n\n")[2])


def _in_its_words(text: str, words: dict[str, str]) -> str:
    for word, own in words.items():
        text = text.replace(word, own)
    return text
