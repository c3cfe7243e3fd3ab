"""The machine that torch runs on: device, precision that is right and faster, memory that is kept."""

from __future__ import annotations

import copy
import ctypes
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Relative root-mean-square errors. Right bf16 logits lie near 0.01 and gradients near 0.2 (rounding adds up
# on the way back through normalisation); wrong kernels are off by about 1.
_CLOSE_LOGITS, _CLOSE_GRADIENT = 0.1, 0.5

_TURNS = 2  # of fp32 and bf16 each, when it is measured which is faster


@dataclass(frozen=True)
class Precision:
    """`kind` is "fp32" or "bf16"; `reason` says in a sentence why."""

    kind: str
    reason: str


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises MedfuseError where CUDA is wanted and absent."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise MedfuseError("device cuda: torch sees no CUDA device; choose device: cpu or auto")
    kind = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(kind)


def settle(device: torch.device, *, deterministic: bool = False) -> None:
    """Process-wide settings that cost nothing in accuracy: denormals flushed, freed memory kept.

    With `deterministic`, kernels add up in a fixed order; torch warns of those that have none.

    Flushing took one tool's CPU run from 85 to 11 minutes (FastSurfer#165). Half of torch's time on a CPU
    can be the kernel zeroing fresh pages; glibc told to keep its memory saves that, and resident memory
    grows for it.
    """
    import torch

    torch.set_flush_denormal(True)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # nothing here reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.mkldnn.deterministic = deterministic  # type: ignore[assignment]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    elif sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):
            return  # not glibc
        m_mmap_max, m_trim_threshold, m_top_pad = -4, -1, -2
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 2**28)


def channels_last(axes: int) -> torch.memory_format:
    """The layout with channels innermost, which most kernels prefer, for tensors of 4 or 5 axes."""
    import torch

    return torch.channels_last if axes == 4 else torch.channels_last_3d


def lay_out(model: nn.Module, axes: int, layout: torch.memory_format) -> None:
    """Reorder weights in place. `Module.to` would refuse a model with 2-D and 3-D convolutions."""
    import torch

    with torch.inference_mode(False):  # a weight that is made in inference mode cannot be trained again
        for parameter in model.parameters():
            if parameter.dim() == axes:
                parameter.data = parameter.data.contiguous(memory_format=layout)


def choose_precision(
    wanted: str, model: nn.Module, example: Tensor, *, backward: bool, deterministic: bool = False
) -> Precision:
    """bf16 autocast where it is right and faster on `example`, a batch on the model's device; else fp32.

    With `deterministic` it is fp32 unless asked for by name.

    Right means that logits stay within a relative error of 0.1 of fp32, and with `backward` the gradient of
    the first weight within 0.5: some conv3d shapes give wrong bf16 results on AMX (pytorch#169688).
    """
    if wanted != "auto":
        return Precision(wanted, "as asked for")
    if deterministic:
        return Precision("fp32", "deterministic, so no clock may decide")
    if not _has_bf16(example.device):
        return Precision("fp32", f"this {example.device.type} has no bf16 units")
    (exact, slow), (rough, fast) = _trials(model, example, backward=backward)
    errors = [_relative_error(a, b) for a, b in zip(exact, rough)]
    for what, error, limit in zip(("logits", "gradients"), errors, (_CLOSE_LOGITS, _CLOSE_GRADIENT)):
        if not error < limit:
            return Precision("fp32", f"bf16 {what} are off by {error:.2g} of the signal on this machine")
    if fast >= slow:
        return Precision("fp32", f"bf16 is no faster here ({fast:.2f} s against {slow:.2f} s)")
    return Precision(
        "bf16", f"{slow / fast:.1f} times faster here, logits off by {errors[0]:.2g} of the signal"
    )


def _has_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _trials(model: nn.Module, example: Tensor, *, backward: bool) -> list[tuple[list[Tensor], float]]:
    """In fp32 and in bf16: outputs (and a gradient) of a copy of the model, and the seconds of a pass.

    The two take turns after a first pass each, and the fastest counts, so that a pause of the machine
    decides nothing.
    """
    twin = copy.deepcopy(model)
    results: list[list[Tensor]] = [[], []]
    seconds = [math.inf, math.inf]
    for turn in range(1 + _TURNS):
        for bf16 in (False, True):
            start = time.perf_counter()
            results[bf16] = _trial(twin, example, bf16=bf16, backward=backward)
            if turn:
                seconds[bf16] = min(seconds[bf16], time.perf_counter() - start)
    return list(zip(results, seconds))


def _trial(twin: nn.Module, example: Tensor, *, bf16: bool, backward: bool) -> list[Tensor]:
    import torch

    with (
        torch.set_grad_enabled(backward),
        torch.autocast(example.device.type, torch.bfloat16, enabled=bf16),
    ):
        logits = twin(example).float()
    results = [logits.detach()]
    if backward:
        weight = next(p for p in twin.parameters() if p.requires_grad)
        weight.grad = None
        logits.square().mean().backward()
        if weight.grad is not None:
            results.append(weight.grad.clone())
    if example.device.type == "cuda":
        torch.cuda.synchronize()
    return results


def _relative_error(exact: Tensor, rough: Tensor) -> float:
    scale = exact.square().mean().sqrt().clamp_min(1e-12)
    return float((exact - rough).square().mean().sqrt() / scale)


def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
