"""What was found out about a machine stays in one small file."""

from pathlib import Path

import pytest

from medfuse.core import remembered
from medfuse.core.remembered import cache_folder, recall, remember


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "new"))
    return tmp_path / "new"


def test_what_is_remembered_is_recalled_by_its_key():
    remember("facts.json", "a", {"n": 1})
    remember("facts.json", "b", 2)
    assert (recall("facts.json", "a"), recall("facts.json", "b")) == ({"n": 1}, 2)
    assert recall("facts.json", "c") is None


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(remembered, "_MOST", 2)
    for key in "abcb":
        remember("facts.json", key, key)
    assert [recall("facts.json", key) for key in "abc"] == [None, "b", "c"]


def test_the_folder_follows_the_systems_custom(monkeypatch):
    monkeypatch.delenv("MEDFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/medfuse")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"5", b"{", b"\xff\xfe", b"[" * 5000, b'{"a": 1, "a": 2}', b'{"a": NaN}']
)
def test_a_damaged_file_is_one_line_and_is_written_anew(cache, caplog, monkeypatch, content):
    monkeypatch.setattr(remembered, "_told", [])
    cache.mkdir()
    (cache / "facts.json").write_bytes(content)
    assert recall("facts.json", "a") is None
    remember("facts.json", "b", 2)
    assert recall("facts.json", "b") == 2
    assert len(caplog.records) == 1
    assert "facts.json" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cache: cache.write_text("a file"),
        lambda cache: (cache / "facts.json").mkdir(parents=True),
        lambda cache: cache.symlink_to(cache / "loop"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(cache, caplog, monkeypatch, spoil):
    monkeypatch.setattr(remembered, "_told", [])
    spoil(cache)
    for _ in range(2):
        remember("facts.json", "a", 1)
        assert recall("facts.json", "a") is None
    assert len(caplog.records) == 1


def test_without_a_home_folder_nothing_is_remembered(caplog, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    for variable in ("MEDFUSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(remembered, "_told", [])
    monkeypatch.setattr(Path, "expanduser", no_home)
    remember("facts.json", "a", 1)
    assert recall("facts.json", "a") is None
    assert len(caplog.records) == 1
