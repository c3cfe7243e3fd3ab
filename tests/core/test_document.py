"""YAML with places, overrides and refusals."""

from itertools import pairwise
from pathlib import Path

import pytest

from medfuse.core.document import Document
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


LETTERS = "abcdefghij"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{letter}: &{letter} [{','.join([f'*{before}'] * 9)}]\n" for before, letter in pairwise(LETTERS)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 20,000 values"),
        (
            "a: &a [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 99)).replace("*a0", "*a"),
            "deep",
        ),
        ("a: [" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("a: " + "{" * 3000, "nested more than 50 deep"),
        ("- " * 3000, "nested more than 50 deep"),
        ("a: " + "x" * 300_000, "characters, more than"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ("a: 1e999", "1e999 is too large a number"),
        ("a: !!int banana", "is no int, as its tag says"),
        ("a: !!float banana", "is no float"),
        ("a: !!bool 1", "is no bool"),
        ("a: !!null x", "is no null"),
        ("a: !!int ²", "is no int"),
        ("a: !!set {x, y}", "not allowed"),
        ("a: !mine [x]", "not allowed"),
        ("!!int a: 1\n!x b: 2", "not allowed"),
        ("a: 1\n'': 3", "liver.yaml:2:1: a key is empty"),
        ("a: {' ': 3}", "a key is empty"),
        ("? [x]\n: 3", "a key must be a plain word"),
        ("a: &x {b: 1}\nc: {<<: *x}", "liver.yaml:2:5: c: `<<` merges nothing"),
        ("a: 1\nb: \0", "liver.yaml:2:4: not valid YAML: the character '\\x00'"),
        ('a: "x\\0y"', "liver.yaml:1:4: 'x\\x00y' holds the character"),
        ('a: "\\ud800"', "holds the character"),
        ('a: "\\UFFFFFFFF"', "liver.yaml:1:1: not valid YAML"),
        ('"\\a": 1', "unprintable"),
        ("k" * 900 + ": 1", "shorten it"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: *b", "undefined alias"),
        ("a: &x 1\nb: &x 2", "duplicate anchor"),
        ("%YAML 9.9\n---\na: 1", "incompatible"),
        ("a:\n\t- 1", "cannot start any token"),
    ],
)
def test_odd_texts_are_one_placed_line(text, said):
    with pytest.raises(MedfuseError) as caught:
        parse(text)
    lines = [line for line in caught.value.lines if said in line]
    assert lines
    assert all(line.startswith("liver.yaml:") and len(line) < 300 for line in caught.value.lines)
    assert not any("\n" in line for line in caught.value.lines)


@pytest.mark.parametrize("text", ["²", "１２", "1_000", "0b1", "1e", "--1", "0x", "..5"])
def test_what_only_looks_like_a_number_is_a_word(text):
    assert parse(f"a: {text}").data["a"] == text


def test_a_few_aliases_stand_for_what_they_name():
    assert parse("a: &x {b: [1, 2]}\nc: [*x, *x]").data["c"] == [{"b": [1, 2]}] * 2


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
def test_a_mark_and_other_line_ends_change_nothing(tmp_path, change):
    path = tmp_path / "liver.yaml"
    path.write_bytes(change("a: ü\nb:\n  c: 1\n".encode()))
    document = Document.load(path)
    assert document.data == {"a": "ü", "b": {"c": 1}}
    assert document.locate(("b", "c")) == f"{path}:3:6"


def test_bytes_that_are_no_text_are_placed(tmp_path):
    (tmp_path / "liver.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(MedfuseError, match=r"liver\.yaml:2:4: is no text in UTF-8"):
        Document.load(tmp_path / "liver.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "list.²=1",
        "list[-1]=1",
        "list[" + "9" * 5000 + "]=1",
        "train.epochs=" + "9" * 5000,
        "train.epochs=!!int x",
        "train.epochs=" + "[" * 3000,
        "train.epochs=&a *a",
        "train.epochs=1e999999",
        "=1",
        ".=1",
        ".a=1",
        "a.=1",
        "a]b=1",
        "[0]=1",
        " =1",
        "x" * 9000 + "=1",
        "train.epochs=\0",
        "a={'': 1}",
        "root.x=1",
    ],
)
def test_odd_overrides_are_one_short_line(file, override):
    with pytest.raises(MedfuseError) as caught:
        Document.load(file, [override])
    assert all(line.startswith("--set ") and len(line) < 400 for line in caught.value.lines)


def test_an_override_of_a_key_that_is_none_is_left_to_its_section(file):
    assert Document.load(file, ["train.²=1"]).data["train"] == {"epochs": 3, "²": 1}


def test_an_override_names_keys_that_look_like_numbers(file):
    assert Document.load(file, ["classes.1=liver"]).data["classes"] == {"1": "liver"}
