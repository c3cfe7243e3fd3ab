"""A .pt2 archive as strangers may have made it: read by a closed list of members, and put together anew.

torch.export.load unpickles, loads libraries, imports modules, evaluates expressions and looks up functions by
name, whatever the file says. So it never sees the file: it is given an archive of those members alone that a
network needs, after each of them was looked at.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import parse_json, shortened

FACTS = "medfuse.json"
SAMPLES = "data/sample_inputs/model.pt"
"""The inputs that a program was traced with, pickled. It runs without; torch wants the member to be there."""

_MEMBERS = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d{1,9})"
    r"|data/constants/(model_constants_config\.json|tensor_\d{1,9})"
    rf"|extra/{re.escape(FACTS)}|{re.escape(SAMPLES)}"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_OPERATION = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)|_operator\.(getitem|mul|add|sub|floordiv|eq|ge|le)")
_TEXTS = {
    "approximate", "assert_msg", "equation", "indexing", "interpolation", "mode", "norm", "pad_mode",
    "padding", "padding_side", "reduce", "rounding_mode", "side",
}  # fmt: skip
"""What operations of a network take as text. Others take names of files."""
_EXPRESSION = re.compile(r"(?:(?:Symbol|Integer|Add|Mul|Pow)\(|'\w{1,30}'|\w+=True|-?\d{1,18}|[(), ])*")
_PICKLES = (".pt", ".pkl", ".pickle", ".pth")


def plain_archive(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """An archive of nothing but a program of plain calls with its tensors, and the facts that go with it.

    Raises CheckpointError for a file that holds anything else, or none of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = dict(_members(archive, path))
    # the last two are what zipfile raises for encryption and for compressions that it does not know
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        said = shortened(str(error)) or type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as a .pt2 archive ({said}); export it again"
        ) from error
    if "models/model.json" not in members:
        raise _refused(path, "is no program of this version of torch")
    if f"extra/{FACTS}" not in members:
        raise CheckpointError(f"{path}: was not written by medfuse; use a file of `medfuse export`")
    for name in ("models/model.json", "data/weights/model_weights_config.json"):
        for fault in _calls(_json(members, name, path), name):
            raise _refused(path, fault)
    for kind, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        config = _json(members, f"data/{kind}/model_{kind}_config.json", path)
        for fault in _payloads(config, members, f"data/{kind}/", prefix):
            raise _refused(path, fault)
    facts = _json(members, f"extra/{FACTS}", path)
    return packed({name: content for name, content in members.items() if name != SAMPLES}), facts


def packed(members: Mapping[str, bytes]) -> io.BytesIO:
    """The archive of these members, by one order of names, with no inputs that it was traced with."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in [*members.items(), (SAMPLES, b"")]:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), member)
    content.seek(0)
    return content


def members_of(content: io.BytesIO) -> dict[str, bytes]:
    """Everything in an archive that torch wrote, but the inputs that it was traced with."""
    with zipfile.ZipFile(content) as archive:
        named = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        return {name: archive.read(info) for name, info in named.items() if name != SAMPLES}


def _members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, bytes]]:
    """Inner name → bytes of what a program needs. Raises CheckpointError for anything else."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise _refused(path, "has two files of one name, of which torch may read the other")
    if len({name.partition("/")[0] for name in names}) > 1:
        raise _refused(path, "is not one archive of torch (it has several folders)")
    for info in infos:
        inner = info.filename.partition("/")[2]
        if not _MEMBERS.fullmatch(inner):
            what = "pickled objects" if inner.endswith(_PICKLES) else "what no network needs"
            raise _refused(path, f"has {what} in {shortened(ascii(info.filename)[1:-1])}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise _refused(path, f"has a compressed or encrypted {inner}, as no exporter writes it")
        if inner == SAMPLES and info.file_size:
            raise _refused(path, f"has pickled objects in {inner}")
        yield inner, archive.read(info)


def _json(members: Mapping[str, bytes], name: str, path: Path) -> Any:
    if name not in members:
        raise _refused(path, f"lacks {name}")
    value = parse_json(members[name], f"{path}: {name}", raises=CheckpointError, remedy="export it again")
    if not isinstance(value, dict):
        raise _refused(path, f"holds no JSON object in {name}")
    return value


def _payloads(
    config: Mapping[str, Any], members: Mapping[str, bytes], folder: str, prefix: str
) -> Iterator[str]:
    """Tensors that are pickled, elsewhere, or larger than their bytes."""
    entries = config.get("config")
    named: dict[str, Any] = entries if isinstance(entries, dict) else {"": None}
    for name, entry in named.items():
        try:
            place, sizes = entry["path_name"], [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
            if entry["use_pickle"] or not re.fullmatch(rf"{prefix}\d{{1,9}}", place):
                yield f"has pickled objects for {shortened(name)}"
            elif prod(sizes) > len(members[folder + place]) or min(sizes, default=0) < 0:
                yield f"holds less of {shortened(name)} than it says"
        except (KeyError, TypeError):
            yield f"does not say where {shortened(name) or 'its tensors'} lies, in a way that is known"


def _calls(value: Any, where: str) -> Iterator[str]:
    """Pickles, functions, types and expressions that no plain network has, anywhere in a JSON value."""
    if isinstance(value, list):
        for item in value:
            yield from _calls(item, where)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "use_pickle" and item:
            yield f"has pickled objects in {where}"
        elif key in ("as_custom_obj", "as_operator", "as_graph") or (key == "guards_code" and item):
            yield f"has {key} in {where}, which no network needs"
        elif key == "target" and isinstance(item, str) and not _harmless(item):
            yield f"calls {shortened(item)}"
        elif key == "expr_str" and not _plain(item):
            yield f"evaluates {shortened(str(item))}"
        elif key in ("in_spec", "out_spec") and item is not None and not _structure(item):
            yield f"has inputs or outputs of a type that no network needs ({shortened(str(item))})"
        yield from _calls(item, where)


def _harmless(target: str) -> bool:
    """An operation of torch's own, or of whole numbers, that is told nothing like the name of a file."""
    found = _OPERATION.fullmatch(target)
    if not found or found[3]:
        return bool(found)
    try:
        schema = getattr(getattr(torch.ops.aten, found[1]), found[2])._schema
    except (AttributeError, RuntimeError):
        return False
    texts = {argument.name for argument in schema.arguments if "str" in str(argument.type).lower()}
    return texts <= _TEXTS


def _plain(expression: Any) -> bool:
    """Arithmetic of small effort: one power at most, and of two digits."""
    if not isinstance(expression, str) or len(expression) > 1000 or not _EXPRESSION.fullmatch(expression):
        return False
    powers = expression.count("Pow(")
    return powers == 0 or (powers == 1 and not re.search(r"\d{3}", expression))


def _structure(text: Any) -> bool:
    """How inputs are nested: tuples, lists and dicts. torch imports and calls what other types name."""

    def known(node: Any) -> bool:
        return (
            isinstance(node, dict)
            and set(node) == {"type", "context", "children_spec"}
            and node["type"] in (None, "builtins.tuple", "builtins.list", "builtins.dict")
            and node["context"] in (None, "null", "[]")
            and isinstance(node["children_spec"], list)
            and all(known(child) for child in node["children_spec"])
        )

    try:
        version, node = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return version == 1 and known(node)


def _refused(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(f"{path}: {fault}, and is not loaded; use a file of `medfuse export`")
