"""Metrics, hyperparameters, media and checkpoints to Weights & Biases."""

from __future__ import annotations

import inspect
import json
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from raylight.loggers.base import convert_params, prefixed, rank_zero_experiment
from raylight.loggers.uploads import CheckpointUploads
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.extras import import_extra
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.secrets import redact_text

if TYPE_CHECKING:
    from wandb import Artifact, Run

GLOBAL_STEP = "trainer/global_step"
"""Name of the x-axis."""


class WandbLogger(CheckpointUploads):
    """Log to Weights & Biases: ``pip install raylight[wandb]``.

    Args:
        name: Shown as the run's name. None lets W&B choose one.
        save_dir: Local directory of what W&B writes.
        version: The run's id, to go on with a run. None starts a new one at the first use of the logger.
        offline: Keep everything local; ``wandb sync`` uploads it later. It also sets the environment variable
            ``WANDB_MODE``, for runs that other code of this process starts.
        dir: In place of ``save_dir``, where that is None.
        id: In place of ``version``, where that is None.
        anonymous: Allow runs without an account, for versions of W&B that do.
        project: The run's project. None takes the environment variable ``WANDB_PROJECT``, or else "lightning_logs".
        log_model: Keep checkpoints as artifacts: "all" when they are written, True when the run has succeeded (or when
            they are written, with ``ModelCheckpoint(save_top_k=-1)``), False never.
        experiment: A W&B run to use.
        prefix: Stands before every metric's name, with a "-" between them.
        checkpoint_name: Name of the artifact of the checkpoints. None is "model-" and the run's id.
        add_file_policy: "mutable": W&B copies a checkpoint before it uploads it; "immutable": it trusts that the file
            does not change meanwhile.
        **kwargs: For ``wandb.init``.

    Raises:
        ModuleNotFoundError: W&B is not installed.
        MisconfigurationException: ``log_model`` together with ``offline``.

    In a worker, calls of ``logger`` and ``logger.experiment`` are made on the driver: hand over tensors or arrays, as
    a file that is named by its path must be there.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] | None = ".",
        version: str | None = None,
        offline: bool = False,
        dir: str | os.PathLike[str] | None = None,
        id: str | None = None,
        anonymous: bool | None = None,
        project: str | None = None,
        log_model: Literal["all"] | bool = False,
        experiment: Run | None = None,
        prefix: str = "",
        checkpoint_name: str | None = None,
        add_file_policy: Literal["mutable", "immutable"] = "mutable",
        **kwargs: Any,
    ) -> None:
        import_extra("wandb", "WandbLogger", "raylight[wandb]")
        if offline and log_model:
            raise MisconfigurationException(
                f"Providing log_model={log_model} and offline={offline} is an invalid configuration since model "
                "checkpoints cannot be uploaded in offline mode.\nHint: Set `offline=False` to log your model."
            )
        super().__init__(log_model)
        self._offline = offline
        self._prefix = prefix
        self._experiment: Any = experiment
        self._attach_id: str | None = None
        self._checkpoint_name = checkpoint_name
        self.add_file_policy = add_file_policy
        folder = save_dir if save_dir is not None else dir
        self._wandb_init: dict[str, Any] = {
            "name": name,
            "project": project or os.environ.get("WANDB_PROJECT", "lightning_logs"),
            "dir": None if folder is None else os.fspath(folder),
            "id": version or id,
            "resume": "allow",
            "anonymous": "allow" if anonymous else None,
            **kwargs,
        }
        self._project: str | None = self._wandb_init["project"]
        self._save_dir: str | None = self._wandb_init["dir"]
        self._name: str | None = self._wandb_init["name"]
        self._id: str | None = self._wandb_init["id"]

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; its first use starts it, or takes the one that this process has."""
        if self._experiment is None:
            self._experiment = self._start_run()
        return self._experiment

    def _start_run(self) -> Any:
        import wandb

        if self._offline:
            os.environ["WANDB_MODE"] = "dryrun"  # as in Lightning; W&B reads it once, so `mode` says it again below
        if wandb.run is not None:
            rank_zero_warn(
                "There is a wandb run already in progress and newly created instances of `WandbLogger` will reuse this "
                "run. If this is not desired, call `wandb.finish()` before instantiating `WandbLogger`."
            )
            return wandb.run
        if self._attach_id is not None and hasattr(wandb, "_attach"):
            return wandb._attach(self._attach_id)
        offline = {"mode": "offline"} if self._offline else {}
        run = wandb.init(**{**self._wandb_init, **offline})
        if getattr(run, "define_metric", None):
            if self._wandb_init.get("sync_tensorboard"):
                run.define_metric("*", step_metric="global_step")
            else:
                run.define_metric(GLOBAL_STEP)
                run.define_metric("*", step_metric=GLOBAL_STEP, step_sync=True)
        return run

    @property
    def name(self) -> str | None:
        """The project; the run's own name is ``logger.experiment.name``."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's id; before the run is started the one that was given."""
        return self._experiment.id if self._experiment else self._id

    @property
    def save_dir(self) -> str | None:
        """The local directory given by the user."""
        return self._save_dir

    def watch(
        self, model: nn.Module, log: str | None = "gradients", log_freq: int = 100, log_graph: bool = True
    ) -> None:
        """Let W&B record gradients ("gradients"), weights ("parameters") or both ("all") every ``log_freq`` batches."""
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    def unwatch(self, model: nn.Module | None = None) -> None:
        """Undo ``watch``; None stops it for every model."""
        self.experiment.unwatch(model)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Add to the run's config.

        What JSON cannot hold becomes text, a class its name, a function its result if it needs no argument, else its
        name.
        """
        config = {name: _as_json(_named(value)) for name, value in convert_params(params).items()}
        self.experiment.config.update(config, allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, or anything else that W&B shows, at ``step`` of the trainer."""
        row = dict(prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR))
        if step is not None and not self._wandb_init.get("sync_tensorboard"):
            row[GLOBAL_STEP] = step
        self.experiment.log(row)

    def log_table(
        self,
        key: str,
        columns: list[Any] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Record a table of anything that W&B shows, given by ``columns`` and ``data`` or as a ``dataframe``."""
        import wandb

        self.log_metrics({key: wandb.Table(columns=columns, data=data, dataframe=dataframe)}, step)

    def log_text(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[str]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Record a table of texts; see ``log_table``."""
        self.log_table(key, columns, data, dataframe, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Record images: tensors, arrays, PIL images or paths.

        Args:
            key: Their name.
            images: A list.
            step: Of the trainer.
            **kwargs: Lists with an item for each image, such as ``caption``, ``masks`` or ``boxes``.

        Raises:
            TypeError: ``images`` is no list.
            ValueError: A list of ``kwargs`` has another length.
        """
        self._log_media("Image", key, "images", images, step, kwargs)

    def log_audio(self, key: str, audios: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Record sounds, arrays or paths; as ``log_image``, with ``caption`` and ``sample_rate``."""
        self._log_media("Audio", key, "audios", audios, step, kwargs)

    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Record videos, arrays or paths; as ``log_image``, with ``caption``, ``fps`` and ``format``."""
        self._log_media("Video", key, "videos", videos, step, kwargs)

    def _log_media(
        self, kind: str, key: str, argument: str, items: list[Any], step: int | None, kwargs: dict[str, Any]
    ) -> None:
        import wandb

        if not isinstance(items, list):
            raise TypeError(f'Expected a list as "{argument}", found {type(items)}')
        for name, values in kwargs.items():
            if len(values) != len(items):
                raise ValueError(f"Expected {len(items)} items but only found {len(values)} for {name}")
        make = getattr(wandb, kind)
        media = [
            make(item, **{name: values[index] for name, values in kwargs.items()}) for index, item in enumerate(items)
        ]
        self.log_metrics({key: media}, step)

    @staticmethod
    def download_artifact(
        artifact: str,
        save_dir: str | os.PathLike[str] | None = None,
        artifact_type: str | None = None,
        use_artifact: bool | None = True,
    ) -> str:
        """Download an artifact from W&B.

        Args:
            artifact: Its name, such as "entity/project/name:version".
            save_dir: Where to; None is W&B's own folder.
            artifact_type: Its type, for a check.
            use_artifact: Note in the current run, if there is one, that it used this artifact.

        Returns:
            The folder of the files.
        """
        import wandb

        if wandb.run is not None and use_artifact:
            found = wandb.run.use_artifact(artifact)
        else:
            found = wandb.Api().artifact(artifact, type=artifact_type)
        folder: str = found.download(root=None if save_dir is None else os.fspath(save_dir))
        return folder

    def use_artifact(self, artifact: str, artifact_type: str | None = None) -> Artifact:
        """Note that the run uses an artifact, and return it."""
        found: Artifact = self.experiment.use_artifact(artifact, type=artifact_type)
        return found

    def finalize(self, status: str) -> None:
        """Upload the checkpoints that have waited, if the run has succeeded; it stays open for more."""
        if status == "success" and self._experiment is not None:
            self._upload_rest()

    def _upload(self, path: str, metadata: dict[str, Any], aliases: list[str]) -> None:
        import wandb

        self._checkpoint_name = self._checkpoint_name or f"model-{self.experiment.id}"
        artifact = wandb.Artifact(name=self._checkpoint_name, type="model", metadata=metadata)
        artifact.add_file(path, name="model.ckpt", policy=self.add_file_policy)
        self.experiment.log_artifact(artifact, aliases=aliases)

    def __getstate__(self) -> dict[str, Any]:
        # A copy, in this process or a child of it, goes on with the same run.
        run = self.experiment
        attached = {"_id": getattr(run, "id", None), "_attach_id": getattr(run, "_attach_id", None), "_name": run.name}
        return {**self.__dict__, **attached, "_experiment": None}


def _named(value: Any) -> Any:
    """Classes and functions by name; a function that can be called without arguments by what it returns."""
    if inspect.isclass(value):
        return value.__name__
    if not callable(value):
        return value
    try:
        result = value()
    except Exception:  # it needs arguments, or whatever it raises
        return getattr(value, "__name__", None)
    return value.__name__ if callable(result) else result


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    try:
        json.dumps(value)
    except (TypeError, ValueError, OverflowError):
        return redact_text(str(value))
    return value
