"""Jobs: sent, followed, fetched, cancelled and deleted."""

import io
import json
import threading
import time
import zipfile

import nibabel
import numpy as np
import pytest
from scanner import voxels as scanned
from scanner import write
from service.answered import attached, labels, voxels

from medfuse.service.jobs import ENDED


def ended(service, id: str) -> dict:
    for _ in range(300):
        state = service.client.get(f"/jobs/{id}").json()
        if state["status"] in ENDED:
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def held(service):
    """A service whose worker is busy until the event is set."""
    free = threading.Event()
    (line,) = service.desk.queues._lines
    work = line._work

    def wait(job) -> None:
        while not free.wait(0.02):
            job.check()
        work(job)

    line._work = wait
    yield free
    free.set()


def test_a_job_is_labelled_as_infer_does(service, image, inferred, tmp_path):
    answer = service.client.post("/jobs", files=attached(image))
    assert answer.status_code == 202
    id = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{id}"
    state = ended(service, id)
    assert (state["status"], state["progress"], state["errors"]) == ("done", 1.0, [])
    assert state["files"] == ["cube_00.nii.gz"]
    assert state["labels"] == {"cube": 1}
    assert set(state["cases"]["cube_00"]["volumes_ml"]) == {"cube"}
    result = service.client.get(f"/jobs/{id}/result")
    assert result.content == (inferred / "cube_00.nii.gz").read_bytes()
    assert service.client.delete(f"/jobs/{id}").status_code == 204
    assert service.client.get(f"/jobs/{id}").status_code == 404
    assert service.is_empty


def test_several_images_come_back_in_one_zip_file(service, finished_run, inferred):
    folder = finished_run.data / "imagesTr"
    names = ["cube_00.nii.gz", "cube_01.nii.gz"]
    answer = service.client.post("/jobs", files=[("file", (n, (folder / n).read_bytes())) for n in names])
    state = ended(service, answer.json()["id"])
    assert state["files"] == names
    result = service.client.get(f"/jobs/{state['id']}/result")
    assert result.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(result.content)) as archive:
        assert {n: archive.read(n) for n in archive.namelist()} == {
            n: (inferred / n).read_bytes() for n in names
        }
    one = service.client.get(f"/jobs/{state['id']}/result?file={names[1]}")
    assert one.content == (inferred / names[1]).read_bytes()
    assert service.client.get(f"/jobs/{state['id']}/result?file=../x").status_code == 404


def test_a_zip_file_is_the_folder_that_it_holds(service, image, inferred):
    content = zipped(**{"scans/cube_00.nii.gz": image.read_bytes(), "__MACOSX/scans/._cube_00.nii.gz": b"x"})
    answer = service.client.post("/jobs", files={"file": ("patient.zip", content)})
    state = ended(service, answer.json()["id"])
    assert state["files"] == ["cube_00.nii.gz"], state
    result = service.client.get(f"/jobs/{state['id']}/result").content
    assert result == (inferred / "cube_00.nii.gz").read_bytes()


@pytest.mark.parametrize("way", ["files", "zip"])
def test_a_dicom_series_is_labelled_in_all_formats(service, finished_run, way, tmp_path):
    from medfuse.core.remembered import cache_folder
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.infer import infer_volumes

    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    series = tmp_path / "series"
    write(series, scanned((20, 18, 16)))
    formats = ["nifti", "nrrd", "dicom_seg", "rtstruct"]
    out, quiet = tmp_path / "out", Reporter(quiet=True)
    infer_volumes([finished_run.folder], [series], out, device="cpu", formats=formats, reporter=quiet)
    before = {path.name for path in (cache_folder() / "series").iterdir()}
    files = {path.name: path.read_bytes() for path in sorted(series.iterdir())}
    sent = [("file", item) for item in files.items()] if way == "files" else None
    answer = service.client.post(
        "/jobs",
        data={"formats": ",".join(formats)},
        files=sent or {"file": ("series.zip", zipped(**files))},
    )
    state = ended(service, answer.json()["id"])
    assert state["status"] == "done", state
    assert len(state["files"]) == 4
    case = next(name for name in state["files"] if name.endswith(".nii.gz"))
    result = service.client.get(f"/jobs/{state['id']}/result?file={case}")
    np.testing.assert_array_equal(labels(result.content, case, tmp_path), voxels(out / case))
    assert {path.name for path in (cache_folder() / "series").iterdir()} == before, "of clients nothing stays"


def test_a_path_in_the_data_folder_is_labelled(make_service, finished_run, inferred):
    service = make_service(desk={"data": finished_run.data})
    answer = service.client.post("/jobs", json={"path": "imagesTr/cube_01.nii.gz", "statistics": True})
    state = ended(service, answer.json()["id"])
    assert state["files"] == ["cube_01.nii.gz", "statistics.csv", "statistics.json"]
    result = service.client.get(f"/jobs/{state['id']}/result?file=cube_01.nii.gz")
    assert result.content == (inferred / "cube_01.nii.gz").read_bytes()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "imagesTr/../..", "nix", "a\0b", "link", "x" * 4000])
