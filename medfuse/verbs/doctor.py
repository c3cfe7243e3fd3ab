"""`medfuse doctor`: faults of geometry and labels in a dataset, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medfuse.api import DatasetInfo
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result


def examine_dataset(data: Path, *, reporter: Reporter) -> Result:
    """Look at every case of the dataset `data` once: its folder, its table, or a pipeline file that names it.

    Its code is 1 where anything is found.
    Raises MedfuseError where it is none that can be read.
    """
    from medfuse.data.doctor.doctor import diagnose, examine_all
    from medfuse.data.settings import PreprocessSettings

    info = _info(data, reporter)
    with reporter.track(f"examining {len(info.cases)} cases", len(info.cases)) as advance:
        exams = examine_all(
            info.cases,
            info,
            tolerance_mm=PreprocessSettings().tolerance_mm,
            progress=lambda done, _: advance(done, ""),
        )
    diagnosis = diagnose(exams, info)
    findings, notes = diagnosis.findings, (*info.notes, *diagnosis.notes)
    kinds = Counter(finding.kind for finding in findings)
    cases = len({finding.case for finding in findings if finding.case})
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    summary = f"{data}: {len(info.cases)} cases examined: " + (
        f"findings in {cases} ({told})" if findings else "nothing found"
    )
    said = {
        "data": str(data),
        "cases": len(info.cases),
        "findings": [finding.to_json() for finding in findings],
        "notes": list(notes),
    }
    lines = [*(finding.line for finding in findings), *(f"note: {note}" for note in notes), summary]
    return Result("\n".join(lines), said, code=1 if findings else 0)


def _info(data: Path, reporter: Reporter) -> DatasetInfo:
    if data.suffix.lower() in (".yaml", ".yml") and data.is_file():
        from medfuse.pipeline import load_pipeline

        pipeline, _ = load_pipeline(data)
        return pipeline.data.read()
    from medfuse.data.detect import detect

    with reporter.track("looking at label maps", 1) as advance:
        return detect(data, progress=lambda done, _: advance(0, f"{done}")).info
