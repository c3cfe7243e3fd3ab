"""`classes` with codes and colours, in every dataset that takes them; each mistake is a line at its place."""

import re
from pathlib import Path

import pytest

from medfuse.core.document import Document
from medfuse.core.errors import PipelineError
from medfuse.core.label_table import LabelSays
from medfuse.pipeline import parse_pipeline, resolved

LIVER = {"value": 1, "code": "SCT 10200004", "color": "#dd8265"}
PIPELINE = """
data:
  use: {use}
  root: d
  classes:
    liver: {entry}
    other: 9
model:
  backbones: {{encoder: {{use: unet_encoder, base_channels: 4}}}}
  head: {{input: encoder.1}}
train: {{steps: 2}}
"""


@pytest.fixture(params=["folder", "csv"])
def read(request, dataset, files):
    """What a dataset of one case says, of each kind that takes classes."""

    def read(**fields):
        table = {"cases.csv": "image,label\nimages/a.nii,labels/a.nii"} if request.param == "csv" else {}
        return dataset(request.param, root=files("images/a.nii", "labels/a.nii", **table), **fields).read()

    return read


def test_labels_are_the_same_with_codes_and_without(read):
    told = read(classes={"tumour": 2, "liver": LIVER})
    plain = read(classes={"tumour": 2, "liver": 1})
    assert told.labels == plain.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert told.label_table == {"liver": LabelSays("SCT 10200004", "#dd8265")}
    assert plain.label_table == {}


def test_regions_background_and_ignore_may_be_said_so_too(read):
    classes = {
        "background": {"value": 0},
        "whole": {"value": [1, 2], "color": "#112233"},
        "core": 2,
        "ignore": {"value": 3},
    }
    info = read(classes=classes, regions_class_order=(1, 2))
    assert (info.labels, info.ignore) == ({"background": 0, "whole": (1, 2), "core": 2}, 3)
    assert info.label_table == {"whole": LabelSays("", "#112233")}


def document(use, entry):
    return Document.parse(PIPELINE.format(use=use, entry=entry), source="p.yaml", base=Path())


@pytest.mark.parametrize("use", ["folder", "csv"])
@pytest.mark.parametrize(
    ("entry", "where", "why"),
    [
        ('{value: 1, code: "SCT 10200005"}', "6:29", "check digit"),
        ("{value: 1, code: liver}", "6:29", "is no code"),
        ("{value: 1, code: 10200004}", "6:29", "is no text"),
        ("{value: 1, color: red}", "6:30", "is no colour"),
        ('{value: 1, color: "dd8265"}', "6:30", "is no colour"),
        ('{value: 1, color: "#dd826"}', "6:30", "is no colour"),
        ("\n      value: 1\n      color: #dd8265", "8:13", "in quotes"),
        ('{value: "1"}', "6:20", "valid integer"),
        ("{value: 1.5}", "6:20", "valid integer"),
        ("{value: true}", "6:20", "valid integer"),
        ('{code: "SCT 10200004"}', "6:5", "add `value:`"),
        ('{value: 1, colour: "#dd8265"}', "6:23", "did you mean 'color'?"),
    ],
)
def test_a_mistake_is_one_line_at_its_place(use, entry, where, why):
    with pytest.raises(PipelineError) as caught:
        parse_pipeline(document(use, entry))
    lines = [line for line in caught.value.lines if "classes" in line]
    assert len(lines) <= 2
    assert lines[0].startswith(f"p.yaml:{where}: data.classes.liver")
    assert re.search(re.escape(why), lines[0])


def test_what_was_resolved_reads_back_as_the_same():
    pipeline = parse_pipeline(document("folder", '{value: 1, color: "#dd8265"}'))
    again = parse_pipeline(Document(resolved(pipeline), {}, {}, "resolved"))
    assert again == pipeline
