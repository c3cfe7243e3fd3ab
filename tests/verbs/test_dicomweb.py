"""Scans from a DICOMweb server, and their labels stored there."""

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from dicomweb_server import served
from pydicom import dcmread
from scanner import voxels, write

pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter
from medfuse.volumes.dicom.web import address_of, fetched

RECORDS = ("manifest.", "quality.")


ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
QUIET = Reporter(quiet=True)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MEDFUSE_DICOMWEB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "cache"


@pytest.fixture
def scan(tmp_path) -> Path:
    write(tmp_path / "scan", voxels((20, 18, 16)))
    return tmp_path / "scan"


@pytest.fixture
def server(cache, scan):
    with served() as made:
        made.add_folder(scan)
        yield made


def uids(scan: Path) -> tuple[str, str]:
    one = dcmread(next(scan.iterdir()))
    return one.StudyInstanceUID, one.SeriesInstanceUID


def place(url: str, scan: Path, **more: str) -> str:
    study, _ = uids(scan)
    return f"dicomweb:{url}?StudyInstanceUID={study}" + "".join(
        f"&{key}={value}" for key, value in more.items()
    )


def pixels(folder: Path) -> dict[str, bytes]:
    return {str(one.SOPInstanceUID): one.PixelData for one in map(dcmread, folder.glob("*.dcm"))}


def test_a_series_is_fetched_as_it_is(server, scan):
    (folder,) = fetched(address_of(place(server.url, scan)), QUIET)
    assert pixels(folder) == pixels(scan)
    assert folder.stat().st_mode & 0o077 == 0, "a patient's scan is nobody else's"


def test_what_is_there_is_not_fetched_again(server, scan):
    for _ in range(2):
        fetched(address_of(place(server.url, scan)), QUIET)
    assert len(server.sent) == 16


def test_what_was_half_fetched_is_carried_on(server, scan):
    server.fails_after = 6
    with pytest.raises(DataError, match="cannot be reached"):
        fetched(address_of(place(server.url, scan)), QUIET)
    before, server.fails_after = len(server.sent), None
    (folder,) = fetched(address_of(place(server.url, scan)), QUIET)
    assert pixels(folder) == pixels(scan)
    assert len(server.sent) - before <= 16 - 2
    assert not list(folder.glob(".unfinished-*"))


def test_a_series_that_has_changed_is_what_it_is_now(server, scan):
    (folder,) = fetched(address_of(place(server.url, scan)), QUIET)
    gone = next(iter(server.held))
    del server.held[gone]
    (again,) = fetched(address_of(place(server.url, scan)), QUIET)
    assert again == folder
    assert gone not in pixels(folder)


@pytest.mark.parametrize("naming", ["tags", "hash"])
def test_the_labels_are_those_of_the_folder(server, scan, finished_run, medfuse, tmp_path, naming):
    for number, source in enumerate((scan, place(server.url, scan))):
        words = ("infer", finished_run.folder, "-i", source, "-o", tmp_path / f"out{number}")
        spoken = medfuse(*words, "--device", "cpu", "--format", "nifti,dicom_seg", "--name", naming)
        assert spoken.code == 0, spoken.err
    one, other = (
        sorted(p for p in (tmp_path / f"out{n}").iterdir() if not p.name.startswith(RECORDS)) for n in (0, 1)
    )
    assert [path.name for path in one] == [path.name for path in other], "the same case"
    assert [path.read_bytes() for path in one if path.suffix == ".gz"] == [
        path.read_bytes() for path in other if path.suffix == ".gz"
    ]
    uid, same = (
        dcmread(next(p for p in found if p.suffix == ".dcm")).SOPInstanceUID for found in (one, other)
    )
    assert uid == same


@pytest.fixture
def stored(server, scan, finished_run, medfuse, tmp_path):
    """Labels the scan of the server, and stores them there."""
    words = ("infer", finished_run.folder, "-i", place(server.url, scan), "-o", tmp_path / "out")
    return lambda: medfuse(*words, "--device", "cpu", "--store")


