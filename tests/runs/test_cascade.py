"""A cascade from its file to label maps, on cubes of 20 voxels, and what it must leave as it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from phantoms import SHAPE, describe, write_case

from medfuse import MedfuseError
from medfuse.core.geometry import Geometry
from medfuse.core.region import Region
from medfuse.core.reporter import Reporter
from medfuse.data.focus import Focus
from medfuse.infer.sliding import WindowCount, predict_bricks
from medfuse.infer.windows import plan_grid, windows_in
from medfuse.model.weights import load_weights
from medfuse.runs.models import load_model
from medfuse.trained.loading import load_trained
from medfuse.verbs.infer import infer_volumes
from medfuse.verbs.run import run_pipeline
from medfuse.volumes.read import read_labels

PIPELINE = """\
name: two
data: {use: decathlon, root: data}
augment: {}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4, stages: 2}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*]}
  head: {input: decoded}
infer: {runtime: {use: torch, precision: fp32}, overlap: 0.25}
stages:
  - preprocess: {spacing_mm: [3, 3, 4]}
    sample: {patch_size: [8, 8, 8], batch_size: 4, workers: 0}
    train: {steps: 40, steps_per_epoch: 40, precision: fp32, validation_cases: 0}
  - preprocess: {spacing_mm: [1.5, 1.5, 2]}
    sample: {patch_size: [8, 8, 8], batch_size: 2, workers: 0}
    train: {steps: 4, steps_per_epoch: 4, precision: fp32, validation_cases: 0}
