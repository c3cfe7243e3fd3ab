"""Training beside nnU-Net's, on the same data and the same cores.

    python benchmarks/train.py steps DATA --nnunet-python PATH [--rounds 3] [--each 5] [--device cuda]
    python benchmarks/train.py score DATA --nnunet-python PATH [--minutes 10] [--pipeline FILE] [--only NAME]
                                     [--configuration 3d_fullres] [--json]

DATA is a task of the Medical Segmentation Decathlon with a splits_final.json; PATH is the Python of an
environment that has nnunetv2. nnU-Net plans and prepares the data first, into --work, where a later call
finds it again.

`steps` times training steps of the network, patch and batch that nnU-Net plans: each program trains in a
process of its own on one batch of noise and they take turns, so that data is no part of it; medfuse does so
with `deterministic: true` as well. `score` trains
both for the same minutes on fold 0, one after the other, and scores the held-out cases: nnU-Net its own
training with as many steps as fit, spread over 10 epochs so that its learning rate falls to 0, and medfuse
`--pipeline`, or else what `medfuse init DATA --minutes N` writes. Preparing data, finding out how many steps
fit, and the final predictions are no part of the minutes. The results are blocks of Markdown, or with --json
one line for each program.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from reached import reached
from side_by_side import Worker, heading, serve, stand_in_for_torchvision, take_turns

DATASET, EPOCHS = "Dataset004_Task", 10
WARM = 12  # steps while nnU-Net's workers still fill their queue, on the same cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["steps", "score"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--nnunet-python", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/nnunet"), help="where nnU-Net keeps its files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=5, help="steps a turn")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--only", choices=list(PROGRAMS), help="one program alone")
    parser.add_argument("--configuration", default="3d_fullres", help="of nnU-Net: 3d_fullres or 2d")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of `steps`")
    parser.add_argument("--no-compile", action="store_true", help="of `steps`: both programs as they are")
    parser.add_argument("--json", action="store_true", help="print rows of `score` as JSON")
    parser.add_argument("--worker", choices=list(STEPPERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.work, given.data = given.work.resolve(), given.data.resolve()
    if given.worker:
        STEPPERS[given.worker](given)
        return
    prepare(given)
    steps(given) if given.what == "steps" else score(given)


def steps(given: argparse.Namespace) -> None:
    import torch

    workers = {}
    for program in [name for name in STEPPERS if not given.only or name.startswith(given.only)]:
        python = given.nnunet_python if program == "nnU-Net" else Path(sys.executable)
        environment = nnunet_environment(given) if program == "nnU-Net" else {}
        command = [python, __file__, *sys.argv[1:], "--worker", program]
        workers[program] = Worker([str(word) for word in command], environment)
    answers = take_turns(workers, given.rounds)
    for worker in workers.values():
        worker.close()
    where = {"threads": torch.get_num_threads(), "device": given.device}
    print(heading(rounds=given.rounds, **where) + f" of {given.each} steps")
    peer = answers.get("nnU-Net")
    if peer:
        print(f"- {peer['network']}")
    print()
    print("| program | seconds a step | steps a second | × nnU-Net | runs in |\n|---|---|---|---|---|")
    for program, answer in answers.items():
        seconds, times = answer["seconds"], f"{peer['seconds'] / answer['seconds']:.2f}" if peer else "–"
        print(f"| {program} | {seconds:.2f} | {1 / seconds:.2f} | {times} | {answer['how']} |")


def score(given: argparse.Namespace) -> None:
    import torch

    rows = []
    for program in [given.only] if given.only else PROGRAMS:
        if program == "nnU-Net":
            command = [given.nnunet_python, __file__, *sys.argv[1:], "--worker", program]
            environment = {**os.environ, **nnunet_environment(given)}
            said = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            rows.append(json.loads(said.strip().splitlines()[-1]))
        else:
            rows.append(medfuse_score(given))
        print(json.dumps(rows[-1]), file=sys.stdout if given.json else sys.stderr, flush=True)
    if given.json:
        return
    print(heading(rounds=1, threads=torch.get_num_threads()) + f", fold 0, {given.minutes:g} minutes each\n")
    print("| program | mean foreground Dice | per label | steps | minutes of training | cases |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        labels = ", ".join(f"{value:.4f}" for value in row["labels"])
        print(
            f"| {row['program']} | {row['dice']:.4f} | {labels} | {row['steps']} | {row['minutes']:.1f} "
            f"| {row['cases']} |"
        )


def prepare(given: argparse.Namespace) -> None:
    """nnU-Net's own planning and preprocessing, once."""
    raw, prepared = given.work / "raw" / DATASET, given.work / "prepared" / DATASET
    if (prepared / "splits_final.json").exists():
        return
    task = json.loads((given.data / "dataset.json").read_text())
    names = sorted(p.name.removesuffix(".nii.gz") for p in (given.data / "labelsTr").glob("[!.]*.nii.gz"))
    for name in ("imagesTr", "labelsTr"):
        shutil.rmtree(raw / name, ignore_errors=True)
        (raw / name).mkdir(parents=True)
    for name in names:
        os.symlink(given.data / "imagesTr" / f"{name}.nii.gz", raw / "imagesTr" / f"{name}_0000.nii.gz")
        os.symlink(given.data / "labelsTr" / f"{name}.nii.gz", raw / "labelsTr" / f"{name}.nii.gz")
    facts = {
        "channel_names": task["modality"],
        "labels": {label: int(value) for value, label in task["labels"].items()},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(facts))
    cores = str(os.cpu_count())
    command = [given.nnunet_python.with_name("nnUNetv2_plan_and_preprocess"), "-d", "4"]
    command += ["-c", given.configuration, "-np", cores, "-npfp", cores]
    environment = {**os.environ, **nnunet_environment(given)}
    subprocess.run([str(word) for word in command], env=environment, stdout=sys.stderr, check=True)
    shutil.copy(given.data / "splits_final.json", prepared / "splits_final.json")


