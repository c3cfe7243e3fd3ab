"""Files of a hub by name and revision, from a server here that speaks as the hub does."""

import hashlib
from collections.abc import Iterator

import pytest
from hub_server import FIRST, SECOND, Hub, point_at, serving

from medfuse.core.errors import CheckpointError
from medfuse.model.hub import fetch, is_fixed

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    with serving(tmp_path) as made:
        yield made


NAME = "owner/net/folder/net.pth"


@pytest.mark.parametrize("revision", ["", "@main", f"@{FIRST}"])
def test_a_file_is_had_by_its_revision_and_named_by_its_commit(hub, revision):
    loaded = fetch(NAME + revision)
    assert loaded.path.read_bytes() == b"first weights"
    assert loaded.name == f"{NAME}@{FIRST}"
    assert loaded.sha256 == hashlib.sha256(b"first weights").hexdigest()
    assert is_fixed(loaded.name)
    assert fetch(loaded.name) == loaded


@pytest.mark.parametrize(
    ("readme", "told"),
    [
        ("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# Net\nlicense: of the text\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: 'own-terms'\n---\n", "own-terms"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("---\n: [\n---\n", ""),
        ("# Net\n", ""),
        (None, ""),
    ],
)
def test_the_licence_is_what_the_repository_says(hub, readme, told):
    hub.publish(FIRST, b"first weights", **({"README": readme} if readme else {}))
    assert fetch(NAME).license == told


def test_it_is_loaded_once(hub):
    for _ in range(2):
        fetch(f"{NAME}@{FIRST}")
    assert [how for how, _, _ in hub.asked].count("GET") == 1


def test_a_branch_that_has_moved_is_refused_with_both_names(hub):
    fetch(NAME)
    hub.publish(SECOND, b"other weights")
    with pytest.raises(CheckpointError, match=f"another file now .*@{FIRST} to keep .*@{SECOND} to take"):
        fetch(NAME)
    assert fetch(f"{NAME}@{FIRST}").path.read_bytes() == b"first weights"
    assert fetch(f"{NAME}@{SECOND}").path.read_bytes() == b"other weights"


def test_a_branch_that_has_moved_with_the_same_file_is_no_other_one(hub):
    fetch(NAME)
    hub.publish(SECOND, b"first weights")
    assert fetch(NAME).name == f"{NAME}@{SECOND}"


def test_a_copy_that_was_changed_is_refused(hub):
    path = fetch(NAME).path.resolve()
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 is .* delete that file"):
        fetch(NAME)


def test_the_token_of_the_usual_places_opens_a_gated_repository(hub, monkeypatch):
    hub.gated.add("owner/net")
    with pytest.raises(CheckpointError, match=r"owner/net is gated: .*ask for access at .*HF_TOKEN"):
        fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(CheckpointError, match="owner/net is gated"):
        fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert fetch(NAME).path.read_bytes() == b"first weights"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/nett/net.pth", r"owner/nett is no repository of huggingface\.co, or a private one; .*log in"),
        (f"{NAME}@v9", r"owner/net has no revision v9; give a branch, a tag or a whole commit"),
        (f"{NAME}@{SECOND}", r"owner/net has no revision 2222"),
        ("owner/net/nett.pth", r"owner/net has no file nett\.pth; .*/tree/main lists"),
        ("owner/..net/x.pth", r": owner/\.\.net is no repository of huggingface\.co"),
    ],
)
def test_what_is_not_there_is_one_line(hub, name, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        fetch(name)
    assert len(caught.value.lines) == 1
    assert "\n" not in str(caught.value)


def test_a_download_that_is_cut_off_is_one_line_and_leaves_no_weights(hub):
    hub.cut = True
    with pytest.raises(CheckpointError, match=r"net\.pth: was cut off while it was fetched .*run this again"):
        fetch(NAME)
    hub.cut = False
    assert fetch(NAME).path.read_bytes() == b"first weights"


def test_without_a_network_what_was_loaded_is_there_and_other_files_are_one_line(hub, tmp_path, monkeypatch):
    before = fetch(NAME)
    point_at("http://127.0.0.1:9", tmp_path, monkeypatch)
    assert fetch(NAME) == before
    with pytest.raises(
        CheckpointError, match=r"huggingface\.co does not answer .*copy other\.pth of .*`weights`"
    ):
        fetch("owner/net/other.pth")


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_offline_nothing_is_asked_for(hub, monkeypatch, how):
    if how == "environment":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"is not in the hub's cache, and HF_HUB_OFFLINE or"):
        fetch(NAME, local_files_only=how == "setting")
    assert hub.asked == []


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "medfuse\[hub\]"'):
        fetch(NAME)
