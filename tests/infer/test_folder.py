"""A folder of cases: every one is finished, skipped or named with its reason."""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scans import AFFINE, Scans, network, prepare
from torch import Tensor

import medfuse
from medfuse.api import Case
from medfuse.core.errors import DataError, OutputError, PipelineError
from medfuse.core.prepared import Prepared
from medfuse.infer.folder import infer_cases
from medfuse.infer.ledger import Progress
from medfuse.infer.plan import Way
from medfuse.infer.recipe import Recipe
from medfuse.infer.records import record_files
from medfuse.infer.settings import InferSettings
from medfuse.volumes.read import read_geometry, read_labels, read_volume
from medfuse.volumes.write import open_volume

RECORDS = ["manifest.json", *record_files()]


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    return Scans(tmp_path)


def fails_for(name: str, error: BaseException) -> Callable[[Case], Prepared]:
    def failing(case: Case) -> Prepared:
        if case.name == name:
            raise error
        return prepare(case)

    return failing


def test_every_case_gets_a_label_map_that_overlays_it(scans: Scans) -> None:
    assert scans.infer().done == ("a", "b", "c")
    for case in scans.cases:
        labels = read_labels(scans.output / case.images[0].name)
        assert labels.geometry.differences(read_geometry(case.images[0]), tolerance=0) == []
        assert np.array_equal(labels.array, 5 * (read_volume(case.images[0]).array > 0))


def test_the_manifest_says_what_was_made_from_what(scans: Scans) -> None:
    scans.infer()
    manifest = scans.manifest
    assert manifest["medfuse"] == medfuse.__version__
    assert manifest["weights"] == ["abc"]
    assert manifest["labels"] == {"background": 0, "liver": 5}
    assert manifest["started"] <= manifest["finished"]
    assert manifest["cases"]["b"]["file"] == "b.nii.gz"
    assert manifest["cases"]["b"]["inputs"][0]["file"] == str(scans.cases[1].images[0])
    assert manifest["cases"]["b"]["windows"] == 1 * 2 * 2
    assert manifest["failed"] == {}


def test_the_manifest_says_how_far_each_class_is_to_be_trusted(scans: Scans) -> None:
    scans.infer()
    for entry in scans.manifest["cases"].values():
        own = entry["quality"]["liver"]
        assert own["volume_ml"] == pytest.approx(entry["volumes_ml"]["liver"], rel=1e-4)
        assert 0 < own["entropy"] < 1
        assert own["components"] == 1


def test_volumes_are_counted_in_millilitres(scans: Scans) -> None:
    scans.infer()
    assert [entry["volumes_ml"] for entry in scans.manifest["cases"].values()] == [
        {"liver": 6.0},
        {"liver": 12.0},
        {"liver": 18.0},
    ]


def test_finished_cases_are_skipped(scans: Scans) -> None:
    scans.infer()
    before = [os.stat(scans.output / f"{name}.nii.gz").st_mtime_ns for name in "abc"]
    again = scans.infer(network=lambda windows: pytest.fail("nothing is left to predict"))
    assert (again.done, again.skipped) == ((), ("a", "b", "c"))
    assert [os.stat(scans.output / f"{name}.nii.gz").st_mtime_ns for name in "abc"] == before
    assert list(scans.manifest["cases"]) == ["a", "b", "c"]


def test_other_weights_predict_again(scans: Scans) -> None:
    scans.infer()
    assert scans.infer(weights=("def",)).done == ("a", "b", "c")
    assert scans.manifest["weights"] == ["def"]


def test_other_settings_predict_again_but_not_another_batch(scans: Scans) -> None:
    scans.infer()
    assert scans.infer(settings=InferSettings(batch_size=8)).done == ()
    assert scans.infer(settings=InferSettings(mirror=("x",))).done == ("a", "b", "c")


