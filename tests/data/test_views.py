"""A finite set of patches: each is what its number says, and every pass sees all of them."""

from collections import Counter

import pytest
import torch

from medfuse.data.kept import KeptMaps
from medfuse.data.patches import PatchSampler
from medfuse.data.settings import AugmentSettings, SampleSettings
from medfuse.data.views import Views, viewed_batches

VIEWS = Views(12, 3, 4, seed=1)


@pytest.fixture
def sampler(store, plan):
    return sampler_of(store, plan)


def sampler_of(store, plan, workers=0):
    return PatchSampler(
        store, ("a", "b", "empty"), plan, SampleSettings(workers=workers), AugmentSettings(), 1
    )


@pytest.fixture
def kept(tmp_path):
    return KeptMaps(tmp_path / "maps", {"one": "k1"}, half=False, image=False)


def first(stream, n=1):
    found = [next(stream) for _ in range(n)]
    stream.close()
    return found


def test_a_pass_sees_each_view_of_each_patch_once():
    seen = Counter(pair for step in range(VIEWS.batches) for pair in VIEWS.batch(VIEWS.number(step)))
    assert seen == {(place, view): 1 for place in range(12) for view in range(3)}


def test_each_pass_has_another_order():
    passes = [[VIEWS.number(n * VIEWS.batches + step) for step in range(VIEWS.batches)] for n in range(2)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]


def test_the_batch_of_a_step_depends_on_seed_and_step_alone():
    fresh = Views(12, 3, 4, seed=1)
    assert [fresh.number(step) for step in (40, 3)] == [VIEWS.number(40), VIEWS.number(3)]
    assert [Views(12, 3, 4, seed=2).number(s) for s in range(9)] != [VIEWS.number(s) for s in range(9)]


def test_a_patch_meets_others_in_another_view():
    def companions(view):
        rows = range(VIEWS.rows * view, VIEWS.rows * (view + 1))
        return {frozenset(place for place, _ in VIEWS.batch(row)) for row in rows}

    assert companions(0) != companions(1)


def test_shares_of_processes_are_the_batch_of_one():
    assert VIEWS.batch(5, 0, 2) + VIEWS.batch(5, 1, 2) == VIEWS.batch(5)


def test_cases_take_turns(sampler):
    assert Counter(sampler.view(place, 0)["case"] for place in range(4) if not sampler._is_forced(place))
    plain = PatchSampler(
        sampler.store, sampler.names, sampler.plan, SampleSettings(foreground=0), AugmentSettings(), 1
    )
    assert Counter(plain.view(place, 0)["case"] for place in range(9)) == dict.fromkeys(sampler.names, 3)


def test_a_patch_on_foreground_is_of_a_case_that_has_some(store, plan):
    sampler = PatchSampler(store, ("a", "empty"), plan, SampleSettings(foreground=1), AugmentSettings(), 1)
    assert {sampler.view(place, 0)["case"] for place in range(8)} == {"a"}


def test_views_are_of_one_place_and_differ(sampler, store, plan):
    views = [sampler.view(3, view) for view in range(6)]
    assert len({v["case"] for v in views}) == 1
    assert not all(torch.equal(v["image"], views[0]["image"]) for v in views)
    still = AugmentSettings().without_any()
    plain = PatchSampler(store, sampler.names, plan, SampleSettings(), still, 1)
    assert torch.equal(plain.view(3, 0)["image"], plain.view(3, 5)["image"])


def test_a_view_is_drawn_alike_by_any_process_at_any_time(store, plan, sampler):
    here = first(viewed_batches(sampler, VIEWS, None), 3)
    there = first(viewed_batches(sampler_of(store, plan, workers=1), VIEWS, None), 3)
    resumed = first(viewed_batches(sampler, VIEWS, None, start_step=2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(here, there))
    assert torch.equal(resumed[0]["label"], here[2]["label"])


def keep(kept, batch):
    maps = {"one": batch["image"] * 2}
    kept.write(batch["number"], batch, maps, 0.5)
    return maps["one"]


def test_what_is_kept_comes_back_as_it_was_and_is_not_drawn_again(sampler, kept, monkeypatch):
    with kept.in_use({}):
        made = {b["number"]: (keep(kept, b), b) for b in first(viewed_batches(sampler, VIEWS, kept), 9)}
        monkeypatch.setattr(PatchSampler, "view", lambda *_: pytest.fail("it was drawn"))
        for batch in first(viewed_batches(sampler, VIEWS, kept), 20):
            maps, drawn = made[batch["number"]]
            assert torch.equal(batch["maps"]["one"], maps)
            assert torch.equal(batch["label"], drawn["label"])
            assert batch["case"] == drawn["case"]
            assert batch["image"].shape == drawn["image"].shape


def test_what_somebody_else_kept_counts_once(sampler, kept):
    with kept.in_use({}):
        for batch in first(viewed_batches(sampler, VIEWS, kept), 9):
            keep(kept, batch)
        assert [b["spent"] for b in first(viewed_batches(sampler, VIEWS, kept), 12)] == [0.5] * 9 + [0.0] * 3


def test_only_what_is_missing_is_drawn(sampler, kept, monkeypatch):
    with kept.in_use({}):
        for batch in first(viewed_batches(sampler, VIEWS, kept), 4):
            keep(kept, batch)
        numbers = [VIEWS.number(step) for step in range(9)]
        drawn = [b["maps"] is None for b in first(viewed_batches(sampler, VIEWS, kept, start_step=2), 5)]
        assert drawn == [False, False, True, True, True]
        assert kept.numbers() == set(numbers[:4])


def test_what_was_damaged_is_drawn_anew(sampler, kept):
    with kept.in_use({}):
        whole = first(viewed_batches(sampler, VIEWS, kept), 9)
        for batch in whole:
            keep(kept, batch)
        for path in kept.folder.glob("k1/*.b2"):
            path.write_bytes(path.read_bytes()[:-3])
        (batch,) = first(viewed_batches(sampler, VIEWS, kept, start_step=4))
        assert batch["maps"] is None
        assert torch.equal(batch["image"], whole[4]["image"])


def test_the_image_is_kept_where_it_is_needed(sampler, tmp_path):
    kept = KeptMaps(tmp_path / "maps", {"one": "k1"}, half=True, image=True)
    with kept.in_use({}):
        whole = first(viewed_batches(sampler, VIEWS, kept), 9)
        for batch in whole:
            keep(kept, batch)
        again = first(viewed_batches(sampler, VIEWS, kept), 9)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(whole, again))
