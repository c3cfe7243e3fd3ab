"""What clients send: names that are safe, and nothing that climbs, lies or grows without end."""

import gzip
import io
import stat
import struct
import zipfile

import pytest
from service.answered import attached

from medfuse.service.refusals import Refusal
from medfuse.service.uploads import safe_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("/tmp/x/scan.nii.gz", "scan.nii.gz"),
        ("C:\\scans\\scan.NII.GZ", "scan.NII.GZ"),
        ("../../etc/passwd", "passwd"),
        ("..", "image"),
        ("", "image"),
        ("/", "image"),
        (".nii.gz", "nii.gz"),
        ("a\0b\nc.nii", "abc.nii"),
        ("Müller, Jürgen.nii", "Müller, Jürgen.nii"),
        ('a"b*?.nii', "ab.nii"),
        ("\u202egpj.nii", "gpj.nii"),
        ("\ud800x.nii", "x.nii"),
        ("IM0001", "IM0001"),
    ],
)
def test_names_keep_what_is_safe(given, name):
    assert safe_name(given) == name


def test_long_names_keep_their_ending():
    for text in ("x" * 5000, "ü" * 5000):
        made = safe_name(f"{text}.nii.gz")
        assert made.endswith(".nii.gz")
        assert len(made.encode()) <= 120


@pytest.mark.parametrize("name", ["x.series.json", "X.SERIES.JSON", "x.labels.json", "a/b.series.json"])
def test_files_that_name_others_on_this_machine_are_refused(service, name):
    with pytest.raises(Refusal, match="medfuse's own"):
        safe_name(name)
    answer = service.client.post("/jobs", files={"file": (name, b"{}")})
    assert answer.status_code == 422
    packed = zipped([(name, b"{}")])
    assert service.client.post("/jobs", files={"file": ("x.zip", packed)}).status_code == 422
    assert service.is_empty


def zipped(members: list[tuple[str, bytes]], *, attributes: int = 0, method=zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes, method
            archive.writestr(info, content)
    return packed.getvalue()


def of_another_size(content: bytes, size: int) -> bytes:
    """The same zip file, whose listing says another size of the first member."""
    at = content.index(b"PK\x01\x02") + 24
    lied = bytearray(content)
    lied[at : at + 4] = struct.pack("<I", size)
    lied[22:26] = struct.pack("<I", size)
    return bytes(lied)


LINK = (stat.S_IFLNK | 0o777) << 16
ZEROS = b"\0" * (1 << 27)
BAD = {
    "climbs": zipped([("../../x.nii", b"x")]),
    "climbs by backslashes": zipped([("..\\..\\x.nii", b"x")]),
    "absolute": zipped([("/etc/x.nii", b"x")]),
    "drive": zipped([("C:/x.nii", b"x")]),
    "link": zipped([("x.nii", b"/etc/passwd")], attributes=LINK),
    "bomb": zipped([("x.nii", ZEROS)]),
    "bomb in pieces": zipped([(f"x{n}.nii", ZEROS[: 1 << 24]) for n in range(8)]),
    "bomb that says it is small": of_another_size(zipped([("x.nii", ZEROS)]), 100),
    "says it is larger": of_another_size(zipped([("x.nii", b"x")]), 1 << 31),
    "two of one name": zipped([("x.nii", b"x"), ("x?.nii", b"y")]),
    "a file as a folder": zipped([("x", b"x"), ("x/y.nii", b"y")]),
    "deep": zipped([("/".join("a" * 30) + "/x.nii", b"x")]),
    "cut": zipped([("x.nii", b"x" * 1000)])[:-30],
    "damaged": zipped([("x.nii", b"x" * 1000)]).replace(b"x.nii", b"y.nii", 1),
    "no zip": b"PK\x03\x04 and nothing else",
    "many": zipped([(f"{n}.nii", b"") for n in range(60)]),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("path", ["/jobs", "/infer/cubes", "/session/"])
def test_bad_zip_files_are_a_line_and_leave_nothing(make_service, tmp_path, kind, path):
    service = make_service(files=50)
    field = "files" if path == "/session/" else "file"
    method = "PUT" if path == "/session/" else "POST"
    before = set(tmp_path.rglob("*"))
    answer = service.client.request(method, path, files={field: ("scan.zip", BAD[kind])})
    assert answer.status_code == 422, answer.text
    assert "scan.zip" in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert set(tmp_path.rglob("*")) == before


def test_too_many_files_are_refused(make_service):
    service = make_service(files=3)
    sent = [("file", (f"{n}.dcm", b"x")) for n in range(4)]
    answer = service.client.post("/jobs", files=sent)
    assert answer.status_code == 413
    assert service.is_empty


def test_too_many_fields_and_too_large_ones_are_refused(service):
    many = {f"f{n}": (None, "x") for n in range(60)}
    assert service.client.post("/jobs", files=many).status_code == 413
    assert service.client.post("/jobs", files={"model": (None, "x" * (1 << 21))}).status_code == 413
    assert service.is_empty


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\nhalf',
        b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n--x--",
        b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--x--",
        b"no boundary at all",
    ],
)
def test_broken_forms_are_a_line(service, body):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/jobs", content=body, headers=kind)
    assert answer.status_code == 400, answer.text
    assert service.is_empty


