"""Workers that share the cases of a folder make what one makes, whoever of them is killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleets import hashes, infer
from phantoms import write_case

from medfuse import Command, registry
from medfuse.api import Case
from medfuse.core.board import Board
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import write_json
from medfuse.core.reporter import Reporter
from medfuse.infer.fleet import Fleet
from medfuse.infer.fleet_files import FOLDER, Listed, Work, gather, write_work
from medfuse.infer.ledger import Ledger
from medfuse.infer.manifest import NAME, Manifest
from medfuse.verbs.work import work_on

QUIET = Reporter(quiet=True)


def cases_of(output: Path) -> dict[str, dict]:
    return json.loads((output / NAME).read_text())["cases"]


def test_two_workers_make_what_one_makes_and_leave_nothing_else(finished_run, medfuse, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    images = finished_run.data / "imagesTr"
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(infer(finished_run, images, one), check=True, timeout=300)
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", two, "--workers", 2, "-q")
    assert said.code == 0, said.err
    assert hashes(two) == hashes(one)
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert cases_of(two).keys() == cases_of(one).keys()
    assert {name: case["volumes_ml"] for name, case in cases_of(two).items()} == {
        name: case["volumes_ml"] for name, case in cases_of(one).items()
    }
    again = medfuse("infer", finished_run.folder, "-i", images, "-o", two, "--workers", 2)
    assert "0 written, 4 were finished already" in again.out


def test_a_case_that_cannot_be_read_fails_by_name_and_the_rest_go_on(finished_run, medfuse, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in (finished_run.data / "imagesTr").glob("*.nii.gz"):
        (images / path.name).write_bytes(path.read_bytes())
    broken = images / "cube_99.nii.gz"
    broken.write_bytes(broken.with_name("cube_00.nii.gz").read_bytes()[:-200])
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--workers", 2, "-q")
    assert said.code == 2
    assert "4 written" in said.out
    assert "cube_99" in said.out
    assert not (tmp_path / "out" / FOLDER).exists()


LEADER = """
import sys
from pathlib import Path
from medfuse.builtin.engines.local import Local
from medfuse.cli import main
from medfuse.core.board import Board
from medfuse.infer.fleet_files import FOLDER, read_work

class Crew:
    def __len__(self): return 0
    def add(self): pass
    def end(self): pass
    def ended(self):
        output = Path(sys.argv[sys.argv.index("-o") + 1])
        board = Board(output / FOLDER, len(read_work(output).cases))
        for number in range(board.cases):
            board.settle(number, {"state": "failed", "reason": "as the test has it"})
        return []

Local.start = lambda self, command, workers: Crew()
try:
    main()
except SystemExit as ended:
    assert ended.code == 2
