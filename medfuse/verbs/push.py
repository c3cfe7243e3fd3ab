"""`medfuse push`: a model onto huggingface.co."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text
from medfuse.core.result import Result
from medfuse.model.hub import SHARED_WEIGHTS
from medfuse.model.pushing import Target, push
from medfuse.sharing.described import describe
from medfuse.sharing.description import FILE
from medfuse.sharing.folders import SUMS, files_of, refuse_changed
from medfuse.sharing.formats import write_model
from medfuse.trained.loading import weights_file


def push_model(
    model: Path,
    target: str,
    *,
    license: str = "",
    public: bool = False,
    revision: str = "",
    dry_run: bool = False,
    best: bool = False,
    trust: str | Iterable[str] = (),
) -> Result:
    """Send a run, as `--format huggingface` writes it, or a folder that export wrote, as it is; says so.

    Raises MedfuseError, and sends nothing, for a folder that was changed since.
    """
    to = Target.of(target, revision=revision, public=public)
    if (model / FILE).is_file():
        if license:
            raise MedfuseError(f"{model}: is written already; give --license at export, and push that")
        refuse_changed(model)
        return _sent(model, to, dry_run)
    with tempfile.TemporaryDirectory(prefix="medfuse-push-") as around:
        folder = Path(around) / to.name.partition("/")[2]
        weights = weights_file(model, best=best)
        write_model(weights, folder, kind="huggingface", license=license, trust=trust)
        return _sent(folder, to, dry_run)


def _sent(folder: Path, to: Target, dry_run: bool) -> Result:
    said, files = describe(folder), [*files_of(folder), folder / SUMS]
    size = bytes_text(sum(path.stat().st_size for path in files))
    lines = (
        [] if said.license else ["it has no licence, so that nobody else may use it: give one by --license"]
    )
    where = f"hub:{to.name}{f'@{to.revision}' if to.revision else ''}"
    values: dict[str, Any] = {
        "repository": to.name,
        "revision": to.revision or "main",
        "public": to.public,
        "files": [path.relative_to(folder).as_posix() for path in files],
        "license": said.license,
        "notes": lines,
    }
    if dry_run:
        shown = [f"  {path.relative_to(folder).as_posix()}" for path in files]
        seen = "everybody can read" if to.public else "you alone can read"
        lines = [f"would send {len(files)} files, {size}, to {where}, which {seen}:", *shown, *lines]
        return Result("\n".join(lines), {**values, "commit": None})
    place = push(folder, to, f"{said.name}, by medfuse {said.medfuse}")
    runs = (folder / SHARED_WEIGHTS).is_file()
    more = [f"run it by `medfuse infer {where} -i … -o …`"] if runs else []
    text = "\n".join([f"{place}: {len(files)} files, {size}", *more, *lines])
    return Result(text, {**values, "commit": place})
