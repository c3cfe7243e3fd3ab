from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from chromium import Tab


@dataclass
class Files:
    """Scans and label maps in folders of one temporary folder."""

    folder: Path
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.diag([-2.0, 2.0, 3.0, 1.0]))

    def write(self, name: str, array: npt.NDArray, affine: npt.NDArray | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, self.affine if affine is None else affine), path)
        return path

    def scan(self, name: str = "scan.nii.gz", shape: tuple[int, ...] = (20, 16, 12), **kwargs) -> Path:
        values = np.random.default_rng(1).integers(-1000, 1500, shape).astype(np.int16)
        return self.write(name, values, **kwargs)

    def labels(self, name: str = "labels.nii.gz", shape: tuple[int, ...] = (20, 16, 12), **kwargs) -> Path:
        array = np.zeros(shape, np.uint8)
        array[2:8, 3:9, 2:7], array[10:15, 8:12, 5:9] = 1, 4
        return self.write(name, array, **kwargs)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Files:
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path)


@pytest.fixture
def shown(medfuse, tab) -> Callable[..., Tab]:
    """The page that `medfuse view` makes of these words, in a browser, after it has told of no fault."""

    def show(*words: object, fragment: str = "") -> Tab:
        said = medfuse("view", *words, "-o", "page.html", "--overwrite")
        assert said.code == 0, said.err
        tab.open(Path("page.html"), fragment)
        assert tab.console == []
        assert tab.ask("document.getElementById('error').hidden")
        return tab

    return show
