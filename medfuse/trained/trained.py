"""Trained networks with all that inference needs, and what they do with cases."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.api import Case, Runtime
from medfuse.core.engine import Engine, label, told_by, told_once
from medfuse.core.errors import CheckpointError, DataError, MedfuseError, StorageError
from medfuse.core.reporter import Advance, Reporter
from medfuse.infer.settings import InferSettings
from medfuse.model.plan import GraphPlan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from medfuse.core.geometry import Geometry
    from medfuse.core.prepared import Outlook
    from medfuse.core.prepared import Prepared as PreparedCase
    from medfuse.core.region import Region
    from medfuse.data.focus import Focus
    from medfuse.data.plan import DataPlan
    from medfuse.data.prepare import Preprocessor
    from medfuse.data.profile import Profile
    from medfuse.infer.away import Scratch
    from medfuse.infer.bricks import Brick
    from medfuse.infer.bucket import Bucket
    from medfuse.infer.fleet import Fleet, Share
    from medfuse.infer.ledger import Outcome, Progress
    from medfuse.infer.plan import Plans, WindowCost
    from medfuse.infer.probabilities import ProbabilityFormat
    from medfuse.infer.recipe import Recipe
    from medfuse.infer.shards import Shard
    from medfuse.infer.sliding import WindowCount
    from medfuse.infer.way import Way
    from medfuse.infer.windows import Grid
    from medfuse.model.segmenter import Segmenter
    from medfuse.quality.agreement import Agreement
    from medfuse.quality.case import CaseScores
    from medfuse.quality.judge import Judge
    from medfuse.quality.stored import StoredCalibration
    from medfuse.volumes.dicom.seg import SegKind

log = logging.getLogger(__name__)

NOTHING_FOUND = "nothing found, so all of the volume is looked at"
"""What is said of a case in which the first stage of a cascade sees nothing but background."""

MOST_LINES = 5
"""About cases whose intensities are unlike those of training, which are read one by one."""

_MOST_UNANSWERED = 3

Prepare = Callable[["Tensor", "Engine | None"], Callable[["Tensor"], "Tensor"]]


@dataclass(frozen=True)
class Trained:
    """Trained networks (one, or the folds of one model) with all that inference needs.

    What `medfuse export` wrote is a callable, windows → logits, or a module; it has no graph. `before`: where
    they are the second stage of a cascade, the first, whose label map these are shown beside the image or
    which says where to look, as their plan has it.
    `calibration`: what their cross-validation told of the quality of label maps.
    """

    networks: tuple[nn.Module | Prepared, ...]
    hashes: tuple[str, ...]
    graph: GraphPlan | None
    plan: DataPlan
    settings: InferSettings
    device: torch.device
    before: Trained | None = None
    name: str = ""
    calibration: StoredCalibration | None = None

    def infer(
        self,
        cases: Sequence[Case],
        output: Path,
        reporter: Reporter,
        *,
        max_memory: int | None = None,
        probabilities: ProbabilityFormat | None = None,
        overwrite: bool = False,
        strict: bool = False,
        formats: Sequence[str] = (),
        seg_type: SegKind = "labelmap",
        statistics: bool = False,
        share: Share | None = None,
        fleet: Fleet | None = None,
        shard: Shard | None = None,
        scratch: Scratch | None = None,
        bucket: Bucket | None = None,
        given: Mapping[str, Mapping[str, Any]] = {},
    ) -> Outcome:
        """Label maps of `cases` into `output`, probabilities too where wanted, and what became of each.

        What medfuse did not write there, or somebody changed, stays unless `overwrite`. Images unlike those
        of training are told, and with `strict` they fail. `formats`: of label maps (see infer.formats), else
        that of each image. `statistics`: whether to measure them (see trained.statistics).

        With `max_memory`, in bytes, main memory grows by no more than that above the loaded model. Raises
        MedfuseError before any work where a case cannot be done in it.
        """
        from medfuse.data.foreign import strange, strange_values
        from medfuse.infer.fleet import by_size
        from medfuse.infer.folder import infer_cases, infer_part
        from medfuse.infer.manifest import engines_of
        from medfuse.trained.statistics import refuse_other_statistics, write_statistics
        from medfuse.volumes.dicom.origins import place_of

        if self.before is not None and max_memory is not None:
            raise MedfuseError("--max-memory: is not planned for the two stages of a cascade; leave it out")
        recipe = self._recipe(probabilities=probabilities, formats=formats, seg_type=seg_type)
        if share is not None:
            runners = self._as_before(share.engines(lambda: self._engines_for(share.cases, scratch)))
        elif shard is not None:
            runners = ()
        elif fleet is not None:
            runners, fleet = (), replace(fleet, engines=engines_of(output, recipe.facts()))
        else:
            known = engines_of(output, recipe.facts())
            if not known and len(cases) > 1 and max_memory is None:
                known = self._engines_for(by_size(cases), scratch)  # as workers and shards find them
            runners = self._as_before(known)
        ways: dict[str, Way] = {}
        told: Counter[str] = Counter()

        def alike(share: Share) -> Sequence[Prepared]:
            nonlocal runners
            before = engines_of(output, recipe.facts())
            runners = self._as_before(
                share.engines(lambda: before or self._engines_for(by_size(cases), scratch))
            )
            return runners

        def plan(left: Sequence[Case]) -> Mapping[str, Way]:
            if max_memory is None:
                self.tell_of_foreign(left)
            elif left:
                how: dict[str, Any] = {"probabilities": probabilities is not None, "runners": runners}
                how |= {"strict": strict, "formats": formats, "seg_type": seg_type}
                plans = self.plans(left, max_memory, **how).plans
                ways.update({plan.name: plan.way for plan in plans})
            return ways

        def prepare(case: Case) -> PreparedCase:
            scratch = output if case.name in ways and ways[case.name].on_disk else None
            header = strange(self.plan, self._preprocessor.look(case))
            if strict and header:
                raise DataError(f"{place_of(case.images[0])}: {_refusal(header)}")
            made = self.prepare(case, scratch=scratch)
            values = strange_values(self.plan, made.profiles)
            if strict and values:
                raise DataError(f"{place_of(case.images[0])}: {_refusal(values)}")
            self._tell({case.name: values}, told)
            far = self._distances(made.geometry, made.profiles, made.image)
            return replace(made, unlike=(*header.values(), *values.values()), distances=far)

        if statistics:
            refuse_other_statistics(output, overwrite=overwrite)
        with reporter.track(
            f"predicting {len(cases)} case{'s' * (len(cases) != 1)}", 100 * len(cases)
        ) as advance:
            made: dict[str, Any] = {"prepare": prepare, "recipe": recipe, "plan": plan, "output": output}
            made |= {"device": self.device, "scratch": scratch, "given": given}
            made |= {"overwrite": overwrite, "strict": strict, "judge": self.judge, "heads": self.heads}
            if shard is not None:
                return infer_part(shard, cases, networks=alike, **made)
            outcome = infer_cases(
                cases,
                networks=runners,
                progress=case_progress(reporter, advance),
                share=share,
                fleet=fleet,
                **made,
                bucket=bucket,
            )
        if statistics and share is None:
            write_statistics(output, self.plan, overwrite=overwrite)
        return outcome

    def _distances(
        self, geometry: Geometry, profiles: Sequence[Profile], image: npt.NDArray[np.float32]
    ) -> dict[str, float | None]:
        """How far an image, which `image` was prepared from, is from those of training (see data.usual), and
        how rough it is; nothing where they are not known."""
        from medfuse.data.usual import distances
        from medfuse.quality.grain import NAME, grain_of

        if self.plan.usual is None:
            return {}
        fixed = [how.is_fixed for how in self.plan.normalization]
        own = image[: len(fixed)]  # of the second stage of a cascade what the first says follows
        return {**distances(self.plan.usual, geometry, profiles, fixed), NAME: grain_of(own)}

    def look(self, case: Case) -> Outlook:
        """What the headers of a case say of its preparation. Raises DataError."""
        return self._preprocessor.look(case)

    def prepare(self, case: Case, *, scratch: Path | None = None) -> PreparedCase:
        """What the networks are shown of a case: its image, and what the stage before says of it."""
        made = self._preprocessor.prepare(case, scratch=scratch)
        if self.before is None or not self._asks:
            return made
        earlier = self.before.prepare(case)
        image, region, stage = self._after(made.image, earlier.image, earlier.region, made.geometry)
        return replace(made, image=image, region=region, stage=stage)

    def prepare_label(self, case: Case, like: PreparedCase) -> npt.NDArray[np.integer[Any]]:
        """Numbers of a case's label values (see DataPlan) on the networks' grid. Raises DataError."""
        return self._preprocessor.prepare_label(case, like)

    def label_map(self, voxels: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The label map (i, j, k) of voxels (channels, i, j, k) in memory."""
        return self._decided(*self._seen_by_networks(voxels, geometry), geometry)

    def judged_map(
        self, voxels: npt.NDArray[Any], geometry: Geometry
    ) -> tuple[npt.NDArray[np.unsignedinteger[Any]], dict[str, Any]]:
        """The same, and how far it is to be trusted: `quality` and `case_quality`, as a manifest has them."""
        from medfuse.data.profile import profile_of
        from medfuse.infer.sliding import passes_of
        from medfuse.quality.agreement import Agreement
        from medfuse.quality.scores import rounded

        (image, region), recipe = self._seen_by_networks(voxels, geometry), self._recipe()
        passes = passes_of(self.runners, self.settings.mirror, len(self.plan.patch_size), self.heads)
        agreement = Agreement(passes, len(recipe.written), recipe.kind) if len(passes) > 1 else None
        sweep = self._grid_of(image.shape).sweep
        x, y, z = image.shape[1:]
        scores = recipe.scores((x, y, z), geometry, self.judge.volumes, sweep=sweep)
        labels = self._decided(image, region, geometry, scores, agreement)
        far = self._distances(geometry, [profile_of(channel) for channel in voxels], image)
        return labels, {
            "quality": self.judge.entry(scores.found(agreement), far),
            "case_quality": rounded(far),
        }

    def _seen_by_networks(
        self, voxels: npt.NDArray[Any], geometry: Geometry
    ) -> tuple[npt.NDArray[np.float32], Region | None]:
        """Voxels in memory, prepared, and which part is looked at; what is foreign about them is told."""
        from medfuse.data.foreign import strange_values
        from medfuse.data.profile import profile_of

        outlook = self._preprocessor.look_at_array(voxels, geometry)
        self._warn_of_foreign([outlook], self._told_of_arrays)
        values = strange_values(self.plan, [profile_of(channel) for channel in voxels])
        self._tell({outlook.name: values}, self._told_of_arrays, most=1)
        return self._prepared_array(voxels, geometry)

    def _prepared_array(
        self, voxels: npt.NDArray[Any], geometry: Geometry
    ) -> tuple[npt.NDArray[np.float32], Region | None]:
        """As `prepare`, of voxels in memory: the image, and which part of it is looked at."""
        image = self._preprocessor.prepare_array(voxels, geometry)
        if self.before is None or not self._asks:
            return image, None
        image, region, _ = self._after(image, *self.before._prepared_array(voxels, geometry), geometry)
        return image, region

    @property
    def _focus(self) -> Focus | None:
        return None if self.settings.windows == "all" else self.plan.focus

    @property
    def _asks(self) -> bool:
        """Whether anything that the stage before says is wanted."""
        return bool(self.plan.before) or self._focus is not None

    def _after(
        self,
        image: npt.NDArray[np.float32],
        earlier: npt.NDArray[np.float32],
        earlier_region: Region | None,
        geometry: Geometry,
    ) -> tuple[npt.NDArray[np.float32], Region | None, str]:
        """An image with the label map of the stage before beside it, which is shown the `earlier` image;
        which part of it is looked at; and that in words."""
        import numpy as np

        assert self.before is not None
        found = np.zeros(earlier.shape[1:], np.float32)
        bricks = self.before._bricks(earlier, earlier_region)
        if self._focus is not None:
            bricks = self.before._noting(bricks, found)
        if self.plan.before:
            labels = self.before._decided_of(bricks, earlier.shape, geometry)
            image = self._preprocessor.with_stage(image, labels, geometry)
        else:
            deque(bricks, 0)
        if self._focus is None:
            return image, None, ""
        x, y, z = image.shape[1:]
        region = self._focus.region(found, geometry, (x, y, z))
        return image, region, NOTHING_FOUND if region is None else f"{region.there.mean():.1%} looked at"

    def _grid_of(self, image_shape: Sequence[int], overlap: float | None = None) -> Grid:
        """The windows of an image of this shape (channels, x, y, z)."""
        from medfuse.infer.windows import plan_grid

        how = self.settings
        share = how.windows_overlap if overlap is None else overlap
        return plan_grid(image_shape[1:], self.plan.patch_size, share, stepped=how.stepped)

    def presence(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(x, y, z): the probability of anything but background, on the grid of a prepared image."""
        import numpy as np

        found = np.zeros(image.shape[1:], np.float32)
        deque(self._noting(self._bricks(image), found), 0)
        return found

    def _noting(self, bricks: Iterator[Brick], found: npt.NDArray[np.float32]) -> Iterator[Brick]:
        """The same bricks, whose probability of anything but background is written into `found`."""
        for brick in bricks:
            logits = brick.logits.float()
            share = logits.sigmoid().amax(0) if self.plan.regions else 1 - logits.softmax(0)[0]
            found[brick.where] = share.cpu().numpy()
            yield brick

    def _bricks(
        self,
        image: npt.NDArray[np.float32],
        region: Region | None = None,
        *,
        overlap: float | None = None,
        count: WindowCount | None = None,
        agreement: Agreement | None = None,
    ) -> Iterator[Brick]:
        """Logits of a prepared image, by windows that overlap as the settings say where it is not said."""
        from medfuse.infer.sliding import predict_bricks

        how = self.settings
        return predict_bricks(
            image,
            self.runners,
            patch_size=self.plan.patch_size,
            classes=len(self.plan.classes),
            overlap=how.windows_overlap if overlap is None else overlap,
            batch_size=how.batch_size,
            mirror=how.mirror,
            stepped=how.stepped,
            skip_air=how.skip_air,
            adaptive_overlap=how.adaptive_overlap,
            kind="regions" if self.plan.regions else "softmax",
            region=region,
            count=count,
            device=self.device,
            heads=self.heads,
            agreement=agreement,
        )

    def decided(self, case: PreparedCase, overlap: float) -> tuple[npt.NDArray[np.unsignedinteger[Any]], int]:
        """The label map (i, j, k) of a prepared case with this overlap, and how many windows were run."""
        from medfuse.infer.sliding import WindowCount

        count = WindowCount()
        bricks = self._bricks(case.image, case.region, overlap=overlap, count=count)
        return self._decided_of(bricks, case.image.shape, case.geometry, overlap), count.run

    def _decided(
        self,
        image: npt.NDArray[np.float32],
        region: Region | None,
        geometry: Geometry,
        scores: CaseScores | None = None,
        agreement: Agreement | None = None,
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The label map (i, j, k) of an image that is prepared; its `scores` are gathered on the way."""
        bricks = self._bricks(image, region, agreement=agreement)
        if scores is not None:
            bricks = _scored(bricks, scores)
        return self._decided_of(bricks, image.shape, geometry)

    def _decided_of(
        self,
        bricks: Iterator[Brick],
        image_shape: Sequence[int],
        geometry: Geometry,
        overlap: float | None = None,
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The label map (i, j, k) that logits of an image of this shape (channels, x, y, z) say."""
        from medfuse.infer.stitch import spare_memory
        from medfuse.volumes.slabs import Whole

        _, x, y, z = image_shape
        grid = self._grid_of(image_shape, overlap)
        spare_memory(grid, len(self.plan.classes))
        recipe = self._recipe()
        exporter = recipe.exporter((x, y, z), geometry, sweep=grid.sweep)
        labels = Whole(geometry.shape, exporter.dtype)
        for brick in bricks:
            if rows := exporter.add(brick):
                labels.write(rows.axis, rows.start, rows.labels)
        return recipe.tidied(labels.voxels, geometry) if recipe.steps else labels.voxels

    def plans(
        self,
        cases: Sequence[Case],
        max_memory: int | None = None,
        *,
        probabilities: bool = False,
        runners: Sequence[Callable[[Tensor], Tensor]] = (),
        strict: bool = False,
        formats: Sequence[str] = (),
        seg_type: SegKind = "labelmap",
    ) -> Plans:
        """What each of `cases` will take, from its header, and what one window of the smallest one took.

        `runners`: what runs the networks, where it is not what the settings choose.

        Nothing is written but a nameless temporary file. A case that cannot be read is among the faults, and
        with `strict` one whose header is unlike those of training.
        Raises MedfuseError where a case cannot be done in `max_memory` bytes.
        """
        from medfuse.core.device import return_memory
        from medfuse.data.foreign import strange
        from medfuse.infer.plan import Planner, Plans

        if max_memory is not None:
            return_memory()
        outlooks: dict[str, Outlook] = {}
        faults: dict[str, str] = {}
        label_files = self._recipe(formats=formats, seg_type=seg_type).label_files
        for case in cases:
            if reason := label_files.refusal(case):
                faults[case.name] = reason
                continue
            try:
                outlooks[case.name] = self._preprocessor.look(case)
            except DataError as error:
                faults[case.name] = "; ".join(error.lines)
        self._warn_of_foreign([*outlooks.values()])
        if strict:
            for name, how in {name: strange(self.plan, one) for name, one in outlooks.items()}.items():
                if how:
                    faults[name] = _refusal(how)
                    del outlooks[name]
        cost: WindowCost | None = None
        readable = [case for case in cases if case.name in outlooks]
        for case in sorted(readable, key=lambda case: prod(outlooks[case.name].shape)):
            try:
                cost = self._window_cost(case, runners or self.runners)
                break
            except DataError as error:
                faults[case.name] = "; ".join(error.lines)
                del outlooks[case.name]
        if cost is None:
            return Plans([], faults)
        planner = Planner(
            self.plan.patch_size,
            len(self.plan.classes),
            self.settings,
            cost,
            probabilities,
            self._recipe().kind,
            label_files,
        )
        return Plans(planner.plan([*outlooks.values()], max_memory), faults)

    def tell_of_foreign(self, cases: Sequence[Case]) -> None:
        """A warning for each way in which images are plainly not of the kind that was trained on.

        What cannot be read is passed over.
        """
        outlooks = []
        for case in cases:
            with suppress(DataError):
                outlooks.append(self._preprocessor.look(case))
        self._warn_of_foreign(outlooks)

    def _warn_of_foreign(self, outlooks: Sequence[Outlook], told: Counter[str] | None = None) -> None:
        """What is among the kinds that were `told` is not told again."""
        from medfuse.data.foreign import strange

        found = {outlook.name: strange(self.plan, outlook) for outlook in outlooks}
        self._tell(found, Counter() if told is None else told, most=1)

    def _tell(
        self, found: Mapping[str, Mapping[str, str]], told: Counter[str], *, most: int = MOST_LINES
    ) -> None:
        """A warning for each kind, of case → kind → how; after `most` of a kind the manifest alone tells."""
        from medfuse.data.foreign import in_lines

        for kind, line in in_lines(found).items():
            told[kind] += 1
            if told[kind] <= most:
                more = "; manifest.json tells of others" if told[kind] == most > 1 else ""
                log.warning("%s%s", line, more)

    def _engines_for(self, cases: Sequence[Case], scratch: Scratch | None = None) -> list[Engine]:
        """What runs the networks, tried out on the last case that can be read; none if none can.

        Of the same cases one process, workers and shards try the same one, so that all of them choose alike.

        Raises StorageError where images are elsewhere and a few of them do not come.
        """
        unanswered = 0
        for case in reversed(cases):
            try:
                self._one_window(scratch.bring(case) if scratch else case, self.runners)()
                return [run.engine for run in self.runners]
            except StorageError:
                unanswered += 1
                if unanswered == _MOST_UNANSWERED:
                    raise
            except DataError:
                continue
            finally:
                if scratch:
                    scratch.drop(case)
        return []

    def _window_cost(self, case: Case, runners: Sequence[Callable[[Tensor], Tensor]]) -> WindowCost:
        from medfuse.infer.plan import measure

        return measure(self._one_window(case, runners))

    def _one_window(self, case: Case, runners: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[], Tensor]:
        """What gives the logits of a window in the middle of a case."""
        import numpy as np

        from medfuse.infer.plan import run_one_window

        made = self._preprocessor.prepare(case, scratch=Path(tempfile.gettempdir()))
        image = made.image
        if self.plan.before:  # whatever it may say
            nothing = np.zeros(made.geometry.shape, np.uint8)
            image = self._preprocessor.with_stage(image, nothing, made.geometry)
        return partial(
            run_one_window,
            image,
            runners,
            patch_size=self.plan.patch_size,
            classes=len(self.plan.classes),
            mirror=self.settings.mirror,
            device=self.device,
            heads=self.heads,
        )

    def _recipe(
        self,
        *,
        probabilities: ProbabilityFormat | None = None,
        formats: Sequence[str] = (),
        seg_type: SegKind = "labelmap",
    ) -> Recipe:
        from medfuse.infer.formats import LabelFiles
        from medfuse.infer.recipe import Recipe
        from medfuse.volumes.dicom.about import MAKER, About

        plan = self.plan
        hashes = (*self.hashes, *(self.before.hashes if self.before else ()))
        about = About(self.name or MAKER, medfuse.__version__, hashes)
        files = LabelFiles(tuple(formats), seg_type, plan.entries, about)
        how = (self.settings, plan.region_order, probabilities, files)
        return Recipe(hashes, plan.labels, plan.patch_size, *how)

    @cached_property
    def _preprocessor(self) -> Preprocessor:
        from medfuse.data.prepare import Preprocessor

        return Preprocessor(self.plan)

    @cached_property
    def runners(self) -> tuple[Prepared, ...]:
        """The networks as the runtime runs them; each is prepared when it sees its first windows."""
        from torch import nn

        from medfuse.model.engines import prepare_as

        runtime = self.settings.runtime or registry.get(Runtime.group, "auto")()
        assert isinstance(runtime, Runtime)
        lines: list[str] = []
        for network in self.networks:
            try:
                if isinstance(network, nn.Module):
                    runtime.refuse(network)
            except MedfuseError as error:
                lines += error.lines
        if lines:
            raise MedfuseError(*lines)
        return tuple(
            Prepared(partial(prepare_as, runtime, self._with_heads(network)))
            if isinstance(network, nn.Module)
            else network
            for network in self.networks
        )

    @cached_property
    def _compared(self) -> tuple[str, ...]:
        """The auxiliary heads whose decisions are asked for. Raises MedfuseError where there are none."""
        if not self.settings.compare_heads:
            return ()
        from medfuse.model.every_head import heads_to_compare

        if self.graph is None:
            raise MedfuseError("infer.compare_heads: what was exported has one head; give the run instead")
        if not (heads := heads_to_compare(self.graph)):
            raise MedfuseError(
                "infer.compare_heads: the model has no auxiliary heads that decide voxels; leave it out, or "
                "train one with model.aux"
            )
        return heads

    @property
    def judge(self) -> Judge:
        """What says how far a label map is to be trusted."""
        from medfuse.quality.judge import Judge
        from medfuse.quality.stored import SETTINGS

        volumes = self.plan.usual.volumes if self.plan.usual else {}
        if self.calibration is None:
            return Judge(volumes)
        why = self.calibration.otherwise({name: getattr(self.settings, name) for name in SETTINGS})
        return Judge(volumes, self.calibration.classes, why, self.calibration.grain)

    @property
    def heads(self) -> int:
        """With how many heads' logits the runners answer."""
        return 1 + len(self._compared)

    def _with_heads(self, network: nn.Module) -> nn.Module:
        from medfuse.model.every_head import EveryHead
        from medfuse.model.segmenter import Segmenter

        if not self._compared:
            return network
        assert isinstance(network, Segmenter), "what has a graph is one"
        return EveryHead(network, self._compared)

    @property
    def engines(self) -> list[Engine]:
        """What runs the networks: one for all, or one for each. None before the first windows."""
        return [*told_once(run.engine for run in self.runners)]

    def _as_before(self, engines: Sequence[Engine]) -> tuple[Prepared, ...]:
        """The networks as these engines run them, where that is possible."""
        if not engines:
            return self.runners
        kept = [engines[min(n, len(engines) - 1)] for n in range(len(self.runners))]
        if all(label(run.engine) == label(engine) for run, engine in zip(self.runners, kept)):
            return self.runners
        key = json.dumps(kept, sort_keys=True)
        if key not in self._kept:
            self._kept[key] = tuple(run.keeping(engine) for run, engine in zip(self.runners, kept))
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[str, tuple[Prepared, ...]]:
        return {}

    @cached_property
    def _told_of_arrays(self) -> Counter[str]:
        """In how far arrays were of another kind than training saw."""
        return Counter()

    def segmenter(self) -> Segmenter:
        """The (first) network as it was trained. Raises CheckpointError for what was exported."""
        from medfuse.model.segmenter import Segmenter

        network = self.networks[0]
        if not isinstance(network, Segmenter):
            raise CheckpointError("an exported network cannot be looked into; give the run, or its weights")
        return network


def _scored(bricks: Iterator[Brick], scores: CaseScores) -> Iterator[Brick]:
    """The same bricks, of which scores are gathered."""
    for brick in bricks:
        scores.add(brick.where, brick.logits)
        yield brick


def _refusal(found: Mapping[str, str]) -> str:
    return f"unlike the images of training: {'; '.join(found.values())}; or leave out --strict"


def case_progress(reporter: Reporter, advance: Advance) -> Callable[[Progress], None]:
    """Moves a bar of 100 units a case, and names those that fail or are left as they are."""
    parts: dict[str, float] = {}

    def progress(now: Progress) -> None:
        ended = now.state != "predicting"  # the network may be at the next case before one is written
        parts[now.case] = 1.0 if ended else now.windows_done / max(now.windows, 1)
        advance(int(100 * sum(parts.values())), now.case)
        if now.state in ("failed", "left"):
            reporter.say(f"{now.case}: {now.state}: {now.reason}")

    return progress


class Prepared:
    """Windows → logits, by what `prepare` makes of the first windows.

    `prepare` is given those, and the engine that it is to be where that is possible. Threads take turns:
    hooks and engines keep things of a call until it ends.
    """

    def __init__(self, prepare: Prepare, kept: Engine | None = None) -> None:
        self._prepare = prepare
        self._kept = kept
        self._run: Callable[[Tensor], Tensor] | None = None
        self._turn = threading.Lock()

    def __call__(self, windows: Tensor) -> Tensor:
        with self._turn:
            if self._run is None:
                self._run = self._prepare(windows, self._kept)
            return self._run(windows)

    @property
    def engine(self) -> Engine:
        """What runs it; empty before the first windows."""
        return told_by(self._run)

    def keeping(self, engine: Engine) -> Prepared:
        """The same network, run by `engine` where that is possible."""
        return Prepared(self._prepare, engine)
