"""What workers can do besides inference: the kinds of tasks (core.tasks) by their names."""

from __future__ import annotations

from medfuse.core.errors import OutputError
from medfuse.core.tasks import Kind


def kind_of(name: str) -> Kind:
    """How tasks of a kind are done. Raises OutputError for one that is not known here."""
    if name == "train":
        from medfuse.verbs.trainings import TRAININGS

        return TRAININGS
    if name == "judge":
        from medfuse.verbs.judging import JUDGING

        return JUDGING
    if name == "search":
        from medfuse.verbs.search import SEARCHING

        return SEARCHING
    raise OutputError(f"tasks of kind {name[:40]!r}: are not known here; start the workers anew")
