import json

import pytest

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.data.settings import SplitSettings
from medfuse.data.split import choose_split, draw_folds


def dataset(tmp_path, n, splits=()):
    cases = tuple(Case(f"c{i}", (tmp_path / f"c{i}.nii",), tmp_path / f"l{i}.nii") for i in range(n))
    return DatasetInfo(cases, {"background": 0, "organ": 1}, ("MR",), splits)


def test_every_case_is_held_out_exactly_once():
    folds = draw_folds([f"c{i}" for i in range(11)], 5, seed=1)
    held_out = [name for fold in folds for name in fold.validation]
    assert sorted(held_out) == sorted(f"c{i}" for i in range(11))


def test_no_case_both_trains_and_judges():
    assert all(
        not set(f.train) & set(f.validation) for f in draw_folds([f"c{i}" for i in range(11)], 3, seed=1)
    )


def test_folds_do_not_depend_on_the_order_of_names():
    assert draw_folds(["b", "a", "c", "d"], 2, seed=7) == draw_folds(["d", "c", "b", "a"], 2, seed=7)


def test_drawn_folds_are_those_of_a_shuffled_k_fold():
    """Positions worked out by hand from RandomState(12345).shuffle(range(5)), which is what nnU-Net uses."""
    import numpy as np

    order = np.arange(5)
    np.random.RandomState(12345).shuffle(order)
    held_out = [fold.validation for fold in draw_folds("abcde", 5, seed=12345)]
    assert held_out == [("abcde"[i],) for i in order]


def test_the_datasets_own_folds_come_before_drawn_ones(tmp_path):
    own = Split(("c0",), ("c1", "c2"))
    assert choose_split(dataset(tmp_path, 3, (own,)), SplitSettings()) == own


def test_a_file_comes_before_the_datasets_own_folds(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps([{"train": ["c2"], "val": ["c0"]}]))
    info = dataset(tmp_path, 3, (Split(("c0",), ("c1",)),))
    assert choose_split(info, SplitSettings(file=tmp_path / "mine.json")) == Split(("c2",), ("c0",))


def test_names_that_the_dataset_lacks_are_all_listed(tmp_path):
    with pytest.raises(DataError, match="zebra, zoo"):
        choose_split(dataset(tmp_path, 3, (Split(("c0", "zoo"), ("zebra",)),)), SplitSettings())


def test_a_case_on_both_sides_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"both train and judge.*c1"):
        choose_split(dataset(tmp_path, 3, (Split(("c0", "c1"), ("c1",)),)), SplitSettings())


def test_a_fold_that_does_not_exist_says_how_many_there_are(tmp_path):
    with pytest.raises(DataError, match="has 5 folds, counted from 0"):
        choose_split(dataset(tmp_path, 6), SplitSettings(fold=5))


def test_fewer_cases_than_folds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"split.folds is 5, but the dataset has 3 labelled cases"):
        choose_split(dataset(tmp_path, 3), SplitSettings())


def test_a_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text('{"train": []}')
    with pytest.raises(DataError, match=r"mine\.json: folds are a list"):
        choose_split(dataset(tmp_path, 3), SplitSettings(file=tmp_path / "mine.json"))
