"""Data hooks that a LightningModule and a LightningDataModule share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from raylight.core.model_hooks import CheckpointHooks, ModelHooks
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.tree import to_device

if TYPE_CHECKING:
    import torch

__all__ = ["CheckpointHooks", "DataHooks", "ModelHooks"]


class DataHooks:
    """Where the data comes from and how a batch reaches the device.

    On a datamodule, a batch-transfer hook that is overridden wins over the module's.
    """

    prepare_data_per_node: bool = True
    """Call ``prepare_data`` once on every node; False: once in the whole run, for a file system that nodes share."""

    allow_zero_length_dataloader_with_multiple_devices: bool = False
    """Accept a dataloader without batches on some ranks; such a rank only takes part in the collectives."""

    def prepare_data(self) -> None:
        """Download and preprocess files, in one process only: state set on ``self`` here does not reach the others."""

    def setup(self, stage: str) -> None:
        """Runs in every worker before dataloaders are made; ``stage`` is "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Runs in every worker when the call of ``stage`` ends."""

    def train_dataloader(self) -> Any:
        """An iterable, or a nested list or dict of iterables, of training batches."""
        self._dataloader_missing("train_dataloader")

    def val_dataloader(self) -> Any:
        """An iterable, or a list or dict of iterables, of validation batches."""
        self._dataloader_missing("val_dataloader")

    def test_dataloader(self) -> Any:
        """An iterable, or a list or dict of iterables, of test batches."""
        self._dataloader_missing("test_dataloader")

    def predict_dataloader(self) -> Any:
        """An iterable, or a list or dict of iterables, of batches to predict."""
        self._dataloader_missing("predict_dataloader")

    def _dataloader_missing(self, name: str) -> NoReturn:
        raise MisconfigurationException(
            f"`{name}` must be implemented to be used with the Lightning Trainer: {type(self).__name__} does not "
            "define it. Define it there, or hand dataloaders or a datamodule to the Trainer's method."
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch while it is on the CPU, e.g. augment it.

        Args:
            batch: What the dataloader gave.
            dataloader_idx: 0-based index of the dataloader among several.
        """
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch: by default tensors, and anything with a ``.to``, in nested lists, tuples, dicts, dataclasses.

        Args:
            batch: What ``on_before_batch_transfer`` returned.
            device: Where this worker computes.
            dataloader_idx: 0-based index of the dataloader among several.
        """
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch that is on the device.

        Args:
            batch: What ``transfer_batch_to_device`` returned.
            dataloader_idx: 0-based index of the dataloader among several.
        """
        return batch
