"""How names of feature maps are matched: exactly, or by glob."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern stands for the map called `name`.

    A call or an element of a layer, as `layer#1` and `layer[0]` are, is meant by its own name alone; no glob
    stands for it, as the layer itself or those inside it make the same maps.
    """
    return name == pattern or (not is_part(name) and fnmatchcase(name, pattern))


def is_part(name: str) -> bool:
    """Whether it names one of a layer's calls, or an element of what the layer returns."""
    return "#" in name or name.endswith("]")
