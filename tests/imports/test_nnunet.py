"""nnU-Net's models as runs: the same logits, and the plan's facts."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from fuzz import spoilt
from nnunet_model import write_model

from medfuse.core.errors import CheckpointError, OutputError
from medfuse.core.reporter import Reporter
from medfuse.imports.nnunet import read_plan
from medfuse.model.settings import TransferSettings
from medfuse.model.transfer import transfer
from medfuse.model.weights import load_weights
from medfuse.trained.loading import load_trained
from medfuse.verbs.import_nnunet import import_nnunet
from medfuse.verbs.infer import infer_volumes


def imported(tmp_path, **options):
    """nnU-Net's network, and ours after the import."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans"
    theirs = write_model(folder, **options)
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    return folder, theirs, load_trained([tmp_path / "run" / "weights_last.safetensors"], device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"turned": (2, 0, 1)},
        {"turned": (1, 0, 2)},
        {"dims": 2},
        {"older": True},
        {"style": ("BatchNorm", "ReLU", False)},
        {"style": ("InstanceNorm", "GELU", True), "dims": 2},
        {"style": ("BatchNorm", "LeakyReLU", True), "told": False},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]},
    ],
    ids=[
        "plain",
        "turned",
        "swapped",
        "flat",
        "older plan",
        "other norm",
        "gelu",
        "trainer's norm",
        "regions",
    ],
)
def test_a_window_has_the_same_logits(tmp_path, options):
    folder, theirs, ours = imported(tmp_path, **options)
    axes = read_plan(folder, "2d" if options.get("dims") == 2 else "3d_fullres").axes
    turn = (0, 1, *(2 + axis for axis in axes))
    size = json.loads((folder / "plans.json").read_text())["configurations"]["parent"]["patch_size"]
    image = torch.randn(2, 2, *size)
    with torch.no_grad():
        expected, made = theirs(image).permute(turn), ours.networks[0](image.permute(turn))
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def test_the_plans_facts_are_in_our_order_of_axes(tmp_path):
    plan = imported(tmp_path)[2].plan
    assert (plan.patch_size, plan.spacing_mm) == ((12, 16, 8), (0.7, 0.8, 2.5))


def test_what_nnunet_turned_is_turned_back(tmp_path):
    plan = imported(tmp_path, turned=(2, 0, 1))[2].plan  # nnU-Net's (x, z, y)
    assert (plan.patch_size, plan.spacing_mm) == ((8, 12, 16), (2.5, 0.7, 0.8))


def test_channels_are_normalised_as_nnunet_does(tmp_path):
    ct, other = imported(tmp_path)[2].plan.normalization
    assert (ct.kind, ct.lower, ct.upper, ct.mean, ct.std) == ("ct", -100, 200, 40, 20)
    assert other.kind == "nonzero_zscore"


def test_mirroring_at_test_time_is_nnunets(tmp_path):
    assert imported(tmp_path)[2].settings.mirror == ("x", "y", "z")


def test_an_ignore_label_is_no_class(tmp_path):
    plan = imported(tmp_path, labels={"background": 0, "a": 1, "b": 2, "ignore": 3})[2].plan
    assert plan.classes == ("background", "a", "b")


def test_regions_are_written_as_nnunet_writes_them(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3, "ignore": 4}
    plan = imported(tmp_path, labels=labels, regions_class_order=[1, 2, 3])[2].plan
    assert plan.classes == ("whole", "core", "rim")
    assert plan.labels == {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "rim": 3}
    assert (plan.region_order, plan.ignore) == ((1, 2, 3), 4)


def test_a_zip_file_is_taken_as_its_folder(tmp_path):
    folder = tmp_path / "Dataset001_Organ" / "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    write_model(folder, folds=(0, 1))
    archive = shutil.make_archive(tmp_path / "model", "zip", tmp_path, "Dataset001_Organ")
    import_nnunet(Path(archive), tmp_path / "run", reporter=Reporter(quiet=True))
    import_nnunet(folder, tmp_path / "same", reporter=Reporter(quiet=True))
    for fold in ("fold_0", "fold_1"):
        ours, same = (tmp_path / run / fold / "weights_last.safetensors" for run in ("run", "same"))
        assert ours.read_bytes() == same.read_bytes()
    assert load_weights(ours)[1]["name"] == "Dataset001_Organ"


