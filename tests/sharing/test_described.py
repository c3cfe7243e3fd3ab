"""`medfuse info`: what a model is, told of anything that inference takes, and nothing is run to tell it."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from medfuse.core.errors import CheckpointError
from medfuse.core.files import file_hash
from medfuse.sharing.described import describe
from medfuse.sharing.description import Description
from medfuse.sharing.records import without_place
from medfuse.sharing.text import lines


def test_a_run_says_what_it_is(finished_run):
    said = describe(finished_run.folder)
    assert [(label.name, label.value) for label in said.labels] == [("cube", 1)]
    assert said.spacing_mm == (1.5, 1.5, 2.0)
    assert said.patch_size == (16, 16, 16)
    assert [channel.name for channel in said.channels] == ["MRI"]
    assert (said.training.cases, said.training.held_out, said.training.steps) == (3, 1, 4)
    assert said.weights == (file_hash(finished_run.folder / "weights_last.safetensors"),)
    assert said.license == ""
    assert said.versions["torch"]


def test_its_score_is_that_of_its_summary(finished_run):
    summary = json.loads((finished_run.folder / "summary.json").read_text())
    score = describe(finished_run.folder).score
    assert score.overall.dice == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-6)
    assert score.labels[0].cases == summary["n"]["1"]["Dice"]


def test_its_parameters_are_those_of_its_network(finished_run):
    from medfuse.trained.loading import load_trained

    network = load_trained([finished_run.folder / "weights_last.safetensors"], device="cpu").segmenter()
    assert describe(finished_run.folder).parameters == sum(p.numel() for p in network.parameters())


def test_weights_that_left_their_run_still_say_what_they_are(finished_run, tmp_path):
    alone = shutil.copy(finished_run.folder / "weights_last.safetensors", tmp_path / "mine.safetensors")
    said, whole = describe(Path(alone)), describe(finished_run.folder)
    assert said.labels == whole.labels
    assert said.weights == whole.weights
    assert said.training.steps == 4
    assert said.score is None


def test_the_best_weights_have_no_score_as_the_last_were_judged(finished_run):
    best = finished_run.folder / "weights_best.safetensors"
    assert describe(best).training.cases == 3
    assert describe(best).score is None


def test_the_data_are_known_by_their_content_alone(finished_run, tmp_path):
    other = shutil.copytree(finished_run.folder, tmp_path / "other")
    data = json.loads((other / "data.json").read_text())
    data["cases"] = {f"renamed {name}": one for name, one in data["cases"].items()}
    (other / "data.json").write_text(json.dumps(data))
    assert describe(other).training.data_sha256 == describe(finished_run.folder).training.data_sha256
    next(iter(data["cases"].values()))["label"] = "0" * 64
    (other / "data.json").write_text(json.dumps(data))
    assert describe(other).training.data_sha256 != describe(finished_run.folder).training.data_sha256


@pytest.fixture
def folds(finished_run, tmp_path):
    """A cross-validation's folder, of two copies of one run."""
    around = tmp_path / "folds"
    for fold in (0, 1):
        shutil.copytree(finished_run.folder, around / f"fold_{fold}")
    summary = json.loads((finished_run.folder / "summary.json").read_text())
    (around / "summary.json").write_text(json.dumps({**summary, "folds": {"0": {}, "1": {}}}))
    return around


def test_a_cross_validation_is_all_of_its_folds(folds):
    said = describe(folds)
    assert len(said.weights) == 2
    assert said.training.folds == 2
    assert said.training.cases == 4
    assert said.score.of == "cross-validation"


def test_a_final_model_says_that_no_case_judges_it(finished_run, tmp_path):
    final = tmp_path / "alone" / "fold_all"
    shutil.copytree(finished_run.folder, final)
    (final / "weights_best.safetensors").unlink()
    said = describe(final.parent).model_copy(
        update={"training": describe(final).training.model_copy(update={"fold": "all"})}
    )
    assert said.score is None
    assert "no case judges it" in "\n".join(lines(said))


def test_a_final_model_has_the_score_of_its_cross_validation(finished_run, folds):
    final = folds / "fold_all"
    shutil.copytree(finished_run.folder, final)
    summary = json.loads((folds / "summary.json").read_text())
    told = {"between_folds": {"foreground_mean": {"std": None}}}
    (folds / "summary.json").write_text(json.dumps({**summary, **told}))
    assert describe(final).score == describe(folds).score
    pipeline = json.loads((final / "pipeline.json").read_text())
    pipeline["model"]["head"]["upsample"] = "nearest"
    (final / "pipeline.json").write_text(json.dumps(pipeline))
    assert describe(final).score is None  # that of another model says nothing of it


def test_a_training_that_is_not_over_is_told_and_goes_with_the_model(finished_run, folds, medfuse, tmp_path):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    (run / "summary.json").unlink()
    told = "its training was not over"
    assert told in medfuse("info", run).out
    assert told in medfuse("export", run, "--format", "huggingface", "-o", tmp_path / "made").out
    assert told in medfuse("info", tmp_path / "made").out
    assert told in (tmp_path / "made" / "README.md").read_text().replace("Its", "its")
    assert told not in medfuse("info", finished_run.folder).out
    assert told not in medfuse("info", folds).out
    (folds / "fold_1" / "summary.json").unlink()
    assert told in medfuse("info", folds).out


