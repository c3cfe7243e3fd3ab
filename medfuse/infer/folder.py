"""Case after case into one folder: what is finished is skipped, what fails is named, and the rest go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Case
from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.core.prepared import Prepared
from medfuse.infer.away import Scratch, files_now
from medfuse.infer.bucket import Bucket
from medfuse.infer.fleet import Fleet, Share, SharedLedger
from medfuse.infer.flips import flip_combinations
from medfuse.infer.ledger import Ledger, Outcome, Progress
from medfuse.infer.manifest import with_hashes
from medfuse.infer.probabilities import check_format
from medfuse.infer.recipe import Recipe
from medfuse.infer.shards import Shard, found, gather_parts, gathered, refuse_parts
from medfuse.infer.way import Way
from medfuse.quality.judge import Judge
from medfuse.volumes.dicom.origins import sources_of

if TYPE_CHECKING:
    import torch

    from medfuse.infer.sliding import Network

_TOLD = 10  # label maps that would replace an image
Work = Callable[[Case, Path, Callable[[int, int], None]], dict[str, Any]]
"""Makes the files of a case in a folder, telling (windows done, windows in all); returns what the manifest is
to say of it, with `windows`."""


def infer_cases(
    cases: Sequence[Case],
    *,
    prepare: Callable[[Case], Prepared],
    networks: Sequence[Network],
    recipe: Recipe,
    output: Path,
    device: torch.device | str = "cpu",
    plan: Callable[[Sequence[Case]], Mapping[str, Way]] = lambda _: {},
    progress: Callable[[Progress], None] = lambda _: None,
    overwrite: bool = False,
    strict: bool = False,
    share: Share | None = None,
    fleet: Fleet | None = None,
    judge: Judge | None = None,
    heads: int = 1,
    scratch: Scratch | None = None,
    bucket: Bucket | None = None,
    given: Mapping[str, Mapping[str, Any]] = {},
) -> Outcome:
    """Write a label map for every case into `output`, with the geometry of its image, and manifest.json.

    Where the recipe wants probabilities, CASE_probabilities.zarr or .nii.gz is written too (see
    `open_probabilities`).

    A case that is finished, from the same images and recipe, is skipped. One that fails is named with its
    reason and the rest go on. One whose files medfuse did not write, or somebody changed, is left as it is
    and named, unless `overwrite`. With `strict` one that was finished although its image is unlike those of
    training fails. Raises OutputError before any work where `output` cannot be written,
    another process works in it, or a label map would replace an image, and as soon as the disk is full or the
    folder has gone.

    `prepare` runs in a thread of its own, one case ahead of the network; label maps are decided and written
    in another. The network waits where either is slower, so that no more than two images are in memory.
    `plan` says of the cases that are left, by name, how they are to be worked on (see infer.plan); what it
    raises stops all. A case that a GPU's memory does not hold is tried once more in a smaller way, and the
    log says so.
    `progress` is called by any of the threads, by one at a time.
    `fleet`: workers that do it instead of this process. `share`: what this process takes as a worker of one;
    the outcome is then told by whoever leads. `judge`: what
    says how far each is to be trusted. `heads`: with how many's logits the networks answer.
    `scratch`: for images that are elsewhere. `bucket`: where files go from `output`. `given`: what else is
    known of cases, for the manifest.
    """
    flip_combinations(recipe.settings.mirror, len(recipe.patch_size))
    check_format(recipe.probabilities)
    recipe.label_files.check()
    if share is not None:
        from medfuse.infer.line import Line

        share.check(recipe.facts())
        shared = SharedLedger(share, recipe.files, overwrite=overwrite)
        share.prepare = lambda case: share.ways.update(plan([case]))
        with share.board.joined():
            how = (share.ways, shared, judge, heads, scratch)
            Line(prepare, networks, recipe, output, device, *how).run(share)
        return shared.outcome
    refuse_to_replace_images(cases, lambda case: [output / name for name in recipe.files(case)])
    if bucket is not None:
        bucket.refuse_to_replace_images(cases, [name for case in cases for name in recipe.files(case)])
    with locked(make_folder(output)):
        refuse_parts(output)
        ledger = Ledger(
            cases,
            recipe.facts(),
            output,
            progress,
            recipe.files,
            recipe.former,
            overwrite=overwrite,
            manifest=bucket.manifest(recipe.facts()) if bucket else None,
            given=given,
        )
        gather_parts(ledger, output)
        cases = [case for case in ledger.unfinished(strict=strict) if _can_be_written(case, recipe, ledger)]
        if fleet is not None:
            plan(cases)  # which tells, and refuses, before any work
            fleet.lead(cases, ledger, output, recipe.facts())
        else:
            from medfuse.infer.line import Line, Listed  # and torch, without which one leads

            source, parts = Listed(cases), (plan(cases), ledger, judge, heads, scratch)
            line = Line(prepare, networks, recipe, output, device, *parts)
            ledger.again = source.again
            while source:
                line.run(source)
        return ledger.finish()


def infer_part(
    shard: Shard,
    cases: Sequence[Case],
    *,
    networks: Callable[[Share], Sequence[Network]],
    recipe: Recipe,
    output: Path,
    overwrite: bool = False,
    strict: bool = False,
    **how: Any,
) -> Outcome:
    """The same for a part of `cases`, beside processes that do the others (see infer.shards).

    networks: what this part runs, which is what the others run.
    """
    refuse_to_replace_images(cases, lambda case: [output / name for name in recipe.files(case)])
    facts, files = recipe.facts(), (recipe.files, recipe.former)

    def opened(some: Sequence[Case]) -> Ledger:
        more = {"overwrite": overwrite, "others_stay": True, "given": how.get("given", {})}
        return Ledger(some, facts, output, lambda _: None, *files, **more)

    def unfinished(ledger: Ledger, among: Sequence[Case]) -> list[Case]:
        left = ledger.unfinished(strict=strict, among=among)
        return [case for case in left if _can_be_written(case, recipe, ledger)]

    share = found(shard, cases, output, facts, opened, unfinished)
    try:
        if share.cases:
            ways: dict[str, Any] = {
                "recipe": recipe,
                "output": output,
                "overwrite": overwrite,
                "strict": strict,
                "share": share,
            }
            infer_cases(share.cases, networks=networks(share), **ways, **how)
        return gathered(shard, share, cases, output, opened, unfinished)
    finally:
        share.board.leave()


def _can_be_written(case: Case, recipe: Recipe, ledger: Ledger) -> bool:
    """Whether a case can be written as is wanted; else it has failed. Of what is not there reading tells."""
    there = all(path.exists() for path in case.images)
    reason = recipe.label_files.refusal(case) if there else ""
    if reason:
        ledger.failed(case, DataError(reason))
    return not reason


def work_through(
    cases: Sequence[Case],
    work: Work,
    facts: Mapping[str, Any],
    output: Path,
    files: Callable[[Case], Sequence[str]],
    former: Callable[[Case], Mapping[str, str]] = lambda _: {},
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    overwrite: bool = False,
    share: Share | None = None,
    fleet: Fleet | None = None,
) -> Outcome:
    """`work` on every case that `output`/manifest.json does not list as finished under the same `facts`.

    `files`: the names of what it makes of a case; `former`: see Ledger. A case that fails, or
    whose files are not to be replaced, is named with its reason and the rest go on. Raises OutputError, as
    that concerns all, also where another process works in `output`. `share`, `fleet`: as of `infer_cases`.
    """
    if share is not None:
        share.check(facts)
        shared = SharedLedger(share, files, overwrite=overwrite)
        with share.board.joined():
            while (case := share.take()) is not None:
                _work_on(case, work, shared)
        return shared.outcome
    with locked(make_folder(output)):
        ledger = Ledger(cases, facts, output, progress, files, former, overwrite=overwrite)
        left = ledger.unfinished()
        if fleet is not None:
            fleet.lead(left, ledger, output, facts)
        else:
            for case in left:
                _work_on(case, work, ledger)
        return ledger.finish()


def _work_on(case: Case, work: Work, ledger: Ledger) -> None:
    ledger.windows(case)
    from medfuse.infer.line import failures_of

    began, inputs = time.monotonic(), files_now(case.images)
    with failures_of(case, ledger):
        with ledger.staged(case) as folder:
            entry = work(case, folder, partial(ledger.windows, case))
        inputs = with_hashes(inputs, case.images)
        seconds = round(time.monotonic() - began, 3)
        ledger.done(case, {**entry, "inputs": inputs, "seconds": seconds})


def refuse_to_replace_images(
    cases: Sequence[Case], files: Callable[[Case], Sequence[Path]], what: str = "label map"
) -> None:
    """Raises OutputError where one of the `files` that a case is to get is an image of any case."""
    images = {file.resolve() for case in cases for image in case.images for file in _files_of(image)}
    if clashes := [path for case in cases for path in files(case) if path.resolve() in images]:
        told, more = clashes[:_TOLD], len(clashes) - _TOLD
        lines = [f"{path}: the {what} would replace an image; choose another output folder" for path in told]
        raise OutputError(*lines, *([f"so it is with {more} more"] if more > 0 else []))


def _files_of(image: Path) -> list[Path]:
    """What an image is made of. One that cannot be read fails later, by itself."""
    try:
        return [image, *sources_of(image)]
    except DataError:
        return [image]
