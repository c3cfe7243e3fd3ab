"""The job of `medfuse features`: maps of one case after another, as one process or as a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medfuse.api import Case, FeatureInfo
from medfuse.core.errors import OutputError
from medfuse.core.json_text import validated
from medfuse.infer.feature_files import FORMATS, Format, file_names, write_maps
from medfuse.infer.features import FeatureMap, Pool, feature_maps
from medfuse.infer.fleet import Fleet, Share
from medfuse.infer.fleet_files import FOLDER
from medfuse.infer.folder import work_through
from medfuse.infer.ledger import Outcome
from medfuse.model.engines import whole_engine
from medfuse.model.selection import select
from medfuse.trained.loading import load_trained
from medfuse.trained.trained import Trained
from medfuse.verbs.crews import Workers

VERB = "features"


class HowFeatures(BaseModel):
    """The options of `medfuse features` that a worker needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path
    layers: tuple[str, ...]
    pool: Pool = "none"
    kind: Format = "npz"
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class FeatureJob:
    """How one case becomes files."""

    how: HowFeatures
    model: Trained
    layers: Sequence[FeatureInfo]

    @classmethod
    def of(cls, how: HowFeatures, trust: str | Iterable[str]) -> FeatureJob:
        """Raises MedfuseError where the model has no such layers."""
        model = load_trained(
            [how.weights], device=how.device, overrides=how.overrides, maps=how.layers, trust=trust
        )
        assert model.graph is not None, "what was exported is refused where maps are wanted"
        return cls(how, model, select(model.graph, how.layers))

    @property
    def facts(self) -> dict[str, Any]:
        """All that the files of a case depend on, besides its image."""
        return {
            "weights": list(self.model.hashes),
            "layers": self._names,
            "pool": self.how.pool,
            "format": self.how.kind,
            "patch_size": list(self.model.plan.patch_size),
            "overlap": self.model.settings.windows_overlap,
        }

    @property
    def _names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def files(self, case: Case) -> list[str]:
        return file_names(case.name, self._names, self.how.kind)

    def former(self, case: Case) -> dict[str, str]:
        """What earlier calls may have written, in another format."""
        others = (name for other in FORMATS for name in file_names(case.name, self._names, other))
        return dict.fromkeys([name for name in others if name not in self.files(case)], "")

    def save(self, case: Case, folder: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write the maps; return what the manifest says of them."""
        model, windows = self.model, 0

        def count(done: int, of: int) -> None:
            nonlocal windows
            windows = of
            progress(done, of)

        maps = feature_maps(
            model.prepare(case),
            self.network,
            self.layers,
            patch_size=model.plan.patch_size,
            overlap=model.settings.windows_overlap,
            batch_size=model.settings.batch_size,
            pool=self.how.pool,
            device=model.device,
            progress=count,
        )
        write_maps(folder, case.name, maps, self.how.kind)
        engine = whole_engine({"runtime": "torch", "precision": "fp32"}, model.device)
        return {
            "engines": [engine],
            "windows": windows,
            "layers": {m.name: _facts(m) for m in maps},
        }

    def network(self, windows: Tensor) -> Mapping[str, Tensor]:
        made = self.model.segmenter()(windows, (), tuple(f.name for f in self.layers))
        maps: Mapping[str, Tensor] = made[2]
        return maps


def _facts(one: FeatureMap) -> dict[str, Any]:
    return {
        "shape": list(one.values.shape),
        "stride": list(one.stride),
        "spacing_mm": list(one.spacing_mm),
        "affine": one.affine.tolist(),
    }


def fleet_of(output: Path, how: HowFeatures, trust: str | Iterable[str], workers: Workers) -> Fleet:
    """Workers that take cases of `output`."""
    trusted = [word for name in ([trust] if isinstance(trust, str) else trust) for word in ("--trust", name)]
    command = ["work", str(output.resolve()), "--quiet", *trusted]
    start = workers.starter(command, output / FOLDER, how.device)
    return Fleet(start, workers.count, how.model_dump(mode="json"), verb=VERB)


def take_features(share: Share, trust: str | Iterable[str]) -> Outcome:
    """What this process does as a worker. Raises OutputError where others work otherwise."""
    what = "start the fleet anew"
    how = validated(HowFeatures, share.work.how, str(share.output), raises=OutputError, remedy=what)
    job = FeatureJob.of(how, trust)
    facts, files = job.facts, job.files
    return work_through(
        share.cases, job.save, facts, share.output, files, overwrite=how.overwrite, share=share
    )
