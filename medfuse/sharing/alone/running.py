"""Which files make a case, and the loop over cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_ENDINGS = (".nii.gz", ".nii")


def cases(folder: str, channels: int) -> list[dict[str, Any]]:
    """Each image of a folder as MONAI's transforms take it; of several channels CASE_0000, CASE_0001, …

    A file that is alone may have the channels on its fourth axis. Raises FileNotFoundError where none is.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.name.endswith(_ENDINGS))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no .nii.gz or .nii file; give --dataset_dir")
    if channels == 1:
        return [{"image": str(path)} for path in files]
    grouped: dict[str, list[str]] = {}
    for path in files:
        stem = path.name.partition(".")[0]
        numbered = stem[-5:-4] == "_" and stem[-4:].isdigit()
        grouped.setdefault(stem[:-5] if numbered else stem, []).append(str(path))
    return [{"image": paths if len(paths) > 1 else paths[0]} for paths in grouped.values()]


@torch.no_grad()
def segment(
    dataset: Iterable[Mapping[str, Any]],
    network: nn.Module,
    inferer: Callable[[Tensor, nn.Module], Tensor],
    postprocessing: Callable[[dict[str, Any]], Any],
    device: torch.device,
) -> None:
    """Each case of a dataset through the network and what follows, which writes it."""
    network.eval()
    for item in dataset:
        logits = inferer(torch.as_tensor(item["image"])[None].to(device), network)[0]
        postprocessing({**item, "pred": logits})
