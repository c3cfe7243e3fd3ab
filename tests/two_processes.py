"""Two processes over gloo, forked, so that they know what this one knows."""

import multiprocessing
from datetime import timedelta

import torch
from torch import distributed


def _member(rank, size, folder, work):
    torch.set_num_threads(1)  # those of the process before the fork are gone
    store = distributed.FileStore(str(folder / "meeting"), size)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=300)
    )
    try:
        torch.save(work(), folder / f"answer_{rank}")
    finally:
        distributed.destroy_process_group()


def in_two(folder, work) -> list:
    """What `work` gives in each of two processes, which know what this one knows."""
    context = multiprocessing.get_context("fork")
    members = [context.Process(target=_member, args=(n, 2, folder, work)) for n in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(300)
        member.kill()
    assert [member.exitcode for member in members] == [0, 0]
    return [torch.load(folder / f"answer_{n}") for n in range(2)]
