"""Checking and preparing a dataset, beside what its files alone cost: to decompress, hash, pack and write.

    python benchmarks/prepare.py --hippocampus FOLDER [--scans 20] [--shape 512 512 200] [--against CHECKOUT]

Two sets: the first 200 cases of a Decathlon folder of small scans, and large CTs that are made for it (int16,
.nii.gz, with noise) and are gone afterwards. Of each: the bare codec, which is every file decompressed on
all cores, and the same with its SHA-256; `fingerprint` (take_fingerprint), which checks and measures each
case; `prepare` (Store.build) onto the plan's grid, with the bare packing and writing of what it makes beside
it. Where another CHECKOUT of medfuse is named, both take turns, in processes of their own. CPU is user and
system of all cores. The result is a block of Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Worker, serve

_HERE = Path(__file__).resolve().parents[1]
_SMALL = 200
_NAMES = {
    "decompress": "bare: read and decompress",
    "hash": "bare: the same, and SHA-256",
    "fingerprint": "`fingerprint`",
    "again": "`fingerprint`, once more",
    "pack": "bare: pack what is prepared, and write it",
    "prepare": "`prepare`",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hippocampus", type=Path, help="folder of a Decathlon dataset of small scans")
    parser.add_argument("--scans", type=int, default=20, help="large CTs, which are made for it; 0 for none")
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 200])
    parser.add_argument("--against", type=Path, help="another checkout of medfuse")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(lambda request: taken(**json.loads(request)))
        return
    from medfuse.core.device import processor

    said = shlex.join(sys.argv[1:])
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}: `python benchmarks/prepare.py {said}`\n")
    with tempfile.TemporaryDirectory() as made:
        sets: dict[str, tuple[Path, int]] = {}
        if given.hippocampus:
            sets[f"{_SMALL} small scans"] = (given.hippocampus.resolve(), _SMALL)
        if given.scans:
            make_scans(Path(made), given.scans, given.shape)
            sets[f"{given.scans} CTs of {'×'.join(map(str, given.shape))}"] = (Path(made), given.scans)
        places = {"this": _HERE, **({"the other": given.against.resolve()} if given.against else {})}
        for name, (root, cases) in sets.items():
            print(f"{name}:\n", flush=True)
            for line in rows(measured(places, root, cases, given.rounds)):
                print(line, flush=True)
            print()


def measured(
    places: Mapping[str, Path], root: Path, cases: int, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What every step took, of each checkout and round; a process of its own for each."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
    request = json.dumps({"root": str(root), "cases": cases})
    for number in range(rounds):
        for name, place in [*places.items()][:: -1 if number % 2 else 1]:
            path = os.pathsep.join(map(str, (place, Path(__file__).parent)))
            with tempfile.TemporaryDirectory() as cache:
                environment = {"PYTHONPATH": path, "MEDFUSE_CACHE": cache}
                worker = Worker([sys.executable, __file__, "--worker"], environment)
                found[name].append(worker.ask(request))
                worker.close()
    return found


def rows(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| step | medfuse | seconds | CPU | MB/s of voxels | × the bare codec |"
    yield "|---|---|---|---|---|---|"
    for step, what in _NAMES.items():
        for name, rounds in found.items():
            best = min(rounds, key=lambda one: one[step]["seconds"])
            bare = best["decompress" if step in ("decompress", "hash", "fingerprint", "again") else "both"][
                "seconds"
            ]
            seconds, rate = best[step]["seconds"], best["bytes"] / 1e6 / best[step]["seconds"]
            yield (
                f"| {what} | {name} | {seconds:.1f} | {best[step]['cpu']:.1f} | {rate:.0f} "
                f"| {seconds / bare:.2f} |"
            )


# ---- one process, which measures


def taken(root: str, cases: int) -> dict[str, Any]:
    """Seconds and CPU of each step on the first cases of a dataset."""
    from medfuse import Dataset, registry
    from medfuse.data.fingerprint import take_fingerprint
    from medfuse.data.plan import make_plan
    from medfuse.data.prepare import Preprocessor
    from medfuse.data.settings import PreprocessSettings, SampleSettings
    from medfuse.data.store import Store

    dataset = registry.get(Dataset.group, "decathlon").model_validate({"root": root})
    assert isinstance(dataset, Dataset)
    info = dataset.read()
    some = [case for case in info.cases if case.label][:cases]
    files = [path for case in some for path in case.files]
    with tempfile.TemporaryDirectory() as made:
        found: dict[str, Any] = {"bytes": 0}
        found["decompress"], sizes = timed(lambda: on_all_cores(decompressed, files))
        found["bytes"] = sum(sizes)
        found["hash"], _ = timed(lambda: on_all_cores(hashed, files))
        how = PreprocessSettings()
        for step in ("fingerprint", "again"):
            found[step], seen = timed(
                lambda: take_fingerprint(some, info, tolerance_mm=how.tolerance_mm, progress=lambda *_: None)
            )
        hashes = {file: digest for case in seen.cases for file, digest in case.files.items()}
        plan = make_plan(seen, info, how, SampleSettings())
        store = Store(Path(made) / "prepared")
        found["prepare"], _ = timed(
            lambda: store.build(some, Preprocessor(plan, how.tolerance_mm), hashes, progress=lambda *_: None)
        )
        found["stored"] = sum(path.stat().st_size for path in store.folder.iterdir())
        arrays = sorted(store.folder.glob("*.b2nd"))
        bare = Path(made) / "bare"
        bare.mkdir()
        parts = [packed(path, bare) for path in arrays]  # each alone, as they do not fit into memory together
        found["pack"] = {
            "seconds": sum(one["seconds"] for one in parts) / (os.cpu_count() or 1),
            "cpu": sum(one["cpu"] for one in parts),
        }
        found["both"] = {key: found["decompress"][key] + found["pack"][key] for key in ("seconds", "cpu")}
        found["seconds"] = found["prepare"]["seconds"]
        return found


def timed(act: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    before, began = _cpu(), time.perf_counter()
    made = act()
    return {"seconds": time.perf_counter() - began, "cpu": _cpu() - before}, made


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def on_all_cores(work: Callable[[Path], int], files: Sequence[Path]) -> list[int]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, files))


def decompressed(path: Path) -> int:
    """How many bytes a file holds."""
    from isal import igzip

    count, room = 0, bytearray(2**20)
    with igzip.open(path, "rb") as file:
        while read := file.readinto(room):
            count += read
    return count


def hashed(path: Path) -> int:
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    return decompressed(path)


def packed(path: Path, folder: Path) -> dict[str, float]:
    """An array of the store as medfuse packs it, once, by one thread, and written."""
    import blosc2

    stored = blosc2.open(str(path), mode="r")
    array = stored[:]
    how = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": stored.cparams.filters, "nthreads": 1}

    def pack() -> None:
        made = blosc2.asarray(array, chunks=stored.chunks, blocks=stored.blocks, cparams=how)
        (folder / path.name).write_bytes(made.to_cframe())

    found, _ = timed(pack)
    (folder / path.name).unlink()
    return found


# ---- large scans


def make_scans(folder: Path, count: int, shape: Sequence[int]) -> None:
    """CTs of a body with an organ, in noise, of 0.8 × 0.8 × 1.5 mm, each with its label map."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    random = np.random.default_rng(1)
    noise = random.normal(0, 15, shape).astype(np.float32)
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    training = []
    for number in range(count):
        x, y, z = (axis + shift for axis, shift in zip(grid, random.uniform(-0.1, 0.1, 3)))
        body = (x / 0.8) ** 2 + (y / 0.6) ** 2 + 0 * z < 1
        organ = ((x - 0.3) / 0.3) ** 2 + (y / 0.3) ** 2 + (z / 0.4) ** 2 < 1
        image = np.where(body, np.where(organ, 60, 40) + np.roll(noise, number, 0), -1000)
        name = f"scan_{number:02d}.nii.gz"
        write(folder / "imagesTr" / name, image.astype(np.int16))
        write(folder / "labelsTr" / name, organ.astype(np.uint8))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    said = {
        "channel_names": {"0": "CT"},
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ"},
    }
    (folder / "dataset.json").write_text(json.dumps({**said, "training": training, "test": []}))


def write(path: Path, voxels: np.ndarray[Any, Any]) -> None:
    import nibabel
    from isal import isal_zlib

    image = nibabel.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.5, 1]))
    path.write_bytes(isal_zlib.compress(image.to_bytes(), level=2, wbits=31))


if __name__ == "__main__":
    main()
