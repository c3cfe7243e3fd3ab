"""manifest.json as text: spelled case by case, and the JSON that it would be at once."""

import json
from pathlib import Path

import pytest

from medfuse.api import Case
from medfuse.core.seal import seal
from medfuse.infer.manifest import NAME, Manifest


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
