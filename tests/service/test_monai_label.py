"""MONAI Label's interface, as its client and 3D Slicer's module call it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from elsewhere import MONAI_LABEL
from service.answered import attached, labels, parts, voxels

from medfuse.core.label_table import entries_of
from medfuse.service.models import Model

LIMIT = "----------lImIt_of_THE_fIle_eW_$"


def as_the_client_does(fields: dict[str, str], files: dict[str, Path]) -> dict:
    """A form byte for byte as MONAI Label's client writes it, the whole path as the file's name."""
    body = bytearray()
    for name, value in fields.items():
        body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, path in files.items():
        body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{name}"; filename="{path}"\r\n'.encode()
        body += b"Content-Type: application/gzip\r\n\r\n" + path.read_bytes() + b"\r\n"
    body += f"--{LIMIT}--\r\n\r\n".encode()
    return {
        "content": bytes(body),
        "headers": {"content-type": f"multipart/form-data; boundary={LIMIT}"},
    }


def test_info_names_models_labels_and_colours(service):
    said = service.client.get("/info/").json()
    model = said["models"]["cubes"]
    assert said["labels"] == ["cube"]
    assert model["type"] == "segmentation"
    assert model["labels"] == {"cube": 1}
    assert len(model["label_colors"]["cube"]) == 3
    assert said["trainers"] == said["strategies"] == {}
    assert "config" not in said, "3D Slicer takes that for a server that is too old"


def test_an_image_that_is_sent_is_labelled_as_infer_does(service, image, inferred, tmp_path):
    sent = as_the_client_does({"params": '{"client_id": "user-xyz"}'}, {"file": image})
    answer = service.client.post("/infer/cubes?image=", **sent)
    assert answer.status_code == 200, answer.text
    name, content = parts(answer)["image"]
    assert name == "cube_00.nii.gz"
    np.testing.assert_array_equal(labels(content, name, tmp_path), voxels(inferred / "cube_00.nii.gz"))
    params = json.loads(parts(answer)["params"][1])
    assert params["label_names"] == {"cube": 1}
    assert params["latencies"]["total"] > 0
    assert service.is_empty


def test_the_file_is_the_one_that_infer_writes(service, image, inferred):
    answer = service.client.post("/infer/cubes?output=image", files=attached(image, "file"))
    assert answer.content == (inferred / "cube_00.nii.gz").read_bytes()


def test_a_session_is_labelled_as_often_as_is_wished_and_then_gone(service, image, inferred, tmp_path):
    made = service.client.put("/session/", files=attached(image, "files")).json()
    id, want = made["session_id"], voxels(inferred / "cube_00.nii.gz")
    assert service.client.get(f"/session/{id}").json()["image"] == "cube_00.nii.gz"
    for _ in range(2):
        sent = as_the_client_does({"params": "{}"}, {})
        answer = service.client.post(f"/infer/cubes?image=x&session_id={id}", **sent)
        name, content = parts(answer)["image"]
        np.testing.assert_array_equal(labels(content, name, tmp_path), want)
    assert service.client.get(f"/session/{id}?image=true").content == image.read_bytes()
    assert service.client.delete(f"/session/{id}").status_code == 200
    assert service.client.get(f"/session/{id}").status_code == 404
    assert service.is_empty


def test_an_image_is_sent_once_and_named_afterwards(service, image, inferred, tmp_path):
    sent = as_the_client_does({"params": "{}"}, {"file": image})
    assert service.client.put("/datastore/?image=Volume+1", **sent).json() == {"image": "Volume 1"}
    listed = service.client.get("/datastore/?output=all").json()["objects"]
    assert listed["Volume 1"]["image"]["ext"] == ".nii.gz"
    answer = service.client.post("/infer/cubes?image=Volume+1", **as_the_client_does({"params": "{}"}, {}))
    name, content = parts(answer)["image"]
    np.testing.assert_array_equal(labels(content, name, tmp_path), voxels(inferred / "cube_00.nii.gz"))
    assert service.client.get("/datastore/image?image=Volume+1").content == image.read_bytes()


def test_images_of_the_data_folder_are_named(make_service, finished_run, inferred, tmp_path):
    service = make_service(desk={"data": finished_run.data / "imagesTr"})
    listed = service.client.get("/datastore/?output=all").json()["objects"]
    assert set(listed) == {f"cube_0{n}" for n in range(4)}
    assert service.client.get("/info/").json()["datastore"]["total"] == 4
    answer = service.client.post("/infer/cubes?image=cube_02", data={"params": "{}"})
    name, content = parts(answer)["image"]
    np.testing.assert_array_equal(labels(content, name, tmp_path), voxels(inferred / "cube_02.nii.gz"))


@pytest.mark.parametrize(
    ("wanted", "ending"), [(".nrrd", ".nrrd"), (".nii.gz", ".nii.gz"), (".exe", ".nii.gz")]
)
def test_the_label_map_has_the_ending_that_is_asked_for(service, image, wanted, ending):
    params = json.dumps({"result_extension": wanted, "result_dtype": "uint16", "device": "cuda"})
    answer = service.client.post("/infer/cubes", data={"params": params}, files=attached(image, "file"))
    assert parts(answer)["image"][0] == f"cube_00{ending}"


def test_the_answer_may_be_the_numbers_alone(service, image):
    answer = service.client.post("/infer/cubes?output=json", files=attached(image, "file"))
    assert answer.json()["label_names"] == {"cube": 1}
    assert set(answer.json()["volumes_ml"]) == {"cube"}


def test_what_is_not_offered_is_said_to_be(service):
    assert service.client.get("/train/?check_if_running=true").status_code == 404
    for method, path in (
        ("GET", "/train/"),
        ("POST", "/train/cubes"),
        ("DELETE", "/train/"),
        ("POST", "/activelearning/random"),
        ("POST", "/batch/infer/cubes"),
    ):
        answer = service.client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 404, path
        assert "this service" in answer.json()["detail"] or "one by one" in answer.json()["detail"]


def test_label_maps_are_kept_where_a_folder_is_given(make_service, image, tmp_path):
    kept = tmp_path / "labels"
    service = make_service(desk={"labels": kept})
    for content in (b"first", b"second"):
        (tmp_path / "mask.nii.gz").write_bytes(content)
        sent = as_the_client_does({"params": "{}"}, {"label": tmp_path / "mask.nii.gz"})
        assert service.client.put("/datastore/label?image=Volume 1", **sent).json()["image"] == "Volume 1"
    assert (kept / "final" / "Volume 1.nii.gz").read_bytes() == b"second"
    (before,) = (kept / "final").glob("Volume 1.before-*.nii.gz")
    assert before.read_bytes() == b"first"
    assert service.client.get("/datastore/label?label=Volume 1&tag=final").content == b"second"
    assert service.is_empty


@pytest.mark.parametrize(
    "name",
    ["../out", "/a/b", "..", ".hidden", "a\\..\\b", "c: d", "", "x" * 300, "a\0b", "x.series.json", "\u202e"],
)
def test_label_maps_stay_in_their_folder(make_service, image, tmp_path, name):
    service = make_service(desk={"labels": tmp_path / "labels"})
    where = {"image": name, "tag": "final"}
    answer = service.client.put("/datastore/label", params=where, files=attached(image, "label"))
    assert answer.json()["image"] == name
    (path,) = (path for path in tmp_path.rglob("*.nii.gz") if path.is_file())
    assert path.parent == tmp_path / "labels" / "final"
    assert not path.name.startswith(".")
    answer = service.client.get("/datastore/label", params={"label": name, "tag": "final"})
    assert answer.content == image.read_bytes()


@pytest.mark.parametrize("tag", ["../..", "a/b", "", "x" * 100, "a\0"])
def test_a_tag_is_a_word(make_service, image, tmp_path, tag):
    service = make_service(desk={"labels": tmp_path / "labels"})
    where = {"image": "x", "tag": tag}
    answer = service.client.put("/datastore/label", params=where, files=attached(image, "label"))
    assert answer.status_code == 422
    assert not (tmp_path / "labels").exists()


def test_without_a_folder_no_label_map_is_taken(service, image):
    answer = service.client.put("/datastore/label?image=x", files=attached(image, "label"))
    assert answer.status_code == 403
    assert "--labels FOLDER" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/infer/cubs", "did you mean 'cubes'"),
        ("/infer/cubes?image=nix", "no image named 'nix'"),
        ("/infer/cubes?session_id=nix", "there is no session"),
        ("/infer/cubes", "say which image"),
        ("/infer/cubes?image=x&output=nix", "output"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(service, path, said):
    answer = service.client.post(path, data={"params": "{}"})
    assert answer.status_code in (404, 422)
    assert said in answer.json()["detail"]
    assert service.is_empty


def test_values_between_labels_have_names_of_no_segment(models):
    """3D Slicer takes the n-th name for value n, so that a gap would move all names behind it."""
    given = SimpleNamespace(entries=entries_of({"background": 0, "a": 2, "b": 4}))
    numbered = Model("x", (SimpleNamespace(plan=given),)).numbered_labels
    assert list(numbered.values()) == [1, 2, 3, 4]
    assert [numbered[name] for name in ("a", "b")] == [2, 4]


SCRIPT = """
import json, sys
from monailabel.client import MONAILabelClient