def test_of_several_models_one_is_named(tmp_path):
    for dims, name in ((3, "3d_fullres"), (2, "2d")):
        write_model(tmp_path / f"nnUNetTrainer__nnUNetPlans__{name}", dims=dims)
    with pytest.raises(CheckpointError, match=r"several models .*name one by --configuration"):
        import_nnunet(tmp_path, tmp_path / "run", reporter=Reporter(quiet=True))
    import_nnunet(tmp_path, tmp_path / "run", configuration="2d", reporter=Reporter(quiet=True))
    assert len(load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu").plan.patch_size) == 2


def test_a_zip_file_that_leads_out_of_itself_is_refused(tmp_path):
    archive = tmp_path / "model.zip"
    with ZipFile(archive, "w") as file:
        file.writestr("../plans.json", "{}")
    with pytest.raises(CheckpointError, match=r"model\.zip: holds a file \.\./plans\.json, which leads out"):
        import_nnunet(archive, tmp_path / "run", reporter=Reporter(quiet=True))


def test_a_zip_file_that_was_cut_off_is_one_line(tmp_path):
    write_model(tmp_path / "trained" / "model")
    archive = Path(shutil.make_archive(tmp_path / "model", "zip", tmp_path / "trained"))
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.zip: (is neither|cannot be unzipped)") as caught:
        import_nnunet(archive, tmp_path / "run", reporter=Reporter(quiet=True))
    assert len(caught.value.lines) == 1


def test_what_is_wrong_in_a_zip_file_is_said_of_it(tmp_path):
    write_model(tmp_path / "trained" / "model", normalization_schemes=["RGBTo01Normalization"] * 2)
    archive = Path(shutil.make_archive(tmp_path / "model", "zip", tmp_path / "trained"))
    with pytest.raises(CheckpointError, match=rf"^{archive}/model/plans\.json: channel 0"):
        import_nnunet(archive, tmp_path / "run", reporter=Reporter(quiet=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"norm_op": "torch.nn.GroupNorm"}, "norm_op GroupNorm"),
        ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "norm_op_kwargs"),
        ({"nonlin": "torch.nn.PReLU"}, "nonlin torch.nn.PReLU"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "a negative_slope of 0.2"),
        ({"nonlin_first": True}, "nonlin_first"),
    ],
)
def test_what_medfuse_has_not_around_a_convolution_is_named(model, tmp_path, changed, words):
    folder, said = model
    said["plans.json"]["configurations"]["parent"]["architecture"]["arch_kwargs"] |= changed
    (folder / "plans.json").write_text(json.dumps(said["plans.json"]))
    with pytest.raises(CheckpointError, match=words):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


def test_dropout_is_of_no_account(model, tmp_path):
    folder, said = model
    dropout = {"dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.2}}
    said["plans.json"]["configurations"]["parent"]["architecture"]["arch_kwargs"] |= dropout
    (folder / "plans.json").write_text(json.dumps(said["plans.json"]))
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


def test_a_trainer_that_builds_another_network_is_named(model, tmp_path):
    folder, _ = model
    path = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)
    state["trainer_name"] = "nnUNet_Primus_M_Trainer"
    state["network_weights"] = {f"eva.{k}": v for k, v in state["network_weights"].items()}
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="fold_0: was trained by nnUNet_Primus_M_Trainer"):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


def test_every_fold_becomes_a_run(tmp_path):
    write_model(tmp_path / "trained", folds=(0, 1))
    said = import_nnunet(tmp_path / "trained", tmp_path / "run", reporter=Reporter(quiet=True))
    assert f"medfuse infer {tmp_path / 'run' / 'fold_0'} {tmp_path / 'run' / 'fold_1'}" in said
    paths = [tmp_path / "run" / f"fold_{i}" / "weights_last.safetensors" for i in (0, 1)]
    assert len(load_trained(paths, device="cpu").networks) == 2


