"""What medfuse did not write, or somebody changed, stays as it is and is named."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scans import Scans, network, prepare
from torch import Tensor

from medfuse.api import Case
from medfuse.core.errors import OutputError
from medfuse.core.prepared import Prepared
from medfuse.core.seal import seal
from medfuse.infer.probabilities import ProbabilityFormat
from medfuse.infer.settings import InferSettings
from medfuse.volumes.write import open_volume


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    return Scans(tmp_path)


def correct(path: Path) -> bytes:
    """Change one voxel, as by hand; the file's bytes then."""
    image = nib.load(path)
    voxels = np.asanyarray(image.dataobj).copy()
    voxels[-1, -1, -1] = 5 - voxels[-1, -1, -1]
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)
    return path.read_bytes()


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file but the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("manifest.")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_somebody_else_wrote_stays_and_the_rest_is_done(scans: Scans) -> None:
    scans.output.mkdir()
    (scans.output / "b.nii.gz").write_bytes(b"by hand")
    outcome = scans.infer()
    assert (outcome.done, list(outcome.left)) == (("a", "c"), ["b"])
    assert outcome.left["b"] == f"{scans.output / 'b.nii.gz'}: is not what medfuse wrote, and stays"
    assert (scans.output / "b.nii.gz").read_bytes() == b"by hand"
    assert scans.manifest["left"] == dict(outcome.left)
    assert list(scans.manifest["cases"]) == ["a", "c"]
    assert [p.state for p in scans.seen if p.case == "b"] == ["left"]


def test_a_corrected_label_map_stays(scans: Scans) -> None:
    scans.infer()
    corrected = correct(scans.output / "b.nii.gz")
    for _ in range(2):
        outcome = scans.infer()
        assert (outcome.done, outcome.skipped) == ((), ("a", "c"))
        assert "b.nii.gz: was changed since medfuse wrote it, and stays" in outcome.left["b"]
        assert (scans.output / "b.nii.gz").read_bytes() == corrected


def test_one_of_the_same_size_and_time_is_found_too(scans: Scans) -> None:
    scans.infer()
    path = scans.output / "b.nii.gz"
    before = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert list(scans.infer().left) == ["b"]


def test_untouched_label_maps_are_known_in_a_copy_of_their_folder(scans: Scans) -> None:
    scans.infer()
    copy = scans.folder / "copy"
    shutil.copytree(scans.output, copy, copy_function=shutil.copyfile)  # with other times
    assert scans.infer(output=copy).skipped == ("a", "b", "c")
    assert scans.infer(output=copy, weights=["def"]).done == ("a", "b", "c")


def test_another_recipe_replaces_what_is_untouched_alone(scans: Scans) -> None:
    scans.infer()
    corrected = correct(scans.output / "b.nii.gz")
    outcome = scans.infer(weights=["def"])
    assert (outcome.done, list(outcome.left)) == (("a", "c"), ["b"])
    assert "was changed" in outcome.left["b"]
    assert (scans.output / "b.nii.gz").read_bytes() == corrected
    assert list(scans.manifest["cases"]) == ["a", "c"]  # b is of other weights
    assert "was changed" in scans.infer(weights=["def"]).left["b"]
    assert "was changed" in scans.infer(weights=["ghi"]).left["b"]


def test_an_interrupted_call_forgets_no_file_of_the_recipe_before(scans: Scans) -> None:
    def interrupted(case: Case) -> Prepared:
        if case.name == "b":
            raise KeyboardInterrupt
        return prepare(case)

    scans.infer()
    with pytest.raises(KeyboardInterrupt):
        scans.infer(weights=["def"], prepare=interrupted)
    assert scans.infer(weights=["ghi"]).done == ("a", "b", "c")


def test_a_failure_forgets_no_file(scans: Scans) -> None:
    scans.infer()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)), scans.cases[1].images[0])
    assert "b" in scans.infer(network=lambda windows: windows).failed
    assert scans.infer().done == ("b",)


def test_overwrite_replaces_what_is_of_the_same_kind(scans: Scans) -> None:
    scans.infer()
    (scans.output / "a.nii.gz").write_bytes(b"by hand")
    correct(scans.output / "b.nii.gz")
    (scans.output / "c.nii.gz").unlink()
    (scans.output / "c.nii.gz").mkdir()
    outcome = scans.infer(overwrite=True)
    assert (outcome.done, list(outcome.left)) == (("a", "b"), ["c"])
    assert "is a folder where a file is to be written" in outcome.left["c"]