url, image, out = sys.argv[1:]
client = MONAILabelClient(url, tmpdir=out, client_id="tests")
assert client.auth_enabled()
client.update_auth(client.auth_token("anybody", "a-token-of-the-tests"))
assert client.auth_valid_token()
(model,) = client.info()["models"]
session = client.create_session(image)["session_id"]
assert client.get_session(session)
found = [client.infer(model, "", {}, session_id=session)]
client.upload_image(image, "Volume 1")
found.append(client.infer(model, "Volume 1", {"result_extension": ".nii.gz"}))
found.append(client.infer(model, "", {}, file=image))
assert "Volume 1" in client.datastore()["objects"]
assert not client.train_status(True)
client.save_label("Volume 1", found[0][0])
saved = client.download_label("Volume 1", "final")
client.remove_session(session)
print(json.dumps({"files": [path for path, _ in found], "saved": saved, "params": [p for _, p in found]}))
"""


@pytest.mark.slow
def test_the_client_of_monai_label_runs_unchanged(running, image, inferred, tmp_path):
    if MONAI_LABEL is None:
        pytest.skip("monailabel is not installed; set MEDFUSE_TEST_MONAI_LABEL to a Python that has it")
    service = running("--token", "a-token-of-the-tests", "--labels", tmp_path / "labels")
    words = [MONAI_LABEL, "-c", SCRIPT, service.url, str(image), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for path in (*said["files"], said["saved"]):
        np.testing.assert_array_equal(voxels(Path(path)), voxels(inferred / "cube_00.nii.gz"))
    assert all(params["label_names"] == {"cube": 1} for params in said["params"])
    assert sys.version_info >= (3, 11)


def test_two_people_whose_scans_have_one_name_get_labels_of_their_own(
    service, finished_run, inferred, tmp_path
):
    names = {"anna": "cube_00.nii.gz", "bert": "cube_01.nii.gz"}
    for who, name in names.items():
        image = finished_run.data / "imagesTr" / name
        sent = as_the_client_does({"params": json.dumps({"client_id": who})}, {"file": image})
        service.client.put("/datastore/?image=CT+Chest", **sent)
    for who, name in names.items():
        sent = as_the_client_does({"params": json.dumps({"client_id": who})}, {})
        answer = service.client.post("/infer/cubes?image=CT+Chest&output=image", **sent)
        assert answer.content == (inferred / name).read_bytes(), who


def test_an_image_that_does_not_come_leaves_the_one_that_is_there(service, image, inferred):
    sent = as_the_client_does({"params": "{}"}, {"file": image})
    service.client.put("/datastore/?image=x", **sent)
    broken = {**sent, "content": sent["content"][:100]}
    assert service.client.put("/datastore/?image=x", **broken).status_code == 400
    assert service.client.get("/datastore/image?image=x").content == image.read_bytes()


def test_an_image_that_was_sent_is_deleted(service, image):
    service.client.put("/datastore/?image=x", files=attached(image))
    assert service.client.delete("/datastore/image?id=x").status_code == 200
    assert service.client.delete("/datastore/image?id=x").status_code == 404
    assert service.is_empty
