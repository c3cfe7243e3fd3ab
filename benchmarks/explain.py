"""What `medfuse infer --explain` foretells of three folders, held against what they then really take.

    python benchmarks/explain.py --run runs/liver [--workers 2] [--cases 16] [--seed 1]

The folders hold phantoms: of three sizes, of many sizes, and small ones with a few large ones. Each is
foretold first and then done, by processes of their own, as somebody at a keyboard would. The result is a
table in Markdown. On two cores it takes about five minutes; where others work, too, it means nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HOME = Path(__file__).parents[1]
Shape = tuple[int, int, int]


def shapes(kind: str, cases: int, chance: random.Random) -> list[Shape]:
    """Voxels of the phantoms of a folder."""
    if kind == "three sizes":
        return [((96, 80, 64), (128, 112, 80), (160, 128, 96))[n % 3] for n in range(cases)]
    if kind == "all sizes":
        return [_any_shape(chance) for _ in range(cases)]
    return [(224, 192, 128) if n % 8 == 0 else (80, 72, 64) for n in range(2 * cases)]


def _any_shape(chance: random.Random) -> Shape:
    x, y, z = (chance.randrange(64, 180, 4) for _ in range(3))
    return x, y, z


def write_folder(folder: Path, sizes: Sequence[Shape], seed: int) -> None:
    """A phantom of each size, as folder/NAME.nii.gz; of each size one is made, and the others are links."""
    made: dict[Shape, Path] = {}
    folder.mkdir(parents=True)
    for number, shape in enumerate(sizes):
        if shape not in made:
            out = folder.parent / f"{folder.name}-{len(made)}"
            command = [sys.executable, HOME / "sample_data/make_phantoms.py", "--out", out, "--cases", 1]
            command += ["--test-cases", 0, "--seed", seed, "--shape", *shape]
            subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
            made[shape] = next((out / "imagesTr").glob("*.nii.gz"))
        (folder / f"case_{number:03d}.nii.gz").symlink_to(made[shape])


def medfuse(*words: object) -> tuple[float, str]:
    began = time.monotonic()
    command = [sys.executable, "-m", "medfuse", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.monotonic() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    how = parser.parse_args()
    print(f"| folder | cases | foretold (5 to 95 %) | real, {how.workers} workers | off | to foretell it |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for kind in ("three sizes", "all sizes", "a few large ones"):
            sizes = shapes(kind, how.cases, random.Random(how.seed))
            images = Path(home) / kind.replace(" ", "_")
            write_folder(images, sizes, how.seed)
            given = (how.run, "-i", images, "--workers", how.workers, "-q")
            took, said = medfuse("infer", *given, "--explain", "--price", "0.60/h", "--json")
            told = json.loads(said)["forecast"]
            real, _ = medfuse("infer", *given, "-o", Path(home) / "out" / images.name)
            low, high = told["seconds_range"]
            print(
                f"| {kind} | {len(sizes)} | {told['seconds']:.1f} s ({low:.1f} to {high:.1f}) "
                f"| {real:.1f} s | "
                f"{100 * (told['seconds'] / real - 1):+.0f} % | {took:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
