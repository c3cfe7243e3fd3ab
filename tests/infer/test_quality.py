"""What the manifest says of quality is what the whole volume's logits say, however they were gathered."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scans import AFFINE, Scans, prepare
from torch import Tensor

from medfuse.api import Case
from medfuse.core.labels import LabelValue
from medfuse.infer.folder import infer_cases
from medfuse.infer.recipe import Recipe
from medfuse.infer.settings import InferSettings, PostprocessSettings
from medfuse.infer.sliding import predict_logits
from medfuse.quality.case import CaseScores
from medfuse.quality.judge import Judge
from medfuse.quality.scores import rounded
from medfuse.quality.usual import UsualVolume

SHAPE = (12, 11, 9)
VOLUMES = {"liver": UsualVolume(9, 9, 3.0, 0.5)}


def network(windows: Tensor) -> Tensor:
    """Three logits that are smooth in the image."""
    return torch.stack([-windows[:, 0], windows[:, 0], 0.5 - windows[:, 0].abs()], 1)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    noise = torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(3))
    array = torch.nn.functional.avg_pool3d(noise, 3, 1, 1)[0, 0].numpy() * 4
    path = tmp_path / "scans" / "a.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(array.astype(np.float32), AFFINE), path)
    return Case("a", (path,))


def manifest(case: Case, output: Path, recipe: Recipe, **how: Any) -> dict[str, Any]:
    outcome = infer_cases(
        [case], prepare=prepare, networks=how.pop("networks", [network]), recipe=recipe, output=output,
        judge=Judge(VOLUMES), **how,
    )  # fmt: skip
    assert outcome.done == ("a",)
    return dict(json.loads((output / "manifest.json").read_text())["cases"]["a"])


def recipe(kind: str, patch: tuple[int, ...] = (6, 5, 4), **how: Any) -> Recipe:
    labels: dict[str, LabelValue] = {"background": 0, "liver": 1, "tumour": 2}
    order: tuple[int, ...] = ()
    if kind == "regions":
        labels, order = {"background": 0, "liver": (1, 2, 3), "tumour": (2, 3), "core": 3}, (1, 2, 3)
    settings = how.pop("settings", InferSettings())
    return Recipe(("abc",), labels, patch, settings, order, **how)


def of_the_whole(case: Case, made: Recipe, patch: tuple[int, ...]) -> dict[str, Any]:
    image = prepare(case)
    logits = predict_logits(torch.from_numpy(image.image), network, patch_size=patch, classes=3)
    names = ("background", "liver", "tumour") if made.kind == "softmax" else ("liver", "tumour", "core")
    whole = CaseScores(names, made.kind, SHAPE, (10, 10, 10), sweep=0, volumes=VOLUMES)
    whole.add([slice(0, n) for n in SHAPE], logits)
    return {name: rounded(scores) for name, scores in whole.found().items()}


@pytest.mark.parametrize("kind", ["softmax", "regions"])
@pytest.mark.parametrize("patch", [(6, 5, 4), (12, 11, 9), (6, 5)])
def test_it_is_that_of_the_whole_volume(
    case: Case, tmp_path: Path, kind: str, patch: tuple[int, ...]
) -> None:
    made = recipe(kind, patch)
    found = manifest(case, tmp_path / "out", made)["quality"]
    wanted = of_the_whole(case, made, patch)
    assert {*found} == {*wanted}
    for name, scores in wanted.items():
        for score, value in scores.items():
            assert found[name][score] == pytest.approx(value, abs=2e-5), (name, score)


@pytest.mark.parametrize(
    "how",
    [
        {"probabilities": "nifti"},
        {"settings": InferSettings(postprocess=PostprocessSettings(largest_component=("liver",)))},
        {"settings": InferSettings(batch_size=3)},
    ],
)
def test_probabilities_postprocessing_and_batches_change_none_of_it(
    case: Case, tmp_path: Path, how: dict[str, Any]
) -> None:
    plain = manifest(case, tmp_path / "plain", recipe("softmax"))["quality"]
    other = manifest(case, tmp_path / "other", recipe("softmax", **how))["quality"]
    for name, scores in plain.items():
        assert other[name] == pytest.approx(scores, abs=2e-5)


def test_folds_and_flips_are_told_where_there_are_any(case: Case, tmp_path: Path) -> None:
    settings = InferSettings(mirror=("x", "z"))
    made = manifest(
        case,
        tmp_path / "out",
        recipe("softmax", settings=settings),
        networks=[network, lambda w: network(w + 0.2)],
    )
    for scores in made["quality"].values():
        assert scores["flips"] == 1
        assert 0 < scores["folds"] < 1
        assert "heads" not in scores


def test_other_files_of_that_name_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = Scans(tmp_path)
    scans.output.mkdir()
    (scans.output / "quality.csv").write_text("mine")
    assert scans.infer().done == ("a", "b", "c")
    assert (scans.output / "quality.csv").read_text() == "mine"
    assert "quality.csv" in caplog.text


def test_the_table_is_written_anew_as_cases_come(tmp_path: Path) -> None:
    scans = Scans(tmp_path)
    everything, scans.cases[:] = [*scans.cases], scans.cases[:1]
    scans.infer()
    scans.cases[:] = everything
    scans.infer()
    rows = (scans.output / "quality.csv").read_text().splitlines()[1:]
    assert sorted(row.partition(",")[0] for row in rows) == ["a", "b", "c"]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL", "AIL"])
def test_no_order_or_direction_of_a_files_axes_changes_it(case: Case, tmp_path: Path, codes: str) -> None:
    image = nib.load(case.images[0])
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    path = tmp_path / "turned" / "a.nii.gz"
    path.parent.mkdir()
    nib.save(image.as_reoriented(turn), path)
    wanted = manifest(case, tmp_path / "one", recipe("softmax"))["quality"]
    assert manifest(Case("a", (path,)), tmp_path / "two", recipe("softmax"))["quality"] == wanted
