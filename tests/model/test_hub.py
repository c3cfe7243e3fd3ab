"""Weights from the network: the file that was asked for, or a line."""

import hashlib
from io import BytesIO
from urllib.error import URLError

import pytest
from pydantic import ValidationError

from medfuse.core.errors import CheckpointError
from medfuse.model.hub import fetch_by_hash
from medfuse.model.settings import TransferSettings

CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()


def serving(content: bytes = CONTENT):
    """An opener, and the addresses that it was asked for."""
    asked = []

    def opener(url):
        asked.append(url)
        return BytesIO(content)

    return opener, asked


def test_a_file_is_fetched_from_the_hub_by_its_name(tmp_path):
    opener, asked = serving()
    path = fetch_by_hash(f"owner/repo/folder/net.pth@{HASH}", cache=tmp_path, opener=opener)
    assert path.read_bytes() == CONTENT
    assert asked == ["https://huggingface.co/owner/repo/resolve/main/folder/net.pth"]


def test_it_is_fetched_once(tmp_path):
    opener, asked = serving()
    for _ in range(2):
        fetch_by_hash(f"owner/repo/net.pth@sha256:{HASH}", cache=tmp_path, opener=opener)
    assert len(asked) == 1


def test_a_damaged_copy_is_fetched_again(tmp_path):
    opener, _ = serving()
    fetch_by_hash(f"owner/repo/net.pth@{HASH}", cache=tmp_path, opener=opener).write_bytes(b"half")
    assert fetch_by_hash(f"owner/repo/net.pth@{HASH}", cache=tmp_path, opener=opener).read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(tmp_path):
    opener, _ = serving(b"something else")
    with pytest.raises(CheckpointError, match="is another file"):
        fetch_by_hash(f"owner/repo/net.pth@{HASH}", cache=tmp_path, opener=opener)
    assert not any(tmp_path.iterdir())


def test_an_address_works_as_it_is(tmp_path):
    source = tmp_path / "net.pt"
    source.write_bytes(CONTENT)
    assert fetch_by_hash(f"{source.as_uri()}@{HASH}", cache=tmp_path / "cache").read_bytes() == CONTENT


def test_without_a_network_the_line_says_what_to_copy(tmp_path):
    def opener(url):
        raise URLError("no route to host")

    with pytest.raises(CheckpointError, match=r"no route to host.*copy https://huggingface.co/owner/repo"):
        fetch_by_hash(f"owner/repo/net.pth@{HASH}", cache=tmp_path, opener=opener)


@pytest.mark.parametrize(
    "name",
    [
        f"net.pth@{HASH}",
        f"owner/net.pth@{HASH}",
        "https://example.org/net.pth",
        f"https://example.org/net.pth@{HASH[:8]}",
        f"owner/repo/net.pth@sha256:{HASH[:8]}",
        "owner/repo/net.pth@a revision",
        "owner/repo/net.pth@",
    ],
)
def test_a_name_is_of_a_repository_or_has_a_whole_hash(name):
    with pytest.raises(ValidationError, match="hub"):
        TransferSettings(hub=name)


@pytest.mark.parametrize("given", [{}, {"weights": "a.pt", "hub": f"owner/repo/net.pth@{HASH}"}])
def test_weights_come_from_one_place(given):
    with pytest.raises(ValidationError, match="give one of weights"):
        TransferSettings(**given)
