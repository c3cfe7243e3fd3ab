"""However odd the text of a dataset is, it is read, or every fault of it is a line that names the file."""

import csv
import io
import json
import random

import pytest
from fuzz import ODD, spoilt
from pydantic import ValidationError

from medfuse.core.errors import DataError

NAMES = "abcd"
DECATHLON = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "training": [
        {"image": f"imagesTr/{n}.nii", "label": f"labelsTr/{n}.nii", "fold": i % 2}
        for i, n in enumerate(NAMES)
    ],
    "test": ["imagesTs/t.nii", {"image": "imagesTs/u.nii"}],
}
NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
    "numTraining": 4,
    "file_ending": ".nii",
}
SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]
TABLE = [["case", "image", "label", "fold", "patient"]] + [
    [n, f"imagesTr/{n}.nii", f"labelsTr/{n}.nii", str(i % 2), n] for i, n in enumerate(NAMES)
]
FIELDS = {
    "images": "imagesTr",
    "labels": "labelsTr",
    "classes": {"liver": 1, "rest": [2, 3], "ignore": 4},
    "regions_class_order": [1, 2],
    "channels": ["CT"],
}
CLASSES = {"classes": {"liver": 1}, "channels": ("CT",)}
QUICK, MANY = range(12), range(12, 400)


@pytest.fixture
def root(files):
    """Volumes of four cases, in a folder that nnU-Net's layout reads too where numbers are there."""
    numbered = [f"raw/imagesTr/{n}_0000.nii" for n in NAMES] + [f"raw/labelsTr/{n}.nii" for n in NAMES]
    plain = [f"{folder}/{n}.nii" for folder in ("imagesTr", "labelsTr") for n in NAMES]
    return files(*plain, *numbered)


def told(make, *words):
    """`make()` works, or refuses in whole lines that people can read, each with one of `words`."""
    try:
        make().read()
    except ValidationError:  # of a pipeline's fields: placed by the pipeline
        return "refused"
    except DataError as error:
        for line in error.lines:
            assert line.isprintable(), repr(line)
            assert len(line) < 1500
            assert any(word in line for word in words), line
        return "refused"
    return "read"


def check(seed, root, dataset):
    """The four layouts, each with a text spoilt by this seed."""
    text = json.dumps
    (root / "dataset.json").write_text(text(spoilt(DECATHLON, seed)))
    outcomes = [
        told(lambda: dataset("decathlon", root=root), "dataset.json", "imagesT", "labelsT", str(root))
    ]
    (root / "raw" / "dataset.json").write_text(text(spoilt(NNUNET, seed)))
    outcomes.append(
        told(lambda: dataset("nnunet", root=root / "raw"), "dataset.json", "imagesTr", "labelsTr")
    )
    (root / "raw" / "dataset.json").write_text(text(NNUNET))
    (root / "raw" / "splits_final.json").write_text(text(spoilt(SPLITS, seed)))
    outcomes.append(told(lambda: dataset("nnunet", root=root / "raw"), "splits_final.json"))
    (root / "raw" / "splits_final.json").unlink()
    out = io.StringIO()
    rows = spoilt(TABLE, seed)
    rows = rows if isinstance(rows, list) else [rows]
    csv.writer(out).writerows(row if isinstance(row, list) else [row] for row in rows)
    (root / "cases.csv").write_bytes(out.getvalue().encode(errors="surrogatepass"))
    outcomes.append(
        told(lambda: dataset("csv", root=root, **CLASSES), "cases.csv", "imagesTr", "labelsTr", str(root))
    )
    fields = spoilt(FIELDS, seed)
    if isinstance(fields, dict):
        outcomes.append(told(lambda: dataset("folder", root=root, **fields), "data.classes", str(root)))
    return outcomes


@pytest.mark.parametrize("seed", QUICK)
def test_spoilt_texts_are_read_or_refused_in_lines(seed, root, dataset):
    assert check(seed, root, dataset)


@pytest.mark.slow
def test_many_spoilt_texts_are_read_or_refused_in_lines(root, dataset):
    outcomes = [outcome for seed in MANY for outcome in check(seed, root, dataset)]
    assert outcomes.count("refused") > len(outcomes) / 3
    assert outcomes.count("read") > len(outcomes) / 20


@pytest.mark.slow
@pytest.mark.parametrize("use", ["decathlon", "nnunet", "csv"])
def test_texts_with_bytes_that_do_not_belong_are_read_or_refused_in_lines(use, root, dataset):
    """Bits turned, ends cut off, parts doubled."""
    chance = random.Random(7)
    text = {
        "decathlon": json.dumps(DECATHLON),
        "nnunet": json.dumps(NNUNET),
        "csv": "\n".join(map(",".join, TABLE)),
    }[use]
    place = {
        "decathlon": root / "dataset.json",
        "nnunet": root / "raw" / "dataset.json",
        "csv": root / "cases.csv",
    }[use]
    more = CLASSES if use == "csv" else {}
    for _ in range(150):
        content = bytearray(text.encode())
        where = chance.randrange(len(content))
        match chance.randrange(3):
            case 0:
                content[where] ^= 1 << chance.randrange(8)
            case 1:
                del content[where:]
            case 2:
                content[where:where] = content[: chance.randrange(len(content))]
        place.write_bytes(bytes(content))
        told(lambda: dataset(use, root=place.parent, **more), place.name, str(root))


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("key", ["labels", "modality", "training", "test"])
def test_any_key_may_hold_anything(key, odd, root, dataset):
    (root / "dataset.json").write_text(json.dumps(DECATHLON | {key: odd}))
    told(lambda: dataset("decathlon", root=root), "dataset.json", str(root))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"labels": ' + "9" * 5000 + "}",
        "{",
        "",
        "\0",
        "5",
        "null",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
    ],
    ids=["nested", "digits", "open", "empty", "nul", "number", "null", "twice", "nan"],
)
@pytest.mark.parametrize("use", ["decathlon", "nnunet"])
def test_texts_that_are_no_description_are_one_line(use, text, files, dataset):
    root = files(**{"dataset.json": text})
    with pytest.raises(DataError) as caught:
        dataset(use, root=root).read()
    assert all(
        line.startswith(f"{root / 'dataset.json'}:") or "imagesTr" in line for line in caught.value.lines
    )


@pytest.mark.parametrize(
    "label", ["²", "٣", "-1", "1.5", "", "9" * 5000, True, None, [], [[1]], 2**40, "1e3"]
)
def test_an_odd_label_value_is_named(label, root, dataset):
    (root / "dataset.json").write_text(json.dumps(DECATHLON | {"labels": {"background": 0, "liver": label}}))
    with pytest.raises(DataError, match=r"dataset\.json: labels: label 'liver' has value"):
        dataset("decathlon", root=root).read()
