"""`infer.compare_heads`: auxiliary heads decide too, and change no label map."""

import json
from pathlib import Path
from typing import Any

import pytest

from medfuse.core.errors import MedfuseError
from medfuse.trained.predictor import Predictor


def inferred(run: Any, output: Path, *overrides: str) -> dict[str, Any]:
    engine = "runtime={use: torch, precision: fp32}"  # the same for all, whatever was chosen before
    predictor = Predictor.load(run.folder, overrides=[engine, *overrides], device="cpu")
    predictor.files(run.data / "imagesTr", output)
    return dict(json.loads((output / "manifest.json").read_text())["cases"])


def test_heads_are_compared_and_the_label_map_stays(finished_run: Any, tmp_path: Path) -> None:
    plain = inferred(finished_run, tmp_path / "plain")
    heads = inferred(finished_run, tmp_path / "heads", "compare_heads=true")
    for one, other in zip(plain.values(), heads.values(), strict=True):
        assert one["volumes_ml"] == other["volumes_ml"]
        for name, own in other["quality"].items():
            assert own["heads"] is None or 0 <= own["heads"] <= 1
            assert "heads" not in one["quality"][name]


def test_a_model_without_them_is_told_so(finished_run: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    trained = Predictor.load(finished_run.folder, overrides=["compare_heads=true"], device="cpu")._trained
    assert trained.graph is not None
    without = replace(trained, graph=replace(trained.graph, aux=()))
    with pytest.raises(MedfuseError, match=r"infer\.compare_heads: the model has no auxiliary heads"):
        Predictor(without)
    with pytest.raises(MedfuseError, match="what was exported has one head"):
        Predictor(replace(trained, graph=None))
