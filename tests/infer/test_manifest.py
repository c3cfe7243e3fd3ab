"""manifest.json as text: spelled case by case, and the JSON that it would be at once."""

import json
from pathlib import Path

import pytest

from medfuse.api import Case
from medfuse.core.errors import OutputError
from medfuse.core.seal import seal
from medfuse.infer import manifest as manifests
from medfuse.infer.manifest import NAME, Manifest, read_manifest


def made(folder: Path, *names: str) -> dict[str, object]:
    """Notes cases one after the other, some again; what is written in the end."""
    manifest = Manifest(folder / NAME, {"weights": "w", "text": 'a "quoted"\nline'})
    for name in names:
        (folder / f"{name}.nii").write_text(name)
        seals = {f"{name}.nii": seal(folder / f"{name}.nii")}
        case = Case(name, (folder / "i",))
        manifest.announce(case, seals)
        manifest.note(case, seals, {"windows": 2, "words": ["ü\n", '"}'], "none": {}})
    manifest.finish()
    text = (folder / NAME).read_text()
    said = json.loads(text)
    assert text == json.dumps(said, indent=2) + "\n"
    return said


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b", 'odd "name"'), ("a", "b", "a")])
def test_it_is_the_json_of_all_that_it_says(names, tmp_path):
    said = made(tmp_path, *names)
    assert {*said["cases"]} == {*names}
    assert [*said][-4:] == ["cases", "failed", "left", "earlier"]


def test_it_is_carried_on(tmp_path):
    made(tmp_path, "a", "b")
    assert {*made(tmp_path, "c")["cases"]} == {"a", "b", "c"}


def test_a_case_is_spelled_once_however_many_follow(tmp_path, monkeypatch):
    spelled = []
    dumps = json.dumps
    monkeypatch.setattr("json.dumps", lambda value, **how: spelled.append(value) or dumps(value, **how))
    made(tmp_path, *"abcdef")
    assert sum(isinstance(value, dict) and "windows" in value for value in spelled) == 6


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """A folder with a large manifest. Since it was written, three cases were noted, and one has failed."""
    monkeypatch.setattr(manifests, "_LARGE", 1)
    monkeypatch.setattr(manifests, "_PART", 0.01)
    manifest = Manifest(tmp_path / NAME, {"weights": "w"})
    manifest.write()
    manifest.write()
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii").write_text(name)
        seals = {f"{name}.nii": seal(tmp_path / f"{name}.nii")}
        manifest.announce(Case(name, (tmp_path / "i",)), seals)
        manifest.note(Case(name, (tmp_path / "i",)), seals, {"windows": 2})
    manifest.note_failure(Case("d", ()), "why")
    return tmp_path


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob(".manifest-*"))


def test_what_is_new_stands_in_a_journal_beside_a_large_manifest(large):
    assert json.loads((large / NAME).read_text())["cases"] == {}
    assert len(journals(large)) == 1
    _, content = read_manifest(large / NAME)
    assert ({*content["cases"]}, content["failed"]) == ({"a", "b", "c"}, {"d": "why"})
    carried_on = Manifest(large / NAME, {"weights": "w"})
    carried_on.refuse_to_replace(["a.nii", "b.nii", "c.nii"], overwrite=False)  # all are medfuse's own
    carried_on.finish()
    assert {*json.loads((large / NAME).read_text())["cases"]} == {"a", "b", "c"}


def test_a_journal_is_gone_once_all_is_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_LARGE", 1)
    made(tmp_path, *"abcdefgh")
    assert journals(tmp_path) == []


def test_a_line_that_was_cut_off_was_not_noted(large):
    (journal,) = journals(large)
    journal.write_bytes(journal.read_bytes()[:-5])
    assert read_manifest(large / NAME)[1]["failed"] == {}
    journal.unlink()
    assert read_manifest(large / NAME)[1]["cases"] == {}


@pytest.mark.parametrize("line", ["nothing", "[1]", '{"cases": 3}'])
def test_a_journal_that_nobody_wrote_is_a_line(large, line):
    (journal,) = journals(large)
    journal.write_text(f"{line}\n")
    with pytest.raises(OutputError, match=rf"{journal.name}:1.*move it away"):
        read_manifest(large / NAME)


def test_an_old_journal_says_nothing_of_other_weights(large):
    Manifest(large / NAME, {"weights": "another"}).write()
    assert read_manifest(large / NAME)[1]["cases"] == {}
    assert journals(large) == []


def test_the_work_of_noting_grows_with_the_cases_and_not_with_their_square(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_LARGE", 2**12)
    written = []
    write = manifests.write_text
    monkeypatch.setattr(
        manifests, "write_text", lambda path, text: written.append(len(text)) or write(path, text)
    )
    made(tmp_path, *map(str, range(300)))
    assert sum(written) < 20 * (tmp_path / NAME).stat().st_size
