"""Work on cases in a few threads, in bounded memory, with progress."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, progress: Callable[[int, int], None]
) -> list[Result]:
    """`work` of each item, in the order of `items`; at most `threads` are under way at once.

    `progress(done, total)` is called in the calling thread. An exception, Ctrl-C included, ends the work:
    what is under way is waited for, what has not begun never begins.
    """
    waiting = iter(enumerate(items))
    results: dict[int, Result] = {}
    running: dict[Future[Result], int] = {}
    progress(0, len(items))
    with ThreadPoolExecutor(threads) as pool:
        while True:
            for number, item in itertools.islice(waiting, threads - len(running)):
                running[pool.submit(work, item)] = number
            if not running:
                return [results[number] for number in range(len(items))]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                progress(len(results), len(items))
