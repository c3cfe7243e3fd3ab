import dataclasses
import os

import blosc2
import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.data import store as stores
from medfuse.data.fingerprint import hash_files
from medfuse.data.prepare import Preprocessor
from medfuse.data.store import _FORMS, Store, _compressed, _packed, _threads

ENDS = ("image.b2nd", "label.b2nd", "json")


def build(store, cases, preprocessor, *, alone=False):
    store.build(cases, preprocessor, hash_files(cases), alone=alone, progress=lambda done, total: None)


def other(plan):
    return dataclasses.replace(plan, spacing_mm=(2.0, 1.0, 1.0))


def only(store, pattern):
    (path,) = store.folder.glob(pattern)
    return path


def written(store):
    return {p.name: p.stat().st_mtime_ns for p in store.folder.iterdir()}


@pytest.fixture
def empty_store(tmp_path):
    return Store(tmp_path / "fresh")


def test_a_stored_case_is_what_was_prepared(make_case, plan, empty_store):
    case, preprocessor = make_case(), Preprocessor(plan)
    build(empty_store, [case], preprocessor)
    image, label = empty_store.read_case("a")
    prepared = preprocessor.prepare(case)
    np.testing.assert_array_equal(image, prepared.image)
    np.testing.assert_array_equal(label, preprocessor.prepare_label(case, prepared))


def test_a_case_is_prepared_anew_for_another_size_of_pixels(make_case, plan, empty_store):
    case = make_case()
    for pixel_mm in (None, (0.5, 0.5)):
        build(empty_store, [case], Preprocessor(dataclasses.replace(plan, pixel_mm=pixel_mm)))
    assert len(list(empty_store.folder.glob("a-*.json"))) == 2


def test_a_patch_is_that_region_of_the_case(store):
    image, label = store.read_case("a")
    patch, patch_label = store.read_patch("a", (1, 2, 3), (4, 5, 6))
    np.testing.assert_array_equal(patch, image[:, 1:5, 2:7, 3:9])
    np.testing.assert_array_equal(patch_label, label[None, 1:5, 2:7, 3:9])


def test_outside_the_volume_a_patch_is_zero(store):
    image, label = store.read_case("a")
    patch, patch_label = store.read_patch("a", (-2, -1, 3), (16, 16, 16))
    np.testing.assert_array_equal(patch, np.pad(image, ((0, 0), (2, 2), (1, 3), (0, 7)))[..., 3:])
    np.testing.assert_array_equal(patch_label, np.pad(label, ((2, 2), (1, 3), (0, 7)))[None, ..., 3:])


def test_a_patch_wholly_outside_is_zero(store):
    patch, _ = store.read_patch("a", (20, -9, 0), (4, 4, 4))
    assert not patch.any()


def test_stored_voxels_have_their_class(store):
    case, (_, label) = store.case("a"), store.read_case("a")
    assert case.classes == (1,)
    assert set(label.ravel()[case.voxels[1]]) == {1}


def test_a_case_without_foreground_has_no_classes(store):
    assert store.case("empty").classes == ()


