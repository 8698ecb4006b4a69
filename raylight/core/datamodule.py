"""LightningDataModule: the data of a project in one class."""

from __future__ import annotations

import functools
import inspect
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sized
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import migrate
from raylight.core.hooks import DataHooks
from raylight.core.hparams import HyperparametersMixin, class_only, make_again
from raylight.utilities import argparse

if TYPE_CHECKING:
    from typing_extensions import Self

    from raylight.checkpoint.storage import PathOrURI
    from raylight.worker.trainer_view import TrainerView


class LightningDataModule(DataHooks, HyperparametersMixin):
    """Download, split and load data, apart from the model.

    Example::

        class MNIST(pl.LightningDataModule):
            def __init__(self, batch_size: int = 32):
                super().__init__()
                self.save_hyperparameters()

            def prepare_data(self):  # one process: download
                torchvision.datasets.MNIST("data", download=True)

            def setup(self, stage):  # every worker: split
                full = torchvision.datasets.MNIST("data", transform=ToTensor())
                self.train, self.val = random_split(full, [55000, 5000])

            def train_dataloader(self):
                return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

            def val_dataloader(self):
                return DataLoader(self.val, batch_size=self.hparams.batch_size)
    """

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "datamodule_hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE: ClassVar[str] = "datamodule_hparams_type"

    name: str | None = None

    trainer: TrainerView | None = None
    """The run that this datamodule is part of; None outside of one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Arguments are accepted, for subclasses that pass on all of theirs, and nothing is done with them."""
        super().__init__()

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **init: Any,
    ) -> Self:
        """A datamodule made of datasets alone; the training data is shuffled.

        Args:
            train_dataset: A dataset, or a nested list or dict of datasets; None: there is no such dataloader.
            val_dataset: Likewise.
            test_dataset: Likewise.
            predict_dataset: Likewise.
            batch_size: Samples per worker per step; also passed to ``__init__`` if it takes an argument of this name.
            num_workers: Processes that load data, per dataloader and worker, 0: none; passed on likewise.
            init: Further arguments of ``__init__``.
        """
        parameters = inspect.signature(cls.__init__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        loading = {"batch_size": batch_size, "num_workers": num_workers}
        datamodule = cls(**init, **{name: value for name, value in loading.items() if takes_any or name in parameters})
        datasets = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        for stage, dataset in datasets.items():
            if dataset is not None:
                make = functools.partial(_make_dataloaders, dataset, shuffle=stage == "train", **loading)
                setattr(datamodule, f"{stage}_dataloader", make)
        return datamodule

    @classmethod
    def add_argparse_args(cls, parent_parser: ArgumentParser, **kwargs: Any) -> ArgumentParser:
        """Add an argument for every argument of ``__init__`` that is a str, int, float or bool."""
        return argparse.add_argparse_args(cls, parent_parser, **kwargs)

    @classmethod
    def from_argparse_args(cls, args: Namespace | ArgumentParser, **kwargs: Any) -> Self:
        """A datamodule of those ``args`` that ``__init__`` takes; ``kwargs`` win over them."""
        made: Self = argparse.from_argparse_args(cls, args, **kwargs)
        return made

    @classmethod
    def parse_argparser(cls, arg_parser: ArgumentParser | Namespace) -> Namespace:
        """The arguments given, where a bool that is named without a value is True."""
        return argparse.parse_argparser(cls, arg_parser)

    @classmethod
    def get_init_arguments_and_types(cls) -> list[tuple[str, tuple[Any, ...], Any]]:
        """``(name, types, default)`` of every argument of ``__init__``."""
        return argparse.get_init_arguments_and_types(cls)

    @classmethod
    def get_deprecated_arg_names(cls) -> list[str]:
        """Arguments not to be used any more: none."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What to keep in a checkpoint, under the qualified name of the class; plain types and tensors only."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""

    def on_exception(self, exception: BaseException) -> None:
        """The run is about to end with ``exception``, KeyboardInterrupt included."""

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: PathOrURI | IO[bytes],
        map_location: checkpoint_format.MapLocation = None,
        hparams_file: PathOrURI | None = None,
        weights_only: bool | None = None,
        **overrides: Any,
    ) -> Self:
        """Make a datamodule again, with the arguments that were saved with ``save_hyperparameters``, and its state.

        Args:
            checkpoint_path: A local path, a URI, or a binary stream.
            map_location: As in ``torch.load``; None: the device where a tensor was, or the CPU if it is not here.
            hparams_file: A ``.yaml`` or ``.csv`` file with hyperparameters to use in place of those stored.
            weights_only: Makes no difference, False is warned about: a file never runs code.
            overrides: Arguments of ``__init__``; they win over those stored.

        Raises:
            CheckpointError: The file cannot be read safely.
            TypeError: Called on an instance, or an argument of ``__init__`` is known neither here nor there.
        """
        checkpoint_format.check_weights_only(weights_only)
        checkpoint = migrate.load(checkpoint_path, map_location)
        datamodule = make_again(cls, checkpoint, hparams_file, overrides)
        if cls.__qualname__ in checkpoint:
            datamodule.load_state_dict(checkpoint[cls.__qualname__])
        return datamodule

    def __str__(self) -> str:
        """A line per kind of dataloader, with the sizes of its datasets; asks for the dataloaders."""
        kinds = {"Train": "train", "Validation": "val", "Test": "test", "Predict": "predict"}
        return os.linesep.join(
            f"{{{title} dataloader: {self._describe_dataloaders(f'{kind}_dataloader')}}}"
            for title, kind in kinds.items()
        )

    def _describe_dataloaders(self, method: str) -> str:
        try:
            loaders = getattr(self, method)()
        except Exception:  # not defined, or setup has not been called: there is nothing to print yet
            return "None"
        if isinstance(loaders, Mapping):
            return " ; ".join(f"{key}. {_describe(loader)}" for key, loader in loaders.items())
        if isinstance(loaders, list | tuple):
            return " ; ".join(f"{number}. {_describe(loader)}" for number, loader in enumerate(loaders, start=1))
        return _describe(loaders)


def _describe(loader: Any) -> str:
    dataset = getattr(loader, "dataset", loader)
    return f"size={len(dataset) if isinstance(dataset, Sized) else 'NA'}"


def _make_dataloaders(data: Any, *, shuffle: bool, batch_size: int, num_workers: int) -> Any:
    """A dataloader for each dataset in ``data``, in the same lists and dicts."""
    make = functools.partial(_make_dataloaders, shuffle=shuffle, batch_size=batch_size, num_workers=num_workers)
    if isinstance(data, Mapping):
        return {name: make(dataset) for name, dataset in data.items()}
    if type(data) in (list, tuple):
        return [make(dataset) for dataset in data]
    return DataLoader(
        data,
        batch_size=batch_size,
        shuffle=shuffle and not isinstance(data, IterableDataset),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),  # without a GPU torch warns that it is of no use
    )
