"""Scans from a bucket and label maps into one, over a storage that fails as others do."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scanner

pytest.importorskip("s3fs", reason="s3fs comes with the extra cloud")
pytest.importorskip("moto", reason="moto comes with the extra dev")

from s3_server import serving

from medfuse.core import storage
from medfuse.core.errors import OutputError
from medfuse.infer.away import Scratch

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def server():
    with serving() as made:
        yield made


@pytest.fixture
def bucket(server, monkeypatch, finished_run, tmp_path_factory):
    """Three scans below scans/; the storage answers at once."""
    import fsspec

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "_WAIT_S", 0.01)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    for key in server.keys:
        server.client.delete_object(Bucket="bucket", Key=key)
    for name in ("cube_00", "cube_01", "cube_02"):
        server.put(f"scans/{name}.nii.gz", (finished_run.data / "imagesTr" / f"{name}.nii.gz").read_bytes())
    server.asked.clear()
    server.slow_s = 0.0
    server.answer = lambda method, path: None
    yield server
    server.answer = lambda method, path: None
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def expected(finished_run, tmp_path_factory) -> dict[str, bytes]:
    """The label maps of one process over the same scans in a folder."""
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.infer import infer_volumes

    out = tmp_path_factory.mktemp("expected")
    images = finished_run.data / "imagesTr"
    infer_volumes([finished_run.folder], [images], out, reporter=Reporter(quiet=True))
    return {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}


def scratch() -> list[Path]:
    return [*Path(tempfile.gettempdir()).glob("medfuse-scratch-*")]


def infer(medfuse, run, *words):
    return medfuse("infer", run.folder, *words, "-q")


def test_from_a_bucket_into_a_bucket(bucket, finished_run, medfuse, expected):
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert said.code == 0, said.err
    assert "3 written, 0 were finished already: s3://bucket/labels" in said.out
    assert said.out.rstrip().endswith(": s3://bucket/labels/quality.csv")
    for name in ("cube_00", "cube_01", "cube_02"):
        assert bucket.get(f"labels/{name}.nii.gz") == expected[f"{name}.nii.gz"]
    assert {key for key in bucket.keys if key.startswith("labels/")} >= {
        "labels/manifest.json",
        "labels/manifest.jsonl",
    }
    assert not [key for key in bucket.keys if ".medfuse" in key]
    assert not scratch()
    rows = [json.loads(line) for line in bucket.get("labels/manifest.jsonl").splitlines()]
    assert rows[0]["inputs"] == ["s3://bucket/scans/cube_00.nii.gz"]
    assert rows[0]["seconds_in.fetching"] >= 0
    bucket.asked.clear()
    again = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert "0 written, 3 were finished already" in again.out
    assert bucket.count("GET", "scans/cube_00.nii.gz") == 0
    told = json.loads(medfuse("status", "s3://bucket/labels", "--json").out)
    assert (told["done"], told["failed"]) == (3, {})


def test_from_a_bucket_into_a_folder_and_the_other_way_round(
    bucket, finished_run, medfuse, expected, tmp_path
):
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans/cube_01.nii.gz", "-o", tmp_path)
    assert said.code == 0, said.err
    assert (tmp_path / "cube_01.nii.gz").read_bytes() == expected["cube_01.nii.gz"]
    image = finished_run.data / "imagesTr" / "cube_03.nii.gz"
    said = infer(medfuse, finished_run, "-i", image, "-o", "s3://bucket/labels")
    assert said.code == 0, said.err
    assert bucket.get("labels/cube_03.nii.gz") == expected["cube_03.nii.gz"]


def test_what_cannot_be_explained_is_named_without_its_signature(bucket, finished_run, medfuse):
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans?signature=secret", "--explain")
    assert said.code == 2
    assert "s3://bucket/scans: --explain reads headers, which are elsewhere" in said.err
    assert "secret" not in said.err


def test_an_image_that_has_changed_is_done_again(bucket, finished_run, medfuse):
    infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    bucket.put("scans/cube_00.nii.gz", bucket.get("scans/cube_01.nii.gz"))
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert "1 written, 2 were finished already" in said.out, said.err
    assert bucket.get("labels/cube_00.nii.gz") == bucket.get("labels/cube_01.nii.gz")


def test_what_others_put_there_stays(bucket, finished_run, medfuse):
    bucket.put("labels/cube_00.nii.gz", b"mine")
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert (said.code, bucket.get("labels/cube_00.nii.gz")) == (2, b"mine")
    assert "is not what medfuse wrote, and stays" in said.out
    bucket.put("labels/cube_01.nii.gz", bucket.get("labels/cube_01.nii.gz")[:-1] + b"x")
    bucket.put("scans/cube_01.nii.gz", bucket.get("scans/cube_02.nii.gz"))
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert "was changed since medfuse wrote it, and stays" in said.out


def test_a_storage_that_fails_for_a_while_is_waited_for(bucket, finished_run, medfuse, expected):
    failures = Counter()

    def answer(method, path):
        failures[method, path] += 1
        return 500 if failures[method, path] <= 2 else None

    bucket.answer = answer
    bucket.slow_s = 0.02
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert said.code == 0, said.err + said.out
    assert bucket.get("labels/cube_02.nii.gz") == expected["cube_02.nii.gz"]


def test_one_object_that_never_comes_is_set_aside_and_the_rest_goes_on(
    bucket, finished_run, medfuse, expected
):
    bucket.answer = lambda method, path: (
        503 if method == "GET" and path.endswith("scans/cube_01.nii.gz") else None
    )
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert said.code == 2
    assert "2 written" in said.out
    assert (
        "set aside after 3 attempts: s3://bucket/scans/cube_01.nii.gz: the storage does not answer"
        in said.out
    )
    bucket.answer = lambda method, path: None
    again = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert "1 written, 2 were finished already" in again.out
    assert bucket.get("labels/cube_01.nii.gz") == expected["cube_01.nii.gz"]
    assert not scratch()


def test_one_label_map_that_is_not_taken_is_set_aside(bucket, finished_run, medfuse):
    bucket.answer = lambda method, path: (
        500 if method == "PUT" and path.endswith("labels/cube_01.nii.gz") else None
    )
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert said.code == 2
    assert "2 written" in said.out
    assert "labels/cube_01.nii.gz" not in bucket.keys
    assert "set aside after 3 attempts" in said.out


def test_who_was_killed_is_carried_on_from_anywhere(bucket, finished_run, medfuse):
    """The second case ends the process, as if it was killed; nothing but the bucket knows of the first."""
    puts = []

    def answer(method, path):
        if method == "PUT" and path.endswith(".nii.gz"):
            puts.append(path)
        if len(puts) > 1:
            raise SystemError("the machine is gone")

    bucket.answer = answer
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert said.code != 0
    bucket.answer = lambda method, path: None
    assert json.loads(bucket.get("labels/manifest.json"))["cases"] == {}
    told = json.loads(medfuse("status", "s3://bucket/labels", "--json").out)
    assert told["done"] == 1
    again = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    assert "2 written, 1 were finished already" in again.out, again.err + again.out
    assert {*bucket.keys} >= {f"labels/cube_0{n}.nii.gz" for n in range(3)}


def test_a_label_map_never_replaces_an_image(bucket, finished_run, medfuse):
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/scans")
    assert said.code == 2
    assert "s3://bucket/scans/cube_00.nii.gz: the label map would replace an image" in said.err


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("s3://nothere/scans", "s3://nothere/scans: is not there, or its bucket is not"),
        ("s3://bucket/nothere", "s3://bucket/nothere: is not there"),
        ("s4://bucket/scans", "no storage is called 's4'; did you mean 's3'?"),
        ("https://user:secret@example.org/a.nii.gz", "holds a user or a password"),
    ],
)
def test_an_address_that_is_none_is_a_line(bucket, finished_run, medfuse, tmp_path, place, line):
    for words in (("-i", place, "-o", tmp_path / "out"),):
        said = infer(medfuse, finished_run, *words)
        assert said.code == 2
        assert line in said.err
        assert "secret" not in said.err
        assert "Traceback" not in said.err


def test_without_credentials_it_says_which(bucket, finished_run, medfuse, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    said = infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", tmp_path / "out")
    assert (said.code, "there are no credentials for it" in said.err) == (2, True), said.err


def test_a_missing_package_is_named_with_its_extra(finished_run, medfuse, tmp_path):
    said = infer(medfuse, finished_run, "-i", "gs://bucket/scans", "-o", tmp_path / "out")
    assert said.code == 2
    assert "needs the package gcsfs" in said.err
    assert "medfuse[cloud]" in said.err


@pytest.mark.parametrize("more", [("--probabilities", "zarr"), ("--statistics",), ("--engine", "slurm")])
def test_what_no_bucket_can_hold_is_refused(finished_run, medfuse, more):
    image = finished_run.data / "imagesTr"
    said = infer(medfuse, finished_run, "-i", image, "-o", "s3://bucket/labels", *more)
    assert (said.code, more[0] in said.err) == (2, True)


def test_changes_of_other_weights_are_not_taken_in(bucket, finished_run, medfuse):
    infer(medfuse, finished_run, "-i", "s3://bucket/scans", "-o", "s3://bucket/labels")
    bucket.put("labels/.medfuse/0000-00000001.json", b'{"cases": {"ghost": {"file": "ghost.nii.gz"}}}')
    assert json.loads(medfuse("status", "s3://bucket/labels", "--json").out)["done"] == 3


def test_workers_share_scans_of_a_bucket(bucket, finished_run, medfuse, expected):
    words = ("-i", "s3://bucket/scans", "-o", "s3://bucket/labels", "--workers", 2)
    said = infer(medfuse, finished_run, *words)
    assert said.code == 0, said.err + said.out
    for name in ("cube_00", "cube_01", "cube_02"):
        assert bucket.get(f"labels/{name}.nii.gz") == expected[f"{name}.nii.gz"]
    assert "3 were finished already" in infer(medfuse, finished_run, *words).out
    assert not scratch()


def test_a_memory_of_this_process_and_a_server_of_files(finished_run, medfuse, expected, tmp_path):
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    import fsspec

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    image = (finished_run.data / "imagesTr" / "cube_00.nii.gz").read_bytes()
    fsspec.filesystem("memory").pipe("/in/a_0000.nii.gz", image)
    said = infer(medfuse, finished_run, "-i", "memory://in", "-o", "memory://out")
    assert said.code == 0, said.err
    assert fsspec.filesystem("memory").cat("/out/a.nii.gz")[:2] == b"\x1f\x8b"
    handler = functools.partial(Quiet, directory=finished_run.data / "imagesTr")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/cube_01.nii.gz?signature=secret"
        said = infer(medfuse, finished_run, "-i", place, "-o", tmp_path / "out")
        gone = infer(medfuse, finished_run, "-i", place.replace("01", "77"), "-o", tmp_path / "out")
        server.shutdown()
    assert said.code == 0, said.err
    assert (tmp_path / "out" / "cube_01.nii.gz").read_bytes() == expected["cube_01.nii.gz"]
    assert "secret" not in (tmp_path / "out" / "manifest.json").read_text()
    assert (gone.code, "is not there" in gone.err, "secret" in gone.err) == (2, True, False)


def test_folders_of_dicom_are_cases_by_their_names(bucket, finished_run, medfuse, tmp_path):
    from medfuse.core.remembered import cache_folder

    image = nibabel.load(finished_run.data / "imagesTr" / "cube_00.nii.gz")
    voxels = np.rint(np.asarray(image.dataobj) * 100).astype(np.int16)
    files = scanner.write(tmp_path / "dicom", voxels, pixel_mm=(1.5, 1.5), step_mm=2.0)
    for file in files:
        bucket.put(f"dicom/p1/ct/{file.name}", file.read_bytes())
    before = {*(cache_folder() / "series").glob("*")}
    said = infer(medfuse, finished_run, "-i", "s3://bucket/dicom", "-o", tmp_path / "out")
    assert said.code == 0, said.err + said.out
    assert (tmp_path / "out" / "ct.nii.gz").exists()
    assert {*(cache_folder() / "series").glob("*")} == before


def test_a_scratch_folder_is_made_when_it_is_needed_and_else_is_no_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with Scratch() as unused:
        assert "folder" not in vars(unused)
    with pytest.raises(OutputError, match="none"):
        _ = Scratch().folder
