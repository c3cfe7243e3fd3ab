"""Inference of planned networks, measured here: a window in its runtime, and a scan without its windows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.errors import MedfuseError
from medfuse.planning.scans import Around

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from medfuse.api import DatasetInfo, Runtime
    from medfuse.core.prepared import Prepared
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.planning.bench import Bench

TURNS = 5
"""Windows whose median counts, after those by which the runtime is found."""
LONG = 1.5
"""Seconds after which no further turn is taken."""


class Meter:
    """Measures on one device with cases of one dataset."""

    def __init__(self, info: DatasetInfo, fingerprint: Fingerprint, device: torch.device) -> None:
        self._case, self._voxels = _usual_case(info, fingerprint)
        self._device = device
        self._runtimes: dict[int, Runtime] = {}

    def window(self, bench: Bench, width: int, patch_size: Sequence[int]) -> float:
        """Seconds of the network in one window; what runs the first one fastest is taken for all.

        What is done with its logits is around the windows.
        """
        import torch

        image = bench.image(patch_size)
        network = bench.network(width, patch_size).to(self._device).eval()
        window = torch.randn(1, image.channels, *image.patch_size, device=self._device)
        with torch.inference_mode():
            if bench.dims not in self._runtimes:
                self._runtimes[bench.dims] = _fastest(network, window)
            return _seconds(self._runtimes[bench.dims], network, window, TURNS)

    def around(self, bench: Bench, patch_size: Sequence[int], overlap: float) -> Around:
        """Seconds of the usual labelled case beside its windows: all that `medfuse infer` does of it.

        Its own label map stands for what a network answers, as noise would be dear to write.
        """
        from medfuse.data.prepare import Preprocessor

        plan = replace(bench.plan, patch_size=bench.image(patch_size).patch_size)
        preprocessor = Preprocessor(plan)
        like = preprocessor.prepare(self._case)
        numbers = preprocessor.prepare_label(self._case, like)[None].astype("float32")
        del like

        def prepare(case: Case) -> Prepared:
            return replace(preprocessor.prepare(case), image=numbers)

        first = self._labelled(plan, prepare, overlap)
        seconds = min(first, self._labelled(plan, prepare, overlap)) if first < LONG else first
        return Around(seconds, self._voxels)

    def _labelled(self, plan: DataPlan, prepare: Callable[[Case], Prepared], overlap: float) -> float:
        """Seconds of one case from its file to its label map, without those in the network."""
        from medfuse.infer.folder import infer_cases
        from medfuse.infer.manifest import NAME, read_manifest
        from medfuse.infer.recipe import Recipe
        from medfuse.infer.settings import InferSettings

        settings = InferSettings(overlap=overlap)
        recipe = Recipe(("",), plan.labels, plan.patch_size, settings, plan.region_order)
        with tempfile.TemporaryDirectory(prefix="medfuse-measured-") as folder:
            output = Path(folder) / "labels"
            began = time.perf_counter()
            outcome = infer_cases(
                [self._case],
                prepare=prepare,
                networks=[partial(_answer, plan)],
                recipe=recipe,
                output=output,
                device=self._device,
            )
            seconds = time.perf_counter() - began
            for reason in outcome.failed.values():
                raise MedfuseError(reason)
            _, content = read_manifest(output / NAME)
        (entry,) = content["cases"].values()
        return max(0.0, seconds - float(entry["seconds_in"]["network"]))


def _usual_case(info: DatasetInfo, fingerprint: Fingerprint) -> tuple[Case, int]:
    """A labelled case of about as many voxels as the median one has, and how many these are."""
    voxels = {case.name: prod(case.shape) for case in fingerprint.cases}
    middle = sorted(voxels.values())[len(voxels) // 2]
    there = [case for case in info.cases if case.label and case.name in voxels]
    case = min(there, key=lambda case: (abs(voxels[case.name] - middle), case.name))
    return case, voxels[case.name]


def _fastest(network: nn.Module, window: Tensor) -> Runtime:
    """Of what `medfuse infer` chooses among, in every precision.

    That holds them against fp32 too, which says little of weights by chance and is passed by trained ones.
    """
    from medfuse import registry
    from medfuse.api import Runtime
    from medfuse.model.engines import options_of

    auto = registry.get(Runtime.group, "auto")()
    assert isinstance(auto, Runtime)
    seconds: dict[Runtime, float] = {}
    for option in options_of(auto, network, window.device):
        with suppress(Exception):  # not installed, or not for this network; other people's fail as they like
            seconds[option] = _seconds(option, network, window, 2)
    return min(seconds, key=lambda option: seconds[option]) if seconds else auto


def _seconds(runtime: Runtime, network: nn.Module, window: Tensor, turns: int) -> float:
    """The median of up to so many passes, after those by which it begins."""
    from medfuse.core.device import seconds_of
    from medfuse.model.engines import prepare_as

    run = prepare_as(runtime, network, window)
    seconds_of(run, window)
    taken = [seconds_of(run, window)]
    while len(taken) < turns and sum(taken) < LONG:
        taken.append(seconds_of(run, window))
    return median(taken)


def _answer(plan: DataPlan, windows: Tensor) -> Tensor:
    """Logits by which every voxel is what its number in a label map says."""
    import torch

    if plan.regions:
        masks = [torch.isin(windows[:, 0], windows.new_tensor(numbers)) for numbers in plan.regions]
        return 16.0 * torch.stack(masks, 1).float() - 8.0
    numbers = torch.arange(len(plan.classes), device=windows.device)
    return 8.0 * (windows == numbers.view(1, -1, *(1,) * (windows.ndim - 2))).float()
