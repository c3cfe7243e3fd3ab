"""Reading training patches from a large prepared case, beside nnU-Net's blosc2 files.

    python benchmarks/reading.py --nnunet-python PATH [--shape 512 512 300] [--patch 128 128 128] [--rounds 3]

A phantom of `sample_data/make_phantoms.py` is prepared by medfuse; the arrays of its store are written
again by nnU-Net, with the chunks and blocks that it chooses for the patch. Both then read image and label of
the same random patches, in processes of their own and in turns. The files lie in the page cache, as they do
in training. The result is a block of Markdown.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Worker, heading, serve, stand_in_for_torchvision, take_turns

CASE = "phantom_00"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nnunet-python", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--patch", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=50, help="read in a turn")
    parser.add_argument("--worker", choices=["medfuse", "nnU-Net"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    with tempfile.TemporaryDirectory() as name:
        compare(given, Path(name))


def compare(given: argparse.Namespace, folder: Path) -> None:
    shape = prepare(given.shape, folder)
    here = Path(__file__).resolve().parent
    paths = [here.parent, here, *stand_in_for_torchvision(given.nnunet_python, folder / "stand_in")]
    theirs = {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    workers = {}
    for program, python, environment in (
        ("medfuse", Path(sys.executable), {}),
        ("nnU-Net", given.nnunet_python, theirs),
    ):
        command = [
            python,
            __file__,
            *sys.argv[1:],
            "--shape",
            *shape,
            "--worker",
            program,
            "--folder",
            folder,
        ]
        workers[program] = Worker([str(word) for word in command], environment)
    answers = take_turns(workers, given.rounds)
    for worker in workers.values():
        worker.close()
    print(heading(rounds=given.rounds, threads=1) + f" of {given.patches} patches")
    print(f"- a case of {list(shape)} voxels, patches of {given.patch}, image in float32 and label\n")
    print("| program | ms a patch | × nnU-Net | MB on disk |\n|---|---|---|---|")
    for program, answer in answers.items():
        seconds = answer["seconds"] / given.patches
        ratio = answers["nnU-Net"]["seconds"] / answer["seconds"]
        print(f"| {program} | {1000 * seconds:.1f} | {ratio:.2f} | {answer['bytes'] / 1e6:.0f} |")


def prepare(shape: Sequence[int], folder: Path) -> tuple[int, ...]:
    """A store with one case, and its arrays; the shape of the prepared case."""
    from medfuse.builtin.datasets.decathlon import Decathlon
    from medfuse.data.fingerprint import hash_files, take_fingerprint
    from medfuse.data.plan import make_plan
    from medfuse.data.prepare import Preprocessor
    from medfuse.data.settings import PreprocessSettings, SampleSettings
    from medfuse.data.store import Store

    script = Path(__file__).parents[1] / "sample_data" / "make_phantoms.py"
    command = [sys.executable, script, "--out", folder / "data", "--cases", 1, "--test-cases", 0]
    command += ["--shape", *shape]
    subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)
    info = Decathlon(root=folder / "data").read()
    fingerprint = take_fingerprint(info.cases, info, tolerance_mm=1e-3, progress=lambda *_: None)
    plan = make_plan(fingerprint, info, PreprocessSettings(), SampleSettings())
    store = Store(folder / "store")
    store.build(info.cases, Preprocessor(plan, 1e-3), hash_files(info.cases), progress=lambda *_: None)
    image, label = store.read_case(info.cases[0].name)
    np.save(folder / "image.npy", image)
    np.save(folder / "label.npy", label[None])
    (folder / "store.pickle").write_bytes(pickle.dumps((store, info.cases[0].name)))
    return label.shape


def work(given: argparse.Namespace) -> None:
    read, size = READERS[given.worker](given)

    def answer(_: str) -> dict[str, Any]:
        starts = list(places(given))
        began = time.perf_counter()
        total = sum(read(start) for start in starts)
        return {"seconds": time.perf_counter() - began, "bytes": size, "total": total}

    serve(answer)


def places(given: argparse.Namespace) -> Iterator[list[int]]:
    """The same corners for everybody, inside the volume."""
    random = np.random.default_rng(0)
    for _ in range(given.patches):
        yield [int(random.integers(0, max(1, n - p + 1))) for n, p in zip(given.shape, given.patch)]


Reader = tuple[Callable[[list[int]], int], int]
"""Reads the patch that begins at a corner and gives its number of voxels; and bytes on disk."""


def medfuse_(given: argparse.Namespace) -> Reader:
    store, name = pickle.loads((given.folder / "store.pickle").read_bytes())

    def read(start: list[int]) -> int:
        image, label = store.read_patch(name, start, given.patch)
        return int(image.size + label.size)

    return read, sum(path.stat().st_size for path in (given.folder / "store").glob("*.b2nd"))


def nnunet_(given: argparse.Namespace) -> Reader:
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder = given.folder / "nnunet"
    folder.mkdir()
    image, label = np.load(given.folder / "image.npy"), np.load(given.folder / "label.npy")
    blocks, chunks = comp_blosc2_params(image.shape, tuple(given.patch), image.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(image.shape, tuple(given.patch), label.itemsize)
    dataset = nnUNetDatasetBlosc2(str(folder), [CASE])
    dataset.save_case(
        image, label, {}, str(folder / CASE), chunks, blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg
    )

    def read(start: list[int]) -> int:
        data, seg, _, _ = dataset.load_case(CASE)
        where = (slice(None), *(slice(a, a + p) for a, p in zip(start, given.patch)))
        return int(data[where].size + seg[where].size)

    return read, sum(path.stat().st_size for path in folder.glob("*.b2nd"))


READERS: dict[str, Callable[[argparse.Namespace], Reader]] = {"medfuse": medfuse_, "nnU-Net": nnunet_}


if __name__ == "__main__":
    main()