def test_a_model_of_all_cases_stays_one(tmp_path):
    write_model(tmp_path / "trained", folds=(0,))
    (tmp_path / "trained" / "fold_0").rename(tmp_path / "trained" / "fold_all")
    import_nnunet(tmp_path / "trained", tmp_path / "run", reporter=Reporter(quiet=True))
    weights = tmp_path / "run" / "weights_last.safetensors"
    assert load_weights(weights)[1]["fold"] == "all"
    assert load_trained([weights], device="cpu").networks


def test_encoder_and_decoder_are_a_starting_point(tmp_path):
    _, _, ours = imported(tmp_path)
    fresh = load_trained([tmp_path / "run" / "weights_last.safetensors"], device="cpu").networks[0]
    for parameter in fresh.parameters():
        parameter.data.zero_()
    weights = TransferSettings(weights=tmp_path / "run" / "weights_last.safetensors")
    transfer(fresh, {"encoder": weights, "decoded": weights})
    state = ours.networks[0].state_dict()
    parts = {k: v for k, v in fresh.state_dict().items() if k.startswith(("backbones", "fusion"))}
    assert parts
    assert all(torch.equal(v, state[k]) for k, v in parts.items())


def test_a_checkpoint_of_nnunet_is_read_without_executing_it(tmp_path):
    write_model(tmp_path / "trained")
    from medfuse.model.transfer import read_tensors

    tensors = read_tensors(tmp_path / "trained" / "fold_0" / "checkpoint_final.pth")
    assert "encoder.stages.0.0.convs.0.conv.weight" in tensors


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "`regions_class_order` must list 2"),
        ({"normalization_schemes": ["RGBTo01Normalization"] * 2}, "normalised by RGBTo01Normalization"),
        ({"dims": 2, "turned": (2, 0, 1)}, r"not in the \(x, y\) plane"),
    ],
)
def test_what_cannot_be_had_is_said(tmp_path, options, reason):
    write_model(tmp_path / "trained", **options)
    with pytest.raises(CheckpointError, match=reason):
        import_nnunet(tmp_path / "trained", tmp_path / "run", reporter=Reporter(quiet=True))


def test_another_network_is_refused_by_name(tmp_path):
    write_model(tmp_path / "trained")
    plans = tmp_path / "trained" / "plans.json"
    plans.write_text(plans.read_text().replace("PlainConvUNet", "Primus"))
    with pytest.raises(CheckpointError, match="its network is a Primus"):
        import_nnunet(tmp_path / "trained", tmp_path / "run", reporter=Reporter(quiet=True))


def test_a_folder_of_something_else_is_refused(medfuse, tmp_path):
    said = medfuse("import-nnunet", tmp_path, "--output", tmp_path / "run")
    assert said.code == 2
    assert "give a folder nnUNetTrainer__…" in said.err


def test_weights_are_never_overwritten(tmp_path):
    folder, _, _ = imported(tmp_path)
    with pytest.raises(OutputError, match="is there already"):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


# ---- cascades


def cascade(tmp_path, **changes):
    """Folders of both stages beside each other; returns the second, and its network."""
    write_model(
        tmp_path / "nnUNetTrainer__p__3d_lowres", name="3d_lowres", spacing=[5.0, 1.6, 1.4], **changes
    )
    folder = tmp_path / "nnUNetTrainer__p__3d_cascade_fullres"
    return folder, write_model(folder, cascade=True, **changes)


def voxels(shape=(14, 18, 9)):
    """An image (channels, i, j, k) on the second stage's grid."""
    import numpy as np

    from medfuse.core.geometry import Geometry

    made = np.random.default_rng(0).normal(20, 60, (2, *shape)).astype(np.float32)
    return made, Geometry(shape, np.diag([0.7, 0.8, 2.5, 1.0]))