def nnunet_environment(given: argparse.Namespace) -> dict[str, str]:
    """Where nnU-Net finds its folders, this project and, where it has none, something called torchvision."""
    here = Path(__file__).resolve().parent
    paths = [here.parent, here, *stand_in_for_torchvision(given.nnunet_python, given.work / "stand_in")]
    folders = {"raw": "raw", "preprocessed": "prepared", "results": "results"}
    return {
        **{f"nnUNet_{name}": str(given.work / folder) for name, folder in folders.items()},
        "nnUNet_n_proc_DA": str(os.cpu_count()),
        **({"nnUNet_compile": "f"} if given.no_compile else {}),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }


# ---- nnU-Net, under its own Python


def nnunet_worker(given: argparse.Namespace) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = given.work / "prepared" / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((folder / "dataset.json").read_text())
    device = torch.device(given.device if given.what == "steps" else "cpu")
    trainer = nnUNetTrainer(plans, given.configuration, 0, dataset, device=device)
    speech, sys.stdout = sys.stdout, sys.stderr  # its messages are many
    if given.what == "steps":
        trainer.initialize()
        nnunet_steps(trainer, given.each, speech)
    else:
        print(json.dumps(nnunet_score(trainer, given.configuration, given.minutes)), file=speech)


def nnunet_steps(trainer: Any, each: int, speech: Any) -> None:
    import torch

    plan = trainer.configuration_manager
    generator = torch.Generator().manual_seed(0)
    channels = len(trainer.dataset_json["channel_names"])
    data = torch.randn(plan.batch_size, channels, *plan.patch_size, generator=generator)
    classes = trainer.label_manager.num_segmentation_heads
    targets = []
    for scale in trainer._get_deep_supervision_scales() or [[1, 1, 1]]:
        size = [round(n * s) for n, s in zip(plan.patch_size, scale)]
        targets.append(torch.randint(classes, (plan.batch_size, 1, *size), generator=generator).float())
    trainer.network.train()
    features = plan.network_arch_init_kwargs["features_per_stage"]

    def answer(_: str) -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(each):
            trainer.train_step({"data": data, "target": targets})
        return {
            "seconds": (time.perf_counter() - began) / each,
            "how": "torch fp32" if trainer.device.type == "cpu" else "torch fp16 with a scaler",
            "network": f"nnU-Net's plan: batch {plan.batch_size} of {list(plan.patch_size)}, "
            f"channels {list(features)}",
        }

    sys.stdout = speech
    serve(answer)


def nnunet_score(trainer: Any, configuration: str, minutes: float) -> dict[str, Any]:
    """Its own training, of as many steps as fit, and its own validation."""
    trainer.num_val_iterations_per_epoch = 1
    trainer.on_train_start()
    trainer.network.train()
    pace = []
    for _ in range(WARM + 8):
        began = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        pace.append(time.perf_counter() - began)
    plans = {**trainer.plans_manager.plans, "continue_training": False}  # which a trainer takes out
    fresh = type(trainer)(plans, configuration, 0, trainer.dataset_json, device=trainer.device)
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()
    fresh.num_epochs, fresh.num_val_iterations_per_epoch = EPOCHS, 1
    fresh.num_iterations_per_epoch = max(1, round(60 * minutes / median(pace[WARM:]) / EPOCHS))
    began = time.perf_counter()
    fresh.run_training()
    seconds = time.perf_counter() - began
    fresh.perform_actual_validation(False)
    found = json.loads((Path(fresh.output_folder) / "validation" / "summary.json").read_text())
    return {
        "program": "nnU-Net",
        "dice": found["foreground_mean"]["Dice"],
        "labels": [label["Dice"] for label in found["mean"].values()],
        "steps": EPOCHS * fresh.num_iterations_per_epoch,
        "minutes": seconds / 60,
        "cases": len(found["metric_per_case"]),
    }


