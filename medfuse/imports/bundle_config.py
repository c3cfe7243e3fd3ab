"""A MONAI bundle's configuration as plain data: references are followed, and no code in it is run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.json_text import read_json, read_text, shortened

DEEPEST = 40  # references that lead to references
REFERENCE = re.compile(r"@([\w.]+(?:(?:::|#)[\w.]+)*)")

_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Config:
    """The values of a configuration file. A value is looked up by its path of keys: `inferer::roi_size`."""

    path: Path
    values: Mapping[str, Any]
    text: str

    @classmethod
    def read(cls, path: Path) -> Config:
        """Raises CheckpointError."""
        remedy = "give a bundle as MONAI writes them"
        text = read_text(path, raises=CheckpointError, remedy=remedy)
        if path.suffix == ".json":
            values = read_json(path, raises=CheckpointError, remedy=remedy)
        else:
            values = _yaml(path, text)
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path}: holds no mapping; {remedy}")
        return cls(path, values, text)

    def has(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """A value with all that it refers to. Raises CheckpointError where only code could tell it."""
        return self.plain(self.values[key], key) if key in self.values else default

    def raw(self, key: str) -> Any:
        """A value as it stands there."""
        return self.values.get(key)

    def plain(self, value: Any, key: str, seen: tuple[str, ...] = ()) -> Any:
        """`value`, which stands at `key`, with what it refers to in place of references."""
        if len(seen) > DEEPEST:
            raise self.fault(key, f"leads in a circle ({' → '.join(seen[:4])} → …)", value)
        if isinstance(value, Mapping):
            return {k: self.plain(v, f"{key}::{k}", seen) for k, v in value.items()}
        if isinstance(value, list):
            return [self.plain(v, f"{key}::{i}", seen) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        if found := REFERENCE.fullmatch(value):
            return self._at(found[1], key, value, seen)
        if value.startswith("$"):
            return self._expression(value, key, seen)
        if value.startswith(("@", "%")):
            raise self.fault(key, "refers to something outside of this file, or relative to itself", value)
        return value

    def fault(self, key: str, what: str, value: Any = None) -> CheckpointError:
        """An error with the line where a value stands."""
        line = self.text[: self.text.find(value)].count("\n") + 1 if self._stands(value) else 0
        place = f"{self.path}:{line}" if line else str(self.path)
        said = f" ({shortened(value)})" if isinstance(value, str) else ""
        return CheckpointError(
            f"{place}: {key.replace('::', '.')}: {what}{said}; write the plain value there"
        )

    def _stands(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value) and value in self.text

    def _at(self, reference: str, key: str, value: str, seen: tuple[str, ...]) -> Any:
        found: Any = self.values
        for part in re.split("::|#", reference):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise self.fault(key, f"refers to {reference}, which there is not", value)
        return self.plain(found, key, (*seen, reference))

    def _expression(self, value: str, key: str, seen: tuple[str, ...]) -> Any:
        """Numbers, texts and lists, sums of them, and choices between them; nothing is called."""
        names: dict[str, Any] = {}

        def name(found: re.Match[str]) -> str:
            placed = f"_{len(names)}_"
            names[placed] = self._at(found[1], key, value, seen)
            return placed

        try:
            tree = ast.parse(REFERENCE.sub(name, value[1:]).strip(), mode="eval")
            return _value(tree.body, names)
        except MedfuseError:
            raise
        except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
            raise self.fault(key, "is code, and none in a bundle is run", value) from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Raises ValueError for anything but plain values and arithmetic."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, names) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not):
        inner = _value(node.operand, names)
        if isinstance(node.op, ast.Not):
            return not inner
        return -inner if isinstance(node.op, ast.USub) else +inner
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        left, right = _value(node.left, names), _value(node.right, names)
        kinds = (int, float) if not isinstance(node.op, ast.Add) else (int, float, str, list)
        if not isinstance(left, kinds) or not isinstance(right, kinds):
            raise ValueError("no numbers")
        return _SUMS[type(node.op)](left, right)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test, names) else node.orelse, names)
    raise ValueError("code")


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        said = shortened(str(getattr(error, "problem", None) or error), 120)
        raise CheckpointError(f"{place}: no valid YAML ({said}); mend it there or just before") from None
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: no valid YAML ({shortened(str(error), 120)}); mend it") from None
