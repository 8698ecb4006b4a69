"""LightningArgumentParser: arguments made of the classes of a program, and the types they can have."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from raylight.callbacks.base import Callback
from raylight.config.flags import TrainerConfig
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.trainer import Trainer
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.import_policy import ImportPolicy, enforced

try:
    import docstring_parser  # noqa: F401  of the extra "signatures"
    from jsonargparse import (
        ArgumentParser,
        Namespace,
        register_unresolvable_import_paths,
        set_parsing_settings,
    )
    from jsonargparse.typing import class_from_function
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "LightningCLI needs `jsonargparse[signatures]>=4.53`: install the extra `raylight[cli]`."
    ) from error

register_unresolvable_import_paths(torch)  # functions of torch that do not say where they are from
set_parsing_settings(config_read_mode_fsspec_enabled=True)  # --config s3://...


class ReduceLROnPlateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """torch's scheduler that knows which metric it watches.

    Args:
        monitor: Name of a logged metric.
    """

    def __init__(self, optimizer: Optimizer, monitor: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, *args, **kwargs)
        self.monitor = monitor


# torch's own ReduceLROnPlateau is a LRScheduler too, but without its metric's name it cannot be used here.
LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
LRSchedulerTypeUnion: TypeAlias = LRScheduler | ReduceLROnPlateau
LRSchedulerType: TypeAlias = type[LRScheduler] | type[ReduceLROnPlateau]

ArgsType: TypeAlias = list[str] | dict[str, Any] | Namespace | None
OptimizerCallable: TypeAlias = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable: TypeAlias = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]

AUTOMATIC = "AUTOMATIC"
"""``link_to`` of an optimizer or scheduler that configure_optimizers is made of."""
ALLOW_IMPORT = "--allow-import"
LIGHTNING_CLASSES = (Trainer, LightningModule, LightningDataModule, Callback)


class LightningArgumentParser(ArgumentParser):
    """jsonargparse's parser, with arguments made of Lightning's classes.

    What a configuration may name is limited, see ``raylight.utilities.import_policy``.

    Args:
        description: Shown by ``--help``.
        env_prefix: Beginning of the environment variables' names, such as ``PL_TRAINER__MAX_EPOCHS``.
        default_env: Read arguments from environment variables too.
        **kwargs: Of ``jsonargparse.ArgumentParser``.
    """

    def __init__(
        self,
        *args: Any,
        description: str = "Lightning Trainer command line tool",
        env_prefix: str = "PL",
        default_env: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, description=description, env_prefix=env_prefix, default_env=default_env, **kwargs)
        self.allow_import: tuple[str, ...] = ()
        """Packages that a configuration may name though they are neither installed nor beside the script."""
        self.callback_keys: list[str] = []
        self._optimizers: dict[str, tuple[Any, str]] = {}
        self._lr_schedulers: dict[str, tuple[Any, str]] = {}
        self._travelled = False

    # ------------------------------------------------------------------------------------------------ adding arguments

    def add_lightning_class_args(
        self,
        lightning_class: Callable[..., Any] | type[Any],
        nested_key: str | None,
        subclass_mode: bool = False,
        required: bool = True,
    ) -> list[str]:
        """Add the arguments of a class, or of a function that makes one.

        Args:
            lightning_class: A Trainer, LightningModule, LightningDataModule or Callback.
            nested_key: Where its arguments are: ``--<nested_key>.<argument>``; None: ``--<argument>``.
            subclass_mode: Take any subclass, by name.
            required: Whether it must be given, with ``subclass_mode``.

        Returns:
            The names that were added.

        Raises:
            MisconfigurationException: It is none of these classes, or has no key to be found by.
        """
        if callable(lightning_class) and not isinstance(lightning_class, type):
            lightning_class = class_from_function(lightning_class)
        if not (inspect.isclass(lightning_class) and issubclass(lightning_class, LIGHTNING_CLASSES)):
            raise MisconfigurationException(
                f"Cannot add arguments from: {lightning_class}. You should provide either a callable or a subclass of: "
                "Trainer, LightningModule, LightningDataModule, or Callback."
            )
        if nested_key is None and (subclass_mode or issubclass(lightning_class, Callback)):
            raise MisconfigurationException(f"The arguments of {lightning_class.__name__} need a nested_key.")
        if issubclass(lightning_class, Callback):
            self.callback_keys.append(str(nested_key))
        if subclass_mode:
            added = self.add_subclass_arguments(lightning_class, str(nested_key), fail_untyped=False, required=required)
            return list(added or [])
        is_trainer = issubclass(lightning_class, Trainer)
        added = self.add_class_arguments(
            lightning_class, nested_key, fail_untyped=False, instantiate=not is_trainer, sub_configs=True
        )
        if is_trainer:
            self._describe_flags(nested_key, lightning_class)
        return list(added)

    def _describe_flags(self, nested_key: str | None, trainer_class: Any) -> None:
        """The help of each Trainer flag, and its default where that is found out at a call or in the environment."""
        prefix = f"{nested_key}." if nested_key else ""
        flags = {action.dest.removeprefix(prefix): action for action in self._actions}
        described = _flag_descriptions()
        for field in dataclasses.fields(TrainerConfig):
            action = flags.get(field.name)
            if action is None:  # a Trainer of the user's own that has no such argument
                continue
            action.help = action.help or described.get(field.name)
            if field.default_factory is not dataclasses.MISSING:
                self.set_defaults({action.dest: field.default_factory()})
        for name, value in vars(trainer_class.match_env_arguments()).items():  # PL_TRAINER_<FLAG>
            if name in flags:
                self.set_defaults({flags[name].dest: value})

    def add_optimizer_args(
        self,
        optimizer_class: type[Optimizer] | tuple[type[Optimizer], ...] = (Optimizer,),
        nested_key: str = "optimizer",
        link_to: str = AUTOMATIC,
    ) -> None:
        """Add an optimizer's arguments, without its parameters.

        Args:
            optimizer_class: An optimizer; or a tuple, of whose subclasses one is named.
            nested_key: Where its arguments are.
            link_to: The argument that gets it; "AUTOMATIC": ``configure_optimizers`` is made of it.
        """
        self._add_made_later(optimizer_class, Optimizer, nested_key, skip="params")
        self._optimizers[nested_key] = (optimizer_class, link_to)

    def add_lr_scheduler_args(
        self,
        lr_scheduler_class: LRSchedulerType | tuple[LRSchedulerType, ...] = LRSchedulerTypeTuple,
        nested_key: str = "lr_scheduler",
        link_to: str = AUTOMATIC,
    ) -> None:
        """Add a learning rate scheduler's arguments, without its optimizer; as ``add_optimizer_args``."""
        self._add_made_later(lr_scheduler_class, LRSchedulerTypeTuple, nested_key, skip="optimizer")
        self._lr_schedulers[nested_key] = (lr_scheduler_class, link_to)

    def _add_made_later(self, classes: Any, base: Any, nested_key: str, skip: str) -> None:
        """Arguments of a class that takes the model's parameters, or an optimizer, and is made when there are some."""
        kwargs: dict[str, Any] = {"instantiate": False, "fail_untyped": False, "skip": {skip}}
        assert all(issubclass(cls, base) for cls in (classes if isinstance(classes, tuple) else (classes,)))
        if isinstance(classes, tuple):
            self.add_subclass_arguments(classes, nested_key, **kwargs)
        else:
            self.add_class_arguments(classes, nested_key, sub_configs=True, **kwargs)

    # ------------------------------------------------------------------------------------------------ using the parser

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        return enforced(ImportPolicy(self.allow_import))

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        args = self._take_allow_import(sys.argv[1:] if args is None else list(args))
        with self._guard():
            parsed: Namespace = super().parse_args(args, *more, **kwargs)
        return parsed

    def _take_allow_import(self, args: list[str]) -> list[str]:
        """``args`` without ``--allow-import``, which only a person may say: it is no key of a configuration."""
        rest: list[str] = []
        words = iter(args)
        for word in words:
            option, _, package = str(word).partition("=")
            if option != ALLOW_IMPORT:
                rest.append(word)
            elif package := package or next(words, ""):
                self.allow_import = (*self.allow_import, package)
            else:
                self.error(f"{ALLOW_IMPORT} expects the name of a package.")
        return rest

    def parse_object(self, *args: Any, **kwargs: Any) -> Namespace:
        with self._guard():
            parsed: Namespace = super().parse_object(*args, **kwargs)
        return parsed

    def parse_env(self, *args: Any, **kwargs: Any) -> Namespace:
        with self._guard():
            parsed: Namespace = super().parse_env(*args, **kwargs)
        return parsed

    def parse_string(self, *args: Any, **kwargs: Any) -> Namespace:  # parse_path calls it
        with self._guard():
            parsed: Namespace = super().parse_string(*args, **kwargs)
        return parsed

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        with self._guard():
            parsed: Namespace = super().instantiate(*args, **kwargs)
        return parsed

    def dump(self, *args: Any, **kwargs: Any) -> str:
        with self._guard():
            text: str = super().dump(*args, **self._written(kwargs))
        return text

    def save(self, *args: Any, **kwargs: Any) -> None:
        with self._guard():
            super().save(*args, **self._written(kwargs))

    def _written(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "skip_none" in kwargs:  # what jsonargparse called skip_unset, and Lightning's users still do
            kwargs["skip_unset"] = kwargs.pop("skip_none")
        if self._travelled:  # what was parsed elsewhere: classes of the user's script have no importable name here
            kwargs["skip_validation"] = True
        return kwargs

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._travelled = True


@functools.lru_cache(maxsize=1)
def _flag_descriptions() -> dict[str, str]:
    """The docstring of each Trainer flag, a line."""
    documented = docstring_parser.parse_from_object(TrainerConfig)
    return {each.arg_name: " ".join((each.description or "").split()) for each in documented.params}