def test_links_are_never_written_through(scans: Scans) -> None:
    scans.output.mkdir()
    target = scans.folder / "elsewhere"
    target.write_bytes(b"by hand")
    (scans.output / "a.nii.gz").symlink_to(target)
    (scans.output / "b.nii.gz").symlink_to(scans.folder / "nowhere")
    assert list(scans.infer().left) == ["a", "b"]
    assert scans.infer(overwrite=True).done == ("a", "b")
    assert target.read_bytes() == b"by hand"
    assert not (scans.folder / "nowhere").exists()


def test_pipes_are_left_and_not_waited_for(scans: Scans) -> None:
    scans.output.mkdir()
    os.mkfifo(scans.output / "a.nii.gz")
    assert list(scans.infer(overwrite=True).left) == ["a"]


def test_without_its_manifest_nothing_is_known(scans: Scans) -> None:
    scans.infer()
    before = content(scans.output)
    (scans.output / "manifest.json").unlink()
    assert list(scans.infer().left) == ["a", "b", "c"]
    assert content(scans.output) == before


def test_a_link_to_nowhere_is_no_manifest(scans: Scans) -> None:
    scans.output.mkdir()
    (scans.output / "manifest.json").symlink_to(scans.folder / "nowhere")
    with pytest.raises(OutputError, match=r"manifest\.json"):
        scans.infer()


def as_an_older_version_wrote_it(scans: Scans) -> None:
    manifest = scans.manifest
    for entry in manifest["cases"].values():
        (entry["bytes"],) = (made["bytes"] for made in entry.pop("files").values())
        entry.pop("engines", None)
    for key in ("left", "earlier"):
        manifest.pop(key)
    (scans.output / "manifest.json").write_text(json.dumps(manifest))


def test_cases_of_a_manifest_without_hashes_are_skipped_but_not_replaced(scans: Scans) -> None:
    scans.infer()
    before = content(scans.output)
    as_an_older_version_wrote_it(scans)
    assert scans.infer().skipped == ("a", "b", "c")
    outcome = scans.infer(weights=["def"])
    assert list(outcome.left) == ["a", "b", "c"]
    assert "was written by an older medfuse, which noted no hash" in outcome.left["a"]
    assert content(scans.output) == before
    assert scans.infer(weights=["def"], overwrite=True).done == ("a", "b", "c")


def test_an_empty_file_is_nobody_s_work(scans: Scans) -> None:
    scans.output.mkdir()
    (scans.output / "a.nii.gz").touch()
    assert scans.infer().done == ("a", "b", "c")


@pytest.mark.parametrize("kind", ["nifti", "zarr"])
def test_probabilities_that_were_changed_keep_their_case(scans: Scans, kind: ProbabilityFormat) -> None:
    pytest.importorskip("zarr", reason="zarr is an extra: pip install 'medfuse[features]'")
    assert scans.infer(probabilities=kind).done == ("a", "b", "c")
    (made,) = scans.output.glob("b_probabilities*")
    changed = made / "zarr.json" if made.is_dir() else made
    changed.write_bytes(changed.read_bytes() + b" ")
    before = content(scans.output)
    outcome = scans.infer(probabilities=kind, weights=["def"])
    assert (outcome.done, list(outcome.left)) == (("a", "c"), ["b"])
    assert {name: now for name, now in content(scans.output).items() if name.startswith("b")} == {
        name: then for name, then in before.items() if name.startswith("b")
    }
    assert scans.infer(probabilities=kind, weights=["def"], overwrite=True).done == ("b",)


def test_a_folder_of_somebody_else_is_not_replaced_by_probabilities(scans: Scans) -> None:
    pytest.importorskip("zarr", reason="zarr is an extra: pip install 'medfuse[features]'")
    (scans.output / "b_probabilities.zarr").mkdir(parents=True)
    (scans.output / "b_probabilities.zarr" / "thesis.txt").write_text("years of work")
    outcome = scans.infer(probabilities="zarr", overwrite=True)
    assert (outcome.done, list(outcome.left)) == (("a", "c"), ["b"])
    assert (scans.output / "b_probabilities.zarr" / "thesis.txt").exists()


