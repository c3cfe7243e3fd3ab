"""Licences: SPDX names alone, and none where none was given."""

import pytest

from medfuse.core.errors import MedfuseError
from medfuse.sharing.licenses import license_text, pages, spdx


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("apache-2.0 or mit", "Apache-2.0 OR MIT"),
        ("LicenseRef-hospital", "LicenseRef-hospital"),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ],
)
def test_a_licence_is_written_as_the_list_has_it(given, meant):
    assert spdx(given) == meant


@pytest.mark.parametrize("given", ["free", "CC-BY", "Apache 2", "MIT AND", "(MIT", "\n", "x" * 5000])
def test_what_is_no_licence_is_refused_in_a_line(given):
    with pytest.raises(MedfuseError, match="SPDX") as told:
        spdx(given)
    assert len(told.value.lines) == 1
    assert len(told.value.lines[0]) < 500


def test_a_near_miss_is_told():
    with pytest.raises(MedfuseError, match=r"CC-BY-4\.0"):
        spdx("CC-BY-4")


def test_where_no_licence_is_given_none_is_made_up():
    text = license_text("", ["- encoder: owner/net, licence cc-by-nc-4.0"])
    assert "No licence is given" in text
    assert "SPDX-License-Identifier" not in text
    assert "cc-by-nc-4.0" in text


def test_its_text_is_where_spdx_has_it():
    assert pages("Apache-2.0 OR LicenseRef-own") == ["https://spdx.org/licenses/Apache-2.0.html"]
