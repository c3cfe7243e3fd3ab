"""A model that nnU-Net trained, run by nnU-Net and, after `medfuse import-nnunet`, by medfuse.

    python benchmarks/checkpoint.py TRAINED SCAN... --nnunet-python PATH

TRAINED is the folder nnUNetTrainer__… with plans.json, dataset.json and fold_0; each SCAN is a volume of one
channel. Compared in fp32 are the logits of one window of noise, and the label maps of the scans, with
overlapping windows and without mirroring. PATH is the Python of an environment that has nnunetv2. The result
is a block of Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import heading, stand_in_for_torchvision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--nnunet-python", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        nnunet(given)
        return
    with tempfile.TemporaryDirectory() as name:
        compare(given, Path(name))


def compare(given: argparse.Namespace, folder: Path) -> None:
    import torch

    from medfuse.core.reporter import Reporter
    from medfuse.imports.nnunet import read_plan
    from medfuse.trained.loading import load_trained
    from medfuse.trained.predictor import Predictor
    from medfuse.verbs.import_nnunet import import_nnunet
    from medfuse.volumes.read import read_volume

    here = Path(__file__).resolve().parent
    paths = [here.parent, here, *stand_in_for_torchvision(given.nnunet_python, folder / "stand_in")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [given.nnunet_python, __file__, *sys.argv[1:], "--folder", folder]
    subprocess.run([str(word) for word in command], env=environment, stdout=sys.stderr, check=True)

    import_nnunet(given.trained, folder / "run", reporter=Reporter(quiet=True))
    fp32 = ["runtime.use=torch", "runtime.precision=fp32", "mirror=[]"]
    weights = folder / "run" / "weights_last.safetensors"
    trained = load_trained([weights], device="cpu", overrides=fp32)
    network = trained.networks[0]
    window, theirs = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("window", "logits"))
    configuration = json.loads((folder / "facts.json").read_text())["configuration"]
    axes = read_plan(given.trained, configuration).axes
    turn = (0, 1, *(2 + axis for axis in axes))
    with torch.inference_mode():
        ours = network(window.permute(turn))
    off = float((ours - theirs.permute(turn)).abs().max())
    print(heading(rounds=1, threads=torch.get_num_threads()) + "\n")
    print(
        f"One window of noise: logits up to {float(theirs.abs().max()):.3g}, at most {off:.2g} apart.\n\n"
        "| scan | voxels | other label |\n|---|---|---|"
    )
    Predictor(trained).files(given.scans, folder / "ours")
    for scan in given.scans:
        mine, other = (read_volume(folder / by / scan.name).array for by in ("ours", "theirs"))
        print(f"| {scan.name} | {mine.size:,} | {int((mine != other).sum()):,} |")


def nnunet(given: argparse.Namespace) -> None:
    """Under nnU-Net's own Python: a window of noise, its logits, and label maps of the scans."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor: Any = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(given.trained), (0,), "checkpoint_final.pth")
    network, plan = predictor.network.eval(), predictor.configuration_manager
    network.load_state_dict(predictor.list_of_parameters[0])
    generator = torch.Generator().manual_seed(0)
    window = torch.randn(1, 1, *plan.patch_size, generator=generator)
    with torch.inference_mode():
        logits = network(window)
    np.save(given.folder / "window.npy", window.numpy())
    np.save(given.folder / "logits.npy", logits.numpy())
    name = given.trained.name.rpartition("__")[2]
    (given.folder / "facts.json").write_text(json.dumps({"configuration": name}))
    made = [str(given.folder / "theirs" / scan.name.removesuffix(".nii.gz")) for scan in given.scans]
    (given.folder / "theirs").mkdir()
    predictor.predict_from_files_sequential([[str(scan)] for scan in given.scans], made)


if __name__ == "__main__":
    main()
