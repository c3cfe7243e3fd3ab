"""Every command of the pages: parsed as it stands, run where it can be here, or told why it is not."""

import re
import shutil
import sys
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from commands import ELSEWHERE, SLOW, Command, commands_of, is_shell, shell_blocks
from pages import ROOT, Block, pages, tokens

BLOCKS = [*shell_blocks()]
COMMANDS = [command for block in BLOCKS for command in commands_of(block)]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PLACES = {
    "FOLDER": "scans",
    "DATA": "my_scans",
    "/data/patients": "patients",
    "scans/": "scans",
    "patients/": "patients",
}
PLACES["encoder.stages.3,decoded"] = "encoder.stages.2,decoded"  # the tiny network has three stages
"""What stands for a place of the reader's, and what it is here."""
SHORTER = ["--set", "train.minutes=null", "--set", "train.epochs=null", "--set", "train.steps=4"]


def parse(words):
    """The command line takes these words: verb, options and arguments. Raises what typer raises."""
    from typer.main import get_command

    from medfuse.cli import app

    command, context = get_command(app), None
    name, rest = words[0], words[1:]
    while True:
        context = command.make_context(name, list(rest), parent=context)
        if not hasattr(command, "commands") or not context._protected_args:
            return
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)


def test_there_are_commands_in_every_language_of_a_shell():
    assert len(COMMANDS) > 80
    assert {"infer", "run", "check", "view", "serve", "init"} <= {command.verb for command in COMMANDS}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.verb], ids=str)
def test_a_command_of_medfuse_is_one(command):
    parse(command.words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.verb], ids=str)
