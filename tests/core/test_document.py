"""YAML with places, overrides and refusals."""

from pathlib import Path

import pytest

from medfuse.core.document import Document, unplaced
from medfuse.core.errors import MedfuseError, PipelineError, Problem


def parse(text: str) -> Document:
    return Document.parse(text, source="liver.yaml", base=Path("/data"))


def test_every_value_knows_its_line_and_column():
    document = parse("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert document.locate(("b", 0)) == "liver.yaml:3:5"
    assert document.locate(("b", 1, "c")) == "liver.yaml:4:9"


def test_a_missing_key_is_placed_at_the_mapping_around_it():
    assert parse("a:\n  b: 1\n").locate(("a", "nothing", "here")) == "liver.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("12:30", "12:30"),
        ("1e-3", 0.001),
        ("true", True),
        ("0x10", 16),
        ("007", 7),
        ("~", None),
        ("-1.5", -1.5),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    read = parse(f"a: {text}").data["a"]
    assert read == value
    assert isinstance(read, type(value))


def test_a_repeated_key_names_both_lines():
    with pytest.raises(MedfuseError, match=r"liver\.yaml:3:1: a: repeated; it was first given in line 1"):
        parse("a: 1\nb: 2\na: 3\n")


def test_all_repeated_keys_are_reported_at_once():
    with pytest.raises(MedfuseError) as caught:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert len(caught.value.lines) == 2


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tb: 1", "- a"])
def test_faulty_yaml_is_placed(text):
    with pytest.raises(MedfuseError, match=r"liver\.yaml:\d+:\d+: "):
        parse(text)


def test_an_alias_of_itself_is_refused():
    with pytest.raises(MedfuseError, match="may not contain itself"):
        parse("a: &x\n  b: *x\n")


def test_code_in_a_tag_is_refused():
    with pytest.raises(MedfuseError, match="not allowed"):
        parse("a: !!python/name:os.system x")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(MedfuseError, match="no such file"):
        Document.load(tmp_path / "absent.yaml")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "liver.yaml"
    path.write_text("train: {epochs: 3}\nlist: [1, 2]\nroot: data\n")
    return path


def test_an_override_replaces_a_value_and_its_place(file):
    document = Document.load(file, ["train.epochs=5"])
    assert document.data["train"]["epochs"] == 5
    assert document.locate(("train", "epochs")) == "--set train.epochs"


def test_an_override_reaches_into_lists_and_makes_mappings(file):
    document = Document.load(file, ["list[1]=7", "model.head={input: x}"])
    assert document.data["list"] == [1, 7]
    assert document.data["model"]["head"] == {"input": "x"}


def test_an_override_never_changes_the_file(file):
    before = file.read_bytes()
    Document.load(file, ["train.epochs=5"])
    assert file.read_bytes() == before


def test_paths_start_at_the_file_and_overrides_at_the_working_directory(file, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Document.load(file).data["root"].base == tmp_path
    assert Document.load(file, ["root=other"]).data["root"].base == elsewhere


@pytest.mark.parametrize(
    "override", ["train.epochs", "=3", "a..b=1", "list[9]=1", "train.epochs.deep=1", "a=[1"]
)
def test_a_faulty_override_is_quoted(file, override):
    with pytest.raises(MedfuseError) as caught:
        Document.load(file, [override])
    assert override in str(caught.value)


def test_problems_come_in_the_order_of_the_file():
    document = parse("a: 1\nb: 2\n")
    error = document.located(PipelineError([Problem(("b",), "second"), Problem(("a",), "first")]))
    assert error.lines == ("liver.yaml:1:4: a: first", "liver.yaml:2:4: b: second")


def test_unplaced_values_are_plain():
    assert type(unplaced(parse("a: [x]").data)["a"][0]) is str