# ---- medfuse


def medfuse_worker(given: argparse.Namespace, *, deterministic: bool = False) -> None:
    """Its real training loop, which draws its batches from here and so says when a step is done."""
    import tempfile

    import torch

    from medfuse import registry
    from medfuse.api import Loss
    from medfuse.core.device import settle
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.core.reporter import Reporter
    from medfuse.imports.nnunet import read_plan
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.train.loop import fit
    from medfuse.train.objective import Objective
    from medfuse.train.settings import TrainSettings
    from medfuse.train.targets import supervised
    from medfuse.train.together import make_fabric

    folder = Path(tempfile.mkdtemp())
    for source, name in (("nnUNetPlans.json", "plans.json"), ("dataset.json", "dataset.json")):
        shutil.copy(given.work / "prepared" / DATASET / source, folder / name)
    imported = read_plan(folder, given.configuration)
    plan, aux = imported.plan, imported.model.aux
    classes = len(plan.classes)
    settings = TrainSettings(
        steps=10**6,
        steps_per_epoch=10**6,
        compile=not given.no_compile,
        precision="bf16",
        device=given.device,
        deterministic=deterministic,
    )
    device = torch.device(given.device)
    settle(device, deterministic=deterministic)
    torch.manual_seed(0)
    graph = plan_graph(imported.model, plan.image, classes)
    model = build_segmenter(graph)
    model.to(device)
    lay_out(model, 5, channels_last(5))
    shape = (plan.batch_size, len(plan.channels), *plan.patch_size)
    image = torch.randn(shape)
    batch = {"image": image, "label": torch.randint(classes, (plan.batch_size, 1, *plan.patch_size))}
    opened = 0

    def batches(_: int) -> Iterator[Mapping[str, Any]]:
        nonlocal opened
        opened += 1
        if opened == 1 and settings.compile:  # the loop asks for an example to compile with
            yield batch
            return
        for _ in sys.stdin:
            began = time.perf_counter()
            for _ in range(given.each):
                yield batch
            seconds = (time.perf_counter() - began) / given.each
            print(
                json.dumps({"seconds": seconds, "how": "bf16" if given.no_compile else "bf16, compiled"}),
                flush=True,
            )
        os._exit(0)

    loss = supervised(registry.get(Loss.group, "dice_ce")(), classes)
    assert aux is not None
    fit(
        model,
        fabric=make_fabric(device, "bf16-mixed"),
        settings=settings,
        objective=Objective(loss, graph.aux, aux.schedule),
        batches=batches,
        validate=lambda _: {},
        save=lambda *_: None,
        folder=folder,
        reporter=Reporter(quiet=True),
    )


def medfuse_score(given: argparse.Namespace) -> dict[str, Any]:
    """A run in a process of its own, as a user starts it."""
    medfuse = [sys.executable, "-m", "medfuse"]
    runs = given.work / "medfuse"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    minutes = f"{given.minutes:g}"
    if given.pipeline:
        file, overrides = (
            given.pipeline,
            ["--set", f"data.root={given.data}", "--set", f"train.minutes={minutes}"],
        )
    else:
        file, overrides = runs / "planned.yaml", []
        planned = [*medfuse, "init", given.data, "--minutes", minutes, "--output", file]
        subprocess.run([str(word) for word in planned], stdout=sys.stderr, check=True)
    command = [*medfuse, "run", file, "--runs", runs, "--set", "split.fold=0", *overrides]
    subprocess.run([str(word) for word in command], stdout=sys.stderr, check=True)
    (folder,) = (path.parent for path in runs.glob("*/summary.json"))
    return {"program": "medfuse", **reached(folder)}


PROGRAMS = {"nnU-Net": nnunet_worker, "medfuse": medfuse_worker}
STEPPERS: dict[str, Callable[[argparse.Namespace], None]] = {
    **PROGRAMS,
    "medfuse, deterministic": partial(medfuse_worker, deterministic=True),
}


if __name__ == "__main__":
    main()
