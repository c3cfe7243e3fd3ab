"""What a request to `medfuse serve` on loopback takes above the same scan in `Predictor`.

    .venv/bin/python benchmarks/service.py RUN IMAGE [--rounds 20]

All label the same file in turns, in two processes on one machine: `Predictor` is given the voxels and the
affine of a file that is read for it, `Predictor.files` the file, as `medfuse infer` is; the service gets it
in a form, and answers with the label map.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import nibabel
import numpy as np

from medfuse import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    predictor = Predictor.load(given.run)
    process, url = started(given.run)
    try:
        with httpx.Client(base_url=url, timeout=120) as client:
            compare(predictor, client, given.image, given.rounds)
    finally:
        process.terminate()
        process.wait(30)


def started(run: Path) -> tuple[subprocess.Popen[str], str]:
    words = [sys.executable, "-m", "medfuse", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"at (http://\S+);", line):
            return process, found[1]
    raise SystemExit("the service did not start")


def compare(predictor: Predictor, client: httpx.Client, path: Path, rounds: int) -> None:
    seconds: dict[str, list[float]] = {"Predictor": [], "Predictor.files": [], "service": []}
    for _ in range(rounds + 2):  # the first two choose engines and fill caches
        began = time.perf_counter()
        image = nibabel.load(path)
        labels = predictor(np.asarray(image.dataobj), affine=image.affine)
        seconds["Predictor"].append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            predictor.files(path, folder)
            seconds["Predictor.files"].append(time.perf_counter() - began)
        began = time.perf_counter()
        answer = client.post(f"/infer/{model(client)}?output=image", files=form(path))
        seconds["service"].append(time.perf_counter() - began)
        answer.raise_for_status()
        assert np.array_equal(labels, read(answer.content)), "the service labels otherwise"
    print(f"{path.name}, {'x'.join(map(str, labels.shape))}, {rounds} rounds, labels equal:")
    for name, all_of_them in seconds.items():
        some = sorted(1000 * one for one in all_of_them[2:])
        print(f"  {name:16} least {some[0]:5.0f} ms, median {statistics.median(some):5.0f} ms")


def model(client: httpx.Client) -> str:
    return next(iter(client.get("/info/").json()["models"]))


def form(path: Path) -> dict[str, tuple[str, bytes]]:
    return {"file": (path.name, path.read_bytes())}


def read(content: bytes) -> np.ndarray:
    import gzip

    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


if __name__ == "__main__":
    main()
