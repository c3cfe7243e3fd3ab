"""labels.csv: what Slicer and dcmqi call a label."""

import csv
import io
from dataclasses import replace

from sharing.models import PLAN

from medfuse.sharing.described import describe_plan
from medfuse.sharing.label_table import label_table


def rows(labels):
    plan = replace(PLAN, labels=labels)
    said = describe_plan(plan, name="small", windows={})
    return {row["Name"]: row for row in csv.DictReader(io.StringIO(label_table(said.labels)))}


def test_an_organ_has_its_code():
    row = rows({"background": 0, "liver": 1})["liver"]
    assert row["LabelValue"] == "1"
    assert row["SegmentedPropertyTypeCodeSequence.CodeValue"] == "10200004"
    assert row["SegmentedPropertyCategoryCodeSequence.CodeMeaning"] == "Anatomical Structure"


def test_a_side_is_a_modifier():
    row = rows({"background": 0, "kidney_left": 3})["kidney_left"]
    said = " ".join(row.values())
    assert "Left" in said


def test_a_label_that_nobody_knows_has_no_code():
    row = rows({"background": 0, "a thing, quoted": 1})["a thing, quoted"]
    assert row["SegmentedPropertyTypeCodeSequence.CodeValue"] == ""
