"""The machine that torch runs on: device, precision that is right and faster, memory that is kept."""

from __future__ import annotations

import copy
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError
from medfuse.core.imports import imported_at_once
from medfuse.core.memory import trim_heap

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Relative root-mean-square errors. Right bf16 logits lie near 0.01 and gradients near 0.2, or 0.7 in deep
# networks, as rounding adds up on the way back through normalisation; wrong kernels are off by 1 and more.
_CLOSE_LOGITS, _CLOSE_GRADIENT, _FAR_GRADIENT = 0.1, 0.5, 0.9
_LIKE_ROUNDING = 1.3
"""Times the error that rounding alone makes of a gradient, up to which kernels are right."""

TURNS = 2
"""Passes of each choice, in turns, when it is measured which is faster."""


@dataclass(frozen=True)
class Precision:
    """`kind` is "fp32", "bf16" or "fp16"; `reason` says in a sentence why."""

    kind: str
    reason: str


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises MedfuseError for one that is not there, or is none."""
    with imported_at_once("torch"):
        import torch

    if wanted.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise MedfuseError(f"device {wanted[:40]}: torch sees no CUDA device; choose device: cpu or auto")
    kind = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(kind)
    except RuntimeError:
        raise MedfuseError(
            f"device {kind[:40]}: is none; choose auto, cpu, cuda, or cuda:1 of several"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= max(1, count := torch.cuda.device_count()):
        raise MedfuseError(
            f"device {kind}: torch sees {count} CUDA devices; choose of cuda:0 to cuda:{count - 1}"
        )
    return device


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
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to say it imports a lot
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # nothing here reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch has no stub for it
    torch.backends.mkldnn.deterministic = deterministic  # type: ignore[assignment]  # typed as what sets it
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    else:
        _mallopt(mmap_max=0, trim_threshold=2**31 - 1, top_pad=2**28)


def return_memory(*, blocks: int = 2**20) -> None:
    """Undo `settle`'s keeping of freed memory: what is free now goes back to the system.

    From now on blocks of at least `blocks` bytes (at most 32 MiB) go back when freed. With a MiB, for
    where a limit is to hold, so does the rest; with more, for where large blocks leave too much free between
    them, smaller ones are kept, which saves their pages from being zeroed again.
    """
    kept = 2**20 if blocks <= 2**20 else 2**31 - 1
    _mallopt(mmap_max=2**16, mmap_threshold=blocks, trim_threshold=kept, top_pad=0)
    trim_heap()


def _mallopt(**options: int) -> None:
    """Tell glibc how to manage memory; other C libraries are left as they are."""
    numbers = {"trim_threshold": -1, "top_pad": -2, "mmap_threshold": -3, "mmap_max": -4}
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for name, value in options.items():
        mallopt(numbers[name], value)


def choose_precision(
    wanted: str, model: nn.Module, example: Tensor, *, backward: bool, deterministic: bool = False
) -> Precision:
    """Half precision where it is right and faster on `example`, a batch on the model's device; else fp32.

    With `deterministic` it is fp32 unless asked for by name.

    Right means that logits stay within a relative error of 0.1 of fp32, and with `backward` the gradient of
    the first weight within 0.5, or about as far off as in fp32 with every map rounded to half precision: some
    conv3d shapes give wrong bf16 results on AMX (pytorch#169688).
    """
    if wanted != "auto":
        return Precision(wanted, "as asked for")
    if deterministic:
        return Precision("fp32", "deterministic, so no clock may decide")
    half = next((kind for kind in half_precisions(example.device) if kind == "bf16" or not backward), None)
    if half is None:
        return Precision("fp32", f"this {example.device.type} has no bf16 units")
    (exact, slow), (rough, fast) = _trials(model, example, half, backward=backward)
    errors = [_relative_error(a, b) for a, b in zip(exact, rough)]
    limits = [_CLOSE_LOGITS, _CLOSE_GRADIENT]
    if len(errors) > 1 and _CLOSE_GRADIENT <= errors[1] < _FAR_GRADIENT:
        rounding = _relative_error(exact[1], _rounded(model, example, half)[1])
        limits[1] = min(_FAR_GRADIENT, max(_CLOSE_GRADIENT, _LIKE_ROUNDING * rounding))
    for what, error, limit in zip(("logits", "gradients"), errors, limits):
        if not error < limit:
            return Precision("fp32", f"{half} {what} are off by {error:.2g} of the signal on this machine")
    if fast >= slow:
        return Precision("fp32", f"{half} is no faster here ({fast:.2f} s against {slow:.2f} s)")
    return Precision(
        half, f"{slow / fast:.1f} times faster here, logits off by {errors[0]:.2g} of the signal"
    )


def half_precisions(device: torch.device) -> tuple[str, ...]:
    """The kinds of half precision that `device` has units for, the one with more range first."""
    return (*["bf16"][: _has_bf16(device)], *["fp16"][: device.type == "cuda"])


def _has_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def disagreement(expected: Tensor, given: Tensor, *, share: float = 1.0) -> str:
    """In words, how logits (batch, classes, *spatial) differ by more than rounding; else empty.

    share: of the difference that rounding may make; less than 1 asks for more.
    """
    if given.shape != expected.shape:
        return f"it answers with {tuple(given.shape)} in place of {tuple(expected.shape)}"
    pairs = list(zip(given.unbind(1), expected.unbind(1)))  # by class: logits may be as large as all else
    off = sum(float((a.float() - b).square().sum()) for a, b in pairs)
    signal = sum(float(b.float().square().sum()) for _, b in pairs)
    error = math.sqrt(off / max(signal, 1e-24))
    same = float((given.argmax(1) == expected.argmax(1)).float().mean())
    if error <= 0.05 * share and 1 - same <= 0.01 * share:
        return ""
    return f"its results change (relative error {error:.2g}, {same:.1%} of the voxels in the same class)"


def seconds_of(run: Callable[[Tensor], Tensor], example: Tensor) -> float:
    """The time that one pass takes."""
    import torch

    start = time.perf_counter()
    run(example)
    if example.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _trials(
    model: nn.Module, example: Tensor, half: str, *, backward: bool
) -> list[tuple[list[Tensor], float]]:
    """In fp32 and in `half`: outputs (and a gradient) of a copy of the model, and the seconds of a pass.

    The two take turns after a first pass each, and the fastest counts, so that a pause of the machine
    decides nothing.
    """
    twin = copy.deepcopy(model)
    results: list[list[Tensor]] = [[], []]
    seconds = [math.inf, math.inf]
    for turn in range(1 + TURNS):
        for place, kind in enumerate(("fp32", half)):
            start = time.perf_counter()
            results[place] = _trial(twin, example, kind, backward=backward)
            if turn:
                seconds[place] = min(seconds[place], time.perf_counter() - start)
    return list(zip(results, seconds))


def autocast(device: torch.device, kind: str) -> torch.autocast:
    """Computes in `kind` of precision. Weights are not kept in it twice: windows see each of them once."""
    import torch

    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=kind != "fp32", cache_enabled=device.type != "cuda")


def _trial(twin: nn.Module, example: Tensor, kind: str, *, backward: bool) -> list[Tensor]:
    import torch

    with torch.set_grad_enabled(backward), autocast(example.device, kind):
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


def _rounded(model: nn.Module, example: Tensor, half: str) -> list[Tensor]:
    """As `_trial` in fp32, with weights, and what every layer makes and its gradient, rounded to `half`."""
    import torch

    dtype = torch.float16 if half == "fp16" else torch.bfloat16

    def rounded(module: nn.Module, given: object, made: object) -> object:
        return made.to(dtype).to(made.dtype) if isinstance(made, torch.Tensor) else made

    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.copy_(weight.to(dtype))
    for layer in twin.modules():
        if not [*layer.children()]:
            layer.register_forward_hook(rounded)
    return _trial(twin, example.to(dtype).to(example.dtype), "fp32", backward=True)


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


def machine_facts(device: torch.device) -> dict[str, object]:
    """What decides how fast a network runs here, as plain JSON values."""
    import torch

    return {
        "processor": processor(),
        "instructions": [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
        "half": half_precisions(device),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
    }


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, empty where it is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found