assert not {"torch", "monai", "openvino", "scipy.ndimage", "pydicom"} & {*sys.modules}
"""


def test_whoever_leads_workers_imports_no_torch_and_no_network(finished_run, tmp_path):
    words = ["infer", finished_run.folder, "-i", finished_run.data / "imagesTr", "-o", tmp_path / "out"]
    command = [sys.executable, "-c", LEADER, *words, "--workers", "2"]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert "4 failed" in said.stdout
    assert "as the test has it" in said.stdout


def work(output: Path, **changed) -> Work:
    import medfuse

    given = {
        "medfuse": medfuse.__version__,
        "facts": {"weights": ["a"]},
        "how": {},
        "cases": (Listed(name="a", images=(Path("a.nii.gz"),)), Listed(name="b", images=(Path("b.nii.gz"),))),
        "began": "now",
        "workers": 2,
    }
    made = Work(**{**given, **changed})
    (output / FOLDER).mkdir(parents=True)
    write_work(output, made)
    return made


@pytest.mark.parametrize("name", ["scans/a.nii.gz", "../a.nii.gz", "/data/a.nii.gz"])
def test_paths_start_where_the_fleet_was_begun_wherever_a_worker_is(name, tmp_path, monkeypatch):
    from medfuse.infer.fleet import Share

    (tmp_path / "leads").mkdir()
    monkeypatch.chdir(tmp_path / "leads")
    work(tmp_path / "out", cases=(Listed(name="a", images=(Path(name),)),), where=Path.cwd())
    assert [case.images for case in Share(tmp_path / "out").cases] == [(Path(name),)]
    monkeypatch.chdir("/")
    assert [case.images for case in Share(tmp_path / "out").cases] == [(tmp_path / "leads" / name,)]


def test_who_joins_must_have_the_same_version_and_weights(finished_run, tmp_path):
    how = {"weights": [str(finished_run.folder)]}
    with pytest.raises(OutputError, match="no workers share anything there"):
        work_on(tmp_path, reporter=QUIET)
    work(tmp_path / "old", how=how, medfuse="0.0.1")
    with pytest.raises(OutputError, match=r"a fleet of medfuse 0\.0\.1 works there"):
        work_on(tmp_path / "old", reporter=QUIET)
    work(tmp_path / "other", how=how)
    with pytest.raises(OutputError, match=r"works with other .*weights"):
        work_on(tmp_path / "other", reporter=QUIET)
    work(tmp_path / "odd", how={"weights": 3})
    with pytest.raises(MedfuseError, match="start the fleet anew"):
        work_on(tmp_path / "odd", reporter=QUIET)


def test_what_a_fleet_settled_before_its_leader_died_is_finished_already(tmp_path):
    from dataclasses import asdict

    from medfuse.core.seal import seal
    from medfuse.infer.away import inputs_now

    cases = [Case(name, (tmp_path / "scans" / name,)) for name in "ab"]
    (tmp_path / "scans").mkdir()
    for case in cases:
        case.images[0].write_bytes(b"image")
    work(tmp_path)
    board = Board(tmp_path / FOLDER, 2)
    (tmp_path / "a.nii.gz").write_bytes(b"labels")
    entry = {"windows": 1, "inputs": inputs_now(cases[0])}
    files = {"a.nii.gz": asdict(seal(tmp_path / "a.nii.gz"))}
    board.settle(board.take(), {"state": "done", "files": files, "entry": entry})

    def again() -> list[str]:
        ways = (lambda now: None, lambda case: [f"{case.name}.nii.gz"], lambda case: {})
        ledger = Ledger(cases, {"weights": ["a"]}, tmp_path, *ways)
        left = [case.name for case in ledger.unfinished()]
        assert ledger.outcome.skipped == (() if "a" in left else ("a",))
        return left

    assert again() == ["b"]
    cases[0].images[0].write_bytes(b"another image")
    assert again() == ["a", "b"]


def test_what_a_fleet_settled_before_its_leader_died_is_taken_in(tmp_path):
    work(tmp_path)
    board = Board(tmp_path / FOLDER, 2)
    (tmp_path / "a.nii.gz").write_bytes(b"labels")
    from dataclasses import asdict

    from medfuse.core.seal import seal

    files = {"a.nii.gz": asdict(seal(tmp_path / "a.nii.gz"))}
    board.settle(board.take(), {"state": "done", "files": files, "entry": {"windows": 1}})
    announced = {"b.nii.gz": asdict(seal(tmp_path / "a.nii.gz"))}
    write_json(tmp_path / FOLDER / "announced" / "1.1.json", announced)
    (tmp_path / "b.nii.gz").write_bytes(b"labels")  # its worker died between the file and its record
    manifest = Manifest(tmp_path / NAME, {"weights": ["a"]})
    gather(manifest, tmp_path)
    assert not (tmp_path / FOLDER).exists()
    assert cases_of(tmp_path).keys() == {"a"}
    manifest.refuse_to_replace(["a.nii.gz", "b.nii.gz"], overwrite=False)  # both are medfuse's own
    other = tmp_path / "other"
    work(other)
    board = Board(other / FOLDER, 2)
    board.settle(board.take(), {"state": "done", "files": files, "entry": {"windows": 1}})
    gather(Manifest(other / NAME, {"weights": ["b"]}), other)
    assert cases_of(other) == {}  # of other weights


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("announced/0.1.json", "[1]"),
        ("announced/0.1.json", '{"a.nii.gz": 3}'),
        ("announced/0.1.json", '{"a.nii.gz": {"bytes": "few"}}'),
        ("records/0.json", "[1]"),
        ("records/0.json", '{"state": "done", "files": {"a.nii.gz": 3}, "entry": {}}'),
    ],
)
def test_what_no_worker_wrote_is_a_line_and_stays(file, text, tmp_path):
    work(tmp_path)
    Board(tmp_path / FOLDER, 2)
    path = tmp_path / FOLDER / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(OutputError, match=r"remove .*\.fleet, and run the same command again"):
        gather(Manifest(tmp_path / NAME, {"weights": ["a"]}), tmp_path)
    assert path.read_text() == text


def test_a_record_that_says_nothing_is_a_line(tmp_path):
    work(tmp_path)
    board = Board(tmp_path / FOLDER, 2)
    board.settle(board.take(), {"state": "done"})
    with pytest.raises(OutputError, match=r"remove the folder \.fleet"):
        gather(Manifest(tmp_path / NAME, {"weights": ["a"]}), tmp_path)


def test_two_fleets_into_one_folder_are_told_apart(finished_run, medfuse, tmp_path):
    from medfuse.core.lock import locked

    (tmp_path / "out").mkdir()
    images = finished_run.data / "imagesTr"
    with locked(tmp_path / "out"):
        said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--workers", 2)
    assert said.code == 2
    assert "is in use by process" in said.err


def at_work(output: Path) -> list[int]:
    """Processes of workers that have a case."""
    if not (output / FOLDER / "work.json").exists():
        return []
    board = Board(output / FOLDER, CASES, make=False)
    return [worker.pid for worker in board.workers() if worker.is_alive and worker.doing]


POISONED = """
import os, signal, sys
from pathlib import Path
from medfuse.core.board import Board
from medfuse.infer.fleet_files import FOLDER
board = Board(Path(sys.argv[1]) / FOLDER, 6)
with board.joined():
    while board.left:
        number = board.take()
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if number is not None:
            board.settle(number, {"state": "left", "reason": "by a test"})