@pytest.mark.parametrize(
    "changes",
    [{}, {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}],
    ids=["classes", "regions"],
)
def test_a_cascade_is_shown_the_labels_of_its_first_stage(tmp_path, changes):
    import numpy as np

    folder, theirs = cascade(tmp_path, **changes)
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    ours = load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu")
    assert ours.before is not None
    assert ours.before.plan.spacing_mm == (1.4, 1.6, 5.0)
    assert ours.plan.before == (1, 2)
    image, geometry = voxels((12, 16, 8))  # one window
    first = ours.before.label_map(image, geometry)
    assert {1, 2} & {*np.unique(first)}
    shown = ours._preprocessor.prepare_array(image, geometry)
    masks = np.stack([first == 1, first == 2]).astype(np.float32)
    window = torch.from_numpy(np.concatenate([shown, masks]))[None]
    with torch.no_grad():
        expected = theirs(window.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        made = ours.networks[0](window)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    single = replace(ours, settings=ours.settings.model_copy(update={"mirror": ()}))
    decided = single.label_map(image, geometry)
    if changes:
        whole, core = (expected[0] > 0).numpy()
        assert (decided != np.where(core, 2, np.where(whole, 1, 0))).mean() < 1e-2
    else:
        assert (decided != expected[0].argmax(0).numpy()).mean() < 1e-2


def test_a_folder_of_scans_goes_through_both_stages(tmp_path):
    import nibabel
    import numpy as np

    folder, _ = cascade(tmp_path, folds=(0, 1))
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    runs = [tmp_path / "run" / f"fold_{i}" / "weights_last.safetensors" for i in (0, 1)]
    ours = load_trained(runs, device="cpu")
    assert (len(ours.networks), len(ours.before.networks)) == (2, 2)
    image, geometry = voxels()
    (tmp_path / "scans").mkdir()
    for number, channel in enumerate(image):
        volume = nibabel.Nifti1Image(channel, geometry.affine)
        nibabel.save(volume, tmp_path / "scans" / f"case_{number:04d}.nii.gz")
    done = infer_volumes(
        [path.parent for path in runs],
        [tmp_path / "scans"],
        tmp_path / "labels",
        device="cpu",
        reporter=Reporter(quiet=True),
    )
    assert done.code == 0
    written = np.asarray(nibabel.load(tmp_path / "labels" / "case.nii.gz").dataobj)
    assert np.array_equal(written, ours.label_map(image, geometry))


def test_other_weights_of_the_first_stage_make_another_recipe(tmp_path):
    folder, _ = cascade(tmp_path)
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    ours = load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu")
    assert ours._recipe().weights == (*ours.hashes, *ours.before.hashes)


def test_a_first_stage_that_is_missing_is_asked_for_before_anything_is_written(tmp_path):
    folder, _ = cascade(tmp_path)
    (tmp_path / "nnUNetTrainer__p__3d_lowres").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="3d_lowres, is not beside it; name its folder by --before"):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    assert not (tmp_path / "run/weights_last.safetensors").exists()
    import_nnunet(folder, tmp_path / "run", before=tmp_path / "elsewhere", reporter=Reporter(quiet=True))
    shutil.rmtree(tmp_path / "run" / "before")
    with pytest.raises(CheckpointError, match="is the second stage of a cascade"):
        load_trained([tmp_path / "run/weights_last.safetensors"], device="cpu")


def test_a_stage_is_not_taken_for_the_one_before_itself(tmp_path):
    folder, _ = cascade(tmp_path)
    import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    weights = "weights_last.safetensors"
    shutil.copy(tmp_path / "run" / weights, tmp_path / "run" / "before" / weights)
    with pytest.raises(CheckpointError, match="is the second stage of a cascade"):
        load_trained([tmp_path / "run" / weights], device="cpu")


ONE_LINE = "plans.json|dataset.json|checkpoint|fold_0"


