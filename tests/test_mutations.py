"""Slips in the pipelines that are here: each is refused, at the line where it was made."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from medfuse.core.errors import MedfuseError
from medfuse.pipeline import load_pipeline
from medfuse.verbs.check import check_pipeline

ROOT = Path(__file__).parents[1]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
LEAST = 0.99

# below these keys stand names of one's own, or arguments of code that is not medfuse's
NAMED = {"backbones", "fusion", "taps", "transfer", "activation_losses", "parts", "classes", "minimum_ml"}
FREE = {"parameters", "arguments"}


@dataclass(frozen=True)
class Mutant:
    """A changed text, the line at which that should be told, and what was done."""

    text: str
    line: int
    what: str


def _pairs(
    node: yaml.Node, path: tuple = ()
) -> Iterator[tuple[tuple, yaml.MappingNode, yaml.Node, yaml.Node]]:
    """Every key with its value, the mapping around them and its path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), node, key, value
            yield from _pairs(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _pairs(value, (*path, index))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _is_own_name(path: tuple) -> bool:
    return len(path) > 1 and path[-2] in NAMED


def mutants(text: str) -> Iterator[Mutant]:
    """Keys renamed and removed, values of another type and of none that is known."""
    root = yaml.compose(text)
    lines = {id(value): _line(key) for _, _, key, value in _pairs(root)}

    def put(begin: int, end: int, new: str) -> str:
        return text[:begin] + new + text[end:]

    for path, around, key, value in _pairs(root):
        if FREE & {*path[:-1]}:
            continue
        where, (a, b) = ".".join(map(str, path)), (key.start_mark.index, key.end_mark.index)
        if not _is_own_name(path):
            swapped = key.value[1] + key.value[0] + key.value[2:]
            for new in {f"{key.value}s", f"x{key.value}", swapped} - {key.value}:
                yield Mutant(put(a, b, new), _line(key), f"{where} renamed to {new}")
        if path[-1] in FREE:
            continue
        c, d = value.start_mark.index, value.end_mark.index
        if isinstance(value, yaml.ScalarNode):
            for new in (
                "{no: such}",
                "[[no], such]",
                "[]",
                "3.7e-5",
                "no such value",
                "-1",
                "true",
                '""',
                "~",
            ):
                yield Mutant(put(c, d, new), _line(value), f"{where}: {value.value} → {new}")
        elif not around.flow_style or value.flow_style:
            for new in ("7", "no such value", "[3]" if isinstance(value, yaml.MappingNode) else "{no: such}"):
                if value.flow_style:
                    yield Mutant(put(c, d, new), _line(key), f"{where} → {new}")
        if around.flow_style and len(around.value) > 1:
            rest = re.match(r"\s*,\s*", text[d:])
            gone = put(a, d + len(rest[0]), "") if rest else put(text.rindex(",", 0, a), d, "")
            yield Mutant(gone, lines.get(id(around), _line(around)), f"{where} removed")


def told(path: Path, mutant: Mutant, *, fully: bool) -> list[int] | None:
    """The lines of all problems; None where there are none."""
    path.write_text(mutant.text, encoding="utf-8")
    try:
        check_pipeline(path) if fully else load_pipeline(path)
    except MedfuseError as error:
        places = [re.match(rf"{re.escape(str(path))}:(\d+):\d+: ", line) for line in error.lines]
        return [int(place[1]) if place else 0 for place in places]
    return None


def misplaced(source: Path, folder: Path, chosen: list[Mutant], *, fully: bool) -> tuple[int, list[str]]:
    """How many were refused, and those of them that were not told at their line."""
    refused, wrong = 0, []
    file = folder / source.name
    for mutant in chosen:
        lines = told(file, mutant, fully=fully)
        if lines is None:
            continue  # as good as before, such as a number that may be any
        refused += 1
        if mutant.line not in lines:
            wrong.append(f"{source.name}:{mutant.line}: {mutant.what}: told at {lines}")
    return refused, wrong


@pytest.mark.slow
def test_slips_are_told_at_their_line(tmp_path):
    refused, wrong = 0, []
    for source in PIPELINES:
        n, faults = misplaced(source, tmp_path, [*mutants(source.read_text(encoding="utf-8"))], fully=False)
        refused, wrong = refused + n, wrong + faults
    assert refused > 3000
    assert len(wrong) <= (1 - LEAST) * refused, f"{len(wrong)} of {refused}:\n" + "\n".join(wrong)


def test_a_few_slips_are_told_at_their_line(tmp_path):
    source = ROOT / "pipelines" / "liver.yaml"
    few = random.Random(1).sample([*mutants(source.read_text(encoding="utf-8"))], 40)
    refused, wrong = misplaced(source, tmp_path, few, fully=False)
    assert refused > 20
    assert not wrong


BLOCKS = """\
data:
  use: folder
  root: {root}
  images: images
  labels: labels
  classes: {{a: 1}}
  channels: [CT]
sample: {{patch_size: [16, 16, 8]}}
model:
  backbones:
    encoder:
      use: edited
      of:
        use: module
        target: monai.networks.nets:UNet
        parameters:
          spatial_dims: 3
          in_channels: 1
          out_channels: 2
          channels: [4, 8]
          strides: [2]
      edits:
        - replace: "*.adn.A"
          by: torch.nn.SiLU
          arguments:
            inplace: true
        - insert_after: model.0
          module: torch.nn.Dropout3d
          arguments:
            p: 0.1
  fusion:
    fused:
      use: concat
      inputs: [encoder.model.0]
      channels: 4
  head:
    input: fused
train:
  steps: 1
"""

SLIPS = [
    ("  images: images", "  images: no_such", 4),
    ("  labels: labels", "  labels: no_such", 5),
    ("target: monai.networks.nets:UNet", "target: monai.networks.nets:UNetz", 15),
    ("target: monai.networks.nets:UNet", "target: no_such:UNet", 15),
    ("          in_channels: 1", "          in_chanels: 1", 18),
    ('replace: "*.adn.A"', 'replace: "*.no_such"', 23),
    ("by: torch.nn.SiLU", "by: torch.nn.SiLUU", 24),
    ("            inplace: true", "            inplacee: true", 26),
    ("insert_after: model.0", "insert_after: model.no_such", 27),
    ("module: torch.nn.Dropout3d", "module: torch.nn.Dropout9d", 28),
    ("            p: 0.1", "            p: 7", 29),
    ("      inputs: [encoder.model.0]", "      inputs: [encoder.model.0z]", 34),
    ("    input: fused", "    input: fusedd", 37),
]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> str:
    """A pipeline, one key a line, that `check` accepts."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "labels"):
        (folder / name).mkdir()
        for case in range(6):
            (folder / name / f"c{case}.nii.gz").touch()
    text = BLOCKS.format(root=folder)
    (folder / "p.yaml").write_text(text)
    assert check_pipeline(folder / "p.yaml")
    return text


@pytest.mark.parametrize(("before", "after", "line"), SLIPS)
def test_what_only_the_network_and_the_data_tell_is_placed_too(blocks, tmp_path, before, after, line):
    assert before in blocks
    lines = told(tmp_path / "p.yaml", Mutant(blocks.replace(before, after, 1), line, after), fully=True)
    assert lines
    assert line in lines