"""


class Scripted(Command):
    """Workers that run a text."""

    @property
    def words(self):
        return [sys.executable, "-c", POISONED, *self.arguments]


def test_a_case_that_kills_whoever_takes_it_is_set_aside_and_the_rest_go_on(tmp_path, caplog):
    cases = [Case(f"case_{number}", (tmp_path / f"{number}.nii.gz",)) for number in range(6)]
    ledger = Ledger(cases, {"weights": ["a"]}, tmp_path, lambda _: None, lambda case: [], lambda case: {})
    engine = registry.get("medfuse.engines", "local")()
    command = Scripted((str(tmp_path),), tmp_path, "cpu")
    Fleet(lambda workers: engine.start(command, workers), 2, {}).lead(
        cases, ledger, tmp_path, {"weights": ["a"]}
    )
    outcome = ledger.finish()
    assert [*outcome.failed] == ["case_2"]
    reason = outcome.failed["case_2"]
    assert reason.startswith("set aside after 3 attempts: "), reason
    assert "its worker was killed by signal 9" in reason
    lost = [
        line
        for line in caplog.messages
        if re.match(r"worker local-\w+ was lost: its worker was killed", line)
    ]
    assert len({*lost}) == len(lost) == 3
    assert len(outcome.left) == 5
    assert not (tmp_path / FOLDER).exists()


def test_workers_that_cannot_be_started_leave_no_work_behind(tmp_path):
    def refuse(workers):
        raise MedfuseError("no cluster answers")

    cases = [Case("a", (tmp_path / "a.nii.gz",))]
    ledger = Ledger(cases, {}, tmp_path, lambda _: None, lambda case: [], lambda case: {})
    with pytest.raises(MedfuseError, match="no cluster answers"):
        Fleet(refuse, 2, {}).lead(cases, ledger, tmp_path, {})
    assert not [*tmp_path.iterdir()]


def test_a_worker_whose_disk_fails_ends_with_1_so_that_the_others_go_on(tmp_path, monkeypatch, capsys):
    """2 is a mistake of the user's, which ends all."""

    def full(output, **options):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise OutputError("/scratch: the disk is full; free some space") from error

    work(tmp_path)
    monkeypatch.setattr("medfuse.infer.fleet.Share", full)
    with pytest.raises(SystemExit) as ended:
        work_on(tmp_path, reporter=QUIET)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.strip() == "/scratch: the disk is full; free some space"
    assert "the disk is full" in Command((), tmp_path).ended(1, said)


