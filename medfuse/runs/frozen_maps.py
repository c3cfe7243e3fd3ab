"""Frozen maps in a run: its finite set of patches, and the way from a batch to its maps, kept or computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import MedfuseError
from medfuse.model.plan import GraphPlan
from medfuse.runs.frozen_check import frozen_of
from medfuse.runs.frozen_set import FOLDER, FrozenRecord, FrozenSet

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.model.frozen import Frozen
    from medfuse.model.segmenter import Segmenter
    from medfuse.runs.run import Run


@dataclass(frozen=True)
class FrozenTraining:
    """What training needs of it: its batches, what the network knows of each, and the record of the run."""

    batches: Callable[[int], Generator[Mapping[str, Any], None, None]]
    known: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    record: FrozenRecord


def set_up(
    run: Run, plan: DataPlan, graph: GraphPlan, store: Store, model: Segmenter, fabric: Fabric, kind: str
) -> FrozenTraining:
    """The finite set of patches of a run whose maps are frozen, and the way to their maps.

    `kind`: the precision that training computes in. Raises OutputError where they would not fit on the disk
    or into `--max-disk`, MedfuseError where what is frozen draws by chance.
    """
    from medfuse.data.kept import KeptMaps
    from medfuse.data.patches import PatchSampler
    from medfuse.data.views import Views, viewed_batches

    settings = run.pipeline.train.frozen_maps
    assert settings is not None
    rank, processes = run.together.rank, run.together.size
    pipeline, seed = run.pipeline, run.pipeline.seed
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    frozen = frozen_of(graph, pipeline.train, learning)
    sampler = PatchSampler(store, run.split.train, plan, pipeline.sample, pipeline.augment, seed)
    maker = _Maker(model, fabric, frozen)

    def choose() -> tuple[FrozenRecord, Path, dict[str, str], dict[str, Any]]:
        if not run.starts:
            _restore(run.folder, model)
        computed = [fabric.device.type, kind, settings.precision]
        folders = _folders(graph, model, frozen, computed)
        root = settings.folder or run.store_folder.parent.parent / FOLDER
        chosen = FrozenSet(run, plan, sampler, frozen, root, folders)
        record = chosen.choose(maker)
        return record, chosen.folder(record), folders, chosen.about(record)

    record, folder, folders, about = run.together.first(choose)
    views = Views(record.patches, record.views, plan.batch_size, seed)
    kept = None
    if settings.keep:
        share = f"-{rank}of{processes}" if processes > 1 else ""
        half = settings.precision == "fp16"
        kept = KeptMaps(folder, folders, half=half, image=frozen.needs_image, share=share)

    def batches(start: int) -> Generator[Mapping[str, Any], None, None]:
        made = viewed_batches(sampler, views, kept, start_step=start, rank=rank, processes=processes)
        if kept is None:
            yield from made
            return
        with kept.in_use(about):
            yield from made

    def known(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        from medfuse.model.segmenter import Given

        if (maps := batch["maps"]) is None:
            began = time.perf_counter()
            maps = maker(batch["image"])
            if kept:
                rounded = {name: kept.rounded(made) for name, made in maps.items()}
                _refuse_overflow(maps, rounded)
                kept.write(batch["number"], batch, maps, batch["waited"] + time.perf_counter() - began)
                maps = rounded
        return {"given": Given({name: made.to(fabric.device) for name, made in maps.items()})}

    return FrozenTraining(batches, known, record)


@dataclass(frozen=True)
class _Maker:
    """A batch of images → the maps of what is frozen, as a step of training would compute them."""

    model: Segmenter
    fabric: Fabric
    frozen: Frozen

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        import torch

        from medfuse.core.layout import channels_last
        from medfuse.data.kept import is_dense

        self._hold_still()
        image = self.fabric.to_device(image)
        image = image.contiguous(memory_format=channels_last(image.ndim))
        with torch.no_grad(), self.fabric.autocast():
            made = self.model.maps_of(image, self.frozen.maps)
        return {name: x if is_dense(x) else x.contiguous() for name, x in made.items()}

    def _hold_still(self) -> None:
        """Frozen parts are in evaluation mode in training too; before it begins they may not be yet."""
        for name in self.frozen.parts:
            group = self.model.backbones if name in self.model.backbones else self.model.fusion
            group[name].eval()


def _folders(graph: GraphPlan, model: Segmenter, frozen: Frozen, computed: list[str]) -> dict[str, str]:
    """Map → the name of its folder: what it depends on, besides the patches."""
    from medfuse.model.identity import digest, map_keys

    keys = map_keys(graph, model, frozen.parts)
    return {name: digest([keys[name], *computed]) for name in frozen.maps}


def _restore(folder: Path, model: Segmenter) -> None:
    """The weights of a run that goes on, so that they are known for what they are. Raises CheckpointError."""
    from medfuse.train.state import read_state

    state = read_state(folder)
    if state is not None:
        with suppress(RuntimeError, KeyError, TypeError):  # of another model, as training will say
            model.load_state_dict(state["model"])


def _refuse_overflow(made: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> None:
    """Raises MedfuseError where fp16 does not hold what a map holds."""
    for name, kept in rounded.items():
        if not bool(kept.isfinite().all()) and bool(made[name].isfinite().all()):
            raise MedfuseError(
                f"frozen maps: {name} has values beyond 65,504, which fp16 does not hold; set "
                "train.frozen_maps.precision: fp32"
            )
