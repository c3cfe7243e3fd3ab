"""`medfuse init --from`: a pipeline from what pretrained weights say of themselves."""

from math import prod

import nnssl_model
import pytest
import torch
from phantoms import write_dataset

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.pipeline import load_pipeline
from medfuse.planning import started
from medfuse.train import cost
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.init import init_from

AGREES = "every declared shape agrees with the real one"


@pytest.fixture
def machine(monkeypatch):
    """One on which a step costs in proportion to its voxels. Returns what was asked of it."""
    asked = []

    def measure(build, objective, settings, *, shape, **_):
        asked.append(shape)
        return cost.StepCost(1e-5 * prod(shape[2:]), 1000 * prod(shape[2:]))

    monkeypatch.setattr(cost, "measure_step", measure)
    return asked


def begun(source, tmp_path, **options):
    """The pipeline that was written, and its file."""
    data, file = tmp_path / "cubes", tmp_path / "pipelines" / "cubes.yaml"
    if not data.exists():
        write_dataset(data)
    how = {"budget": 2**30, "device": "cpu", "reporter": Reporter(quiet=True), **options}
    init_from(data, str(source), output=file, **how)
    return load_pipeline(file)[0], file


def plain_text(file):
    """Its comments and all in one line."""
    return " ".join(file.read_text().replace("#", "").split())


@pytest.fixture
def plain(tmp_path):
    nnssl_model.plain(tmp_path / "plain.pth")
    return tmp_path / "plain.pth"


def test_a_checkpoint_of_nnssl_plans_its_own_pipeline(machine, plain, tmp_path):
    pipeline, file = begun(plain, tmp_path)
    assert pipeline.preprocess.spacing_mm == (1.0, 2.0, 3.0)
    assert pipeline.preprocess.normalize == "zscore"
    assert pipeline.model.backbones["encoder"].channels == (4, 8, 16)
    assert all(n % s == 0 for n, s in zip(pipeline.sample.patch_size, (4, 4, 2)))
    assert AGREES in check_pipeline(file)


def test_what_is_known_learns_slowly_and_what_is_new_as_usual(machine, plain, tmp_path):
    parts = begun(plain, tmp_path)[0].train.parts
    assert {name: part.rate for name, part in parts.items()} == {"backbones.encoder.*": 0.1}


def test_a_patch_shrinks_to_the_memory(machine, plain, tmp_path):
    pipeline, _ = begun(plain, tmp_path, budget=1000 * 2 * 16**3 * 8)
    assert 1000 * prod(pipeline.sample.patch_size) <= 1000 * 2 * 16**3 * 8


def test_where_not_even_a_small_patch_fits_it_says_what_it_takes(machine, plain, tmp_path):
    with pytest.raises(MedfuseError, match="allow more by --budget"):
        begun(plain, tmp_path, budget=1000)


def test_a_run_of_medfuse_starts_another(machine, medfuse, tmp_path):
    from nnunet_model import write_model

    from medfuse.verbs.import_nnunet import import_nnunet

    write_model(tmp_path / "trained")
    import_nnunet(tmp_path / "trained", tmp_path / "run", reporter=Reporter(quiet=True))
    write_dataset(tmp_path / "cubes", channels=2)
    pipeline, file = begun(tmp_path / "run", tmp_path)
    assert {*pipeline.model.transfer} == {"encoder", "decoded"}
    assert pipeline.sample.patch_size[0] % 4 == 0
    assert AGREES in check_pipeline(file)


def test_a_bundle_starts_a_training_on_other_labels(machine, tmp_path):
    from imports.test_bundle import write_bundle

    write_bundle(tmp_path / "bundle")
    pipeline, file = begun(tmp_path / "bundle", tmp_path)
    assert pipeline.model.transfer["encoder"].at_least == 0.99
    assert str(pipeline.preprocess.normalize) == "{window: [-57, 164]}"  # its own, to 0 … 1
    assert AGREES in check_pipeline(file)


