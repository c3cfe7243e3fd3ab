"""`--max-memory` is a promise: resident memory grows by no more, and the label map is the same."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

WORK = """
import json, sys
from pathlib import Path
import torch
from medfuse.api import Case
from medfuse.core.device import settle
from medfuse.core.memory import memory_growth
from medfuse.core.reporter import Reporter
from medfuse.data.plan import DataPlan, Normalization
from medfuse.infer import folder, plan, export, sliding  # what is imported is not measured
import medfuse.data.prepare, nibabel, SimpleITK, isal.igzip, zarr
from medfuse.infer.settings import InferSettings
from medfuse.trained.trained import Trained

CLASSES, QUIET = 24, Reporter(quiet=True)
steps = torch.linspace(-1, 1, CLASSES).view(1, -1, 1, 1, 1)
network = lambda windows: -(windows - 2 * steps).square()
labels = {f"organ{n}" if n else "background": n for n in range(CLASSES)}
normalization = (Normalization("ct", -100, 100, 0, 50),)
plan = DataPlan((1.0, 1.0, 1.0), (48, 48, 48), 2, ("CT",), normalization, labels, {})
settle(torch.device("cpu"))
trained = Trained((network,), ("x",), None, plan, InferSettings(batch_size=4), torch.device("cpu"))
cases = [Case(path.name[:-7], (path,)) for path in sorted(Path(sys.argv[1]).glob("*.nii.gz"))]
limit = int(sys.argv[3]) or None
more = sys.argv[4] or None
plans = trained.plans(cases, probabilities=bool(more)).plans if limit is None else []
with memory_growth() as growth:
    outcome = trained.infer(cases, Path(sys.argv[2]), QUIET, max_memory=limit, probabilities=more)
    grown = growth()
needs = [plan.need for plan in plans]
print(json.dumps({"grown": grown, "needs": needs, "failed": dict(outcome.failed)}))
"""


def work(scans: Path, output: Path, limit: int = 0, probabilities: str = "") -> dict:
    command = [sys.executable, "-c", WORK, str(scans), str(output), str(limit), probabilities]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("probabilities", ["", "nifti", "zarr"])
def test_memory_stays_within_its_limit(tmp_path: Path, probabilities: str) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    x, y, z = np.ogrid[:128, :128, :200]
    voxels = (200 * np.sin(x / 15) * np.cos(y / 17) * np.cos(z / 19)).astype(np.int16)
    for name in "ab":
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.3, 1.3, 1.2, 1])), scans / f"{name}.nii.gz")
    free = work(scans, tmp_path / "free", 0, probabilities)
    assert free["failed"] == {}
    limit = 5 * max(free["needs"]) // 6
    kept = work(scans, tmp_path / "kept", limit, probabilities)
    assert kept["failed"] == {}
    assert kept["grown"] <= limit
    one, other = (np.asarray(nibabel.load(tmp_path / run / "a.nii.gz").dataobj) for run in ("free", "kept"))
    assert (one != other).mean() < 1e-3  # sums in float16 may round a near-tie the other way
