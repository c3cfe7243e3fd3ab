import gc
import multiprocessing
import os
import shutil
import signal
import tempfile

import pytest
import torch

from medfuse.core.errors import DataError
from medfuse.data.loader import training_batches, worker_count
from medfuse.data.patches import PatchSampler
from medfuse.data.settings import AugmentSettings, SampleSettings


def batches(store, plan, workers=0, **where):
    sample = SampleSettings(workers=workers)
    return training_batches(store, ("a", "b"), plan, sample, AugmentSettings(), seed=1, **where)


def first(iterator, n=1):
    found = [next(iterator) for _ in range(n)]
    iterator.close()
    return found


def test_a_batch_has_the_plans_shape(store, plan):
    (batch,) = first(batches(store, plan))
    assert batch["image"].shape == batch["label"].shape == (4, 1, 8, 8, 8)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.int64)


def test_a_resumed_row_goes_on_where_it_stopped(store, plan):
    whole = first(batches(store, plan), 3)
    (resumed,) = first(batches(store, plan, start_step=2))
    assert torch.equal(resumed["image"], whole[2]["image"])
    assert torch.equal(resumed["label"], whole[2]["label"])


def test_a_batch_names_its_cases(store, plan):
    (batch,) = first(batches(store, plan))
    assert len(batch["case"]) == 4
    assert set(batch["case"]) <= {"a", "b"}


def test_shares_of_processes_that_train_together_are_the_batch_of_one(store, plan):
    (whole,) = first(batches(store, plan, start_step=3))
    shares = [first(batches(store, plan, start_step=3, rank=n, processes=2))[0] for n in range(2)]
    assert torch.equal(torch.cat([share["image"] for share in shares]), whole["image"])
    assert not torch.equal(shares[0]["image"], shares[1]["image"])


def test_a_batch_that_cannot_be_shared_is_refused(store, plan):
    with pytest.raises(DataError, match=r"batch of 4 patches cannot be shared by 3 .* multiple of 3"):
        next(batches(store, plan, processes=3))


def test_processes_make_the_same_batches(store, plan):
    here = first(batches(store, plan), 3)
    there = first(batches(store, plan, workers=2), 3)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(here, there))


def test_what_was_kept_from_the_collector_is_given_back(store, plan):
    first(batches(store, plan, workers=1))
    assert gc.get_freeze_count() == 0  # or each training of many would keep its network


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_case_is_one_line_wherever_it_is_read(store, plan, workers):
    for path in store.folder.glob("[ab]-*.label.b2nd"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"^\S+\.label\.b2nd: is missing or damaged[^\n]*$"):
        next(batches(store, plan, workers))


def test_a_killed_process_is_one_line_that_says_what_to_do(store, plan, monkeypatch):
    monkeypatch.setattr(PatchSampler, "draw", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"a loader process died .*sample\.workers"):
        next(batches(store, plan, workers=1))


def test_auto_workers_are_between_one_and_eight():
    assert 1 <= worker_count(SampleSettings()) <= 8
    assert worker_count(SampleSettings(workers=3)) == 3


@pytest.mark.parametrize("length", [40, 75, 76, 200])
def test_batches_come_however_long_the_name_of_the_temporary_folder_is(
    store, plan, monkeypatch, caplog, length
):
    short = tempfile.mkdtemp(dir="/tmp")
    folder = f"{short}/{'x' * (length - len(short) - 1)}"
    os.mkdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    (batch,) = first(batches(store, plan, workers=1))
    assert batch["image"].shape == (4, 1, 8, 8, 8)
    assert ("set a shorter one" in caplog.text) == (length > 75)
    shutil.rmtree(short)


def test_a_worker_that_has_a_share_of_the_cores_takes_loaders_for_that_share(monkeypatch):
    monkeypatch.setenv("MEDFUSE_WORKER", "local-1")
    for cores, loaders in (("1", 1), ("4", 2), ("64", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        assert worker_count(SampleSettings()) == loaders
