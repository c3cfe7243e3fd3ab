"""DICOM files are found wherever they stand; what cannot be read is a line, and others go on."""

import os
import shutil
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import scanner
from pydicom import dcmread
from pydicom.fileset import FileSet

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.dicom.index import index_all, write_index
from medfuse.volumes.dicom.origins import notes_of, volume_hash
from medfuse.volumes.dicom.series import Scans, find_series
from medfuse.volumes.read import read_volume

ARRAY = scanner.voxels((6, 5, 4))


@pytest.fixture
def folder(tmp_path):
    scanner.write(tmp_path / "scan", ARRAY)
    return tmp_path / "scan"


def zipped(path, folder, **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"in/{file.name}")
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def reads(path, tmp_path):
    (one,) = find_series(path).series
    return np.array_equal(read_volume(write_index(one, tmp_path / "kept")).array, ARRAY)


def test_links_are_followed_and_circles_end(folder, tmp_path):
    (tmp_path / "patients").mkdir()
    (tmp_path / "patients" / "p1").symlink_to(folder)
    (folder / "round").symlink_to(tmp_path / "patients")
    assert holds_dicom(tmp_path / "patients")
    assert reads(tmp_path / "patients", tmp_path)


def faults_of(path):
    (index,) = index_all(path)
    with pytest.raises(DataError) as caught:
        read_volume(index)
    return caught.value.lines


def spoiled(file, how, tmp_path):
    """A file that cannot be read any more."""
    content = file.read_bytes()
    file.unlink()
    if how == "a link to":
        file.symlink_to(tmp_path / "gone.dcm")
    else:
        file.write_bytes(
            {
                "is called as DICOM is, and is empty": b"",
                "is called as DICOM is, and is none": bytes(len(content)),
                "says no size of its pixels": content[:600],
            }[how]
        )


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize(
    "how",
    [
        "a link to",
        "is called as DICOM is, and is empty",
        "is called as DICOM is, and is none",
        "says no size of its pixels",
    ],
)
def test_a_series_that_may_have_lost_its_first_or_last_slice_is_refused(how, end, folder, tmp_path):
    by_place = sorted(folder.iterdir(), key=lambda f: dcmread(f).ImagePositionPatient[2])
    spoiled(by_place[end], how, tmp_path)
    (line,) = faults_of(folder)
    assert line.startswith(f"{by_place[end]}: ")
    assert how in line
    assert "may be a slice of series P1_20260102_3" in line
    by_place[end].unlink()
    (index,) = index_all(folder)
    assert read_volume(index).geometry.shape == (*ARRAY.shape[:2], ARRAY.shape[2] - 1)


def test_a_slice_that_still_says_its_series_is_missed_by_that_alone(tmp_path):
    scanner.write(tmp_path / "in", ARRAY, number=1)
    last = scanner.headers(ARRAY, number=2)
    for n, d in enumerate(last):
        scanner.save(d, tmp_path / "in" / f"z{n}.dcm")
    file = tmp_path / "in" / f"z{len(last) - 1}.dcm"
    content = file.read_bytes()
    file.write_bytes(content[: content.find(b"\x28\x00\x02\x00")])  # it ends before its pixels are told of
    one, two = find_series(tmp_path / "in").series
    assert not one.unread
    assert two.unread


def test_other_files_beside_slices_are_none_of_them(folder, tmp_path):
    for name in ("README", "notes.txt", "LICENSE"):
        (folder / name).write_text("text")
    (folder / "thumbs.db").write_bytes(b"")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert reads(folder, tmp_path)


def test_what_may_not_be_read_is_told_and_the_others_are_found(folder, tmp_path, monkeypatch):
    def refused(file, *args, **more):
        if str(file).endswith("locked.dcm"):
            raise PermissionError(13, "Permission denied", str(file))
        return open(file, *args, **more)

    shutil.copy(next(folder.iterdir()), folder / "locked.dcm")
    monkeypatch.setattr("medfuse.volumes.dicom.files.open", refused, raising=False)
    scanner.write(tmp_path / "other", ARRAY, number=4)
    (folder / "other").symlink_to(tmp_path / "other")
    one, two = index_all(folder)
    with pytest.raises(
        DataError, match=r"locked.dcm: cannot be read \(Permission denied\), and may be a slice"
    ):
        read_volume(one)
    assert np.array_equal(read_volume(two).array, ARRAY)