def refused(folder, tmp_path) -> bool:
    """Whether the import is refused, in lines that name one of the files."""
    try:
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    except CheckpointError as error:
        for line in error.lines:
            assert line.isprintable()
            assert len(line) < 1500
            assert re.search(ONE_LINE, line), line
        return True
    shutil.rmtree(tmp_path / "run")
    return False


@pytest.fixture
def model(tmp_path):
    """A trained model's folder, and what its two texts say."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans"
    write_model(folder)
    names = ("plans.json", "dataset.json")
    return folder, {name: json.loads((folder / name).read_text()) for name in names}


@pytest.mark.parametrize("circle", [["3d_fullres"], ["parent", "3d_fullres"]])
def test_a_configuration_that_inherits_from_itself_is_named(model, tmp_path, circle):
    folder, said = model
    known = said["plans.json"]["configurations"]
    for name, parent in zip(circle, [*circle[1:], circle[0]]):
        known[name] = {**known[name], "inherits_from": parent}
    known["3d_fullres"]["inherits_from"] = circle[0]
    (folder / "plans.json").write_text(json.dumps(said["plans.json"]))
    with pytest.raises(CheckpointError, match=r"plans\.json: configuration \w+ inherits from itself"):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"patch_size": [8, 16]}, "numbers of axes"),
        ({"patch_size": [8, 16, "x"]}, r"patch_size\[2\]"),
        ({"patch_size": 5}, "patch_size"),
        ({"spacing": [1, 0, 1]}, r"spacing\[1\]"),
        ({"batch_size": None}, "batch_size"),
        ({"normalization_schemes": ["CTNormalization"]}, "channel 1 has no scheme"),
        ({"normalization_schemes": ["²", "²"]}, "channel 0 is normalised by ²"),
        ({"architecture": 3}, "architecture"),
        ({"architecture": {"network_class_name": "a.B", "arch_kwargs": {}}}, "features_per_stage|n_stages"),
    ],
)
def test_an_odd_value_of_a_plan_is_one_line_with_its_key(model, tmp_path, changed, words):
    folder, said = model
    said["plans.json"]["configurations"]["parent"] |= changed
    (folder / "plans.json").write_text(json.dumps(said["plans.json"]))
    with pytest.raises(CheckpointError, match=rf"plans\.json: .*({words})") as caught:
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))
    assert len(caught.value.lines) == 1


def test_a_plan_of_a_larger_network_than_the_checkpoint_takes_no_memory(model, tmp_path):
    folder, said = model
    kwargs = said["plans.json"]["configurations"]["parent"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4096] * len(kwargs["features_per_stage"])
    kwargs["kernel_sizes"] = [[63, 63, 63]] * len(kwargs["kernel_sizes"])
    (folder / "plans.json").write_text(json.dumps(said["plans.json"]))
    with pytest.raises(CheckpointError, match=r"its network has [\d,]+ parameters"):
        import_nnunet(folder, tmp_path / "run", reporter=Reporter(quiet=True))


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("text", ["[" * 200_000, "5", "", "{", '{"a": NaN}', "null", "[]"])
def test_a_text_that_is_no_plan_is_refused(model, tmp_path, name, text):
    folder, _ = model
    (folder / name).write_text(text)
    assert refused(folder, tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_spoilt_plans_are_imported_or_refused_in_lines(model, tmp_path, seed):
    spoil(model, tmp_path, seed)


@pytest.mark.slow
def test_many_spoilt_plans_are_imported_or_refused_in_lines(model, tmp_path):
    outcomes = [spoil(model, tmp_path, seed) for seed in range(6, 250)]
    assert sum(outcomes) > len(outcomes) / 3


def spoil(model, tmp_path, seed) -> bool:
    folder, said = model
    for name, value in said.items():
        (folder / name).write_text(json.dumps(spoilt(value, seed)))
        if name == "plans.json":
            first = refused(folder, tmp_path)
            (folder / name).write_text(json.dumps(value))
    return refused(folder, tmp_path) or first
