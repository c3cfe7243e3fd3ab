"""Cases are found in the layouts that people have, and every fault is listed at once."""

import os
from pathlib import Path

import pytest

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.infer.cases import find_inputs, left_out_of, output_name

ONE = ["CT"]
MS = ["flair", "t1", "t1post", "t2"]


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*paths: Path, channels: list[str]) -> dict[str, list[str]]:
    return {case.name: [image.name for image in case.images] for case in find_inputs(paths, channels)}


def faults(*paths: Path, channels: list[str]) -> str:
    with pytest.raises(DataError) as caught:
        find_inputs(paths, channels)
    return str(caught.value)


def test_a_file_is_a_case(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz", "b.nii.gz")
    assert found(tmp_path / "a.nii.gz", channels=ONE) == {"a": ["a.nii.gz"]}


def test_a_folder_holds_cases_of_every_format_and_other_files(tmp_path: Path) -> None:
    files(
        tmp_path, "b.nrrd", "a.nii.gz", "c.mha", "d.nii", "notes.txt", "manifest.json", ".unfinished-1.nii.gz"
    )
    assert list(found(tmp_path, channels=ONE)) == ["a", "b", "c", "d"]


def test_nnunet_numbers_are_channels(tmp_path: Path) -> None:
    files(tmp_path, "p1_0001.nii.gz", "p1_0000.nii.gz", "p2_0000.nii.gz", "p2_0001.nii.gz")
    assert found(tmp_path, channels=["t1", "t2"]) == {
        "p1": ["p1_0000.nii.gz", "p1_0001.nii.gz"],
        "p2": ["p2_0000.nii.gz", "p2_0001.nii.gz"],
    }


def test_nnunet_numbers_are_dropped_for_one_channel(tmp_path: Path) -> None:
    assert list(found(files(tmp_path, "p1_0000.nii.gz", "p2_0000.nii.gz"), channels=ONE)) == ["p1", "p2"]


def test_numbers_of_the_cases_themselves_are_kept(tmp_path: Path) -> None:
    files(tmp_path, "scan_0000.nii.gz", "scan_0001.nii.gz")
    assert list(found(tmp_path, channels=ONE)) == ["scan_0000", "scan_0001"]


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    assert found(files(tmp_path, "p1.nii.gz", "p_2024.nii.gz"), channels=MS) == {
        "p1": ["p1.nii.gz"],
        "p_2024": ["p_2024.nii.gz"],
    }


def test_sub_folders_hold_a_file_for_each_channel(tmp_path: Path) -> None:
    names = ["flair.nii.gz", "T1.nii.gz", "t1post.nii.gz", "t2.nii.gz", "lesions.nii.gz"]
    files(tmp_path, *(f"{patient}/{name}" for patient in ("p07", "p19") for name in names), "other/a.nii.gz")
    assert found(tmp_path, channels=MS) == {"p07": names[:4], "p19": names[:4]}


def test_the_folder_of_one_patient_is_one_case(tmp_path: Path) -> None:
    names = [f"{channel}.nii.gz" for channel in MS]
    patient = files(tmp_path / "p07", *names, "lesions.nii.gz")
    assert found(patient, channels=MS) == {"p07": names}
    assert found(*(patient / name for name in names), channels=MS) == {"p07": names}


def test_channels_stand_in_the_models_order(tmp_path: Path) -> None:
    files(tmp_path / "p", "a.nii.gz", "b.nii.gz")
    assert found(tmp_path, channels=["b", "a"]) == {"p": ["b.nii.gz", "a.nii.gz"]}


def test_a_path_given_twice_counts_once(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz")
    assert found(tmp_path, tmp_path / "a.nii.gz", tmp_path, channels=ONE) == {"a": ["a.nii.gz"]}


def test_missing_channels_are_named_for_every_case(tmp_path: Path) -> None:
    files(tmp_path, "p07/flair.nii.gz", "p07/t1.nii.gz", "p19/t2.nii.gz")
    text = faults(tmp_path, channels=MS)
    assert "case 'p07' lacks t1post, t2; the model needs 4 channels" in text
    assert "case 'p19' lacks flair, t1, t1post" in text


def test_a_missing_nnunet_number_is_named_with_its_channel(tmp_path: Path) -> None:
    files(tmp_path, "p1_0000.nii.gz", "p1_0001.nii.gz", "p2_0000.nii.gz")
    assert "case 'p2' lacks _0001 (t2)" in faults(tmp_path, channels=["t1", "t2"])


def test_a_channel_too_many_is_named(tmp_path: Path) -> None:
    files(tmp_path, *(f"p1_000{n}.nii.gz" for n in range(3)))
    text = faults(tmp_path, channels=["t1", "t2"])
    assert "p1_0002.nii.gz: is channel _0002, but the model's last is _0001 (t2)" in text


def test_two_files_for_one_channel_are_named(tmp_path: Path) -> None:
    files(tmp_path / "p", "a.nii.gz", "a.nrrd", "b.nii.gz")
    text = faults(tmp_path, channels=["a", "b"])
    assert (
        f"{tmp_path / 'p' / 'a.nii.gz'} and {tmp_path / 'p' / 'a.nrrd'} are one channel of case 'p'" in text
    )


def test_two_cases_with_one_name_are_refused(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz", "a.nrrd", "b.nii.gz")
    text = faults(tmp_path, channels=ONE)
    assert "are both case 'a'" in text
    assert str(tmp_path / "a.nrrd") in text


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    files(tmp_path, "x/a.nii.gz", "y/a.nii.gz")
    assert "are both case 'a'" in faults(tmp_path / "x", tmp_path / "y", channels=ONE)


def test_an_empty_folder_says_what_is_read(tmp_path: Path) -> None:
    files(tmp_path, "readme.txt")
    text = faults(tmp_path, channels=MS)
    assert text.startswith(f"{tmp_path}: no volumes here")
    assert ".nii.gz, .nii, .nrrd" in text
    assert "CASE_0003.nii.gz" in text
    assert "CASE/flair.nii.gz" in text


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    files(tmp_path, "p07/t1.nii.gz", "x.dcm")
    text = faults(tmp_path, tmp_path / "missing.nii.gz", tmp_path / "x.dcm", channels=MS)
    assert "missing.nii.gz: no such file or folder" in text
    assert "x.dcm: unknown ending" in text
    assert "case 'p07' lacks" in text


def test_the_folder_of_the_working_directory_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files(tmp_path / "p07", *(f"{channel}.nii.gz" for channel in MS)))
    assert list(found(Path("."), channels=MS)) == ["p07"]


@pytest.mark.parametrize(
    ("image", "label_map"),
    [
        ("a_0000.nii.gz", "a.nii.gz"),
        ("a.nii", "a.nii"),
        ("a.NRRD", "a.nrrd"),
        ("a.mhd", "a.mha"),
        ("a.NHDR", "a.nrrd"),
    ],
)
def test_a_label_map_has_the_ending_of_its_image(image: str, label_map: str) -> None:
    assert output_name(Case("a", (Path(image),))) == label_map


def test_the_patients_of_a_real_study_are_found(real_data: Path) -> None:
    cases = find_inputs([real_data / "ms_lesions"], ["FLAIR", "T1", "T1post", "T2"])
    assert [case.name for case in cases] == ["patient07", "patient19", "patient26"]
    assert [image.name for image in cases[0].images] == [f"{channel}.nii.gz" for channel in MS]


def test_links_that_lead_nowhere_are_cases_so_that_they_fail_alone(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to("gone")
    (tmp_path / "patient07").symlink_to("../archive/patient07")
    assert list(found(tmp_path, channels=ONE)) == ["a", "b", "patient07"]


def test_a_given_link_that_leads_nowhere_is_named_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").symlink_to("gone")
    assert "is a link to gone, which is not there" in faults(tmp_path / "b.nii.gz", channels=ONE)


def test_a_channel_that_is_a_link_to_nowhere_is_no_missing_channel(tmp_path: Path) -> None:
    files(tmp_path, "p1/t1.nii")
    (tmp_path / "p1" / "t2.nii").symlink_to("gone")
    assert found(tmp_path, channels=["t1", "t2"]) == {"p1": ["t1.nii", "t2.nii"]}


def test_all_that_no_case_has_is_told_in_one_line_per_kind(tmp_path: Path) -> None:
    files(tmp_path, "p1/t1.nii", "p1/t2.nii", "p1/flair.nii", "p2/T1.NII", "p2/t2.nii", "p2/flair.nii")
    files(tmp_path, "series/1.dcm", "._a.nii.gz", "notes.txt", "p1/x.mgz", "p3/more/t1.nii")
    (tmp_path / "empty").mkdir()
    cases = find_inputs([tmp_path], ["t1", "t2"])
    assert [case.name for case in cases] == ["p1", "p2"]
    lines = left_out_of([tmp_path], cases)
    for words in (
        "2 volumes (p1/flair.nii, p2/flair.nii)",
        "(p1/x.mgz)",
        "(notes.txt)",
        "3 folders (empty, empty; p3, with 1 .nii; series, with 1 .dcm)",
        "(._a.nii.gz)",
    ):
        assert sum(words in line for line in lines) == 1
    assert len(lines) == 5


def test_where_nothing_can_be_read_it_is_said_what_is_there(tmp_path: Path) -> None:
    said = faults(files(tmp_path, "1.dcm", "2.dcm"), channels=ONE)
    assert "no volumes here" in said
    assert "2 DICOM files (1.dcm, 2.dcm) are left out: none is of a case" in said


def test_a_name_that_is_no_text_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.nii.gz")).touch()
    (line,) = faults(tmp_path, channels=ONE).splitlines()
    assert "its name is no text in UTF-8" in line


def test_all_files_of_one_name_are_named(tmp_path: Path) -> None:
    line = faults(files(tmp_path, "a.nii", "a.nrrd", "a.mha"), channels=ONE)
    assert "are all case 'a'" in line
    assert all(name in line for name in ("a.nii", "a.nrrd", "a.mha"))
