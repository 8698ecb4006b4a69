"""Metrics, hyperparameters and checkpoints to MLflow."""

from __future__ import annotations

import os
import re
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raylight.loggers.base import convert_params, flatten_params, prefixed, rank_zero_experiment, scalar
from raylight.loggers.uploads import CheckpointUploads
from raylight.utilities.extras import import_extra
from raylight.utilities.rank_zero import log, rank_zero_warn
from raylight.utilities.secrets import redact_text

if TYPE_CHECKING:
    from raylight.callbacks.checkpoint import ModelCheckpoint

LOCAL_FILE_URI_PREFIX = "file:"
TRACKING_URI = os.environ.get("MLFLOW_TRACKING_URI")
"""The user's, read when this module is imported: later the variable holds what the last logger told MLflow."""
MOST_PARAMS = 100
"""Parameters that MLflow takes in one request."""
LONGEST_PARAM = 250
"""Characters of a parameter's value that every version of MLflow takes."""
RUN_NAME_TAG = "mlflow.runName"
"""Where MLflow keeps a run's name."""
STATUSES = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}


class MLFlowLogger(CheckpointUploads):
    """Log to MLflow: ``pip install raylight[mlflow]``.

    Args:
        experiment_name: The experiment, which is made if there is none of this name.
        run_name: Shown as the run's name; takes the place of a tag ``mlflow.runName``.
        tracking_uri: Address of the server or store; by default the environment variable ``MLFLOW_TRACKING_URI``. None
            is ``file:`` and ``save_dir``, which newer versions of MLflow refuse unless the environment says
            ``MLFLOW_ALLOW_FILE_STORE=true``: give ``"sqlite:///mlflow.db"`` there.
        tags: Tags of the run.
        save_dir: A local directory, used where there is no tracking URI.
        log_model: Keep checkpoints as artifacts: "all" when they are written, True when the run ends (or when they
            are written, with ``ModelCheckpoint(save_top_k=-1)``), False never.
        prefix: Stands before every metric's name, with a "-" between them.
        artifact_location: Where a new experiment keeps its artifacts. None is the server's choice.
        run_id: A run to go on with. None starts a new one at the first use of the logger.
        synchronous: Whether MLflow waits for each record to be written. None is MLflow's choice.
        checkpoint_path_prefix: Folder of the run's artifacts below which checkpoints go. "" is the top.

    Raises:
        ModuleNotFoundError: MLflow is not installed.

    In a worker, ``logger.run_id`` and ``logger.experiment_id`` are known, and calls of ``logger.experiment`` are made
    on the driver: a file that is handed over by its path must be there.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = TRACKING_URI,
        tags: dict[str, Any] | None = None,
        save_dir: str | None = "./mlruns",
        log_model: Literal["all"] | bool = False,
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
        synchronous: bool | None = None,
        checkpoint_path_prefix: str = "",
    ) -> None:
        import_extra("mlflow", "MLFlowLogger", "raylight[mlflow]")
        from mlflow.tracking import MlflowClient

        super().__init__(log_model)
        self._experiment_name = experiment_name
        self._experiment_id: str | None = None
        self._run_name = run_name
        self._run_id = run_id
        self._tracking_uri = tracking_uri or f"{LOCAL_FILE_URI_PREFIX}{save_dir}"
        self.tags = tags
        self._prefix = prefix
        self._artifact_location = artifact_location
        self._checkpoint_path_prefix = checkpoint_path_prefix
        self._log_batch_kwargs = {} if synchronous is None else {"synchronous": synchronous}
        self._initialized = False
        self._mlflow_client: Any = MlflowClient(self._tracking_uri)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``MlflowClient``; its first use finds or makes the experiment and the run."""
        if not self._initialized:
            import mlflow

            mlflow.set_tracking_uri(self._tracking_uri)
            if self._run_id is not None:
                self._experiment_id = self._mlflow_client.get_run(self._run_id).info.experiment_id
            else:
                self._experiment_id = self._find_experiment()
                self._run_id = self._start_run(self._experiment_id)
            self._initialized = True
        return self._mlflow_client

    def _find_experiment(self) -> str:
        client = self._mlflow_client
        found = client.get_experiment_by_name(self._experiment_name)
        if found is not None and found.lifecycle_stage != "deleted":
            return str(found.experiment_id)
        log.warning(f"Experiment with name {self._experiment_name} not found. Creating it.")
        return str(client.create_experiment(name=self._experiment_name, artifact_location=self._artifact_location))

    def _start_run(self, experiment_id: str) -> str:
        from mlflow.tracking.context.registry import resolve_tags

        if self._run_name is not None:
            if RUN_NAME_TAG in (self.tags or {}):
                log.warning(
                    f"The tag {RUN_NAME_TAG} is found in tags. The value will be overridden by {self._run_name}."
                )
            self.tags = {**(self.tags or {}), RUN_NAME_TAG: self._run_name}
        run = self._mlflow_client.create_run(experiment_id=experiment_id, tags=resolve_tags(self.tags))
        return str(run.info.run_id)

    @property
    def run_id(self) -> str | None:
        """Of the run, which is started if there is none yet."""
        self.experiment  # noqa: B018
        return self._run_id

    @property
    def experiment_id(self) -> str | None:
        """Of the experiment, which is made if there is none yet."""
        self.experiment  # noqa: B018
        return self._experiment_id

    @property
    def name(self) -> str | None:
        """The experiment's id."""
        return self.experiment_id

    @property
    def version(self) -> str | None:
        """The run's id."""
        return self.run_id

    @property
    def save_dir(self) -> str | None:
        """The local directory of all experiments; None where the tracking URI is no ``file:``."""
        if self._tracking_uri.startswith(LOCAL_FILE_URI_PREFIX):
            return self._tracking_uri[len(LOCAL_FILE_URI_PREFIX) :]
        return None

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Record hyperparameters: nested ones as "a/b", values as text, cut after 250 characters."""
        from mlflow.entities import Param

        flat = flatten_params(convert_params(params))
        entities = [Param(key=name, value=redact_text(str(value))[:LONGEST_PARAM]) for name, value in flat.items()]
        for start in range(0, len(entities), MOST_PARAMS):
            batch = entities[start : start + MOST_PARAMS]
            self.experiment.log_batch(run_id=self.run_id, params=batch, **self._log_batch_kwargs)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers; text is left out, and so are characters of a name that MLflow does not allow."""
        from mlflow.entities import Metric

        timestamp = int(time.time() * 1000)
        entities = []
        for name, value in prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR).items():
            if isinstance(value, str):
                log.warning(f"Discarding metric with string value {name}={value}.")
                continue
            entities.append(Metric(key=_allowed(name), value=scalar(value), timestamp=timestamp, step=step or 0))
        self.experiment.log_batch(run_id=self.run_id, metrics=entities, **self._log_batch_kwargs)

    def finalize(self, status: str = "success") -> None:
        """Upload the checkpoints that have waited, and mark the run as over; a logger never used does nothing."""
        if not self._initialized:
            return
        self._upload_rest()
        if self.experiment.get_run(self.run_id):
            self.experiment.set_terminated(self.run_id, STATUSES.get(status, status))

    def _metadata_key(self, callback: ModelCheckpoint) -> str:
        return "Checkpoint"

    def _upload(self, path: str, metadata: dict[str, Any], aliases: list[str]) -> None:
        import yaml

        folder = (Path(self._checkpoint_path_prefix) / Path(path).stem).as_posix()
        self.experiment.log_artifact(self.run_id, path, folder)
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "metadata.yaml").write_text(yaml.dump(metadata, default_flow_style=False))
            (Path(temporary) / "aliases.txt").write_text(str(aliases))
            self.experiment.log_artifacts(self.run_id, temporary, folder)


def _allowed(name: str) -> str:
    allowed = re.sub("[^a-zA-Z0-9_/. -]+", "", name)
    if allowed != name:
        rank_zero_warn(
            "MLFlow only allows '_', '/', '.' and ' ' special characters in metric name. "
            f"Replacing {name} with {allowed}.",
            category=RuntimeWarning,
        )
    return allowed
