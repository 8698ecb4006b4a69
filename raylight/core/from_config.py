"""A module made again from the configuration that LightningCLI left in its checkpoint."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.import_policy import ImportPolicy, enforced

ModuleType = TypeVar("ModuleType")

INSTANTIATOR = "raylight.cli.instantiate_module"
"""Stands as ``_instantiator`` among the hyperparameters that LightningCLI saves."""
INSTANTIATORS = (
    INSTANTIATOR,
    "pytorch_lightning.cli.instantiate_module",
    "lightning.pytorch.cli.instantiate_module",
)


def instantiate_module(class_type: type[ModuleType], config: Mapping[str, Any]) -> ModuleType:
    """An object of ``class_type``, or of its subclass ``config["_class_path"]``.

    Args:
        class_type: A LightningModule or LightningDataModule.
        config: Arguments of its ``__init__`` as LightningCLI parsed them: classes as ``class_path`` and ``init_args``.
            They may only name what the program has already imported.

    Raises:
        MisconfigurationException: The arguments do not fit, or name something else.
        ModuleNotFoundError: jsonargparse is not installed.
    """
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "This checkpoint's hyperparameters were saved by LightningCLI and need jsonargparse: install raylight[cli]."
        ) from error
    parser = ArgumentParser(exit_on_error=False)
    arguments = {name: value for name, value in config.items() if name not in ("_class_path", "_instantiator")}
    with enforced(ImportPolicy(only_imported=True)):
        try:
            if "_class_path" in config:
                parser.add_subclass_arguments(class_type, "module", fail_untyped=False)
                arguments = {"class_path": config["_class_path"], "dict_kwargs": arguments}
            else:
                parser.add_class_arguments(class_type, "module", fail_untyped=False)
            parsed = parser.parse_object({"module": arguments})
        except Exception as error:  # ArgumentError of argparse, and what jsonargparse lets through
            raise MisconfigurationException(
                f"{class_type.__name__} cannot be made from the configuration in the checkpoint: {error}"
            ) from error
        made: ModuleType = parser.instantiate(parsed).module
    return made


def verify_origin(class_type: type[ModuleType], config: Mapping[str, Any]) -> type[ModuleType]:
    """Check what a checkpoint says of who made its hyperparameters.

    Returns:
        The class that they are of: ``class_type`` or a subclass.

    Raises:
        MisconfigurationException: It is not LightningCLI, or it names a class that the program has not imported.
    """
    instantiator, class_path = config["_instantiator"], config.get("_class_path")
    if instantiator not in INSTANTIATORS:
        raise MisconfigurationException(
            f"The instantiator {instantiator!r} from the checkpoint is not in the allowlist of trusted instantiators "
            f"({', '.join(INSTANTIATORS)}) and was blocked to prevent arbitrary code execution."
        )
    if class_path is None:
        return class_type
    module, _, name = str(class_path).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if inspect.isclass(found) and issubclass(found, class_type):
        return found
    raise MisconfigurationException(
        f"The class {class_path!r} requested by the checkpoint does not resolve to an already imported subclass of "
        f"{class_type.__name__} and was blocked to prevent arbitrary code execution. If you trust this checkpoint, "
        "import the module that defines the class before loading."
    )