def test_no_path_leads_out_of_the_data_folder(make_service, finished_run, tmp_path, path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(finished_run.data)
    service = make_service(desk={"data": data})
    answer = service.client.post("/jobs", json={"path": path})
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text
    assert service.is_empty


def test_events_tell_of_each_step_until_the_end(service, image, held):
    id = service.client.post("/jobs", files=attached(image)).json()["id"]
    threading.Timer(0.2, held.set).start()
    with service.client.stream("GET", f"/jobs/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    states = [json.loads(one) for one in told]
    assert states[-1]["status"] == "done"
    assert [s["progress"] for s in states] == sorted(s["progress"] for s in states)


def test_a_result_is_not_there_before_the_end(service, image, held):
    id = service.client.post("/jobs", files=attached(image)).json()["id"]
    answer = service.client.get(f"/jobs/{id}/result")
    assert answer.status_code == 409
    assert answer.headers["retry-after"]
    held.set()
    ended(service, id)
    assert service.client.get(f"/jobs/{id}/result").status_code == 200


def test_a_running_job_is_cancelled(service, image, held):
    id = service.client.post("/jobs", files=attached(image)).json()["id"]
    assert service.client.delete(f"/jobs/{id}").status_code == 204
    assert service.is_empty
    assert service.desk.tally.jobs["cubes", "cancelled"] == 1


def test_a_waiting_job_is_cancelled_at_once(service, image, held):
    ids = [service.client.post("/jobs", files=attached(image)).json()["id"] for _ in range(3)]
    assert service.client.get(f"/jobs/{ids[2]}").json()["ahead"] == 2
    service.client.delete(f"/jobs/{ids[1]}")
    assert service.client.get(f"/jobs/{ids[2]}").json()["ahead"] == 1
    held.set()
    assert ended(service, ids[2])["status"] == "done"


def test_a_full_queue_is_told_with_the_time_to_wait(make_service, image):
    service = make_service(queue=2)
    free = threading.Event()
    service.desk.queues._lines[0]._work = lambda job: free.wait(20)
    try:
        first = service.client.post("/jobs", files=attached(image)).json()["id"]
        while service.client.get(f"/jobs/{first}").json()["status"] != "running":
            time.sleep(0.01)
        assert [service.client.post("/jobs", files=attached(image)).status_code for _ in range(2)] == [
            202,
            202,
        ]
        for path in ("/jobs", "/infer/cubes"):
            answer = service.client.post(path, files=attached(image))
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
    finally:
        free.set()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot"),
        (b"no image at all", "unknown ending"),
        (b"\x1f\x8b" + b"\0" * 100, ""),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.dcm", "scan.zip", "scan"])
def test_what_is_no_image_fails_with_a_line(service, name, content, said):
    answer = service.client.post("/jobs", files={"file": (name, content)})
    if answer.status_code == 202:
        state = ended(service, answer.json()["id"])
        assert state["status"] == "failed"
        lines = state["errors"]
        assert service.client.get(f"/jobs/{state['id']}/result").status_code == 409
        service.client.delete(f"/jobs/{state['id']}")
    else:
        assert answer.status_code == 422
        lines = [answer.json()["detail"]]
    assert lines
    assert all(str(service.folder) not in line for line in lines), "where files lie is nobody's business"
    assert "Traceback" not in str(lines)
    assert service.is_empty


def lying(shape: tuple[int, ...], spacing: float = 1.0) -> bytes:
    """A NIfTI file whose header says that it has more voxels than it has."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header["pixdim"][1:4] = spacing
    header["vox_offset"] = 352
    return header.binaryblock + b"\0" * 4 + b"\0" * 5000


@pytest.mark.parametrize(
    "content",
    [lying((512, 512, 32767)), lying((32767, 32767, 32767)), lying((10, 10, 25), spacing=1e4)],
    ids=["large", "huge", "coarse"],
)
def test_a_header_that_lies_takes_no_memory(make_service, content):
    service = make_service(unpacked=1 << 24)
    answer = service.client.post("/jobs", files={"file": ("scan.nii", content)})
    state = ended(service, answer.json()["id"])
    assert state["status"] == "failed", state
    assert "scan.nii" in state["errors"][0]


def test_an_image_that_grows_too_large_on_the_networks_grid_is_refused(make_service, image):
    service = make_service(unpacked=1000)
    state = ended(service, service.client.post("/jobs", files=attached(image)).json()["id"])
    assert state["status"] == "failed"
    assert "are allowed; crop it" in state["errors"][0]


@pytest.mark.parametrize(
    ("json_body", "said"),
    [
        ({}, "path"),
        ({"path": "x", "model": "nix"}, "no model named 'nix'"),
        ({"path": "x", "formats": "niftii"}, "did you mean"),
        ({"path": "x", "seg_type": "nix"}, "seg_type"),
        ({"path": "x", "strict": "perhaps"}, "strict"),
        ({"path": "x", "more": 1}, "more"),
        ([1], "the request"),
        ({"path": "x", "series": ["a"] * 100}, "series"),
    ],
)
def test_a_wish_that_cannot_be_met_is_a_line(make_service, tmp_path, json_body, said):
    service = make_service(desk={"data": tmp_path})
    answer = service.client.post("/jobs", json=json_body)
    assert answer.status_code in (404, 422)
    assert said in answer.json()["detail"]


def test_json_without_end_or_of_no_depth_is_refused(service):
    for body in (b"[" * 100_000, b'{"path": "x"', b"\xff\xfe", b'{"path": "\\ud800"}', b'{"a":1,"a":2}'):
        answer = service.client.post("/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, body[:20]


def test_without_a_data_folder_no_path_is_read(service):
    answer = service.client.post("/jobs", json={"path": "etc"})
    assert answer.status_code == 403
    assert "--data FOLDER" in answer.json()["detail"]
