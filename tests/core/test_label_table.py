"""Labels with codes and colours: what is given, what medfuse knows by a name, and what is never invented."""

import csv

import pytest

from medfuse.core.codes import KINDS, LEFT, RIGHT, Code, is_snomed
from medfuse.core.label_table import LabelSays, entries_of, palette_color
from medfuse.core.organs import LIST, meant_by

ROWS = list(csv.DictReader(LIST.read_text(encoding="utf-8").splitlines()))
TOTALSEGMENTATOR = (
    "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right "
    "adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right "
    "lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum colon "
    "urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 "
    + " ".join(f"vertebrae_{p}{n}" for p, most in (("L", 5), ("T", 12), ("C", 7)) for n in range(1, most + 1))
    + " heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left "
    "common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left "
    "brachiocephalic_vein_right atrial_appendage_left superior_vena_cava inferior_vena_cava "
    "portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right "
    "humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left "
    "femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right "
    "gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left "
    "autochthon_right iliopsoas_left iliopsoas_right brain skull "
    + " ".join(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13))
    + " sternum costal_cartilages"
).split()


def entry(name, value=1, **says):
    (made,) = entries_of({"background": 0, name: value}, {name: LabelSays(**says)})
    return made


@pytest.mark.parametrize("row", [row for row in ROWS if row["code"]], ids=lambda row: row["name"])
def test_every_code_of_the_list_is_one_of_snomed_that_pydicom_knows_by_that_meaning(row):
    concepts = pytest.importorskip(
        "pydicom.sr._concepts_dict", reason="this pydicom keeps its codes elsewhere"
    ).concepts["SCT"]
    known = [said[row["code"]][0] for said in concepts.values() if row["code"] in said]
    assert is_snomed(row["code"])
    assert known, f"{row['code']} is none of pydicom's"
    main = max(row["meaning"].lower().replace(" stem", "").split(), key=len)[:6]
    assert any(main in meaning.lower() for meaning in known), (row["meaning"], known)


def test_the_codes_of_kinds_and_sides_are_snomeds():
    assert all(is_snomed(code.value) for code in (*KINDS.values(), LEFT, RIGHT))
    assert {row["kind"] for row in ROWS} <= {*KINDS}


def test_no_name_of_the_list_stands_for_two_things():
    from medfuse.core.organs import _words

    rows = {}
    for row in ROWS:
        for name in [row["name"], *filter(None, row["also"].split("|"))]:
            assert rows.setdefault(_words(name), row) is row, name
            assert meant_by(name).known.color == row["color"], name


def test_colours_of_the_list_are_all_different():
    assert len({row["color"] for row in ROWS}) == len(ROWS)


def test_a_name_is_usually_enough():
    assert len(TOTALSEGMENTATOR) == 117
    entries = entries_of({"background": 0, **{n: v for v, n in enumerate(TOTALSEGMENTATOR, 1)}})
    assert all(meant_by(name) for name in TOTALSEGMENTATOR)
    assert sum(e.code is not None for e in entries) >= 104
    assert len({e.color for e in entries}) == 117
    by_name = {e.name: e for e in entries}
    assert (by_name["kidney_left"].code.value, by_name["kidney_left"].side) == ("64033007", LEFT)
    assert str(by_name["vertebrae_L5"].code) == "SCT 49668003 L5 vertebra"


@pytest.mark.parametrize(
    "name", ["kidney_left", "Left Kidney", "left-kidney", "KidneyLeft", "kidney l", "KIDNEY_L"]
)
def test_a_name_may_be_written_in_many_ways(name):
    assert (entry(name).code.meaning, entry(name).side) == ("Kidney", LEFT)


def test_a_finding_lies_in_an_organ():
    tumour = entry("liver_tumour")
    assert (tumour.code.meaning, tumour.within.meaning) == ("Neoplasm", "Liver")
    assert tumour.kind == KINDS["finding"]
    assert entry("whole tumor").within is None


@pytest.mark.parametrize(
    "name", ["Anterior", "class_3", "x", "7", "left", "___", "liver segment 2 of 9", "日本"]
)
def test_what_nobody_knows_has_a_colour_and_no_code(name):
    assert entry(name).code is None
    assert len(entry(name).rgb) == 3


def test_what_is_given_counts_before_the_list():
    given = entry("liver", code="SCT 64033007", color="#ABCDEF")
    assert (str(given.code), given.color, given.rgb) == ("SCT 64033007 liver", "#abcdef", (171, 205, 239))
    assert entry("liver", code="SCT 10200004").code.meaning == "Liver"
    assert entry("x", code="FMA 7197 Liver").code == Code("FMA", "7197", "Liver")


def test_no_two_labels_share_a_colour_that_nobody_gave():
    names = [f"{n}_{side}" for n in ("kidney", "lung", "x") for side in ("left", "right", "l 2", "r 3")]
    labels = {"background": 0} | {name: n for n, name in enumerate([*names, *map(str, range(300))], 1)}
    entries = entries_of(labels, {"x_left": LabelSays(color=palette_color(0))})
    assert len({e.color for e in entries}) == len(entries)


def test_regions_have_all_values_that_belong_to_them():
    regions = entries_of({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "a": 3}, None, (1, 2, 3))
    assert [(e.name, e.value, e.members) for e in regions] == [
        ("whole", 1, (1, 2, 3)),
        ("core", 2, (2, 3)),
        ("a", 3, (3,)),
    ]


@pytest.mark.parametrize("n", [10200004, 64033007, 123037004])
def test_one_wrong_digit_or_two_that_changed_places_are_no_code(n):
    right = str(n)
    assert is_snomed(right)
    for place in range(1, len(right)):
        for digit in "0123456789".replace(right[place], ""):
            assert not is_snomed(right[:place] + digit + right[place + 1 :])
        swapped = right[: place - 1] + right[place] + right[place - 1] + right[place + 1 :]
        assert swapped == right or not is_snomed(swapped)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10200004", "is no code"),
        ("SCT", "is no code"),
        ("SCT 10200005", "check digit"),
        ("SCT 99", "check digit"),
        ("SCT liver", "check digit"),
        ("FMA " + "7" * 17, "DICOM takes 16"),
        ("ALONGTERMINOLOGYNAME 7", "DICOM takes 16"),
        ("FMA 7197 " + "x" * 65, "DICOM takes 64"),
        ("FMA 7197 a\x07b", "is no code"),
        ("FMA 7197 a\\b", "is no code"),
    ],
)
def test_what_is_no_code_says_why(text, why):
    with pytest.raises(ValueError, match=why):
        Code.of(text)
