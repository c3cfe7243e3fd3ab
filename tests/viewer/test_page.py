import hashlib
import re

import pytest

from medfuse.viewer.page import LICENCES, NIIVUE, asset, page


def test_niivue_is_the_file_that_was_published():
    """dist/niivue.umd.js of `npm pack @niivue/niivue@0.69.0`; another one is looked at before it is taken."""
    known = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert hashlib.sha256(asset(NIIVUE).encode()).hexdigest() == known


@pytest.mark.parametrize(
    "name",
    [
        "@niivue/niivue 0.69.0",
        "fflate",
        "gl-matrix",
        "nifti-reader-js",
        "zarrita",
        "array-equal",
        "numcodecs",
    ],
)
def test_the_licence_of_what_is_inside_stands_beside_it_and_in_each_page(name):
    assert f"\n{name}" in asset(LICENCES)
    assert name in page("a title", [])


def test_no_part_can_end_the_script_that_it_is_in():
    for name in (NIIVUE, "viewer.js"):
        assert not re.search(r"</script|<!--", asset(name), re.IGNORECASE)


def test_the_wheel_holds_the_viewer():
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the dev extra")
    from pathlib import Path

    builder = hatchling.WheelBuilder(str(Path(__file__).parents[2]))
    held = {file.relative_path for file in builder.recurse_included_files()}
    assert {
        f"medfuse/viewer/{name}" for name in (NIIVUE, LICENCES, "viewer.js", "viewer.css", "viewer.html")
    } <= held