def test_forms_need_a_boundary_and_json_its_type(service):
    for kind in ("multipart/form-data", "text/plain", "application/xml", "multipart/form-data; boundary="):
        answer = service.client.post("/jobs", content=b"x", headers={"content-type": kind})
        assert answer.status_code == 415, kind
    long = "multipart/form-data; boundary=" + "x" * 1000
    answer = service.client.post("/jobs", content=b"x", headers={"content-type": long})
    assert answer.status_code == 400


def test_files_in_other_fields_are_refused(service, image):
    answer = service.client.post("/jobs", files=attached(image, "fil"))
    assert answer.status_code == 422
    assert "'file'" in answer.json()["detail"]
    assert service.is_empty


def test_two_files_of_one_name_are_two(service, image):
    """As slices of DICOM in several folders are."""
    made = service.client.put("/session/", files=[("files", ("IM1", b"a")), ("files", ("IM1", b"b"))])
    kept = service.desk.store.get("session", made.json()["session_id"])
    (folder,) = kept.said["inputs"]
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"a", b"b"]


def test_a_compressed_image_that_is_a_bomb_is_a_line(make_service):
    import nibabel
    import numpy as np

    header = nibabel.Nifti1Header()
    header.set_data_shape((20, 20, 20))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    bomb = gzip.compress(header.binaryblock + b"\0" * 4 + b"\1" * (1 << 27), 1)
    service = make_service()
    answer = service.client.post("/infer/cubes", files={"file": ("scan.nii.gz", bomb)})
    assert answer.status_code == 422
    assert "scan.nii.gz" in answer.json()["detail"]
    assert service.is_empty


def test_params_that_are_no_object_are_a_line(service, image):
    for params in ("[1]", "nix", "{" * 1000, '{"a": NaN}'):
        answer = service.client.post("/infer/cubes", data={"params": params}, files=attached(image))
        assert answer.status_code == 422
        assert "params" in answer.json()["detail"]
    assert service.is_empty


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (
            "x.mhd",
            b"NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {}\n",
        ),
        ("x.nhdr", b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {}\n"),
    ],
)
@pytest.mark.parametrize("where", ["/etc/passwd", "../../../../etc/passwd", "LIST\n/etc/passwd"])
def test_a_header_names_no_file_of_this_machine(service, name, header, where):
    content = header.replace(b"{}", where.encode())
    answer = service.client.post("/infer/cubes", files={"file": (name, content)})
    assert answer.status_code == 422
    assert "root:" not in answer.text
    assert service.is_empty


def test_thousands_of_files_of_one_name_take_no_time(service):
    sent = [("files", ("IM1", b"x"))] * 2000
    made = service.client.put("/session/", files=sent)
    kept = service.desk.store.get("session", made.json()["session_id"])
    assert len(list(kept.said["inputs"][0].iterdir())) == 2000