cascade: {folds: 2}
"""

AFFINES = [
    np.diag([1.5, 1.5, 2.0, 1.0]),
    np.array([[-1.5, 0, 0, 9], [0, 1.5, 0, 3], [0, 0, -2.0, 1], [0, 0, 0, 1]]),  # flipped
    np.array([[0, 1.5, 0, 0], [-1.5, 0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]]),  # turned and flipped
]


def write_data(folder: Path) -> Path:
    names = [f"cube_{i:02d}" for i in range(7)]
    for seed, name in enumerate(names):
        write_case(folder, name, seed=seed)
        for what in ("imagesTr", "labelsTr"):
            path = folder / what / f"{name}.nii.gz"
            voxels = np.asarray(nibabel.load(path).dataobj)
            nibabel.save(nibabel.Nifti1Image(voxels, AFFINES[seed % 3]), path)
    describe(folder, names)
    return folder


def run(file, *overrides, folder=None, retrain=False):
    return run_pipeline(
        file, overrides, runs=folder or file.parent / "runs", retrain=retrain, reporter=Reporter(quiet=True)
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory, plain_report) -> Path:
    """The folder of a file, its data, and a finished run of it."""
    folder = tmp_path_factory.mktemp("cascade")
    write_data(folder / "data")
    (folder / "two.yaml").write_text(PIPELINE)
    run(folder / "two.yaml")
    return folder


@pytest.fixture
def copied(two, tmp_path) -> Path:
    shutil.copytree(two / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "two"


def trained(folder, **settings):
    made = load_trained([folder / "weights_last.safetensors"], device="cpu")
    return replace(made, settings=made.settings.model_copy(update=settings))


def image_of(folder, name):
    volume = nibabel.load(folder / "data" / "imagesTr" / f"{name}.nii.gz")
    voxels = np.asarray(volume.dataobj, np.float32)[None]
    return voxels, Geometry(voxels.shape[1:], volume.affine)


# ---- the law of windows


def bricks_of(image, network, region, **options):
    count = WindowCount()
    made = np.zeros((3, *image.shape[1:]), np.float32)
    how = {"patch_size": (8, 8, 6), "classes": 3, "overlap": 0.5, "region": region, "count": count}
    for brick in predict_bricks(image, network, **how, **options):
        made[(slice(None), *brick.where)] = brick.logits.numpy()
    return made, count


@pytest.mark.parametrize("shape", [(21, 17, 13), (21, 5, 4), (30, 8, 1)])
def test_in_all_of_a_region_logits_are_what_they_are_without(shape):
    random = np.random.default_rng(1)
    network = torch.nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False)
    image = random.normal(size=(2, *shape)).astype(np.float32)
    whole, _ = bricks_of(image, network, None)
    for seed in range(5):
        there = np.random.default_rng(seed).random((5, 4, 3)) < 0.04
        region = Region(there, shape)
        made, count = bricks_of(image, network, region)
        inside = region.whole()
        assert (made[:, inside] == whole[:, inside]).all()
        grid = plan_grid(shape, (8, 8, 6), 0.5)
        assert count.run == windows_in(grid, region)
        assert count.run + count.skipped == len(grid)


def test_a_region_of_all_is_no_region():
    image = np.random.default_rng(1).normal(size=(2, 21, 17, 13)).astype(np.float32)
    network = torch.nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False)
    region = Region(np.ones((2, 2, 2), bool), (21, 17, 13))
    (made, count), (whole, _) = (bricks_of(image, network, one) for one in (region, None))
    assert (made == whole).all()
    assert count.skipped == 0


def test_slices_of_a_2d_network_are_skipped_one_by_one():
    image = np.random.default_rng(1).normal(size=(1, 12, 10, 6)).astype(np.float32)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).requires_grad_(False)
    there = np.zeros((3, 3, 6), bool)
    there[0, 0, 4] = True
    region, count = Region(there, (12, 10, 6)), WindowCount()
    logits = {}
    for one in (region, None):
        logits[one] = np.zeros((2, 12, 10, 6), np.float32)
        how = {"patch_size": (8, 8), "classes": 2, "region": one, "count": count if one else None}
        for brick in predict_bricks(image, network, **how):
            logits[one][(slice(None), *brick.where)] = brick.logits.numpy()
    assert (count.run, count.skipped) == (2, 22)  # of one slice, those that begin at y = 0 and y = 2
    assert (logits[region][:, region.whole()] == logits[None][:, region.whole()]).all()
    assert logits[region][1, :, :, :4].max() < logits[region][0, :, :, :4].min()


# ---- a run


def test_a_run_trains_the_first_stage_without_each_part_of_the_training_cases(two):
    before = two / "runs" / "two" / "before"
    splits = json.loads((before / "splits.json").read_text())
    held = [name for split in splits for name in split["val"]]
    assert sorted(held) == [f"cube_{i:02d}" for i in range(6)]
    for fold, split in enumerate(splits):
        data = json.loads((before / f"fold_{fold}" / "data.json").read_text())
        assert [*data["train"]] == split["train"]
        assert not {*split["val"], "cube_06"} & {*data["train"]}
        assert "cube_06" not in data["cases"]


def test_where_it_looks_is_stored_with_the_weights_and_said_in_the_summary(two):
    folder = two / "runs" / "two"
    _, facts = load_weights(folder / "weights_last.safetensors")
    focus = facts["data"]["focus"]
    assert focus["cases"] == 6
    assert focus["lost"] <= 0.001
    assert json.loads((folder / "plan.json").read_text())["data"]["focus"] == focus
    notes = json.loads((folder / "summary.json").read_text())["notes"]
    chosen, held_out = [note for note in notes if note.startswith("cascade: ")]
    assert f"within {focus['margin_mm']:g} mm" in chosen
    assert "on 1 held-out case " in held_out


@pytest.mark.parametrize("name", ["cube_00", "cube_01", "cube_02"])
def test_in_what_it_looks_at_the_label_map_is_that_of_all_windows(two, name):
    folder = two / "runs" / "two"
    voxels, geometry = image_of(two, name)
    focus = Focus(0.5, 0.0)  # the least that it may look at
    one, every = trained(folder), trained(folder, windows="all")
    one = replace(one, plan=replace(one.plan, focus=focus))
    _, region = one._prepared_array(voxels, geometry)
    assert region is not None
    inside = geometry.turn.undo(region.whole())
    assert 0 < inside.mean() < 0.5
    made, whole = one.label_map(voxels, geometry), every.label_map(voxels, geometry)
    assert (made[inside] == whole[inside]).all()


def test_where_all_is_looked_at_the_label_map_is_that_of_all_windows(two):
    folder = two / "runs" / "two"
    voxels, geometry = image_of(two, "cube_01")
    one, every = trained(folder), trained(folder, windows="all")
    one = replace(one, plan=replace(one.plan, focus=Focus(0.5, 1000.0)))
    assert one._prepared_array(voxels, geometry)[1].there.all()
    assert (one.label_map(voxels, geometry) == every.label_map(voxels, geometry)).all()


def test_files_say_what_arrays_do(two, tmp_path):
    folder = two / "runs" / "two"
    scans = [two / "data" / "imagesTr" / f"{name}.nii.gz" for name in ("cube_00", "cube_02")]
    infer_volumes([folder], scans, tmp_path / "out", reporter=Reporter(quiet=True))
    model = load_model([folder], device="cpu", reporter=Reporter(quiet=True))
    for path in scans:
        made = read_labels(tmp_path / "out" / path.name).array
        assert (made == model.label_map(*image_of(two, path.name.removesuffix(".nii.gz")))).all()
    cases = json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"]
    for entry in cases.values():
        assert entry["first_stage"].endswith("% looked at")
        assert entry["windows"] == entry["windows_run"] + entry["windows_skipped"] + entry["windows_reused"]


def test_a_scan_in_which_nothing_is_found_is_looked_at_whole_and_told(two, tmp_path):
    path = tmp_path / "empty.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, -50, np.float32), AFFINES[0]), path)
    model = trained(two / "runs" / "two")
    model = replace(model, plan=replace(model.plan, focus=Focus(1.0, 0.0)))
    case = replace(next(iter(_cases(two))), name="empty", images=(path,), label=None)
    outcome = model.infer([case], tmp_path / "out", Reporter(quiet=True))
    assert outcome.done == ("empty",)
    (entry,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"].values()
    assert entry["first_stage"] == "nothing found, so all of the volume is looked at"
    assert entry["windows_skipped"] == 0


def _cases(two):
    from medfuse.pipeline import load_pipeline

    return load_pipeline(two / "two.yaml")[0].data.read().cases


def test_the_same_command_again_trains_nothing(two, copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("weights_last.safetensors")}
    assert len(before) == 3
    run(two / "two.yaml", folder=copied.parent)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_was_stopped_between_its_stages_carries_on(two, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medfuse.runs.cascade.do_stages", stop)
        with pytest.raises(KeyboardInterrupt):
            run(two / "two.yaml", folder=tmp_path)
    first = [*tmp_path.rglob("weights_last.safetensors")]
    assert len(first) == 2
    times = [path.stat().st_mtime_ns for path in first]
    run(two / "two.yaml", folder=tmp_path)
    assert [path.stat().st_mtime_ns for path in first] == times
    ours, theirs = (load_weights(f / "two" / "weights_last.safetensors") for f in (tmp_path, two / "runs"))
    assert all((ours[0][name] == theirs[0][name]).all() for name in theirs[0])
    assert ours[1]["data"]["focus"] == theirs[1]["data"]["focus"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.0.train.steps=50"], "the first stage is to be trained for 50 steps"),
        (["stages.0.seed=5"], "holds the run of another pipeline (seed was 1, is 5)"),
        (["cascade.folds=3"], "cascade.folds was 2, is 3"),
        (["cascade.shown=true"], "cascade.shown was False, is True"),
    ],
)
def test_another_first_stage_is_not_mixed_into_a_run(two, copied, overrides, message):
    with pytest.raises(MedfuseError) as error:
        run(two / "two.yaml", *overrides, folder=copied.parent)
    assert message in str(error.value)
    assert "--retrain" in str(error.value)


def test_a_first_stage_of_other_weights_is_told(two, copied):
    fold_0, fold_1 = (copied / "before" / f"fold_{n}" / "weights_last.safetensors" for n in (0, 1))
    shutil.copy(fold_0, fold_1)
    with pytest.raises(MedfuseError, match="the weights of the first stage are others"):
        run(two / "two.yaml", folder=copied.parent)


def test_a_first_stage_of_another_run_is_told_on_new_scans(two, copied):
    fold_0, fold_1 = (copied / "before" / f"fold_{n}" / "weights_last.safetensors" for n in (0, 1))
    shutil.copy(fold_0, fold_1)
    with pytest.raises(MedfuseError, match="are not those of its first"):
        load_model([copied], device="cpu", reporter=Reporter(quiet=True))


@pytest.mark.parametrize("harm", ["gone", "damaged", "cut"])
def test_a_first_stage_that_is_missing_or_damaged_is_told(two, copied, harm):
    weights = [*copied.glob("before/fold_*/weights_last.safetensors")]
    if harm == "gone":
        shutil.rmtree(copied / "before")
    for path in weights if harm != "gone" else []:
        path.write_bytes(b"no weights" if harm == "damaged" else path.read_bytes()[:1000])
    with pytest.raises(MedfuseError) as error:
        load_model([copied], device="cpu", reporter=Reporter(quiet=True))
    assert "before" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_first_stage_that_finds_nothing_is_told(two, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "medfuse.trained.trained.Trained.presence", lambda self, image: np.zeros(image.shape[1:], np.float32)
    )
    with pytest.raises(MedfuseError, match="finds nothing in any of the 6 cases"):
        run(two / "two.yaml", "stages.0.train.steps=1", folder=tmp_path)


def test_fewer_training_cases_than_folds_are_told(two, tmp_path):
    with pytest.raises(MedfuseError) as error:
        run(two / "two.yaml", "cascade.folds=7", folder=tmp_path)
    assert "cascade.folds: is 7, and there are 6 training cases" in str(error.value)


def test_a_spacing_that_is_planned_finer_than_the_first_stages_is_told(two, tmp_path):
    with pytest.raises(MedfuseError) as error:
        run(
            two / "two.yaml",
            "stages.1.preprocess.spacing_mm=auto",
            "stages.0.preprocess.spacing_mm=[1, 3, 4]",
            folder=tmp_path,
        )
    assert "stages[0].preprocess.spacing_mm: [1, 3, 4] is finer than" in str(error.value)


def test_a_plan_that_was_lost_is_made_anew_with_where_it_looks(two, copied):
    plan = copied / "plan.json"
    before = json.loads(plan.read_text())["data"]["focus"]
    plan.unlink()
    run(two / "two.yaml", folder=copied.parent)
    assert json.loads(plan.read_text())["data"]["focus"] == before


def test_folds_of_an_earlier_start_see_no_new_scans(two, copied):
    shutil.copytree(copied / "before" / "fold_1", copied / "before" / "fold_2")
    run(two / "two.yaml", folder=copied.parent, retrain=True)
    assert sorted(path.name for path in (copied / "before").glob("fold_*")) == ["fold_0", "fold_1"]
    assert len(load_model([copied], device="cpu", reporter=Reporter(quiet=True)).before.networks) == 2


def test_retrain_trains_both_stages_anew(two, copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("weights_last.safetensors")}
    run(two / "two.yaml", folder=copied.parent, retrain=True)
    assert all(path.stat().st_mtime_ns > then for path, then in before.items())
    load_model([copied], device="cpu", reporter=Reporter(quiet=True))


def test_other_verbs_know_a_cascade(two, medfuse, tmp_path):
    folder = two / "runs" / "two"
    assert "runs windows within" in medfuse("info", folder).out
    assert medfuse("taps", two / "two.yaml").out.count("encoder: unet_encoder") == 2
    refused = medfuse("export", folder, "--format", "onnx", "--output", tmp_path / "x.onnx")
    assert refused.code == 2
    assert "is one of the two stages of a cascade" in refused.err
    scans = two / "data" / "imagesTr"
    said = medfuse("infer", folder, "--input", scans, "--output", tmp_path / "out", "--explain")
    assert (said.code, "7 cases" in said.out) == (0, True)


@pytest.mark.slow
def test_workers_make_the_same_label_maps(two, medfuse, tmp_path):
    folder, scans = two / "runs" / "two", two / "data" / "imagesTr"
    for name, words in (("one", ()), ("several", ("--workers", "2"))):
        assert medfuse("infer", folder, "--input", scans, "--output", tmp_path / name, *words).code == 0
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert (read_labels(path).array == read_labels(tmp_path / "several" / path.name).array).all()


@pytest.mark.slow
def test_slices_are_a_second_stage_too(two, tmp_path):
    flat = ["stages.1.sample.patch_size=[8, 8]", "name=flat"]
    folder = run(two / "two.yaml", *flat, folder=tmp_path).folder
    voxels, geometry = image_of(two, "cube_01")
    one, every = trained(folder), trained(folder, windows="all")
    one = replace(one, plan=replace(one.plan, focus=Focus(0.5, 0.0)))
    inside = geometry.turn.undo(one._prepared_array(voxels, geometry)[1].whole())
    made, whole = one.label_map(voxels, geometry), every.label_map(voxels, geometry)
    assert (made[inside] == whole[inside]).all()
    assert inside.any()


@pytest.mark.slow
def test_all_cases_may_train_and_folds_are_averaged(two, medfuse, tmp_path):
    names = [f"cube_{n:02d}" for n in range(7)]
    folds = [{"train": names[1:], "val": names[:1]}, {"train": names[:-1], "val": names[-1:]}]
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    few = ["--set", "stages.0.train.steps=30", "--set", f"split.file={tmp_path / 'folds.json'}"]
    words = ["run", two / "two.yaml", "--runs", tmp_path, *few, "--quiet"]
    said = medfuse(*words, "--folds", "0,1")
    assert said.code == 0, said.err
    model = load_model([tmp_path / "two"], device="cpu", reporter=Reporter(quiet=True))
    assert (len(model.networks), len(model.before.networks)) == (2, 4)
    plans = [
        load_weights(tmp_path / "two" / f"fold_{n}" / "weights_last.safetensors")[1]["data"] for n in (0, 1)
    ]
    assert model.plan.focus.threshold == min(plan["focus"]["threshold"] for plan in plans)
    assert medfuse(*words, "--fold", "all").code == 0
    splits = json.loads((tmp_path / "two" / "fold_all" / "before" / "splits.json").read_text())
    assert sorted(name for split in splits for name in split["val"]) == names


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["classes", "foreground"])
def test_a_stage_that_is_shown_the_first_sees_what_networks_said_that_had_not_learned_from_it(
    two, tmp_path, targets
):
    run(two / "two.yaml", "cascade.shown=true", f"cascade.targets={targets}", folder=tmp_path)
    folder = tmp_path / "two"
    model = load_model([folder], device="cpu", reporter=Reporter(quiet=True))
    assert model.plan.before == (1,)
    assert model.plan.image.channels == 2
    case = next(case for case in _cases(two) if case.name == "cube_06")
    shown = model.prepare(case)
    labels = read_labels(folder / "before" / "predictions" / "cube_06.nii.gz").array
    assert (shown.image[1] == shown.geometry.turn.apply(labels)).all()
    splits = json.loads((folder / "before" / "splits.json").read_text())
    for fold, split in enumerate(splits):
        made = {p.name for p in (folder / "before" / f"fold_{fold}" / "predictions").glob("*.nii.gz")}
        assert made == {f"{name}.nii.gz" for name in split["val"]}
    run(two / "two.yaml", "cascade.shown=true", f"cascade.targets={targets}", folder=tmp_path)