def test_labels_are_stored_where_the_scan_is_from(server, scan, stored, tmp_path):
    for _ in range(2):  # the second time nothing is new
        spoken = stored()
        assert spoken.code == 0, spoken.err
        assert f"1 stored at {server.url}" in spoken.out
        (made,) = (content for said, content in server.held.values() if said["Modality"] == "SEG")
    made = dcmread(io.BytesIO(made))
    assert made.StudyInstanceUID == uids(scan)[0]
    assert server.url not in (tmp_path / "out" / "manifest.json").read_text()


def test_labels_are_stored_at_a_server_alone(server, scan, finished_run, medfuse, cache):
    words = ("infer", finished_run.folder, "-i", scan, "-o", f"dicomweb:{server.url}", "--device", "cpu")
    spoken = medfuse(*words, "--format", "dicom_seg,rtstruct")
    assert spoken.code == 0, spoken.err
    kinds = [said["Modality"] for said, _ in server.held.values()]
    assert kinds.count("SEG") == kinds.count("RTSTRUCT") == 1
    assert not list((cache / "dicomweb").glob("labels-*"))


def test_a_segmentation_beside_the_scan_is_no_scan(server, scan, stored):
    stored()
    assert len(fetched(address_of(place(server.url, scan)), QUIET)) == 1


def test_what_a_server_does_not_take_is_a_line(server, scan, stored, tmp_path):
    server.refuses_to_store = True
    spoken = stored()
    assert spoken.code == 2
    assert "did not take" in spoken.err
    assert list((tmp_path / "out").glob("*.dcm")), "what was made is kept"


def test_other_instances_than_were_asked_for_are_refused(server, scan):
    server.swaps = True
    with pytest.raises(DataError, match="was asked for"):
        fetched(address_of(place(server.url, scan)), QUIET)


@pytest.mark.parametrize("way", ["token", "password", "netrc"])
def test_credentials_come_from_the_environment_and_go_into_no_file(
    server, scan, finished_run, medfuse, tmp_path, cache, monkeypatch, way
):
    server.token = "Bearer secret-word" if way == "token" else "Basic bWU6c2VjcmV0LXdvcmQ="
    spoken = medfuse("infer", finished_run.folder, "-i", place(server.url, scan), "-o", tmp_path / "out")
    assert spoken.code == 2
    assert "refuses (401)" in spoken.err
    assert "MEDFUSE_DICOMWEB_USER" in spoken.err
    if way == "token":
        monkeypatch.setenv("MEDFUSE_DICOMWEB_TOKEN", "secret-word")
    elif way == "password":
        monkeypatch.setenv("MEDFUSE_DICOMWEB_USER", "me")
        monkeypatch.setenv("MEDFUSE_DICOMWEB_PASSWORD", "secret-word")
    else:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret-word\n")
        (tmp_path / "netrc").chmod(0o600)
    assert (
        medfuse("infer", finished_run.folder, "-i", place(server.url, scan), "-o", tmp_path / "out").code == 0
    )
    for folder in (tmp_path / "out", cache):
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"secret-word" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dicomweb:", "is no address"),
        ("dicomweb:ftp://x?StudyInstanceUID=1", "is no address"),
        ("dicomweb:http://?StudyInstanceUID=1", "is no address"),
        ("dicomweb:http://x:port?StudyInstanceUID=1", "is no address"),
        ("dicomweb:http://me:word@x?StudyInstanceUID=1", "holds a user or a password"),
        ("dicomweb:http://x", "would fetch all that is there"),
        ("dicomweb:http://x?Modality=CT", "would fetch all that is there"),
        ("dicomweb:http://x?StudyInstanceUID=", "is no UID"),
        ("dicomweb:http://x?StudyInstanceUID=../..", "is no UID"),
        ("dicomweb:http://x?StudyUID=1.2", "DICOM has no 'StudyUID'"),
        ("dicomweb:http://x?PatientID=*", "would fetch all that is there"),
    ],
)
def test_what_is_no_address_is_a_line(medfuse, finished_run, tmp_path, text, said):
    spoken = medfuse("infer", finished_run.folder, "-i", text, "-o", tmp_path / "out")
    assert spoken.code == 2
    assert said in spoken.err
    assert "word@" not in spoken.err


