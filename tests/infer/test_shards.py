"""Parts of a folder, by processes that need no other, make what one process makes."""

import json
import subprocess
from pathlib import Path
from shutil import rmtree

import pytest
from fleets import hashes, infer

from medfuse.api import Case
from medfuse.core.board import Board
from medfuse.core.errors import DataError, OutputError
from medfuse.infer import shards
from medfuse.infer.fleet import SharedLedger
from medfuse.infer.fleet_files import FOLDER, SHARDS, Listed, Work, write_work
from medfuse.infer.ledger import Ledger
from medfuse.infer.manifest import NAME, now
from medfuse.infer.shards import Shard


def cases(folder: Path, sizes) -> list[Case]:
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"case_{number:02d}.nii.gz"
        path.write_bytes(bytes(size))
        made.append(Case(f"case_{number:02d}", (path,)))
    return made


def names(some) -> list[str]:
    return [case.name for case in some]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_every_case_is_in_one_part(count, tmp_path):
    every = cases(tmp_path, [n * n % 101 for n in range(30)])
    parts = [names(Shard(index, count).of(every)) for index in range(count)]
    assert sorted(name for part in parts for name in part) == names(every)


def test_parts_are_the_same_in_any_order_and_equal_in_bytes(tmp_path):
    every = cases(tmp_path, [1000, 10, 20, 30, 40, 500, 500, 900, 0, 0])
    sizes = [sum(case.images[0].stat().st_size for case in Shard(i, 3).of(every)) for i in range(3)]
    assert max(sizes) - min(sizes) <= 40
    assert [names(Shard(i, 3).of(every)) for i in range(3)] == [
        names(Shard(i, 3).of(every[::-1])) for i in range(3)
    ]


def test_cases_of_no_size_are_spread(tmp_path):
    assert [len(Shard(i, 4).of(cases(tmp_path, [0] * 8))) for i in range(4)] == [2, 2, 2, 2]


@pytest.fixture(scope="module")
def one(finished_run, tmp_path_factory):
    """What one process makes."""
    output = tmp_path_factory.mktemp("one")
    subprocess.run(infer(finished_run, finished_run.data / "imagesTr", output), check=True, timeout=300)
    return output


def listed(output: Path) -> dict:
    return json.loads((output / NAME).read_text())


def test_one_after_another_they_make_what_one_makes(finished_run, medfuse, one, tmp_path):
    def part(shard):
        images = finished_run.data / "imagesTr"
        return medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path, "--shard", shard, "-q")

    first = part("1/3")
    assert first.code == 0, first.err
    done = [*listed(tmp_path)["cases"]]
    assert 0 < len(done) < 4
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == sorted(
        f"{name}.nii.gz" for name in done
    )
    assert listed(tmp_path)["finished"] is None
    assert (
        "of --shard 0/3 to 2/3 1 ended: 1/3; still to be begun: 0/3, 2/3" in medfuse("status", tmp_path).out
    )
    assert not (tmp_path / SHARDS).exists()
    assert "0 written" in part("1/3").out
    assert part("0/3").code == part("2/3").code == 0
    assert hashes(tmp_path) == hashes(one)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in one.iterdir()}
    assert listed(tmp_path)["cases"].keys() == listed(one)["cases"].keys()
    assert listed(tmp_path)["engines"] == listed(one)["engines"] if "engines" in listed(one) else True
    assert listed(tmp_path)["finished"]
    assert "parts" not in listed(tmp_path)


@pytest.mark.slow
def test_at_once_they_make_what_one_makes(finished_run, one, tmp_path):
    images = finished_run.data / "imagesTr"
    running = [
        subprocess.Popen(infer(finished_run, images, tmp_path, "--shard", f"{index}/3")) for index in range(3)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    assert hashes(tmp_path) == hashes(one)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in one.iterdir()}
    assert len(listed(tmp_path)["cases"]) == 4


def test_a_case_that_fails_is_still_told_after_the_other_part(finished_run, medfuse, tmp_path):
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for path in (finished_run.data / "imagesTr").glob("*_0[01].nii.gz"):
        (images / path.name).write_bytes(path.read_bytes())
    broken = images / "cube_99.nii.gz"
    broken.write_bytes((images / "cube_00.nii.gz").read_bytes()[:-200])
    codes = [
        medfuse("infer", finished_run.folder, "-i", images, "-o", output, "--shard", f"{i}/2", "-q").code
        for i in range(2)
    ]
    assert sorted(codes) == [0, 2]
    assert list(listed(output)["failed"]) == ["cube_99"]
    assert len(listed(output)["cases"]) == 2
    assert listed(output)["finished"]


@pytest.mark.parametrize("shard", ["16/16", "3", "a/b", "-1/4", "0/0", "1/4/4"])
def test_a_part_out_of_range_is_a_line(shard, finished_run, medfuse, tmp_path):
    said = medfuse("infer", finished_run.folder, "-i", finished_run.data, "-o", tmp_path, f"--shard={shard}")
    assert said.code == 2
    assert "counted from 0: 0/" in " ".join(said.err.replace("│", " ").split())


