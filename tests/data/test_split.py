import json
from dataclasses import replace
from pathlib import Path

import pytest

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.settings import SplitSettings
from medfuse.data.split import all_splits, choose_split, draw_balanced_folds, draw_folds


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
    with pytest.raises(DataError, match="there are 5 folds in the drawn splits"):
        choose_split(dataset(tmp_path, 6), SplitSettings(fold=5))


def test_fewer_cases_than_folds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"split.folds is 5, but the dataset has 3 labelled cases"):
        choose_split(dataset(tmp_path, 3), SplitSettings())


def test_a_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text('{"train": []}')
    with pytest.raises(DataError, match=r"mine\.json: folds are a list"):
        choose_split(dataset(tmp_path, 3), SplitSettings(file=tmp_path / "mine.json"))


def scans(patients: int, each: int) -> tuple[Case, ...]:
    names = [f"p{p:02d}_scan{s}" for p in range(patients) for s in range(each)]
    return tuple(Case(n, (Path(f"{n}.nii"),), Path(f"l_{n}.nii")) for n in names)


def facts(name: str, ml: float, rare: float = 0.0) -> CaseFacts:
    volumes = {"background": 100.0, "organ": ml, "rare": rare}
    return CaseFacts(name, (8, 8, 8), (1.0, 1.0, 1.0), volumes, {})


def test_cases_of_one_patient_stay_on_one_side():
    info = DatasetInfo(scans(7, 3), {"background": 0, "organ": 1}, ("MR",))
    _, folds = all_splits(info, SplitSettings(folds=3, group="(.*)_scan"))
    for fold in folds:
        sides = [{name[:3] for name in names} for names in (fold.train, fold.validation)]
        assert not sides[0] & sides[1]
    assert sorted(n for f in folds for n in f.validation) == sorted(c.name for c in info.cases)


def test_patients_that_the_dataset_names_stay_on_one_side():
    cases = tuple(replace(case, patient=case.name[:3]) for case in scans(6, 2))
    _, folds = all_splits(DatasetInfo(cases, {"background": 0, "organ": 1}, ("MR",)), SplitSettings(folds=3))
    assert all(len({name[:3] for name in f.validation}) == 2 == len(f.validation) / 2 for f in folds)


def test_a_given_fold_with_a_patient_on_both_sides_is_refused():
    own = Split(("p00_scan0", "p01_scan0"), ("p00_scan1",))
    info = DatasetInfo(scans(2, 2), {"background": 0, "organ": 1}, ("MR",), (own,))
    assert choose_split(info, SplitSettings()) == own
    with pytest.raises(DataError, match="patients whose cases both train and judge: p00"):
        choose_split(info, SplitSettings(group="(.*)_scan"))


def test_a_group_that_does_not_match_every_case_is_refused():
    info = DatasetInfo(scans(5, 1), {"background": 0, "organ": 1}, ("MR",))
    with pytest.raises(DataError, match=r"finds no patient in p01_scan0"):
        choose_split(info, SplitSettings(group="(p00|p02|p03|p04)_"))


@pytest.mark.parametrize(("group", "message"), [("p.*", "no group"), ("(p", "no regular expression")])
def test_a_group_names_the_patient_in_brackets(group, message):
    with pytest.raises(ValueError, match=message):
        SplitSettings(group=group)


def test_stratified_folds_spread_rare_labels_and_sizes_evenly():
    cases = scans(20, 1)
    found = [facts(case.name, ml=i + 1, rare=float(i < 4)) for i, case in enumerate(cases)]
    info = DatasetInfo(cases, {"background": 0, "organ": 1, "rare": 2}, ("MR",))
    _, folds = all_splits(info, SplitSettings(folds=4, stratify=True), found)
    rare = {f.name for f in found if f.volumes_ml["rare"]}
    small = {f.name for f in found[:7]}
    assert [len(f.validation) for f in folds] == [5, 5, 5, 5]
    assert [len(rare & {*f.validation}) for f in folds] == [1, 1, 1, 1]
    assert {len(small & {*f.validation}) for f in folds} <= {1, 2}


def test_balanced_folds_depend_on_the_seed_and_not_on_the_order_of_names():
    patient_of = {f"c{i}": f"c{i}" for i in range(12)}
    turned = dict(reversed(patient_of.items()))
    drawn = [draw_balanced_folds(p, 3, seed, {}) for p, seed in ((patient_of, 1), (turned, 1), (turned, 2))]
    assert drawn[0] == drawn[1] != drawn[2]


def test_all_trains_on_every_labelled_case_whatever_folds_there_are(tmp_path):
    own = Split(("c0",), ("c1",))
    info = dataset(tmp_path, 3, (own,))
    info = replace(info, cases=(*reversed(info.cases), Case("bare", (tmp_path / "bare.nii",), None)))
    assert choose_split(info, SplitSettings(fold="all")) == Split(("c0", "c1", "c2"), ())
    assert choose_split(dataset(tmp_path, 1), SplitSettings(fold="all")) == Split(("c0",), ())