def test_what_no_setting_scales_as_a_bundle_does_is_said(machine, tmp_path):
    from imports.test_bundle import RANGE, configuration, transforms, write_bundle

    scaled = transforms({**RANGE, "b_min": -1.0, "clip": True})
    write_bundle(tmp_path / "bundle", configuration(preprocessing=scaled))
    pipeline, file = begun(tmp_path / "bundle", tmp_path)
    assert pipeline.preprocess.normalize == "auto"
    assert "numbers that no `normalize` says" in plain_text(file)


def test_windows_of_weights_are_written_as_they_are_and_make_as_many_inputs(machine, monkeypatch, tmp_path):
    from medfuse.data.settings import scaling
    from medfuse.imports.start import Start
    from medfuse.planning import sources

    start = Start("some", {"use": "unet_encoder"}, normalize=scaling("{windows: [[-160, 240], [0, 80]]}"))
    monkeypatch.setattr(sources, "read_start", lambda _: start)
    pipeline, file = begun("some", tmp_path)
    assert str(pipeline.preprocess.normalize) == "{windows: [[-160, 240], [0, 80]]}"
    assert machine[0][1] == 2
    assert AGREES in check_pipeline(file)


def test_tokens_stand_still_and_their_maps_are_kept(machine, tmp_path):
    nnssl_model.primus(tmp_path / "primus.pth")
    pipeline, file = begun(tmp_path / "primus.pth", tmp_path, minutes=5)
    assert pipeline.train.parts["backbones.encoder.*"].freeze == "always"
    assert pipeline.train.frozen_maps is not None
    assert 0 < pipeline.train.minutes <= 5
    assert AGREES in check_pipeline(file)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nothing", "no such file or folder, and no name of the hub"),
        ("folder", "holds nothing that says which network"),
        ("tensors.pth", "nothing that says of which network"),
        ("plans", "run `medfuse import-nnunet"),
    ],
)
def test_what_says_nothing_of_itself_is_refused_with_what_would(machine, tmp_path, what, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "plans.json").write_text("{}")
    torch.save({"a": torch.ones(2)}, tmp_path / "tensors.pth")
    with pytest.raises(CheckpointError, match=words):
        begun(tmp_path / what, tmp_path)
    assert not (tmp_path / "pipelines").exists()


def test_the_command_has_one_network_and_so_one_plan(medfuse, plain, tmp_path):
    said = medfuse("init", tmp_path, "--from", plain, "--compare", "2")
    assert said.code == 2
    assert "leave this out" in said.err


@pytest.mark.parametrize("shape", [(20, 18, 16), (200, 100, 30), (64, 64, 64)])
@pytest.mark.parametrize("minutes", [None, 1, 60])
def test_a_patch_is_a_multiple_within_memory_and_minutes(shape, minutes):
    from medfuse.imports.start import Start

    start = Start("any", {}, multiple=(8, 8, 4), patch_size=(96, 96, 48))

    def measure(patch):
        return cost.StepCost(1e-6 * prod(patch), 100 * prod(patch))

    patch = started.plan_patch(start, shape, measure, budget=2**27, minutes=minutes)
    assert all(n % s == 0 for n, s in zip(patch.size, (8, 8, 4)))
    assert patch.bytes <= 2**27
    smallest = [min(-(-32 // s) * s, n) for n, s in zip(patch.size, (8, 8, 4))]
    assert minutes is None or patch.seconds <= 60 * minutes / 100 or list(patch.size) == smallest


def test_without_a_network_it_says_what_to_give_to_from(medfuse, tmp_path, monkeypatch):
    from medfuse.core.errors import CheckpointError
    from medfuse.model.repository import Repository
    from medfuse.planning import sources

    line = f"a/b: is not in the hub's cache; {Repository('a/b', None, True).elsewhere()}"

    def refused(name, revision):
        raise CheckpointError(line)

    assert "that folder as `name`" in line
    monkeypatch.setattr(sources, "_of_network", refused)
    said = medfuse("init", tmp_path, "--from", "a/b")
    assert said.code == 2
    assert "give that folder to --from" in said.err
    assert "`name`" not in said.err