def test_a_study_that_is_not_there_and_a_server_that_is_not_are_lines(
    server, scan, medfuse, finished_run, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url, said in (
        (f"{server.url}?StudyInstanceUID=1.2.3", "no series with images is there"),
        (f"{server.url}/nix?StudyInstanceUID=1.2.3", "refuses (404)"),
        (f"http://127.0.0.1:{port}/x?StudyInstanceUID=1.2.3", "cannot be reached"),
    ):
        spoken = medfuse("infer", finished_run.folder, "-i", f"dicomweb:{url}", "-o", tmp_path / "out")
        assert spoken.code == 2
        assert said in spoken.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--store",), "for scans that come from one DICOMweb server"),
        (("--store", "--format", "nifti"), "is not stored; add dicom_seg"),
        (("-o", "dicomweb:http://x?StudyInstanceUID=1"), "give the server alone"),
    ],
)
def test_what_cannot_be_stored_is_a_line(medfuse, finished_run, scan, tmp_path, words, said):
    given = ("infer", finished_run.folder, "-i", scan, "-o", tmp_path / "out", *words)
    spoken = medfuse(*given)
    assert spoken.code == 2
    assert said in spoken.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def orthanc(tmp_path, cache):
    if not ORTHANC or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    how = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"me": "secret-word"},
        "Plugins": [str(PLUGIN)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(how))
    log = (tmp_path / "orthanc.log").open("w")
    process = subprocess.Popen([ORTHANC, tmp_path / "orthanc.json"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        for _ in range(200):
            try:
                ask(f"{url}/system")
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def ask(url: str, data: bytes | None = None) -> bytes:
    wanted = urllib.request.Request(url, data, {"Authorization": "Basic bWU6c2VjcmV0LXdvcmQ="})
    with urllib.request.urlopen(wanted, timeout=20) as answer:
        return answer.read()


@pytest.mark.slow
def test_orthanc_is_asked_and_given_the_labels(orthanc, scan, finished_run, medfuse, tmp_path, monkeypatch):
    for path in scan.iterdir():
        ask(f"{orthanc}/instances", path.read_bytes())
    monkeypatch.setenv("MEDFUSE_DICOMWEB_USER", "me")
    monkeypatch.setenv("MEDFUSE_DICOMWEB_PASSWORD", "secret-word")
    source = place(f"{orthanc}/dicom-web", scan)
    words = ("infer", finished_run.folder, "--device", "cpu", "--format", "nifti,dicom_seg")
    assert medfuse(*words, "-i", scan, "-o", tmp_path / "folder").code == 0
    for _ in range(2):
        spoken = medfuse(*words, "-i", source, "-o", tmp_path / "web", "--store")
        assert spoken.code == 0, spoken.err
    (one,) = (tmp_path / "folder").glob("*.nii.gz")
    assert (tmp_path / "web" / one.name).read_bytes() == one.read_bytes()
    (series,) = json.loads(ask(f"{orthanc}/dicom-web/series?Modality=SEG"))
    (instance,) = json.loads(ask(f"{orthanc}/dicom-web/instances?Modality=SEG"))
    assert series["0020000D"]["Value"] == [uids(scan)[0]]
    (made,) = (tmp_path / "web").glob("*.dcm")
    mine = dcmread(made)
    assert instance["00080018"]["Value"] == [mine.SOPInstanceUID]
    (found,) = [n for n in json.loads(ask(f"{orthanc}/instances")) if is_seg(orthanc, n)]
    kept = dcmread(io.BytesIO(ask(f"{orthanc}/instances/{found}/file")))
    np.testing.assert_array_equal(kept.pixel_array, mine.pixel_array)


def is_seg(url: str, instance: str) -> bool:
    return json.loads(ask(f"{url}/instances/{instance}/simplified-tags"))["Modality"] == "SEG"
