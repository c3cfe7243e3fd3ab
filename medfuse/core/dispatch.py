"""Workers that take cases one after another, on paper: when each would end, without anything being done."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Timetable:
    """What a dispatch came to. ends_s: when each worker had nothing to do any more, or was lost.

    useful_s: seconds that went into cases which were finished; lost: workers that went away; undone: cases
    that nobody was left for.
    """

    ends_s: tuple[float, ...]
    useful_s: float
    lost: frozenset[int] = frozenset()
    undone: int = 0

    @property
    def wall_s(self) -> float:
        """Until the last case is done; infinite where one is not."""
        return inf if self.undone else max(self.ends_s, default=0.0)

    @property
    def tail_s(self) -> float:
        """How long the last worker works after the first has nothing to do any more."""
        stayed = [end for worker, end in enumerate(self.ends_s) if worker not in self.lost]
        return self.wall_s - min(stayed, default=0.0)

    @property
    def utilisation(self) -> float:
        """The share of the time for which workers were there that went into finished cases."""
        there = sum(end if n in self.lost else self.wall_s for n, end in enumerate(self.ends_s))
        return self.useful_s / there if there else 1.0


def dispatch(
    seconds: Sequence[float],
    workers: int,
    *,
    begins_s: Sequence[float] = (),
    speeds: Sequence[float] = (),
    lost_s: Mapping[int, float] = {},
    noticed_s: float = 0.0,
) -> Timetable:
    """Cases of so many `seconds`, which are taken in this order by whichever of the `workers` is free first.

    `begins_s`: when each worker has loaded its network, and `speeds`: how fast each is; 0 and 1 where that is
    not said. `lost_s`: the workers that go away, and when. The case that such a worker has at hand is begun
    anew by another one, once that is noticed, after `noticed_s`, and all other cases are taken.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers: there must be one")
    begins = [begins_s[n] if n < len(begins_s) else 0.0 for n in range(workers)]
    ends, useful = list(begins), 0.0
    free = [(begin, worker) for worker, begin in enumerate(begins)]
    heapq.heapify(free)
    fresh, returned = deque(seconds), list[tuple[float, float]]()  # of the latter: from when, and how long
    lost = set[int]()
    while free and (fresh or returned):
        now, worker = free[0]
        gone = lost_s.get(worker, inf)
        if fresh:
            begin, length = now, fresh[0]
        else:
            begin, length = max(now, returned[0][0]), returned[0][1]
        if gone <= begin:
            ends[worker] = gone
            lost.add(worker)
            heapq.heappop(free)
            continue
        if fresh:
            fresh.popleft()
        else:
            heapq.heappop(returned)
        end = begin + length / (speeds[worker] if worker < len(speeds) else 1.0)
        if gone < end:
            ends[worker] = gone
            lost.add(worker)
            heapq.heappop(free)
            heapq.heappush(returned, (gone + noticed_s, length))
            continue
        ends[worker], useful = end, useful + end - begin
        heapq.heapreplace(free, (end, worker))
    return Timetable(tuple(ends), useful, frozenset(lost), len(fresh) + len(returned))
