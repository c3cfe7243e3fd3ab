"""Channels in another order are told with what each is like."""

import numpy as np
import pytest
from anatomy import AFFINE, patient

from medfuse.api import Case, DatasetInfo
from medfuse.data.doctor.doctor import diagnose, examine_all


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_case_with_its_channels_exchanged_is_named_and_others_are_not(tmp_path, order):
    import nibabel

    cases = []
    for seed in range(10):
        image, label = patient(seed)
        channels = [image, image.max() * np.exp(-((image / image.max() - 0.3) ** 2) / 0.02)]
        paths = [tmp_path / f"p{seed}_{n}.nii" for n in range(2)]
        for n, path in zip(order if seed == 4 else (0, 1), paths):
            nibabel.save(nibabel.Nifti1Image(channels[n].astype(np.float32), AFFINE), path)
        nibabel.save(nibabel.Nifti1Image(label, AFFINE), tmp_path / f"l{seed}.nii")
        cases.append(Case(f"p{seed}", tuple(paths), tmp_path / f"l{seed}.nii"))
    info = DatasetInfo(tuple(cases), {"background": 0, "a": 1, "b": 2}, ("t1", "t2"))
    found = diagnose(examine_all(cases, info, tolerance_mm=1e-2, progress=lambda *_: None), info).findings
    assert [(f.case, f.kind) for f in found] == ([] if order == (0, 1) else [("p4", "channels")])
    assert all("t1 is like t2, t2 is like t1" in f.what for f in found)
