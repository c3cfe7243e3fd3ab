"""Numbers and truth values that are written as such: what YAML says is not guessed at."""

from typing import Any

from pydantic_core import PydanticKnownError, core_schema


def literally(node: Any) -> Any:
    """A schema whose numbers and truth values take no texts."""
    if isinstance(node, list | tuple):
        return type(node)(map(literally, node))
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if node.get("function", {}) in ({"type": "no-info", "function": f} for f in _REFUSE.values()):
        return node
    if kind == "bool":
        return {**node, "strict": True}
    if kind in _REFUSE:
        return core_schema.no_info_before_validator_function(_REFUSE[kind], node)
    return {key: value if key in _NO_SCHEMA else literally(value) for key, value in node.items()}


_NO_SCHEMA = ("metadata", "default", "serialization", "config", "function", "cls", "expected")


def _no_text_for_int(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise PydanticKnownError("int_type")
    return value


def _no_text_for_float(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise PydanticKnownError("float_type")
    return value


_REFUSE = {"int": _no_text_for_int, "float": _no_text_for_float}
