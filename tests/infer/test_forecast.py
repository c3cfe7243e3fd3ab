"""From a few cases that were done to all of them."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from medfuse.core.dispatch import dispatch
from medfuse.core.errors import MedfuseError
from medfuse.infer.forecast import Price, Sample, forecast, sampled

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def folder(count: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Windows and voxels of so many cases."""
    chance = random.Random(seed)
    return {f"c{n:04d}": (w := chance.randint(1, 60), w * chance.uniform(1e5, 2e5)) for n in range(count)}


def seconds_of(size: tuple[float, float]) -> float:
    return 0.3 + 0.2 * size[0] + 2e-7 * size[1]


def done(features, names, workers=2, load=5.0, noise=0.0, seed=0) -> Sample:
    """A manifest's entries of workers that take the cases in this order."""
    chance = random.Random(seed)
    free, entries = [load] * workers, {}
    for name in names:
        pid = min(range(workers), key=lambda n: free[n])
        free[pid] += seconds_of(features[name]) * chance.uniform(1 - noise, 1 + noise)
        written = (BEGAN + timedelta(seconds=free[pid])).isoformat(timespec="milliseconds")
        entries[name] = {"host": "here", "pid": pid, "written": written}
    return Sample.of(entries, BEGAN)


def by_size(features) -> list[str]:
    return sorted(features, key=lambda name: -features[name][1])


@pytest.mark.parametrize("workers", [1, 2, 64])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_it_foretells_what_a_dispatch_of_the_true_seconds_takes(workers, noise):
    features = folder(600)
    sample = done(features, sampled({n: s[0] for n, s in features.items()}, 2), noise=noise)
    order = by_size(features)
    made = forecast(features, sample, workers, order=order, before_s=3)
    true = dispatch([seconds_of(features[name]) for name in order], workers, begins_s=[5] * workers)
    assert made.wall_s == pytest.approx(3 + true.wall_s, rel=0.1 if noise else 0.02)
    low, high = made.wall_range_s
    assert low <= high
    assert low * 0.95 <= 3 + true.wall_s <= high * 1.05
    assert made.tail_s <= 1.2 * max(seconds_of(size) for size in features.values())


@pytest.mark.parametrize("workers", [1, 4, 50])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_a_number_lies_in_its_range(workers, noise):
    features = folder(56)
    made = forecast(
        features, done(features, sampled(features, workers), noise=noise), workers, order=by_size(features)
    )
    for value, (low, high) in ((made.wall_s, made.wall_range_s), (made.tail_s, made.tail_range_s)):
        assert low <= value <= high


def test_cases_of_every_size_are_tried_and_the_same_ones_again():
    sizes = {f"c{n}": float(n) for n in range(1000)}
    names = sampled(sizes, 2)
    assert len({*names}) == 20
    assert [int(sizes[name] // 50) for name in names] == [*range(20)]
    assert names == sampled(dict(reversed(sizes.items())), 2)
    assert len(sampled(sizes, 16)) == 64  # so that each worker has some
    assert {*sampled({"a": 1, "b": 2}, 4)} == {"a", "b"}


def test_few_cases_tell_something_too():
    features = folder(3)
    names = list(features)
    made = forecast(features, done(features, names, workers=1, load=0), 1, order=names)
    assert made.wall_s == pytest.approx(sum(map(seconds_of, features.values())), rel=0.5)
    one = {"a": (1.0, 1.0)}
    assert forecast(one, done(one, ["a"], load=0, workers=1), 4, order=["a"]).wall_s > 0


def test_where_nothing_could_be_done_nothing_is_foretold():
    with pytest.raises(MedfuseError, match="nothing is known of the others"):
        forecast(folder(3), Sample((), (), {}), 2, order=["c0000"])


def test_cost_is_that_of_all_workers_to_the_end():
    features = folder(200)
    sample = done(features, sampled({n: s[0] for n, s in features.items()}, 2))
    made = forecast(features, sample, 8, order=by_size(features), price=Price.of("0.60 USD/h"))
    said = made.values()
    assert said["cost"] == pytest.approx(8 * made.wall_s / 3600 * 0.6, abs=1e-3)
    assert said["cost_range"][0] <= said["cost"] <= said["cost_range"][1] * 1.01
    assert "USD" in made.text()
    assert "8 workers" in made.text()


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("0.60/h", Price(0.6)),
        ("0.60", Price(0.6)),
        (".5 / hour", Price(0.5)),
        ("0.60 USD/h", Price(0.6, "USD")),
        ("0.60USD", Price(0.6, "USD")),
        ("EUR 2/h", Price(2, "EUR")),
        ("$0.60/h", Price(0.6, "$")),
        ("12€", Price(12, "€")),
        ("0", Price(0)),
    ],
)
def test_prices(text, price):
    assert Price.of(text) == price


@pytest.mark.parametrize(
    "text", ["", "free", "-1", "1,5", "0.6/min", "USD 1 EUR", "1e3", "0.6/h/h", "9" * 50]
)
def test_what_is_no_price_is_a_line(text):
    with pytest.raises(MedfuseError, match="is no price of a worker's hour"):
        Price.of(text)


@pytest.mark.slow
def test_infer_explains_what_workers_will_take_and_writes_nothing(finished_run, medfuse, tmp_path):
    images = finished_run.data / "imagesTr"
    before = {str(path) for path in tmp_path.rglob("*")}
    words = ("infer", finished_run.folder, "-i", images, "--explain", "--workers", 2, "--price", "0.60 USD/h")
    said = medfuse(*words, "--json", "-q")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert len(told["cases"]) == 4
    assert told["forecast"]["workers"] == 2
    assert told["forecast"]["sampled"] == 4
    assert told["forecast"]["seconds"] > 0
    assert told["forecast"]["cost"] == pytest.approx(told["forecast"]["worker_hours"] * 0.6, abs=1e-3)
    assert {str(path) for path in tmp_path.rglob("*")} == before


def test_a_part_of_the_cases_is_explained_alone(finished_run, medfuse):
    images = finished_run.data / "imagesTr"
    words = ("infer", finished_run.folder, "-i", images, "--explain", "--json")
    everything, *parts = (
        [row["case"] for row in json.loads(medfuse(*words, *more).out)["cases"]]
        for more in ((), ("--shard", "0/2"), ("--shard", "1/2"))
    )
    assert all(parts)
    assert sorted([*parts[0], *parts[1]]) == sorted(everything)
    assert len(set(everything)) == len(everything)


def test_a_price_is_for_explain(finished_run, medfuse, tmp_path):
    images = finished_run.data / "imagesTr"
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--price", "1")
    assert (said.code, "--explain" in said.err) == (2, True)
    said = medfuse("infer", finished_run.folder, "-i", images, "--explain", "--price", "much")
    assert (said.code, "is no price of a worker's hour" in said.err) == (2, True)
