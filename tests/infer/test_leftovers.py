"""What earlier calls wrote for a case under other names: it gives way, or is told."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scans import Scans

from medfuse.api import Case

RECORDS = ("manifest.", "quality.")


CHANGED = "from earlier calls, and not of the cases as they are now"


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    return Scans(tmp_path)


def as_another_format(scans: Scans, ending: str = ".mha") -> None:
    """Case b in a file of another ending."""
    source = scans.cases[1].images[0]
    target = source.with_name(f"b{ending}")
    sitk.WriteImage(sitk.ReadImage(source), target)
    source.unlink()
    scans.cases[1] = Case("b", (target,))


def names(scans: Scans) -> list[str]:
    return sorted(path.name for path in scans.output.iterdir() if not path.name.startswith(RECORDS))


@pytest.mark.parametrize("weights", ["abc", "def"])
@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii", ".nhdr"])
def test_a_label_map_of_another_ending_gives_way(scans: Scans, weights: str, ending: str) -> None:
    scans.infer()
    as_another_format(scans, ending)
    scans.infer(weights=[weights])
    written = {".nhdr": ".nrrd"}.get(ending, ending)
    assert names(scans) == ["a.nii.gz", f"b{written}", "c.nii.gz"]
    assert "b.nii.gz" not in scans.manifest["earlier"]


def test_it_is_known_however_many_calls_were_between(scans: Scans) -> None:
    scans.infer()
    everything = list(scans.cases)
    scans.cases[:] = everything[:1]
    scans.infer(weights=["def"])
    scans.infer(weights=["ghi"])
    scans.cases[:] = everything
    as_another_format(scans)
    scans.infer(weights=["ghi"])
    assert names(scans) == ["a.nii.gz", "b.mha", "c.nii.gz"]


def test_one_that_a_killed_call_left_goes_with_the_next(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans.infer()
    as_another_format(scans)
    with monkeypatch.context() as patch:
        patch.setattr(
            "medfuse.infer.ledger.Ledger.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            scans.infer()
    assert names(scans) == ["a.nii.gz", "b.mha", "b.nii.gz", "c.nii.gz"]
    assert scans.infer().skipped == ("a", "b", "c")
    assert names(scans) == ["a.nii.gz", "b.mha", "c.nii.gz"]


def test_one_that_was_corrected_stays_and_is_told(scans: Scans, caplog: pytest.LogCaptureFixture) -> None:
    scans.infer()
    made = scans.output / "b.nii.gz"
    image = nib.load(made)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), made)
    corrected = made.read_bytes()
    as_another_format(scans)
    assert scans.infer(overwrite=True).done == ("b",)
    assert made.read_bytes() == corrected
    assert f"{scans.output}: {CHANGED}: b.nii.gz" in caplog.text


def test_one_that_somebody_else_put_there_is_not_looked_at(scans: Scans) -> None:
    scans.infer()
    (scans.output / "b.mha").write_bytes(b"by hand")
    scans.infer(weights=["def"])
    assert (scans.output / "b.mha").read_bytes() == b"by hand"


def test_a_case_that_fails_keeps_what_it_had(scans: Scans) -> None:
    scans.infer()
    as_another_format(scans)
    scans.cases[1].images[0].write_bytes(b"damaged")
    assert "b" in scans.infer().failed
    assert "b.nii.gz" in names(scans)


def test_the_label_map_of_another_case_never_gives_way(scans: Scans) -> None:
    """Probabilities of `b` and the label map of `b_probabilities` have one name."""
    image = scans.cases[0].images[0].with_name("b_probabilities.nii.gz")
    image.write_bytes(scans.cases[0].images[0].read_bytes())
    scans.cases.append(Case("b_probabilities", (image,)))
    for weights in ("abc", "def"):
        scans.infer(weights=[weights])
    assert "b_probabilities.nii.gz" in names(scans)


def test_probabilities_that_are_no_longer_wanted_stay_and_are_told(
    scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    scans.infer(probabilities="nifti")
    assert CHANGED not in caplog.text
    scans.infer(weights=["def"])
    assert "b_probabilities.nii.gz" in names(scans)
    told = [record for record in caplog.records if CHANGED in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "a_probabilities.nii.gz, b_probabilities.nii.gz, c_probabilities.nii.gz" in told[0].getMessage()