def test_unchanged_cases_are_not_written_again(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    before = written(empty_store)
    build(empty_store, [case], Preprocessor(plan))
    assert written(empty_store) == before


def test_a_changed_file_is_prepared_again_be_it_of_the_same_size_and_time(
    make_case, plan, empty_store, write
):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    before = case.label.stat()
    write(case.label, np.ones((8, 9, 10), np.uint8))
    os.utime(case.label, ns=(before.st_atime_ns, before.st_mtime_ns))
    build(empty_store, [case], Preprocessor(plan))
    assert empty_store.read_case("a")[1].all()


def test_files_that_were_moved_are_not_prepared_again(make_case, plan, empty_store, tmp_path):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    before = written(empty_store)
    label = case.label.rename(tmp_path / "moved.nii.gz")
    build(empty_store, [dataclasses.replace(case, label=label)], Preprocessor(plan))
    assert written(empty_store) == before


def test_a_changed_plan_prepares_again(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    build(empty_store, [case], Preprocessor(other(plan)))
    assert empty_store.case("a").shape == (4, 9, 10)


def test_another_run_with_another_plan_replaces_nothing(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    build(Store(empty_store.folder), [case], Preprocessor(other(plan)))
    assert empty_store.case("a").shape == (8, 9, 10)
    assert empty_store.read_case("a")[0].shape == (1, 8, 9, 10)


def test_two_runs_may_prepare_the_same_cases_at_once(make_case, plan, empty_store, monkeypatch):
    """The second begins and ends while the first is at work on the case."""
    case, beside = make_case(), Store(empty_store.folder)
    real = Preprocessor.prepare_label

    def slow(self, case, like):
        monkeypatch.undo()
        build(beside, [case], self)
        return real(self, case, like)

    monkeypatch.setattr(Preprocessor, "prepare_label", slow)
    build(empty_store, [case], Preprocessor(plan))
    for store in (empty_store, beside):
        assert store.case("a").classes == (1,)
        assert store.read_case("a")[1].any()


def test_older_forms_of_a_case_go_once_nobody_has_them_in_use(make_case, plan, empty_store):
    case, name_alike = make_case("a"), make_case("a-b")
    with empty_store.in_use() as alone:
        assert alone
        build(empty_store, [case, name_alike], Preprocessor(plan))
        first = set(written(empty_store))
        beside = Store(empty_store.folder)
        with beside.in_use() as alone:
            build(beside, [case], Preprocessor(other(plan)), alone=alone)
        assert set(written(empty_store)) > first
    with beside.in_use() as alone:
        build(beside, [case], Preprocessor(other(plan)), alone=alone)
    left = set(written(empty_store))
    assert len(left) == 2 * len(ENDS)
    assert len([name for name in left if name.startswith("a-b-")]) == len(ENDS)
    assert beside.case("a").shape == (4, 9, 10)


def test_another_patch_size_keeps_the_store(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    before = written(empty_store)
    build(empty_store, [case], Preprocessor(dataclasses.replace(plan, patch_size=(16, 16, 16))))
    assert written(empty_store) == before


def test_an_interrupted_build_keeps_whole_cases_and_goes_on(make_case, plan, empty_store, monkeypatch):
    first, second = make_case("a"), make_case("b")
    real = Preprocessor.prepare_label

    def interrupted(self, case, like):
        if case.name == "b":
            raise KeyboardInterrupt
        return real(self, case, like)

    monkeypatch.setattr(Preprocessor, "prepare_label", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(empty_store, [first, second], Preprocessor(plan))
    assert all(name.startswith("a-") for name in written(empty_store))
    monkeypatch.undo()
    build(empty_store, [first, second], Preprocessor(plan))
    assert empty_store.case("b").shape == (8, 9, 10)


def test_a_case_cut_off_between_its_files_is_prepared_again(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [case], Preprocessor(plan))
    only(empty_store, "a-*.json").unlink()
    build(empty_store, [case], Preprocessor(plan))
    assert empty_store.case("a").shape == (8, 9, 10)


def test_a_missing_case_is_named(empty_store):
    with pytest.raises(DataError, match=r"gone.*json"):
        empty_store.case("gone")


def test_a_damaged_array_is_named(store):
    only(store, "a-*.image.b2nd").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"a-\w+\.image\.b2nd: is missing or damaged"):
        store.read_case("a")


def test_a_case_without_a_label_is_stored_without_one(make_case, plan, empty_store):
    build(empty_store, [dataclasses.replace(make_case(), label=None)], Preprocessor(plan))
    image, label = empty_store.read_patch("a", (0, 0, 0), (4, 4, 4))
    assert image.all()
    assert not label.any()
    assert not [*empty_store.folder.glob("*.label.b2nd")]


def test_a_case_without_a_label_is_written_once_and_again_when_it_gets_one(make_case, plan, empty_store):
    case = make_case()
    build(empty_store, [dataclasses.replace(case, label=None)], Preprocessor(plan))
    before = written(empty_store)
    build(empty_store, [dataclasses.replace(case, label=None)], Preprocessor(plan))
    assert written(empty_store) == before
    build(empty_store, [case], Preprocessor(plan))
    assert empty_store.read_case("a")[1].any()


def steps():
    """A scan whose integers are only scaled."""
    return (np.arange(92400) // 1000 * 1000 / 7).reshape(1, 40, 70, 33).astype(np.float32)


@pytest.mark.parametrize(
    "array",
    [
        steps(),
        np.random.default_rng(0).integers(0, 60, (2, 40, 70, 33)).astype(np.float32) / 7,
        np.random.default_rng(0).normal(size=(1, 40, 70, 33)).astype(np.float32),
        np.sin(np.arange(92400, dtype=np.float32) / 3000).reshape(1, 40, 70, 33),
        np.zeros((40, 70, 33), np.uint8),
        np.arange(6, dtype=np.uint16).reshape(1, 2, 3),
    ],
    ids=["scaled", "a few values", "noise", "smooth", "nothing", "tiny"],
)
def test_what_is_packed_is_read_back_and_hardly_larger_than_it_could_be(array):
    packed = _compressed(array)
    assert np.array_equal(blosc2.ndarray_from_cframe(packed)[:], array)
    assert len(packed) <= 1.5 * min(len(_packed(array, *form)) for form in _FORMS)


def test_the_quickest_form_is_left_where_another_is_much_smaller():
    stored = blosc2.ndarray_from_cframe(_compressed(steps()))
    assert stored.schunk.cparams.filters[0] == blosc2.Filter.NOFILTER


def test_a_large_array_is_packed_as_a_small_one_is(monkeypatch):
    array = np.random.default_rng(0).normal(size=(1, 70, 40, 33)).astype(np.float32)
    at_once = blosc2.ndarray_from_cframe(_packed(array, *_FORMS[0]))
    monkeypatch.setattr("medfuse.data.store._AT_ONCE", 0)
    in_chunks = blosc2.ndarray_from_cframe(_packed(array, *_FORMS[0]))
    assert np.array_equal(at_once[:], in_chunks[:])
    assert (at_once.chunks, at_once.blocks) == (in_chunks.chunks, in_chunks.blocks)


@pytest.mark.parametrize("what", ["image", "label"])
def test_what_a_crashed_machine_cut_off_is_prepared_again(make_case, plan, empty_store, what):
    cases = [make_case("a")]
    build(empty_store, cases, Preprocessor(plan))
    (path,) = empty_store.folder.glob(f"*.{what}.b2nd")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    build(empty_store, cases, Preprocessor(plan))
    assert path.read_bytes() == whole


def test_as_many_cases_are_prepared_at_once_as_there_are_cores_and_memory_for(make_case, plan, monkeypatch):
    cases, prepares = [make_case("a"), make_case("b")], Preprocessor(plan)
    monkeypatch.setattr(stores, "cores", lambda: 3)
    assert _threads(cases, prepares) == 3
    monkeypatch.setattr(stores, "cores", lambda: 64)
    assert _threads(cases, prepares) == 64
    monkeypatch.setattr(stores, "free_memory", lambda: 1)
    assert _threads(cases, prepares) == _threads([], prepares) == 4