def test_a_changed_input_is_predicted_again(scans: Scans) -> None:
    scans.infer()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 7), np.float32), AFFINE), scans.cases[1].images[0])
    again = scans.infer()
    assert (again.done, again.skipped) == (("b",), ("a", "c"))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_missing_or_damaged_label_map_is_made_again(scans: Scans, damage: Callable[[Path], None]) -> None:
    scans.infer()
    damage(scans.output / "b.nii.gz")
    assert scans.infer().done == ("b",)


def test_a_case_that_fails_is_named_and_the_rest_go_on(scans: Scans) -> None:
    reason = "b.nii.gz: is truncated or damaged; copy it again from its source"
    outcome = scans.infer(prepare=fails_for("b", DataError(reason)))
    assert outcome.done == ("a", "c")
    assert outcome.failed == {"b": reason}
    assert scans.manifest["failed"] == {"b": reason}
    assert sorted(p.name for p in scans.output.iterdir()) == ["a.nii.gz", "c.nii.gz", *RECORDS, "quality.csv"]


def test_a_failed_case_is_tried_again(scans: Scans) -> None:
    scans.infer(prepare=fails_for("b", DataError("no")))
    assert scans.infer().done == ("b",)
    assert scans.manifest["failed"] == {}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_case_without_enough_memory_says_so(scans: Scans, error: Exception) -> None:
    assert "needs more memory than is free" in scans.infer(prepare=fails_for("b", error)).failed["b"]


