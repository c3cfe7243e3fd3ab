"""A zip file that `medfuse export` wrote runs as its folder does; others are refused in a line."""

import zipfile

import pytest
from sharing.models import write_model

from medfuse.core.errors import CheckpointError, OutputError
from medfuse.sharing.formats import FORMATS
from medfuse.sharing.formats import write_model as share
from medfuse.trained.loading import load_trained, weights_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "small.safetensors", "ct")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.mark.parametrize("kind", [kind for kind, how in FORMATS.items() if not how.zipped])
def test_a_zip_file_runs_the_weights_of_its_folder(weights, kind, tmp_path):
    share(weights, tmp_path / "as it was", kind=kind)
    share(weights, tmp_path / "a zip.zip", kind=kind)
    folder, packed = (weights_file(tmp_path / name, best=False) for name in ("as it was", "a zip.zip"))
    assert packed.read_bytes() == folder.read_bytes()
    first, second = (load_trained([path], device="cpu").networks[0].state_dict() for path in (folder, packed))
    assert all((first[name] == second[name]).all() for name in first | second)


def test_a_folder_that_somebody_zipped_runs_too(weights, tmp_path):
    share(weights, tmp_path / "liver", kind="huggingface")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for path in (tmp_path / "liver").iterdir():
            archive.write(path, f"liver/{path.name}")
    assert weights_file(tmp_path / "mine.zip", best=False).read_bytes() == weights.read_bytes()


def test_it_is_unpacked_once_and_again_when_it_is_another(weights, cache, tmp_path):
    share(weights, tmp_path / "one.zip", kind="huggingface")
    first = weights_file(tmp_path / "one.zip", best=False)
    assert weights_file(tmp_path / "one.zip", best=False) == first
    share(weights, tmp_path / "one.zip", kind="docker", overwrite=True)
    assert weights_file(tmp_path / "one.zip", best=False) != first
    assert len([*cache.iterdir()]) == 2


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"slice.dcm": b"no"}, "holds no weights"),
        ({"configs/metadata.json": b"{}", "models/model.pt": b"no"}, "import-bundle"),
        ({"model.safetensors": b"no", "medfuse.json": b"{}", "../out": b"no"}, "leads out of it"),
    ],
)
def test_others_are_refused_and_leave_nothing(members, said, cache, tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=said):
        weights_file(path, best=False)
    assert not cache.exists() or not [*cache.iterdir()]
    assert not (tmp_path / "cache" / "out").exists()


def test_a_cache_that_cannot_be_written_is_a_line(weights, tmp_path, monkeypatch):
    share(weights, tmp_path / "one.zip", kind="huggingface")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="MEDFUSE_CACHE names a folder for caches"):
        weights_file(tmp_path / "one.zip", best=False)


def test_a_file_that_is_no_zip_file_is_told(tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"cut\.zip: cannot be read as a zip file"):
        weights_file(tmp_path / "cut.zip", best=False)
