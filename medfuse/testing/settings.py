"""What belongs to the whole process, and what a plugin's code has to leave as it finds it."""

from __future__ import annotations

import os
from typing import Any

import torch


def settings() -> dict[str, Any]:
    """torch's settings and the process's, by a name that says who sets them."""
    return {
        "torch.set_grad_enabled": torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        "torch.autocast": torch.is_autocast_enabled("cpu"),
        "torch.set_default_dtype": torch.get_default_dtype(),
        "torch.set_default_device": torch.get_default_device(),
        "torch.set_num_threads": torch.get_num_threads(),
        "torch.use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch.set_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch.autograd.set_detect_anomaly": torch.is_anomaly_enabled(),
        "torch.backends.mkldnn.enabled": torch.backends.mkldnn.enabled,
        "os.chdir": _working_directory(),
    }


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"


def restore(before: dict[str, Any]) -> list[str]:
    """Put back what has changed, and name it."""
    now = settings()
    changed = [name for name, value in before.items() if now[name] != value]
    for name in changed:
        match name:
            case "torch.inference_mode" | "torch.autocast":
                pass  # they end with their `with`
            case "torch.backends.mkldnn.enabled":
                torch.backends.mkldnn.enabled = before[name]
            case "os.chdir":
                os.chdir(before[name])
            case _:
                module = torch.autograd if name.startswith("torch.autograd.") else torch
                getattr(module, name.rpartition(".")[2])(before[name])
    return changed