def test_an_unforeseen_fault_is_named_and_its_traceback_is_logged(
    scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = scans.infer(prepare=fails_for("b", ZeroDivisionError("by zero")))
    assert outcome.failed["b"].startswith("ZeroDivisionError: by zero")
    assert outcome.done == ("a", "c")
    assert caplog.records[0].exc_info is not None


def test_a_network_of_another_model_fails_each_case_with_a_reason(scans: Scans) -> None:
    outcome = scans.infer(network=lambda windows: windows)
    assert list(outcome.failed) == ["a", "b", "c"]
    assert "not with logits" in outcome.failed["a"]


def test_an_interruption_keeps_what_is_finished_and_leaves_nothing_half(scans: Scans) -> None:
    with pytest.raises(KeyboardInterrupt):
        scans.infer(prepare=fails_for("b", KeyboardInterrupt()))
    assert sorted(p.name for p in scans.output.iterdir()) == ["a.nii.gz", "manifest.json"]
    assert scans.manifest["finished"] is None
    again = scans.infer()
    assert (again.done, again.skipped) == (("b", "c"), ("a",))


def test_an_interruption_while_writing_leaves_nothing_half(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scans.infer()
    assert list(scans.output.iterdir()) == []


def test_a_full_disk_stops_at_once(scans: Scans, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.nii\.gz: the disk is full"):
        scans.infer()
    assert "c" not in {p.case for p in scans.seen}  # b may be with the network while a is written
    assert list(scans.output.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_before_any_work(scans: Scans) -> None:
    (scans.folder / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        scans.infer(
            output=scans.folder / "file" / "out",
            prepare=lambda case: pytest.fail("work has begun"),
        )


def test_label_maps_never_replace_images(scans: Scans) -> None:
    with pytest.raises(OutputError, match="would replace an image") as caught:
        scans.infer(output=scans.folder / "scans")
    assert len(caught.value.lines) == 3
    assert not (scans.folder / "scans" / "manifest.json").exists()


def test_of_many_images_that_would_be_replaced_ten_are_named(tmp_path) -> None:
    from medfuse.api import Case
    from medfuse.infer.folder import refuse_to_replace_images

    cases = [Case(f"c{n}", (tmp_path / f"c{n}.nii.gz",)) for n in range(500)]
    with pytest.raises(OutputError) as caught:
        refuse_to_replace_images(cases, lambda case: case.images)
    assert len(caught.value.lines) == 11
    assert caught.value.lines[-1] == "so it is with 490 more"


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "not json",
        "",
        '{"medfuse": 1}',
        '{"medfuse": "1", "cases": []}',
        '{"medfuse": "1", "cases": {"a": 5}}',
        '{"medfuse": "1", "cases": {"a": {"inputs": {}}}}',
        '{"medfuse": "1", "cases": {"a": {"files": {"a.nii.gz": {"bytes": "many"}}}}}',
        '{"medfuse": "1", "earlier": {"a.nii.gz": 5}}',
        "[" * 500 + "]" * 500,
    ],
)
def test_a_manifest_of_somebody_else_is_not_replaced(scans: Scans, content: str) -> None:
    scans.output.mkdir()
    (scans.output / "manifest.json").write_text(content)
    with pytest.raises(
        OutputError, match=r"manifest\.json.*; move it away, or choose another output"
    ) as said:
        scans.infer()
    assert len(said.value.lines) == 1
    assert (scans.output / "manifest.json").read_text() == content


def test_mirroring_that_cannot_be_is_an_error_before_any_work(scans: Scans) -> None:
    recipe = Recipe(("abc",), {"background": 0, "liver": 1}, (4, 4), InferSettings(mirror=("z",)))
    with pytest.raises(PipelineError, match="mirror"):
        infer_cases(scans.cases, prepare=prepare, networks=[network], recipe=recipe, output=scans.output)
    assert not scans.output.exists()


def test_progress_tells_every_case_and_window(scans: Scans) -> None:
    scans.infer(prepare=fails_for("b", DataError("no")))
    first = [p for p in scans.seen if p.case == "a"]
    assert [p.state for p in first] == ["predicting"] * 5 + ["done"]
    assert [(p.windows_done, p.windows) for p in first] == [(0, 0), (1, 4), (2, 4), (3, 4), (4, 4), (4, 4)]
    assert scans.seen[-1].number == scans.seen[-1].cases == 3
    assert [p.reason for p in scans.seen if p.state == "failed"] == ["no"]


# --- as on an assembly line


class Watch:
    """What happened, in order, and a way to wait for it; a deadlock fails the test."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._changed = threading.Condition()

    def note(self, what: str) -> None:
        with self._changed:
            self.seen.append(what)
            self._changed.notify_all()

    def wait_for(self, what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: what in self.seen, timeout=60), f"no {what} in {self.seen}"


def reading(watch: Watch) -> Callable[[Case], Prepared]:
    def noted(case: Case) -> Prepared:
        watch.note(f"read {case.name}")
        return prepare(case)

    return noted


def test_the_next_case_is_read_while_the_network_works(scans: Scans) -> None:
    watch = Watch()

    def working(windows: Tensor) -> Tensor:
        watch.wait_for("read b")
        return network(windows)

    assert scans.infer(prepare=reading(watch), network=working).done == ("a", "b", "c")


def test_no_more_than_one_case_is_read_ahead(scans: Scans) -> None:
    watch = Watch()

    def working(windows: Tensor) -> Tensor:
        watch.wait_for("read b")
        threading.Event().wait(0.05)  # time in which a third could be read
        if "a done" not in watch.seen:
            assert "read c" not in watch.seen
        return network(windows)

    def progress(now: Progress) -> None:
        if now.windows_done == 4:
            watch.note(f"{now.case} done")

    assert scans.infer(prepare=reading(watch), network=working, progress=progress).failed == {}


def test_a_case_is_written_while_the_network_works_on_the_next(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()

    @contextmanager
    def writing(*given: Any, **options: Any) -> Iterator[Any]:
        with open_volume(*given, **options) as slabs:
            yield slabs
            watch.wait_for("network")

    def working(windows: Tensor) -> Tensor:
        if "a" in watch.seen:
            watch.note("network")
        return network(windows)

    def progress(now: Progress) -> None:
        if now.windows_done == 4:
            watch.note(now.case)

    monkeypatch.setattr("medfuse.infer.formats.open_volume", writing)
    assert scans.infer(network=working, progress=progress).done == ("a", "b", "c")


def test_a_case_that_cannot_be_written_is_the_one_that_is_blamed(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, *given: Any, **options: Any) -> Any:
        if path.name == "b.nii.gz":
            raise ZeroDivisionError("by zero")
        return open_volume(path, *given, **options)

    monkeypatch.setattr("medfuse.infer.formats.open_volume", failing)
    outcome = scans.infer()
    assert outcome.done == ("a", "c")
    assert outcome.failed["b"].startswith("ZeroDivisionError")
    assert sorted(scans.manifest["cases"]) == ["a", "c"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), OutputError("full"), DataError("no")])
def test_no_thread_is_left_behind(scans: Scans, error: BaseException | None) -> None:
    before = threading.active_count()
    with suppress(KeyboardInterrupt, OutputError):
        scans.infer(prepare=fails_for("b", error) if error else prepare)
    assert threading.active_count() == before


def test_the_manifest_says_where_the_time_went_and_what_windows_did(scans: Scans) -> None:
    scans.infer()
    entry = scans.manifest["cases"]["a"]
    stages = ["reading", "waiting", "network", "held_up", "predicting", "writing", "quality"]
    assert sorted(entry["seconds_in"]) == sorted(stages)
    assert all(0 <= seconds <= entry["seconds"] + 1 for seconds in entry["seconds_in"].values())
    assert entry["windows_run"] + entry["windows_reused"] + entry["windows_skipped"] == entry["windows"]


def short_of_memory(largest_batch: int, batches: list[int]) -> Callable[[Tensor], Tensor]:
    def limited(windows: Tensor) -> Tensor:
        batches.append(len(windows))
        if len(windows) > largest_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(windows)

    return limited


def test_a_case_that_a_gpu_does_not_hold_is_tried_once_more_in_smaller_batches(
    scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    batches: list[int] = []
    del scans.cases[1:]
    settings = InferSettings(batch_size=4)
    assert scans.infer(settings=settings, network=short_of_memory(2, batches)).done == ("a",)
    assert batches[0] > 2 >= max(batches[1:])
    assert "a: the GPU's memory is too small; once more with batches of 2" in caplog.text


def test_a_case_that_a_gpu_never_holds_fails_after_two_tries(scans: Scans) -> None:
    batches: list[int] = []
    del scans.cases[1:]
    outcome = scans.infer(settings=InferSettings(batch_size=4), network=short_of_memory(0, batches))
    assert "needs more memory than is free" in outcome.failed["a"]
    assert len(batches) == 2


@pytest.mark.parametrize(("short", "sums"), [(True, "float16"), (False, "float32")])
def test_large_sums_are_short_where_logits_are(
    scans: Scans, monkeypatch: pytest.MonkeyPatch, short: bool, sums: str
) -> None:
    monkeypatch.setattr("medfuse.infer.stitch.LARGE_SUMS", -1)

    def rounding(windows: Tensor) -> Tensor:
        logits = network(windows) * 1.2345678
        return logits.bfloat16() if short else logits

    assert scans.infer(network=rounding).failed == {}
    assert {entry["sums"] for entry in scans.manifest["cases"].values()} == {sums}


def test_under_a_limit_freed_memory_is_not_kept_again(scans: Scans, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr("medfuse.infer.stitch.LARGE_SUMS", -1)
    monkeypatch.setattr("medfuse.infer.stitch.return_memory", lambda *, blocks: told.append(blocks))
    assert scans.infer(output=scans.folder / "free").failed == {}
    assert len(told) == 3
    assert scans.infer(output=scans.folder / "kept", way=Way()).failed == {}
    assert len(told) == 3


def test_sums_on_disk_give_the_same_label_maps_and_leave_nothing(scans: Scans) -> None:
    shelved = scans.folder / "shelved"
    assert scans.infer().failed == scans.infer(output=shelved, way=Way(shelved=True)).failed == {}
    assert sorted(p.name for p in shelved.iterdir()) == sorted(p.name for p in scans.output.iterdir())
    for case in scans.cases:
        one, other = (nib.load(out / f"{case.name}.nii.gz").dataobj for out in (scans.output, shelved))
        np.testing.assert_array_equal(one, other)


def test_what_killed_runs_have_left_is_removed(scans: Scans) -> None:
    scans.output.mkdir()
    (scans.output / ".unfinished-0badcafe.nii.gz").write_bytes(b"half")
    scans.infer()
    assert not list(scans.output.glob(".unfinished-*"))


def test_a_first_pass_that_agrees_is_the_label_map(scans: Scans) -> None:
    assert scans.infer().failed == {}
    plain = {name: read_labels(scans.output / f"{name}.nii.gz").array for name in "abc"}
    assert scans.infer(settings=InferSettings(overlap=0.75, adaptive_overlap=0)).done == ("a", "b", "c")
    assert all(np.array_equal(read_labels(scans.output / f"{n}.nii.gz").array, plain[n]) for n in plain)
    entries = scans.manifest["cases"].values()
    assert any(entry["windows_skipped"] for entry in entries)


def test_probabilities_are_written_beside_the_label_map(scans: Scans) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra: pip install 'medfuse[features]'")
    assert scans.infer().done == ("a", "b", "c")
    assert scans.infer(probabilities="zarr").done == ("a", "b", "c")
    assert scans.infer(probabilities="zarr").skipped == ("a", "b", "c")
    values = zarr.open_group(str(scans.output / "b_probabilities.zarr"), mode="r")["probabilities"][:]
    labels = read_labels(scans.output / "b.nii.gz").array
    assert np.array_equal(5 * values.argmax(0), labels)
    assert np.allclose(values.sum(0), 1, atol=2e-3)


def test_probabilities_as_nifti_lie_on_the_image_s_grid(scans: Scans) -> None:
    assert scans.infer(probabilities="nifti").done == ("a", "b", "c")
    image = nib.load(scans.output / "b_probabilities.nii.gz")
    values, labels = np.asanyarray(image.dataobj), nib.load(scans.output / "b.nii.gz")
    assert values.shape == (*labels.shape, 2)
    assert values.dtype == np.float32
    assert np.array_equal(image.affine, labels.affine)
    assert np.array_equal(5 * values.argmax(-1), np.asanyarray(labels.dataobj))
    assert np.allclose(values.sum(-1), 1, atol=2e-3)
    assert scans.infer(probabilities="nifti").skipped == ("a", "b", "c")


def test_a_disk_too_small_for_probabilities_leaves_nothing_half_written(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="the disk is full"):
        scans.infer(probabilities="nifti")
    assert not list(scans.output.iterdir())


@pytest.mark.parametrize(
    ("steps", "written"),
    [("none", {2}), ({"threshold": {"core": 0.7}}, {1}), ({"minimum_ml": {"whole": 1e6}}, set())],
)
def test_regions_are_written_above_their_threshold_and_tidied(
    scans: Scans, steps: Any, written: set[int]
) -> None:
    labels = {"background": 0, "whole": (1, 2), "core": 2}
    settings = InferSettings.model_validate({"postprocess": steps})
    infer_cases(
        scans.cases,
        prepare=prepare,
        networks=[lambda windows: torch.cat([windows, windows - 0.5], dim=1)],  # logits 1 and 0.5 inside
        recipe=Recipe(("abc",), labels, (4, 4, 4), settings, region_order=(1, 2)),
        output=scans.output,
    )
    found = read_labels(scans.output / "c.nii.gz").array
    assert {*np.unique(found).tolist()} - {0} == written


def test_a_name_that_is_too_long_for_its_files_fails_and_the_rest_go_on(scans: Scans) -> None:
    long = scans.folder / "scans" / f"{'n' * 247}.nii.gz"
    shutil.copy(scans.cases[0].images[0], long)
    scans.cases.append(Case("n" * 247, (long,)))
    outcome = scans.infer(probabilities="nifti")
    assert outcome.done == ("a", "b", "c")
    assert [*outcome.failed.values()] == [
        f"{scans.output / ('n' * 79)}…: the name is too long for a file; rename its image"
    ]