def test_what_comes_to_stand_there_during_the_work_stays(scans: Scans) -> None:
    def meanwhile(windows: Tensor) -> Tensor:
        if scans.seen[-1].case == "a":
            (scans.output / "a.nii.gz").write_bytes(b"by hand")
        return network(windows)

    outcome = scans.infer(network=meanwhile)
    assert (outcome.done, list(outcome.left)) == (("b", "c"), ["a"])
    assert (scans.output / "a.nii.gz").read_bytes() == b"by hand"


@pytest.mark.parametrize("moment", ["announce", "note"])
def test_a_process_killed_between_file_and_manifest_knows_its_files(
    scans: Scans, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from medfuse.infer.manifest import Manifest

    scans.infer()
    write: Callable[..., None] = getattr(Manifest, moment)

    def killed(manifest: Manifest, *given: object) -> None:
        if moment == "announce":
            write(manifest, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        scans.infer(weights=["def"], settings=InferSettings(mirror=("x",)))
    monkeypatch.setattr(Manifest, moment, write)
    assert scans.infer(weights=["def"]).left == {}


def test_an_output_folder_that_goes_away_is_one_line_and_is_not_made_anew(scans: Scans) -> None:
    def gone(case: Case) -> Prepared:
        if case.name == "b":
            scans.output.rename(scans.folder / "elsewhere")  # whole, whoever writes into it then
        return prepare(case)

    with pytest.raises(OutputError, match="has gone while it was written into") as said:
        scans.infer(prepare=gone)
    assert len(said.value.lines) == 1
    assert not content(scans.output)


def test_a_seal_holds_for_the_same_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_bytes(b"abc")
    (path / "other").write_bytes(b"def")
    sealed = seal(path)
    assert sealed.holds(path)
    (path / "other").touch()
    assert sealed.holds(path)  # read, as its times differ
    (path / "inner" / "file").write_bytes(b"abd")
    assert not sealed.holds(path)
    (path / "inner" / "file").write_bytes(b"abc")
    assert sealed.holds(path)
    (path / "other").rename(path / "another")
    assert not sealed.holds(path)
    assert not sealed.holds(tmp_path / "nothing")


class Told:
    """A network that tells what it is."""

    def __init__(self, **engine: object) -> None:
        self.engine = engine

    def __call__(self, windows: Tensor) -> Tensor:
        return network(windows)


def test_the_manifest_tells_the_engine_of_each_case(scans: Scans) -> None:
    scans.infer(network=Told(runtime="torch", precision="bf16"))
    assert [entry["engines"] for entry in scans.manifest["cases"].values()] == [
        [{"runtime": "torch", "precision": "bf16"}]
    ] * 3


def test_a_folder_that_is_finished_by_another_engine_is_told_in_one_line(
    scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    last = scans.cases[1:]
    del scans.cases[1:]
    scans.infer(network=Told(runtime="openvino", precision="bf16"))
    scans.cases += last
    scans.infer(network=Told(runtime="torch", precision="fp32"))
    (line,) = caplog.messages
    assert "its first cases were made otherwise (openvino in bf16 → torch in fp32)" in line
    assert [entry["engines"][0]["runtime"] for entry in scans.manifest["cases"].values()] == [
        "openvino",
        "torch",
        "torch",
    ]


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.ENODEV, errno.EDQUOT])
def test_a_disk_that_goes_away_ends_the_work_in_one_line(
    scans: Scans, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(file: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OutputError, match=r"a\.nii\.gz: the disk") as said:
        scans.infer()
    assert len(said.value.lines) == 1
    assert ".unfinished" not in str(said.value)


@pytest.mark.parametrize("where", ["reading", "writing"])
@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), AssertionError("no")])
def test_whatever_goes_wrong_with_one_case_the_others_are_done(
    scans: Scans, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def reading(case: Case) -> Prepared:
        if (where, case.name) == ("reading", "b"):
            raise error
        return prepare(case)

    def opening(path: Path, *given: Any, **options: Any) -> Any:
        if (where, path.name) == ("writing", "b.nii.gz"):
            raise error
        return open_volume(path, *given, **options)

    monkeypatch.setattr("medfuse.infer.formats.open_volume", opening)
    outcome = scans.infer(prepare=reading)
    assert (outcome.done, list(outcome.failed)) == (("a", "c"), ["b"])
    assert not any(path.name.startswith(".unfinished") for path in scans.output.iterdir())
