"""MLflow: runs in a folder of this machine, or on a server that is asked for."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.core.offline import import_offline

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_KEY = "medfuse.key"
_AT_ONCE = 100  # parameters that MLflow takes in one call
_LONGEST = 6000  # characters of a value
_NO_NAME = re.compile(r"[^\w\-. /]")


class MLflow(Tracker):
    """Tells MLflow of a run: parameters, numbers of every step, and the report as an artifact.

    Runs are kept in a database in the folder `mlflow` beside the run folders, which `mlflow ui` shows; or on
    the server `uri`.

        track: {use: mlflow, experiment: livers}
    """

    experiment: str = Field("medfuse", min_length=1, description="which experiment runs belong to")
    uri: str = Field("", description="of a tracking server; a folder of this machine if not given")

    def begin(self, run: TrackedRun) -> Tracking:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        mlflow = import_offline("mlflow")
        client = mlflow.tracking.MlflowClient(tracking_uri=self.uri or local(run))
        experiment = client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else self._experiment(client, run)
        known = client.search_runs([number], filter_string=f"tags.`{_KEY}` = '{run.key}'", max_results=1)
        begun = known[0] if known else client.create_run(number, tags={_KEY: run.key}, run_name=run.name)
        client.update_run(begun.info.run_id, status="RUNNING")
        told = _Told(client, begun.info.run_id, run.step)
        told.parameters(run.parameters, begun.data.params)
        return told

    def _experiment(self, client: MlflowClient, run: TrackedRun) -> str:
        files = None if self.uri else (_folder(run) / "files").as_uri()
        return str(client.create_experiment(self.experiment, artifact_location=files))


def local(run: TrackedRun) -> str:
    """Where runs are kept on this machine."""
    return f"sqlite:///{_folder(run) / 'mlflow.db'}"


def _folder(run: TrackedRun) -> Path:
    folder = run.shared.resolve() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Told:
    def __init__(self, client: MlflowClient, run: str, step: int) -> None:
        self._client, self._run, self._step = client, run, step

    def parameters(self, values: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Those that are new: MLflow refuses another value for one that it has."""
        from mlflow.entities import Param

        told = {_name(name): str(value)[:_LONGEST] for name, value in values.items()}
        new = [Param(name, value) for name, value in told.items() if name not in known]
        for first in range(0, len(new), _AT_ONCE):
            self._client.log_batch(self._run, params=new[first : first + _AT_ONCE])

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        self._step, now = step, int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self.log(self._step, {f"held out/{name}": value for name, value in summary.items()})
        for path in files:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run, "FINISHED")

    def stop(self) -> None:
        self._client.set_terminated(self._run, "KILLED")


def _name(text: str) -> str:
    """With the signs that MLflow takes in a name."""
    return _NO_NAME.sub("_", text)[:250]
