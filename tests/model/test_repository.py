"""A network's files: of a folder, of the hub's cache, and what is said where they cannot be had."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medfuse.core.errors import CheckpointError
from medfuse.model.repository import Repository, asked_anew

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _asked_anew():
    asked_anew()
    yield
    asked_anew()


@pytest.fixture
def hub():
    return pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def answer_by(hub, monkeypatch, answer) -> None:
    """What stands in for the hub, its answers about a file included."""
    monkeypatch.setattr(hub, "hf_hub_download", answer)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda _: None)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def cached(hub, tmp_path, monkeypatch) -> Path:
    """The snapshot of mine/network in a cache of the hub's own kind."""
    home = tmp_path / "hub" / "models--mine--network"
    write(home / "refs", main=COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return write(home / "snapshots" / COMMIT, config__json='{"model_type": "x"}')


def test_a_folder_is_read_as_it_is(tmp_path):
    files = Repository(str(write(tmp_path, config__json='{"width": 3}')))
    assert files.config() == {"width": 3}
    assert files.find("README.md") is None
    assert files.license() == ""
    assert files.source() == str(tmp_path)


def test_what_the_hub_has_loaded_before_needs_no_network(cached):
    files = Repository("mine/network", local_files_only=True)
    assert files.config() == {"model_type": "x"}
    assert files.source() == f"mine/network@{COMMIT}"
    assert Repository("mine/network", COMMIT, True).commit() == COMMIT


def test_what_the_hub_has_not_loaded_is_said_with_the_way_out(cached):
    with pytest.raises(
        CheckpointError, match=r"mine/other: its config.json is not in the hub's cache, .*hf download"
    ):
        Repository("mine/other", local_files_only=True).config()
    assert Repository("mine/network", local_files_only=True).license() == ""


def error(hub, name: str, status: int = 404) -> Exception:
    kind = getattr(hub.errors, name)
    if issubclass(kind, hub.errors.HfHubHTTPError):
        library = sys.modules[
            next(c for c in kind.__mro__ if c.__name__ == "HTTPError").__module__.split(".")[0]
        ]
        request = library.Request("GET", "https://huggingface.co/x")
        return kind("no", response=library.Response(status, request=request))
    return kind("no")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", r"is gated: .* ask for access at https://huggingface.co/mine/network, .*HF_TOKEN"),
        ("RepositoryNotFoundError", "no repository of huggingface.co, or a private one; mend the name"),
        ("HFValidationError", "no repository of huggingface.co"),
        ("RevisionNotFoundError", "has no revision v9; give a branch, a tag or a whole commit"),
        ("RemoteEntryNotFoundError", "has no file config.json"),
        ("LocalEntryNotFoundError", "huggingface.co does not answer .*hf download"),
        ("OfflineModeIsEnabled", "does not answer|HF_HUB_OFFLINE"),
        ("HfHubHTTPError", "cannot be fetched .*try again"),
        ("IncompleteBody", "its config.json was cut off while it was fetched .*run this again"),
        ("Unauthorized", "the hub refuses your token .*`hf auth login`, or mend HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(hub, kind, message, monkeypatch):
    others = {
        "IncompleteBody": lambda: OSError("Consistency check failed: file should be of size 9"),
        "Unauthorized": lambda: error(hub, "HfHubHTTPError", 401),
    }

    def refuse(*_, **__):
        raise others[kind]() if kind in others else error(hub, kind)

    answer_by(hub, monkeypatch, refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        Repository("mine/network", "v9").config()
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_that_does_not_answer_is_asked_once_and_not_in_vain(cached, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert Repository("mine/network").source() == f"mine/network@{COMMIT}"  # which the cache knows
    with pytest.raises(CheckpointError, match=r"huggingface.co does not answer .*ConnectError"):
        Repository("mine/other").config()
    assert "Retrying" not in caplog.text


def test_in_a_process_that_has_asked_nothing_before_it_is_one_line_too(hub, tmp_path):
    code = "from medfuse.model.repository import Repository; Repository('mine/other').config()"
    told = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "MEDFUSE_CACHE": str(tmp_path)}
    asked = [sys.executable, "-c", code]
    said = subprocess.run(asked, env={**os.environ, **told}, capture_output=True, text=True).stderr
    assert "CheckpointError: mine/other: its config.json is not in the hub's cache" in said.splitlines()[-1]


def test_a_broken_connection_is_one_line(hub, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("cut\noff")

    answer_by(hub, monkeypatch, refuse)
    with pytest.raises(CheckpointError, match=r"cannot be fetched \(ConnectionError: cut") as caught:
        Repository("mine/network").config()
    assert len(str(caught.value).splitlines()) == 1


def test_all_files_are_of_the_commit_that_the_configuration_is_of(hub, tmp_path, monkeypatch):
    asked = []

    def answer(name, file, *, revision, local_files_only):
        asked.append((file, revision))
        (tmp_path / COMMIT).mkdir(exist_ok=True)
        (tmp_path / COMMIT / file).write_text("{}")
        return str(tmp_path / COMMIT / file)

    answer_by(hub, monkeypatch, answer)
    files = Repository("mine/network", "main")
    files.config(), files.license(), files.config()
    assert asked == [("config.json", "main"), ("README.md", COMMIT)]


def test_without_the_hubs_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "medfuse\[hub\]", or .*hf download'):
        Repository("mine/network").config()


def test_of_a_whole_commit_a_file_is_had_without_asking_for_others(hub, tmp_path, monkeypatch):
    asked = []

    def answer(name, file, *, revision, local_files_only):
        asked.append((file, revision))
        raise hub.errors.EntryNotFoundError(file)

    answer_by(hub, monkeypatch, answer)
    assert Repository("mine/network", COMMIT).find("model.safetensors") is None
    assert asked == [("model.safetensors", COMMIT)]


@pytest.mark.parametrize("card", [b"---\nlicense: mit\xff\n---\n", b"---\n: [\n---\n", b""])
def test_a_model_card_that_cannot_be_read_tells_no_licence_and_is_in_nobodys_way(card, tmp_path):
    (tmp_path / "README.md").write_bytes(card)
    assert Repository(str(tmp_path)).license() == ""


def test_a_folder_that_is_gone_is_said_by_the_parameter_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder; mend `pretrained`"):
        Repository(str(tmp_path / "gone"), given_as="pretrained").config()


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": NaN}'])
def test_a_configuration_that_is_none_is_one_line(text, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        Repository(str(write(tmp_path, config__json=text))).config()
    assert "fetch or save the network again" in str(caught.value)


def test_mean_and_std_are_those_of_the_image_processor(tmp_path):
    said = {"image_processor": {"image_mean": [0.5], "image_std": [0.25]}}
    files = Repository(str(write(tmp_path, processor_config__json=json.dumps(said))))
    assert files.normalization() == ((0.5,), (0.25,))


@pytest.mark.parametrize("said", [{"do_normalize": False, "image_mean": [1], "image_std": [1]}, {}])
def test_where_images_were_not_normalised_there_is_no_mean(said, tmp_path):
    assert (
        Repository(str(write(tmp_path, preprocessor_config__json=json.dumps(said)))).normalization() is None
    )


def test_a_std_of_nothing_is_refused(tmp_path):
    said = json.dumps({"image_mean": [0.5], "image_std": [0]})
    with pytest.raises(CheckpointError, match="no numbers for each channel"):
        Repository(str(write(tmp_path, preprocessor_config__json=said))).normalization()
