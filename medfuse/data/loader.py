"""An endless row of training batches, made ahead of time by other processes."""

import itertools
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from torch.utils.data import default_collate

from medfuse.core.errors import DataError, MedfuseError
from medfuse.data.patches import PatchSampler
from medfuse.data.plan import DataPlan
from medfuse.data.settings import AugmentSettings, SampleSettings
from medfuse.data.store import Store


def training_batches(
    store: Store,
    names: Sequence[str],
    plan: DataPlan,
    sample: SampleSettings,
    augment: AugmentSettings,
    *,
    seed: int,
    start_step: int = 0,
    unlabelled: bool = False,
) -> Generator[dict[str, Any], None, None]:
    """Batches from step `start_step` on: `image` (batch, channels, *patch_size) float32, `label`
    (batch, 1, *patch_size) int64, and the names of the `case`s. Of `unlabelled` cases, `image`, `weak` and
    `case` (see PatchSampler.draw).

    A step's batch depends on `seed` and the step alone, so a run that resumes sees what it would have seen.
    Close the iterator to end the processes. Raises DataError where a stored case is damaged, and where a
    process is killed.
    """
    sampler = PatchSampler(store, tuple(names), plan, sample, augment, seed, unlabelled)
    workers = worker_count(sample)
    loader = DataLoader(
        _Patches(sampler),
        num_workers=workers,
        batch_sampler=_Batches(plan.batch_size, start_step),
        collate_fn=_collate,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or opening a loader would move, or reset, the chance of training
    )
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


def worker_count(sample: SampleSettings) -> int:
    """Loader processes; `auto`: one for every two cores, eight at most."""
    return min(8, max(1, (os.cpu_count() or 1) // 2)) if sample.workers == "auto" else sample.workers


class _Patches(Dataset):
    """Every patch there will ever be, by number. A user's mistake travels between processes as a value."""

    def __init__(self, sampler: PatchSampler) -> None:
        super().__init__(range(sys.maxsize))
        self.sampler = sampler

    def __getitem__(self, index: int) -> dict[str, Any] | MedfuseError:
        try:
            return self.sampler.draw(index)
        except MedfuseError as error:
            return error


class _Batches:
    """Numbers of the patches of each step, without end."""

    def __init__(self, batch_size: int, start_step: int) -> None:
        self.batch_size = batch_size
        self.start_step = start_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.start_step):
            yield list(range(step * self.batch_size, (step + 1) * self.batch_size))


def _collate(samples: list[dict[str, Any] | MedfuseError]) -> dict[str, Any] | MedfuseError:
    fault = next((s for s in samples if isinstance(s, MedfuseError)), None)
    if fault:
        return fault
    batch: dict[str, Any] = default_collate(samples)
    return batch


def _start_worker(_: int) -> None:
    """Loader processes share the cores with training, and leave Ctrl-C to it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
