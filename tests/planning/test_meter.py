"""Windows and scans, measured: what runs them, and that a scan is written as its own labels say."""

from math import prod

import numpy as np
import pytest
import torch
from phantoms import SHAPE, write_dataset

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.data.detect import detect
from medfuse.data.fingerprint import take_fingerprint
from medfuse.data.plan import DataPlan, make_plan
from medfuse.data.settings import PreprocessSettings, SampleSettings
from medfuse.planning import meter
from medfuse.planning.bench import Bench

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    info = detect(write_dataset(tmp_path_factory.mktemp("data") / "cubes")).info
    labelled = [case for case in info.cases if case.label]
    facts = take_fingerprint(labelled, info, tolerance_mm=0.1, progress=lambda done, total: None)
    plan = make_plan(facts, info, PreprocessSettings(), SampleSettings())
    made = meter.Meter(info, facts, CPU)
    torch_alone = registry.get(Runtime.group, "torch").model_validate({"precision": "fp32"})
    made._runtimes = dict.fromkeys((2, 3), torch_alone)
    return made, plan


@pytest.mark.parametrize(("dimensions", "patch"), [("3", (16, 16, 16)), ("2", (16, 16)), ("2.5", (16, 16))])
def test_a_window_of_every_kind_of_network_takes_some_time(known, dimensions, patch):
    made, plan = known
    assert made.window(Bench(plan, dimensions, CPU, Reporter(quiet=True)), 8, patch) > 0


@pytest.mark.parametrize(("dimensions", "patch"), [("3", (16, 16, 16)), ("2", (16, 16)), ("2.5", (16, 16))])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 2.0), (3.0, 3.0, 2.0)])
def test_a_scan_is_read_and_written_without_a_network(known, dimensions, patch, spacing):
    made, plan = known
    bench = Bench(plan, dimensions, CPU, Reporter(quiet=True)).on(spacing, "")
    around = made.around(bench, patch, 0.5)
    assert around.voxels == prod(SHAPE)
    assert around.seconds > 0


def plan_of(labels, **more):
    return DataPlan((1.0, 1.0, 1.0), (8, 8, 8), 2, ("MR",), (), labels, {}, **more)


def test_logits_say_what_a_label_map_says():
    numbers = np.random.default_rng(0).integers(0, 3, (2, 1, 4, 4, 4))
    windows = torch.tensor(numbers, dtype=torch.float32)
    logits = meter._answer(plan_of({"background": 0, "a": 1, "b": 5}), windows)
    assert logits.shape == (2, 3, 4, 4, 4)
    assert (logits.argmax(1).numpy() == numbers[:, 0]).all()


def test_logits_of_regions_say_which_of_them_a_voxel_is_in():
    windows = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 3, 1)
    plan = plan_of({"background": 0, "whole": (1, 2), "core": 2}, region_order=(1, 2))
    inside = meter._answer(plan, windows) > 0
    assert inside[0, :, :, 0].tolist() == [[False, True, True], [False, False, True]]


def test_voxels_that_nobody_annotated_are_background():
    windows = torch.full((1, 1, 2, 2), 2.0)
    assert (meter._answer(plan_of({"background": 0, "a": 1}, ignore=9), windows).argmax(1) == 0).all()


@pytest.mark.parametrize("fault", [None, MedfuseError("not installed"), RuntimeError("no such kernel")])
def test_the_fastest_runtime_is_taken_and_one_that_fails_is_not(monkeypatch, fault):
    torch_alone = registry.get(Runtime.group, "torch")
    options = [torch_alone.model_validate({"precision": precision}) for precision in ("fp32", "bf16")]
    monkeypatch.setattr("medfuse.model.engines.options_of", lambda *_: options)

    def seconds(runtime, network, window, turns):
        if fault and runtime.precision == "bf16":
            raise fault
        return {"fp32": 2.0, "bf16": 1.0}[runtime.precision]

    monkeypatch.setattr(meter, "_seconds", seconds)
    chosen = meter._fastest(torch.nn.Identity(), torch.zeros(1))
    assert chosen.precision == ("fp32" if fault else "bf16")