CASES, WORKERS, KILLS = 200, 4, 30
SLOWLY = ("--set", "mirror=[x, y, z]", "--set", "overlap=0.9")  # so that there is time to kill


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_whoever_is_killed_nothing_is_lost_or_doubled(engine, finished_run, tmp_path, monkeypatch):
    if engine == "ray":
        pytest.importorskip("ray", reason="ray comes with the extra ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for number in range(CASES):
        write_case(tmp_path, f"cube_{number:03d}", seed=number, label=False)
    images, one, many = tmp_path / "imagesTr", tmp_path / "one", tmp_path / "many"
    subprocess.run(infer(finished_run, images, one, *SLOWLY), check=True, timeout=1200)
    chance = random.Random(1)
    command = infer(finished_run, images, many, "--workers", WORKERS, "--engine", engine, *SLOWLY)
    leader, killed = subprocess.Popen(command), {"leader": 0, "worker": 0}
    while leader.poll() is None and sum(killed.values()) < KILLS:
        time.sleep(chance.uniform(0.1, 0.7))
        alive = at_work(many)
        if not alive:
            continue
        if chance.random() < 0.25:
            leader.kill()
            leader.wait()
            killed["leader"] += 1
            leader = subprocess.Popen(command)
        else:
            os.kill(chance.choice(alive), signal.SIGKILL)
            killed["worker"] += 1
    if leader.wait(timeout=1200) == 2:  # a case whose workers were killed three times was set aside
        leader = subprocess.Popen(command)
    assert leader.wait(timeout=1200) == 0, killed
    assert min(killed.values()) > 2, killed
    assert hashes(many) == hashes(one)
    assert len(cases_of(many)) == CASES
    assert {p.name for p in many.iterdir()} == {p.name for p in one.iterdir()}


def test_a_machine_with_a_cache_of_its_own_takes_cases_of_dicom(finished_run, tmp_path, monkeypatch):
    import nibabel
    import numpy as np
    import scanner

    from medfuse.infer.cases import find_inputs
    from medfuse.infer.fleet import Share
    from medfuse.infer.fleet_files import carry_along
    from medfuse.volumes.read import read_geometry

    image = nibabel.load(finished_run.data / "imagesTr" / "cube_00.nii.gz")
    scanner.write(tmp_path / "scan", np.rint(np.asarray(image.dataobj)).astype(np.int16), step_mm=2.0)
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "leaders"))
    (case,) = find_inputs([tmp_path / "scan"], ["CT"])
    out = tmp_path / "out"
    work(out, cases=(Listed.of(case),))
    carry_along(out, [case])
    assert Share(out).cases == (case,)
    (tmp_path / "leaders").rename(tmp_path / "gone")
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "workers"))
    (other,) = Share(out).cases
    assert other.images[0].is_relative_to(tmp_path / "workers")
    assert (
        other.images[0].stat().st_mtime_ns
        == (out / FOLDER / "series").rglob("*.json").__next__().stat().st_mtime_ns
    )
    assert read_geometry(other.images[0]).shape == image.shape