def test_a_folder_that_may_not_be_listed_is_told(folder, monkeypatch):
    walk = os.walk

    def refused(root, onerror=None, **more):
        onerror(PermissionError(13, "Permission denied", f"{root}/locked"))
        return walk(root, onerror=onerror, **more)

    monkeypatch.setattr(os, "walk", refused)
    assert "locked: cannot be listed" in find_series(folder).notes[0]


def test_dicom_is_seen_behind_other_files_and_in_zip_files(folder, tmp_path):
    for n in range(20):
        (tmp_path / "all" / "p").mkdir(exist_ok=True, parents=True)
        (tmp_path / "all" / "p" / f"A{n}.txt").write_text("notes")
    assert not holds_dicom(tmp_path / "all")
    zipped(tmp_path / "all" / "p" / "scan.zip", folder)
    assert holds_dicom(tmp_path / "all")
    assert reads(tmp_path / "all", tmp_path)


def test_zip_files_in_a_zip_file_are_told(folder, tmp_path):
    inner = zipped(tmp_path / "inner.zip", folder)
    path = zipped(tmp_path / "outer.zip", folder, **{"more/inner.zip": inner.read_bytes()})
    assert "holds zip files itself (more/inner.zip); unpack it" in find_series(path).notes[0]


def test_a_bomb_is_not_unpacked(folder, tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", folder)
    monkeypatch.setattr("medfuse.volumes.dicom.instances.MOST_UNPACKED", 100)
    with pytest.raises(DataError, match="unpacks to 1,"):
        find_series(path)


def test_a_zip_file_with_a_password_is_told(folder, tmp_path):
    path = zipped(tmp_path / "a.zip", folder)
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="locked by a password; unpack it"):
        find_series(path)


def test_a_zip_file_that_is_damaged_anywhere_is_a_fault_of_data(folder, tmp_path):
    whole = zipped(tmp_path / "a.zip", folder).read_bytes()
    for at in range(60, len(whole) - 600, 97):
        damaged = tmp_path / "b.zip"
        damaged.write_bytes(whole[:at] + b"\xff\x00\xaa" + whole[at + 3 :])
        with suppress(DataError):
            for one in find_series(damaged).series:
                read_volume(write_index(one, tmp_path / "kept"))


def test_two_files_of_one_name_in_a_zip_file_are_told(folder, tmp_path):
    path = zipped(tmp_path / "a.zip", folder)
    name = min(folder.iterdir()).name
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"in/{name}", b"other")
    with pytest.raises(DataError, match=f"holds two files in/{name}"):
        find_series(path)


def test_names_of_a_dicomdir_may_be_in_small_letters_on_the_disk(folder, tmp_path):
    media = FileSet()
    for file in folder.iterdir():
        media.add(file)
    media.write(tmp_path / "cd")
    media._stage["t"].cleanup()  # which pydicom leaves to chance
    for path in sorted((tmp_path / "cd").rglob("*"), reverse=True):
        if path.name != "DICOMDIR":
            path.rename(path.with_name(path.name.lower()))
    assert reads(tmp_path / "cd" / "DICOMDIR", tmp_path)


@pytest.mark.parametrize(
    "patient", ["../../x", "..", "/etc/passwd", "Müller^Jörg", "a" * 64, "患者" * 30, "x\0y"]
)
def test_what_tags_say_makes_names_of_files_and_no_paths(patient, tmp_path):
    for n, d in enumerate(scanner.headers(ARRAY)):
        d.SpecificCharacterSet = "ISO_IR 192"
        d.PatientID = patient
        scanner.save(d, tmp_path / "in" / str(n))
    (one,) = find_series(tmp_path / "in").series
    assert "/" not in one.name
    assert not one.name.startswith(".")
    assert len(one.name.encode()) <= 200
    assert write_index(one, tmp_path / "kept").parent == tmp_path / "kept"


