"""Runs whose frozen maps are computed once: the same as if the frozen network ran at each step."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from phantoms import write_dataset

from medfuse.core.device import settle
from medfuse.core.errors import MedfuseError, OutputError, PipelineError
from medfuse.core.memory import parse_bytes
from medfuse.core.reporter import Reporter
from medfuse.data.kept import KeptMaps
from medfuse.model.segmenter import Segmenter
from medfuse.model.weights import load_weights
from medfuse.runs import frozen_maps
from medfuse.train.log import read_rows
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import run_pipeline

pytestmark = pytest.mark.usefixtures("plain_report")

SUMMED = {"scores": {"use": "sum_of_logits", "inputs": ["encoder.*"], "channels": 3}}
WITH_IMAGE = {"decoded": {"use": "unet_decoder", "inputs": ["image", "encoder.stages.1", "encoder.stages.2"]}}
TRAIN = {
    "steps": 14,
    "steps_per_epoch": 7,
    "precision": "fp32",
    "deterministic": True,
    "validation_cases": 0,
    "state_every": 3,
    "parts": {"backbones.encoder.*": {"freeze": "always"}},
}
SET = {"patches": 4, "views": 3, "precision": "fp32"}


@pytest.fixture(autouse=True)
def settled():
    """A refused training stays deterministic."""
    yield
    settle(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "cubes")


@pytest.fixture
def write(tmp_path, data):
    """Writes a pipeline of a frozen encoder; its file."""

    def write(name="cubes", fusion=None, frozen=None, train=None, **more) -> Path:
        fusion = fusion or SUMMED
        values = {
            "name": name,
            "data": {"use": "decathlon", "root": str(data)},
            "sample": {"patch_size": [16, 16, 16], "batch_size": 2, "workers": 0},
            "model": {
                "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3}},
                "fusion": fusion,
                "head": {"input": [*fusion][-1]},
            },
            "train": {**TRAIN, "frozen_maps": {**SET, **(frozen or {})}, **(train or {})},
            **more,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def run(tmp_path):
    """Runs a file; all that was said."""

    def run(file, *overrides, runs="runs", **given) -> str:
        said = io.StringIO()
        run_pipeline(file, overrides, runs=tmp_path / runs, reporter=Reporter(said), **given)
        return said.getvalue()

    return run


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """A number for each time that the frozen network is run for maps."""
    times: list[int] = []
    plain = Segmenter.maps_of

    def counting(self, image, names):
        times.append(len(image))
        return plain(self, image, names)

    monkeypatch.setattr(Segmenter, "maps_of", counting)
    return times


MEASURED = 2  # times that a batch is computed before training begins


def weights(tmp_path, name="cubes", runs="runs"):
    return load_weights(tmp_path / runs / name / "weights_last.safetensors")[0]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def curve(tmp_path, runs):
    rows = read_rows(tmp_path / runs / "cubes" / "metrics.jsonl")
    clocks = ("seconds", "steps_per_second", "wait_share")
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


@pytest.mark.parametrize("fusion", [SUMMED, WITH_IMAGE])
def test_kept_in_fp32_a_training_is_equal_to_the_last_bit(write, run, tmp_path, fusion):
    file = write(fusion=fusion)
    run(file, runs="kept")
    run(file, "train.frozen_maps.keep=false", runs="off")
    assert same(weights(tmp_path, runs="kept"), weights(tmp_path, runs="off"))
    assert curve(tmp_path, "kept") == curve(tmp_path, "off")


def test_and_to_one_whose_network_is_called_as_ever(write, run, tmp_path, monkeypatch):
    file = write(fusion=WITH_IMAGE)
    run(file, runs="kept")
    plain = frozen_maps.set_up

    def unknowing(*args):
        made = plain(*args)
        return frozen_maps.FrozenTraining(made.batches, lambda batch: {}, made.record)

    monkeypatch.setattr("medfuse.runs.training.set_up", unknowing)
    run(file, "train.frozen_maps.keep=false", runs="off")
    assert same(weights(tmp_path, runs="kept"), weights(tmp_path, runs="off"))


def test_dropout_and_statistics_of_what_is_frozen_stand_still(write, run, tmp_path, computed):
    backbones = {"encoder": {"use": "efficientnet", "size": "b0"}}
    fusion = {"scores": {"use": "sum_of_logits", "inputs": ["encoder._blocks.0"], "channels": 3}}
    model = {"backbones": backbones, "fusion": fusion, "head": {"input": "scores"}}
    run(write(model=model), "train.steps=3")
    made = weights(tmp_path)
    counts = [value for name, value in made.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert not any(counts)


def test_in_fp16_it_is_close(write, run, tmp_path):
    file = write()
    run(file, "train.frozen_maps.precision=fp16", runs="half")
    run(file, "train.frozen_maps.keep=false", runs="off")
    half, off = weights(tmp_path, runs="half"), weights(tmp_path, runs="off")
    assert not same(half, off)
    assert all(torch.allclose(half[name], off[name], atol=0.02) for name in half)


def test_the_frozen_network_runs_once_for_each_batch(write, run, computed):
    said = run(write())
    assert len(computed) == MEASURED + 6
    assert "4 patches × 3 views = 6 batches, computed once" in said


def test_a_second_fusion_finds_the_maps_of_the_first(write, run, computed):
    run(write("one"))
    computed.clear()
    fewer = {
        "scores": {"use": "hypercolumn", "inputs": ["encoder.stages.1", "encoder.stages.2"], "channels": 4}
    }
    said = run(write("other", fusion=fewer))
    assert len(computed) == MEASURED
    assert "all of them there already" in said


def test_what_others_computed_counts_in_the_time(write, run, tmp_path, monkeypatch):
    plain = KeptMaps.write
    monkeypatch.setattr(KeptMaps, "write", lambda self, n, batch, maps, _: plain(self, n, batch, maps, 1000))
    run(write("one"))
    run(write("other"))
    rows = [read_rows(tmp_path / "runs" / name / "metrics.jsonl") for name in ("one", "other")]
    spent = [max(row["seconds"] for row in some if "seconds" in row) for some in rows]
    assert spent[0] < 1000
    assert 6000 <= spent[1] < 7000


@pytest.mark.parametrize(
    "change",
    [
        "seed=2",
        "augment.rotate=0.5",
        "sample.foreground=0.9",
        "sample.patch_size=[16,16,8]",
        "preprocess.normalize=none",
        "train.frozen_maps.views=2",
        "train.frozen_maps.precision=fp16",
        "model.backbones.encoder.base_channels=6",
    ],
)
def test_any_change_makes_new_maps(write, run, computed, change):
    file = write()
    run(file)
    computed.clear()
    run(file, change, "name=other")
    assert len(computed) > MEASURED


class Killed(BaseException):
    pass


@pytest.mark.parametrize("keep", ["true", "false"])
@pytest.mark.parametrize("at", [1, 4, 6, 11])
def test_stopped_at_any_step_it_goes_on_as_if_it_had_not_been(write, run, tmp_path, monkeypatch, at, keep):
    file, how = write(), [f"train.frozen_maps.keep={keep}"]
    run(file, *how, runs="whole")
    from medfuse.train.step import Step

    plain = Step.__call__

    def dying(self, batch, unlabelled, number, done):
        if number == at:
            raise Killed
        return plain(self, batch, unlabelled, number, done)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", dying)
        with pytest.raises(Killed):
            run(file, *how, runs="parts")
    run(file, *how, runs="parts")
    assert same(weights(tmp_path, runs="parts"), weights(tmp_path, runs="whole"))


def test_maps_that_are_lost_or_damaged_are_computed_anew(write, run, tmp_path, computed):
    file = write()
    run(file)
    found = sorted((tmp_path / "runs" / "frozen_maps").glob("*/*/*.b2"))
    found[0].unlink()
    found[-1].write_bytes(found[-1].read_bytes()[:100])
    computed.clear()
    run(file, "name=again")
    assert len(computed) == MEASURED + len({found[0].name, found[-1].name})
    assert same(weights(tmp_path), weights(tmp_path, "again"))


def test_a_run_without_its_maps_infers_as_ever(write, run, tmp_path, data, medfuse):
    run(write())
    shutil.rmtree(tmp_path / "runs" / "frozen_maps")
    words = ["infer", tmp_path / "runs" / "cubes", "--input", data / "imagesTr", "--output", tmp_path / "out"]
    assert medfuse(*words).code == 0
    assert len([*(tmp_path / "out").glob("*.nii.gz")]) == 4


def test_more_than_max_disk_is_refused_before_anything_is_written(write, run, tmp_path):
    with pytest.raises(OutputError) as refused:
        run(write(), max_disk=1000)
    (line,) = refused.value.lines
    assert re.match(r"frozen maps: 4 patches in 3 views take .* in fp32, and --max-disk allows .*", line)
    for way in ("precision: fp16", "coarser taps (encoder.stages.0", "keep: false"):
        assert way in line
    assert not (tmp_path / "runs" / "frozen_maps").exists()
    assert not (tmp_path / "runs" / "cubes").exists()


def test_a_full_disk_is_refused_as_well(write, run, monkeypatch):
    monkeypatch.setattr("medfuse.runs.frozen_set._free", lambda path: 1000)
    with pytest.raises(OutputError, match=r"the disk of .*frozen_maps has 1 KiB to spare"):
        run(write())


def test_fewer_views_are_named_where_they_would_fit(write, run):
    file = write(frozen={"patches": 80})
    with pytest.raises(OutputError) as refused:
        run(file, max_disk=1000)
    taken = re.search(r"take ([0-9.]+ MiB)", refused.value.lines[0])
    assert taken
    with pytest.raises(OutputError, match=r"train.frozen_maps.views: 2"):
        run(file, max_disk=int(0.8 * parse_bytes(taken[1])))


def test_left_to_itself_it_covers_every_case_within_the_budget(write, run, tmp_path):
    said = run(write(frozen={"patches": "auto", "views": "auto"}, train={"steps": 60, "steps_per_epoch": 60}))
    record = json.loads((tmp_path / "runs" / "cubes" / "frozen_maps.json").read_text())
    assert (record["patches"], record["views"]) in said_sets(said)
    resolved = yaml.safe_load((tmp_path / "runs" / "cubes" / "resolved.yaml").read_text())
    assert resolved["train"]["frozen_maps"]["patches"] == record["patches"] >= 3
    assert record["patches"] * record["views"] <= 0.2 * 60 * 2


def said_sets(said):
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+) patches × (\d+) views", said)]


def test_compared_runs_take_the_same_set_though_a_clock_chooses(write, run, tmp_path, monkeypatch):
    auto = {"patches": "auto", "views": "auto"}
    long = {"steps": 60, "steps_per_epoch": 60}
    run(write("one", frozen=auto, train=long))
    run(write("other", frozen=auto, train={"steps": 90, "steps_per_epoch": 90}))
    sets = [json.loads((tmp_path / "runs" / n / "frozen_maps.json").read_text()) for n in ("one", "other")]
    assert sets[0] == sets[1]


def test_summary_and_log_say_how_many_views_there_were(write, run, tmp_path):
    run(write())
    summary = json.loads((tmp_path / "runs" / "cubes" / "summary.json").read_text())
    assert any("trained on 4 patches in 3 views each" in note for note in summary["notes"])


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            {"parts": {"backbones.encoder.*": {"freeze": 1}}},
            r"encoder learns .*frozen at first only, and thaws",
        ),
        ({"parts": {}}, r"no map stays as it is: encoder learns"),
        (
            {"guided": {"map": "encoder.stages.0", "percentile": 50, "erase": 1}},
            r"train\.guided.* none is seen twice",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_at_its_place(write, train, said):
    with pytest.raises(PipelineError, match=rf"cubes\.yaml:\d+:\d+: train\.frozen_maps: .*{said}"):
        check_pipeline(write(train=train))


def test_check_says_what_is_frozen_what_is_kept_and_how_large(write):
    said = check_pipeline(write())
    assert "frozen for good: encoder; of each patch is kept, in fp32, besides its label:" in said
    assert "encoder.stages.0: 4 × 16×16×16, 64 KiB" in said
    assert re.search(r"about .* for 4 patches in 3 views", said)


def test_check_says_that_the_image_is_kept_where_the_fusion_takes_it(write):
    assert "besides its label and image" in check_pipeline(write(fusion=WITH_IMAGE))


def test_values_that_fp16_does_not_hold_are_refused(write, run, monkeypatch):
    plain = Segmenter.maps_of
    monkeypatch.setattr(
        Segmenter, "maps_of", lambda self, *a: {name: 1e6 * x for name, x in plain(self, *a).items()}
    )
    with pytest.raises(MedfuseError, match=r"values beyond 65,504.*precision: fp32"):
        run(write(frozen={"precision": "fp16"}))


def test_what_draws_by_chance_though_frozen_is_refused(write, run, monkeypatch):
    plain = Segmenter.maps_of
    monkeypatch.setattr(
        Segmenter,
        "maps_of",
        lambda self, *a: {name: x + torch.rand_like(x) for name, x in plain(self, *a).items()},
    )
    with pytest.raises(MedfuseError, match=r"draws by chance in evaluation mode too"):
        run(write())


def test_other_views_are_another_run(write, run):
    file = write()
    run(file)
    with pytest.raises(MedfuseError, match=r"train\.frozen_maps\.views was 3, is 2"):
        run(file, "train.frozen_maps.views=2")


def test_maps_may_lie_elsewhere(write, run, tmp_path, computed):
    file = write(frozen={"folder": str(tmp_path / "scratch")})
    run(file)
    assert [*(tmp_path / "scratch").glob("*/about.json")]
    assert not (tmp_path / "runs" / "frozen_maps").exists()


@pytest.mark.slow
def test_two_processes_keep_their_shares_and_train_what_one_trains(write, tmp_path):
    file = write(train={"steps": 9})
    for devices in (1, 2):
        words = ["run", file, "--devices", devices, "--runs", tmp_path / str(devices)]
        command = [sys.executable, "-m", "medfuse", *map(str, words)]
        assert subprocess.run(command, check=False).returncode == 0
    one, two = (load_weights(tmp_path / n / "cubes" / "weights_last.safetensors")[0] for n in "12")
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    names = {path.name for path in (tmp_path / "2" / "frozen_maps").glob("*/*/*.b2")}
    assert names == {f"{number:06d}-{rank}of2.b2" for number in range(6) for rank in range(2)}
