"""SaveConfigCallback: the configuration of a run, beside its logs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace

from raylight.callbacks.base import Callback
from raylight.checkpoint import storage
from raylight.utilities.redaction import tell
from raylight.utilities.secrets import redact

if TYPE_CHECKING:
    from raylight.cli.arguments import LightningArgumentParser
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class SaveConfigCallback(Callback):
    """Saves a LightningCLI's configuration in the ``log_dir`` of its first run; rank 0 writes it.

    Args:
        parser: That parsed the configuration.
        config: The parsed configuration.
        config_filename: Name of the file in ``log_dir``.
        overwrite: Replace a file of that name.
        multifile: Keep what came from several files in several files.
        save_to_log_dir: False: only ``save_config``, which a subclass overrides, is called.

    Raises:
        RuntimeError: When a run starts: the file exists.
        ValueError: ``save_to_log_dir`` is False, and ``save_config`` does nothing.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        config_filename: str = "config.yaml",
        overwrite: bool = False,
        multifile: bool = False,
        save_to_log_dir: bool = True,
    ) -> None:
        self.parser = parser
        self.config = config
        self.config_filename = config_filename
        self.overwrite = overwrite
        self.multifile = multifile
        self.save_to_log_dir = save_to_log_dir
        self.already_saved = False
        self._files: dict[str, str] | None = None
        """What to write, where that is not known from parser and config: in a worker."""
        if not save_to_log_dir and type(self).save_config is SaveConfigCallback.save_config:
            raise ValueError(
                "`save_to_log_dir=False` only makes sense when subclassing SaveConfigCallback to implement "
                "`save_config` and it is desired to disable the standard behavior of saving to log_dir."
            )

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved:
            return
        if self.save_to_log_dir:
            self._save_to_log_dir(trainer)
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def _save_to_log_dir(self, trainer: TrainerView) -> None:
        """Collective: all ranks raise where rank 0 finds a file."""
        log_dir = trainer.log_dir
        assert log_dir is not None
        files: dict[str, str] = {}
        if trainer.is_global_zero:
            files = {storage.join(log_dir, name): text for name, text in (self._files or self._render()).items()}
        existing = next((path for path in files if storage.exists(path)), None) if not self.overwrite else None
        existing = trainer.strategy.broadcast(existing)
        if existing is not None:
            raise RuntimeError(
                f"{type(self).__name__} expected {existing} to NOT exist. Aborting to avoid overwriting results of a "
                "previous run. You can delete the previous config file, set `LightningCLI(save_config_callback=None)` "
                'to disable config saving, or set `LightningCLI(save_config_kwargs={"overwrite": True})` to overwrite '
                "the config file."
            )
        for path, text in files.items():
            content = text.encode()
            storage.write_atomic(path, lambda stream, content=content: stream.write(content))  # type: ignore[misc]

    def save_config(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        """Override to save the configuration elsewhere too. Called on rank 0 only: no collective may be in it.

        Example::

            def save_config(self, trainer, pl_module, stage):
                config = self.parser.dump(self.config, skip_none=False)
                trainer.logger.log_hyperparams({"config": config})
        """

    def _render(self) -> dict[str, str]:
        """The files, by name."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, self.config_filename)
            self.parser.save(self.config, path, skip_unset=False, multifile=self.multifile)
            return {file.name: _without_secrets(file.read_text()) for file in sorted(Path(folder).iterdir())}

    def __getstate__(self) -> dict[str, Any]:
        # Names of the user's script mean nothing in a worker: what is written there is made here, and the config that
        # `save_config` sees holds plain values.
        if self._files is not None:
            return dict(self.__dict__)
        plain = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))
        return {**self.__dict__, "_files": self._render(), "config": _namespace(plain)}


def _without_secrets(text: str) -> str:
    """A configuration in YAML; without secrets in it as it was."""
    clean, found = redact(yaml.safe_load(text))
    tell(found, "A run from that file needs them on its command line.")
    return yaml.safe_dump(clean, sort_keys=False) if found else text


def _namespace(value: Any) -> Any:
    if isinstance(value, dict):
        return Namespace({key: _namespace(item) for key, item in value.items()})
    return value
