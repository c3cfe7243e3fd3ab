"""The viewer of a run's report: held-out cases, worst first, as far as disk and time allow."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from medfuse.core.errors import DataError
from medfuse.core.files import reported
from medfuse.core.label_table import entries_of
from medfuse.core.text import typed
from medfuse.runs.folder import VIEW
from medfuse.runs.scenes import PREDICTION, REFERENCE
from medfuse.viewer.fit import pack_within
from medfuse.viewer.page import FOLDER_PAGE, Folder
from medfuse.viewer.scene import Scene

if TYPE_CHECKING:
    from medfuse.report.evaluate import EvaluatedCase, Evaluation
    from medfuse.runs.run import Run

MOST_BYTES = 400_000_000
MOST_SECONDS = 120.0
_OF_A_CASE = 30_000_000


def write_viewer(run: Run, evaluation: Evaluation) -> tuple[dict[str, str], str]:
    """Case → link from the report to it, and a line about cases for which there was no room or no time."""
    from medfuse.report.cards import worst_first

    folder = run.folder / VIEW
    if not (run.pipeline.report.viewer and evaluation.cases):
        with reported(folder):
            shutil.rmtree(folder, ignore_errors=True)
        return {}, ""
    ranked = worst_first(evaluation.cases)
    made, links = Folder(folder), {}
    room, end = MOST_BYTES, time.monotonic() + MOST_SECONDS
    with run.reporter.track("drawing held-out cases for the viewer", len(ranked)) as advance:
        for done, case in enumerate(ranked, start=1):
            if room <= 0 or time.monotonic() > end:
                break
            try:
                packed = pack_within(_scene(run, case), min(_OF_A_CASE, room))
            except DataError as error:
                run.reporter.say(f"{case.name} is not in the viewer: {'; '.join(error.lines)}")
                continue
            room -= packed.bytes
            made.add(packed)
            links[case.name] = f"{VIEW}/{FOLDER_PAGE}#{quote(case.name, safe='')}"
            advance(done, case.name)
    made.finish(run.pipeline.name)
    left = len(ranked) - len(links)
    note = (
        f"{left} of the cases cannot be opened in 3-D from here, which would take more disk or time; "
        f"`medfuse view {typed(run.folder)} --case NAME` shows them."
    )
    return links, note if left else ""


def _scene(run: Run, case: EvaluatedCase) -> Scene:
    info = run.info
    return Scene(
        case.name,
        run.cases[case.name].images[0],
        {REFERENCE: case.pair.reference, PREDICTION: case.pair.prediction},
        entries_of(info.labels, info.label_table, info.region_order),
        info.ignore,
        info.channels[0].strip().lower() == "ct",
        {name: m.dice for name, m in case.metrics.items()},
        case.dice,
        tolerance_mm=run.pipeline.preprocess.tolerance_mm,
    )