def test_one_fold_alone_is_a_run(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "fold_3")
    assert describe(tmp_path / "runs").kind == "a run of medfuse"


def test_weights_that_it_started_from_are_told_with_their_licence(finished_run, tmp_path, medfuse):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    given = {
        "encoder": {
            "brought": {
                "source": "facebook/dinov2-small@1a2b", "license": "apache-2.0", "sha256": "c" * 64,
                "tensors": 3, "of": 4, "share_of_parameters": 0.75,
            }
        },
        "decoded": {"file": "/home/ann/Doe/net.pth", "share_of_parameters": 0.5, "tensors": []},
    }  # fmt: skip
    (run / "transfer.json").write_text(json.dumps(given))
    said = describe(run)
    assert [(one.part, one.source, one.license) for one in said.sources] == [
        ("encoder", "facebook/dinov2-small@1a2b", "apache-2.0"),
        ("decoded", "net.pth", ""),
    ]
    done = medfuse("export", run, "--format", "docker", "-o", tmp_path / "out", "--license", "MIT")
    assert "apache-2.0" in done.out
    assert "apache-2.0" in (tmp_path / "out" / "LICENSE").read_text()
    assert "Doe" not in (tmp_path / "out" / "README.md").read_text()


def test_a_model_of_nnunet_is_to_be_imported(tmp_path, medfuse):
    zipped(tmp_path / "model.zip", **{"nnUNetTrainer__x/plans.json": "{}"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "plans.json").write_text("{}")
    for name in ("model.zip", "folder"):
        said = medfuse("info", tmp_path / name)
        assert said.code == 2
        assert "medfuse import-nnunet" in said.err


def test_every_description_survives_json(finished_run, folds):
    for path in (finished_run.folder, folds):
        said = describe(path)
        assert Description.model_validate_json(said.model_dump_json()) == said


def test_a_description_tells_of_no_case_and_no_place(finished_run, folds):
    names = [p.name.partition(".")[0] for p in (finished_run.data / "imagesTr").iterdir()]
    for path in (finished_run.folder, folds):
        text = describe(path).model_dump_json()
        for secret in (*names, str(finished_run.data), str(finished_run.folder.parent)):
            assert secret not in text


def test_info_prints_it_for_people_and_as_json(finished_run, medfuse):
    said = medfuse("info", finished_run.folder)
    assert said.code == 0
    for word in ("cube", "1.5 × 1.5 × 2 mm", "3 cases", "mean foreground Dice", "licence", "SHA-256"):
        assert word in said.out
    as_json = medfuse("info", finished_run.folder, "--json")
    assert json.loads(as_json.out) == describe(finished_run.folder).model_dump(mode="json")


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (open, (str(Trap.target), "w"))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def encrypted(path):
    """A zip file whose member claims to be encrypted."""
    zipped(path, **{"configs/metadata.json": "{}", "medfuse.json": "{}"})
    content = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(sign)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(sign, start + 4)
    path.write_bytes(content)


ODD = {
    "nothing.safetensors": lambda path: path.write_bytes(b""),
    "huge.safetensors": lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "text.safetensors": lambda path: path.write_text("no weights at all, but a text"),
    "program.exe": lambda path: path.write_bytes(b"MZ\x90\x00" + bytes(200)),
    "run.sh": lambda path: path.write_text("#!/bin/sh\ntouch pwned\n"),
    "trap.pt": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "trap.pth": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "trap.pt2": lambda path: zipped(path, **{"a/models/model.pt": pickle.dumps(Trap())}),
    "empty.zip": lambda path: zipped(path),
    "foreign.zip": lambda path: zipped(path, **{"readme.txt": "hello"}),
    "broken.zip": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "encrypted.zip": encrypted,
    "odd.json": lambda path: path.write_text('{"labels": 3}'),
    "no.json": lambda path: path.write_text("[1, 2"),
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "image.nii.gz": lambda path: path.write_bytes(b"\x1f\x8b" + bytes(50)),
    "net.xml": lambda path: path.write_text("<net/>"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_model_is_a_line_and_nothing_is_run(name, tmp_path, medfuse):
    Trap.target = tmp_path / "pwned"
    path = tmp_path / name
    ODD[name](path)
    said = medfuse("info", path)
    assert said.code == 2
    assert name in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "Traceback" not in said.err
    assert not Trap.target.exists()


def test_a_flipped_bit_is_found(finished_run, tmp_path):
    path = tmp_path / "mine.safetensors"
    content = bytearray((finished_run.folder / "weights_last.safetensors").read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        describe(path)


def test_a_damaged_record_is_named(finished_run, tmp_path):
    other = shutil.copytree(finished_run.folder, tmp_path / "other")
    (other / "summary.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        describe(other)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/home/ann/patients/Doe/net.pth", "net.pth"),
        ("C:\\Users\\ann\\net.pth", "net.pth"),
        ("../secret/net.pth@1a2b", "net.pth@1a2b"),
        ("~/net.pth", "net.pth"),
        ("facebook/dinov2-small@1a2b", "facebook/dinov2-small@1a2b"),
        ("efficientnet-lite0 1.0", "efficientnet-lite0 1.0"),
    ],
)
def test_what_weights_began_with_is_told_without_its_place(name, told):
    assert without_place(name) == told