def test_a_command_of_others_is_known_and_what_it_names_is_there(command):
    found = next(
        (
            (re.search(form, command.text), what)
            for form, _, what in ELSEWHERE
            if re.search(form, command.text)
        ),
        None,
    )
    assert found, f"{command}: say in tests/docs/commands.py how it is tried, or why it is not"
    match, what = found
    if what == "make":
        assert re.search(rf"^{match[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif what == "script":
        assert (ROOT / match[1]).is_file()
    elif what == "medfuse":
        parse(match[1].split())
    elif what == "pip":
        for word in command.words[2:]:
            if named := re.search(r"(?:medfuse|\.)\[([\w,]+)\]", word):
                assert {*named[1].split(",")} <= {*EXTRAS, "test"}
            elif word.startswith("./plugins"):
                assert (ROOT / word).is_dir()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_options_in_the_text_are_there(page):
    from typer.main import get_command

    from medfuse.cli import app

    verbs = get_command(app).commands
    faults = []
    if page.name == "CHANGELOG.md":  # which tells of what was, too
        return
    for token in tokens(page):
        for child in token.children or ():
            if (
                child.type != "code_inline"
                or not child.content.startswith("medfuse ")
                or "[" in child.content
            ):
                continue
            words = child.content.split()
            verb = verbs.get(words[1])
            if verb is None:
                if not words[1].startswith(("-", "…", "VERB", "ARGUMENTS")):
                    faults.append(child.content)
                continue
            if hasattr(verb, "commands"):
                continue
            known = {name for each in verb.params for name in (*each.opts, *each.secondary_opts)} | {
                "-h",
                "--help",
            }
            faults += [
                child.content
                for word in words[2:]
                if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known
            ]
    assert faults == []


# ---- run


@pytest.fixture(scope="session")
def prepared(finished_run, tmp_path_factory):
    """A folder with whatever the pages name: tiny scans, label maps, runs, pipelines, DICOM."""
    import nibabel
    import scanner
    from phantoms import write_pipeline

    home = tmp_path_factory.mktemp("docs")
    data, text = finished_run.data, finished_run.pipeline.read_text()
    for run in ("runs/liver", "runs/heart", "runs/hippocampus", "runs/mine/fold_all"):
        shutil.copytree(finished_run.folder, home / run)
    for pipeline in ("pipelines/liver.yaml", "mine.yaml"):
        (home / pipeline).parent.mkdir(exist_ok=True)
        write_pipeline(home / pipeline, data)
        (home / pipeline).write_text(text.replace("name: cubes", f"name: {Path(pipeline).stem}"))
    cases = sorted((data / "imagesTr").iterdir())
    for folder in ("scans", "sample_data/imagesTs", "imagesTr", "predictions"):
        (home / folder).mkdir(parents=True)
        for path in cases[-1:]:
            source = data / ("labelsTr" if folder == "predictions" else "imagesTr") / path.name
            shutil.copy(source, home / folder / path.name)
    for folder in ("labelsTr", "references"):
        (home / folder).mkdir()
        shutil.copy(data / "labelsTr" / cases[-1].name, home / folder)
    shutil.copytree(data, home / "my_scans")
    shutil.copy(cases[0], home / "scan.nii.gz")
    for name in ("labels", "reference", "mine"):
        shutil.copy(data / "labelsTr" / cases[0].name, home / f"{name}.nii.gz")
    for case in cases:
        name = case.name.replace("cube_", "sub-").removesuffix(".nii.gz")
        for below, end, source in (("", "T1w", "imagesTr"), ("derivatives/manual/", "dseg", "labelsTr")):
            target = home / "my_study" / below / name / "anat" / f"{name}_{end}.nii.gz"
            target.parent.mkdir(parents=True)
            shutil.copy(data / source / case.name, target)
    scanner.write(home / "patients" / "p1", scanner.voxels((20, 18, 16)))
    with zipfile.ZipFile(home / "scans.zip", "w") as archive:
        for path in sorted((home / "patients").rglob("*.dcm")):
            archive.write(path, path.relative_to(home / "patients"))
    assert nibabel.load(home / "scan.nii.gz").shape
    return home


@pytest.fixture
def typed(prepared, tmp_path, monkeypatch, medfuse, plain_report):
    """Types commands in a copy of the prepared folder; what one wrote makes room for the next."""
    home = tmp_path / "home"
    shutil.copytree(prepared, home)
    monkeypatch.chdir(home)
    for folder in ("labels", "OUT"):
        assert medfuse("infer", "runs/liver", "-i", "sample_data/imagesTs", "-o", folder, "-q").code == 0
    written = set()

    def typed(command: Command):
        words = [PLACES.get(word, word) for word in command.words]
        for option, target in pairwise(words):
            if option in ("-o", "--output"):
                target = "out" if target == "scans" else target
                words[words.index(option) + 1] = target
                if Path(target).is_dir() and (target in written or command.verb == "infer"):
                    shutil.rmtree(target)
                written.add(target)
        if command.verb == "view":
            words.append("--overwrite")
        if command.verb in ("run", "compare", "distil", "search"):
            words += SHORTER
        if command.verb == "search":
            words += ["--set", "search={trials: 2, seeds: 1, rungs: 1, space: {loss: [dice_ce, tversky]}}"]
        if command.verb == "probe":
            words += ["--steps", "20"]
        if command.verb == "init":
            words = [w for n, w in enumerate(words) if w != "--minutes" and words[n - 1] != "--minutes"]
            words += ["--minutes", "0.1", "--no-trials"]
            Path("pipelines", f"{words[2]}.yaml").unlink(missing_ok=True)
        said = medfuse(*words[1:])
        assert said.code == 0 or (command.verb in ("doctor", "quantize") and said.code == 1), (
            f"{command}\n{said.err}"
        )

    return typed


def quick(block: Block) -> list[Command]:
    return [c for c in commands_of(block) if c.verb and not c.why_not and c.verb not in SLOW]


def slow(block: Block) -> list[Command]:
    return [c for c in commands_of(block) if c.verb in SLOW and not c.why_not]


@pytest.mark.parametrize("block", [b for b in BLOCKS if quick(b)], ids=str)
def test_what_is_told_to_type_does_what_it_should(block, typed):
    for command in quick(block):
        typed(command)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if slow(b)], ids=str)
def test_what_trains_does_too(block, typed):
    shutil.rmtree("runs/mine")  # which is trained here
    for command in slow(block):
        typed(command)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("medfuse check a.yaml  # fine\n\nmedfuse run a.yaml \\\n  --folds all\n", 2),
        ("A=1 medfuse run a.yaml\n", 1),
        ("cd x && medfuse check a.yaml\n", 2),
        ("case a: shift (likely)\n", None),
        ("label  Dice\nliver  0.9\n", None),
    ],
)
def test_commands_are_told_from_what_they_say(text, wanted, tmp_path):
    block = Block(tmp_path, 1, "", text)
    assert (len(commands_of(block)) if is_shell(block) else None) == wanted


@pytest.mark.parametrize("words", ["medfuse chek a", "medfuse infer a -i b --no-such", "medfuse evaluate a"])
def test_a_command_that_there_is_not_is_found(words):
    with pytest.raises(Exception, match=r"No such|no command|Missing"):
        parse(words.split())
