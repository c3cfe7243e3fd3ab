"""JSON that somebody spoilt: values of other kinds, at any place, always the same ones for a seed."""

import copy
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 1.5, -0.5, 1e300, 10**18, 10**19 - 1),
    *("", " ", "²", "٣", "-1", "1e3", "a\0b", "\x1b[31m", "..", "/", "../../x", "x" * 5000, "nan", "\ud800"),
    *(
        [],
        {},
        [[]],
        [None],
        {"": 0},
        [0, 0],
        ["a", 1],
        {"0": "CT"},
        {"a": {"b": 1}},
        [1, 2, 3],
        [[1, 2]],
        ["a"],
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in plain data something stands, the whole included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def spoilt(value: Any, seed: int) -> Any:
    """`value` with one to three things replaced, removed, renamed, doubled or nested."""
    chance = random.Random(seed)
    made = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice([*places(made)])
        if not path:
            if chance.random() < 0.2:
                made = copy.deepcopy(chance.choice(ODD))
            continue
        holder = made
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        match chance.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(chance.choice(("²", "", "0", "a\0", "labels", "x" * 300, key + " ")))] = (
                    holder.pop(key)
                )
            case 2 if isinstance(holder, list):
                holder += [copy.deepcopy(holder[key])] * chance.choice((1, 3))
            case 3:
                deep: Any = holder[key]
                for _ in range(chance.choice((1, 3, 200))):
                    deep = [deep] if chance.random() < 0.5 else {"a": deep}
                holder[key] = deep
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return made
