"""An endless row of training batches, made ahead of time by other processes."""

import gc
import itertools
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from torch.utils.data import default_collate

from medfuse.core.crew import share_of_cores
from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.processes import processes_here
from medfuse.data.patches import PatchSampler
from medfuse.data.plan import DataPlan
from medfuse.data.settings import AugmentSettings, SampleSettings
from medfuse.data.store import Store

log = logging.getLogger(__name__)

LONGEST_SOCKET = 107
"""Characters of the name of a Unix socket."""


def training_batches(
    store: Store,
    names: Sequence[str],
    plan: DataPlan,
    sample: SampleSettings,
    augment: AugmentSettings,
    *,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    processes: int = 1,
    unlabelled: bool = False,
) -> Generator[dict[str, Any], None, None]:
    """Batches from step `start_step` on: `image` (batch, channels, *patch_size) float32, `label`
    (batch, 1, *patch_size) int64, and the names of the `case`s. Of `unlabelled` cases, `image`, `weak` and
    `case` (see PatchSampler.draw).

    A step's batch depends on `seed` and the step alone, so a run that resumes sees what it would have seen.
    Where several `processes` train together, the one of number `rank` is given its share of each batch.
    Close the iterator to end the processes. Raises DataError where a stored case is damaged, and where a
    process is killed.
    """
    sampler = PatchSampler(store, tuple(names), plan, sample, augment, seed, unlabelled)
    yield from loaded(sampler, _Batches(plan.batch_size, start_step, rank, processes))


def loaded(sampler: PatchSampler, numbers: Iterable[list[Any]]) -> Generator[dict[str, Any], None, None]:
    """A batch for each list of `numbers`: of patches of the endless row, or pairs (place, view).

    Close the iterator to end the processes that make them. Raises DataError as `training_batches`.
    """
    sample = sampler.sample
    workers = worker_count(sample)
    if workers and not _sockets_fit():
        workers = 0
    loader = DataLoader(
        _Patches(sampler),
        num_workers=workers,
        batch_sampler=numbers,
        collate_fn=collated,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or opening a loader would move, or reset, the chance of training
    )
    if workers:
        gc.freeze()  # the collector writes to what it looks at, and each process would get its own copy of it
    try:
        for batch in loader:
            if isinstance(batch, MedfuseError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a loader process died ({str(error).splitlines()[0]}); most often memory ran out: set "
            "sample.workers to 0, or make sample.patch_size or sample.batch_size smaller"
        ) from error
    finally:
        gc.unfreeze()


def worker_count(sample: SampleSettings) -> int:
    """Loader processes of this process; `auto`: one for every two cores that it has, eight at most."""
    if sample.workers != "auto":
        return sample.workers
    return min(8, max(1, share_of_cores() // processes_here() // 2))


def _sockets_fit() -> bool:
    """Whether processes can hand over patches: the names of their sockets may be so long and no longer.

    Where they are longer, nothing comes, and nothing ends.
    """
    room = LONGEST_SOCKET - len("/pymp-12345678/listener-12345678")
    if sys.platform != "linux" or len(os.fsencode(tempfile.gettempdir())) <= room:
        return True
    log.warning(
        "TMPDIR is longer than %d characters, so that no loader processes can be used: set a shorter one",
        room,
    )
    return False


class _Patches(Dataset):
    """Every patch there will ever be, by number. A user's mistake travels between processes as a value."""

    def __init__(self, sampler: PatchSampler) -> None:
        super().__init__(range(sys.maxsize))
        self.sampler = sampler

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any] | MedfuseError:
        try:
            return self.sampler.view(*index) if isinstance(index, tuple) else self.sampler.draw(index)
        except MedfuseError as error:
            return error


class _Batches:
    """Numbers of the patches of each step, without end; of several processes, each has a row of its own."""

    def __init__(self, batch_size: int, start_step: int, rank: int, processes: int) -> None:
        self.batch_size, self.share = batch_size, share_of(batch_size, processes)
        self.start_step, self.rank = start_step, rank

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.start_step):
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))


def share_of(batch_size: int, processes: int) -> int:
    """Patches of a batch for each of several processes. Raises DataError where they cannot share it."""
    if batch_size % processes:
        raise DataError(
            f"a batch of {batch_size} patches cannot be shared by {processes} processes; "
            f"set sample.batch_size to a multiple of {processes}"
        )
    return batch_size // processes


def collated(samples: list[dict[str, Any] | MedfuseError]) -> dict[str, Any] | MedfuseError:
    """Patches as a batch; the first mistake instead, where there is any."""
    fault = next((s for s in samples if isinstance(s, MedfuseError)), None)
    if fault:
        return fault
    batch: dict[str, Any] = default_collate(samples)
    return batch


def _start_worker(_: int) -> None:
    """Loader processes share the cores with training, and leave Ctrl-C to it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _tell_unless_training_has_ended


def _tell_unless_training_has_ended(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Threads that hand over patches lose their connection where training is stopped: that is no fault."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