def test_patients_whose_series_share_a_uid_are_not_mixed(tmp_path):
    """Some anonymisers write the same UID into everything."""
    for n in (1, 2):
        how = {"series": "1.2.3", "patient": f"P{n}", "SOPInstanceUID": "1.2.3.4"}
        scanner.write(tmp_path / f"p{n}", scanner.voxels((6, 5, 4), seed=n), **how)
    found = find_series(tmp_path).series
    assert [one.name for one in found] == ["P1_20260102_3", "P2_20260102_3"]
    assert all(one.stack.shape == (6, 5, 4) for one in found)


def test_series_without_a_uid_are_told_apart_by_folder_number_and_modality(tmp_path):
    for n, (folder, number, modality) in enumerate(
        [("a", 1, "CT"), ("a", 2, "CT"), ("b", 1, "CT"), ("a", 1, "MR")]
    ):
        how = {"SeriesInstanceUID": "", "SOPInstanceUID": "", "PatientID": "", "modality": modality}
        scanner.write(tmp_path / folder, ARRAY, number=number, ending=f"_{n}", **how)
    found = find_series(tmp_path).series
    assert len(found) == 4
    assert len({one.name for one in found}) == 4
    assert all(one.stack.shape == ARRAY.shape for one in found)


def test_a_name_with_a_number_is_not_that_of_another(tmp_path):
    for n, number in enumerate(("1", "1", "1_2")):
        for k, d in enumerate(scanner.headers(ARRAY)):
            d.StudyDate = ""
            d.PatientID, d.SeriesNumber = f"P_{number}", None
            scanner.save(d, tmp_path / f"s{n}" / str(k))
    names = [one.name for one in find_series(tmp_path).series]
    assert len({*names}) == 3


def test_conditions_are_on_any_tag_also_of_multi_frame_files(folder, tmp_path):
    scanner.save(scanner.multi_frame(ARRAY, EchoTime=12), tmp_path / "many.dcm")
    assert len(find_series(tmp_path, Scans(("SliceThickness<=2.5",))).series) == 2
    assert len(find_series(tmp_path, Scans(("SliceThickness>3",))).series) == 0
    assert [s.instance.place.file for s in find_series(tmp_path, Scans(("NumberOfFrames>1",))).series] == [
        str(tmp_path / "many.dcm")
    ]
    assert len(find_series(folder, Scans(("StudyID=S1",))).series) == 1


def test_dicom_without_images_is_told(folder, tmp_path):
    with pytest.raises(DataError, match="no images that say Modality=PT"):
        index_all(folder, Scans(("Modality=PT",)))


def test_the_same_scan_elsewhere_has_the_same_hash_and_another_has_not(folder, tmp_path):
    def hashed(path):
        return volume_hash(write_index(find_series(path).series[0], tmp_path / f"kept_{path.name}"))

    shutil.copytree(folder, tmp_path / "copy")
    assert hashed(folder) == hashed(tmp_path / "copy") == hashed(zipped(tmp_path / "a.zip", folder))
    path = max((tmp_path / "copy").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert hashed(folder) != hashed(tmp_path / "copy")


def test_headers_are_read_once_while_no_file_changes(folder, monkeypatch):
    (first,) = index_all(folder)
    monkeypatch.setattr("medfuse.volumes.dicom.index.find_series", lambda *args: pytest.fail("read again"))
    assert index_all(folder) == [first]
    monkeypatch.undo()
    max(folder.iterdir()).unlink()
    (again,) = index_all(folder)
    assert read_volume(again).array.shape == (6, 5, 3)


def test_what_is_found_is_not_believed_where_it_was_damaged(folder):
    (first,) = index_all(folder)
    (first.parent / "found.json").write_text('{"state": 3}')
    first.write_bytes(b"\xff")
    assert index_all(folder) == [first]
    assert np.array_equal(read_volume(first).array, ARRAY)


def test_what_is_told_of_other_files_is_told_once_and_of_them(folder, tmp_path):
    for number in (7, 8):
        scanner.write(tmp_path / "all" / str(number), ARRAY, number=number)
    made = scanner.headers(ARRAY, number=9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scanner.save(made[0], tmp_path / "all" / "9" / "l.dcm")
    files = index_all(tmp_path / "all")
    told = [note for file in files for note in notes_of(file)]
    assert told == ["P1_20260102_9: is a localizer (1 images), left out"]
