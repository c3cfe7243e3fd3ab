"""Licences by their SPDX names: checked, never guessed."""

from __future__ import annotations

import re

from medfuse.core.errors import MedfuseError, did_you_mean

COMMON = (
    *(
        "Apache-2.0",
        "MIT",
        "BSD-3-Clause",
        "MPL-2.0",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "LGPL-3.0-or-later",
    ),
    *("AGPL-3.0-only", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"),
    *("CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"),
)
"""Those that models have, for whoever mistypes one."""


def spdx(text: str) -> str:
    """An SPDX expression, such as `CC-BY-4.0` or `Apache-2.0 OR MIT`, in the case of the list.

    Raises MedfuseError for what is none.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, ValueError) as error:
        near = did_you_mean(text, COMMON)
        raise MedfuseError(
            f"--license {text[:80]!r}: is no SPDX name of a licence{near}; write one of "
            "https://spdx.org/licenses, such as CC-BY-4.0, several with OR and AND, or LicenseRef-NAME for "
            "one of your own"
        ) from error


def pages(expression: str) -> list[str]:
    """Where the text of each licence in an expression stands."""
    names = re.findall(r"[A-Za-z0-9][A-Za-z0-9.+-]*", expression)
    known = [n for n in names if n not in ("AND", "OR", "WITH") and not n.startswith("LicenseRef-")]
    return [f"https://spdx.org/licenses/{name.rstrip('+')}.html" for name in dict.fromkeys(known)]


def license_text(expression: str, sources: list[str]) -> str:
    """The LICENSE beside a model; where no licence was given, that there is none."""
    if expression:
        lines = [
            f"SPDX-License-Identifier: {expression}",
            "",
            "The text of this licence:",
            *pages(expression),
        ]
    else:
        lines = [
            "No licence is given for these weights. Without one, nobody but their owner may copy, change or",
            "distribute them.",
        ]
    if sources:
        lines += ["", "They started from weights of others, whose licences hold too:", *sources]
    return "\n".join(lines) + "\n"