def begun(output: Path, shard: Shard, **changed) -> Board:
    import medfuse

    given = {
        "medfuse": medfuse.__version__,
        "facts": {"weights": ["a"]},
        "how": {},
        "began": now(),
        "workers": 1,
    }
    given["cases"] = (Listed(name="a", images=(Path("a.nii.gz"),)),)
    place = shard.place(output)
    board = Board(place / FOLDER, 1)
    write_work(place, Work(**{**given, **changed}))
    return board


@pytest.mark.parametrize(
    ("shard", "changed", "message"),
    [
        (Shard(1, 4), {}, r"works on --shard 1/4 there, and this is one of 3"),
        (Shard(1, 3), {"medfuse": "0.0.1"}, r"a fleet of medfuse 0\.0\.1 works there"),
        (Shard(1, 3), {"facts": {"weights": ["b"]}}, "works with other weights"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(shard, changed, message, tmp_path):
    board = begun(tmp_path, shard, **changed)
    with board.joined(), pytest.raises(OutputError, match=message):
        shards._refuse_other_parts(Shard(0, 3), tmp_path, {"weights": ["a"]})
    shards._refuse_other_parts(Shard(0, 3), tmp_path, {"weights": ["a"]})  # nobody works there any more


def test_one_process_does_not_do_all_of_it_beside_parts_at_work(finished_run, medfuse, tmp_path):
    board = begun(tmp_path, Shard(1, 3))
    images = finished_run.data / "imagesTr"
    with board.joined():
        said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path, "-q")
    assert said.code == 2
    assert "works on --shard 1/3 there; wait until it has ended" in said.err
    assert medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path, "-q").code == 0
    assert not (tmp_path / SHARDS).exists()


def test_status_tells_of_parts(medfuse, tmp_path):
    board = begun(tmp_path, Shard(1, 3))
    begun(tmp_path, Shard(2, 3)).settle(0, {"state": "done"})
    with board.joined():
        said = medfuse("status", tmp_path)
    assert said.code == 0, said.err
    assert "1 done, 0 failed" in said.out
    assert "1 to do, by 1 worker" in said.out


def test_it_goes_alone(finished_run, medfuse, tmp_path):
    for more in (["--workers", "2"], ["--engine", "ray"], ["--statistics"]):
        said = medfuse("infer", finished_run.folder, "-i", tmp_path, "-o", tmp_path, "--shard", "0/2", *more)
        assert said.code == 2
        assert "is one process, and goes without" in " ".join(said.err.split())


def part_of(folder: Path, index: int, count: int, every: list[Case]):
    """A part as `infer_part` begins it; `end` writes label maps of bytes, and tells what became of it."""
    facts: dict = {}

    def opened(some):
        return Ledger(some, facts, folder, lambda _: None, lambda case: [], lambda case: {}, others_stay=True)

    def unfinished(ledger, among):
        return ledger.unfinished(among=among)

    shard = Shard(index, count)
    share = shards.found(shard, every, folder, facts, opened, unfinished)

    def end():
        ledger = SharedLedger(share, lambda case: [], overwrite=False)
        with share.board.joined():
            while (case := share.take()) is not None:
                ledger.failed(case, DataError("it was tried"))
        return shards.gathered(shard, share, every, folder, opened, unfinished)

    return share, end


def test_parts_that_begin_at_the_same_moment_leave_each_other_alone(tmp_path):
    every = cases(tmp_path, [10, 20, 30, 40])
    begun = [part_of(tmp_path / "out", index, 3, every) for index in range(3)]
    told = [end() for _, end in begun]
    assert sorted(name for outcome in told for name in outcome.failed) == names(every)
    assert listed(tmp_path / "out")["finished"]


def test_a_part_whose_cases_nobody_did_is_an_error(tmp_path):
    every = cases(tmp_path, [10, 20, 30, 40])
    _, end = part_of(tmp_path / "out", 0, 2, every)
    rmtree(Shard(0, 2).place(tmp_path / "out"))
    with pytest.raises(OutputError, match="2 of 2 cases are not done"):
        end()
    assert not listed(tmp_path / "out")["finished"]


@pytest.mark.parametrize("way", [(), ("--shard", "1/2")])
def test_one_process_and_every_part_choose_what_runs_the_network_by_the_smallest_scan(
    way, finished_run, medfuse, tmp_path, monkeypatch
):
    import nibabel
    import numpy as np

    from medfuse.trained.trained import Trained

    tried = []
    real = Trained._one_window

    def seen(self, case, runners):
        tried.append(case.name)
        return real(self, case, runners)

    monkeypatch.setattr(Trained, "_one_window", seen)
    random = np.random.default_rng(0)
    for name, size in (("a", 24), ("b", 16), ("c", 20)):
        voxels = random.integers(0, 1000, (size,) * 3).astype(np.int16)
        (tmp_path / "in").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "in" / f"{name}.nii")
    said = medfuse("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out", "-q", *way)
    assert said.code == 0, said.err
    assert tried == ["b"]
