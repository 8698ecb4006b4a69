"""LightningCLI: a whole program made of a model, a datamodule, and what the user says on the command line.

::

    parse:        arguments, environment, configuration files; hyperparameters of --ckpt_path
    seed_everything
    before_instantiate_classes
    instantiate:  datamodule, model, configure_optimizers where it comes from arguments, Trainer
    after_instantiate_classes
    before_<sub-command>; trainer.<sub-command>, or the method of that name here; after_<sub-command>
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch.optim import Optimizer

import raylight
from raylight.callbacks.base import Callback
from raylight.checkpoint import format as checkpoint_format
from raylight.cli.arguments import (
    ALLOW_IMPORT,
    AUTOMATIC,
    ArgsType,
    LightningArgumentParser,
    LRSchedulerCallable,
    LRSchedulerType,
    LRSchedulerTypeTuple,
    LRSchedulerTypeUnion,
    OptimizerCallable,
    ReduceLROnPlateau,
)
from raylight.cli.save_config import SaveConfigCallback
from raylight.config import legacy
from raylight.core.datamodule import LightningDataModule
from raylight.core.from_config import INSTANTIATOR, instantiate_module
from raylight.core.hparams import given_hyperparameters
from raylight.core.module import LightningModule
from raylight.trainer import Trainer
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.import_policy import ImportPolicy
from raylight.utilities.old_arguments import CLI_ARGUMENTS, understands
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.secrets import paths_of_redacted
from raylight.utilities.seed import seed_everything

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]  # isort: skip  after the check
from jsonargparse.typing import class_from_function  # isort: skip

__all__ = [
    "ArgsType",
    "LRSchedulerCallable",
    "LRSchedulerType",
    "LRSchedulerTypeTuple",
    "LRSchedulerTypeUnion",
    "LightningArgumentParser",
    "LightningCLI",
    "OptimizerCallable",
    "ReduceLROnPlateau",
    "SaveConfigCallback",
    "instantiate_class",
    "instantiate_module",
]


class LightningCLI:
    """A configurable command line program.

    Args:
        model_class: A LightningModule, or a function that returns one. None: any, by name, ``--model=MyModel``.
        datamodule_class: Likewise, ``--data=MyData``; None: may be left out.
        save_config_callback: Saves the configuration in ``log_dir``; None: it is not saved.
        save_config_kwargs: Its arguments, such as ``{"overwrite": True}``.
        trainer_class: A Trainer, or a function that returns one.
        trainer_defaults: Defaults of Trainer flags. Its ``callbacks`` are always there, beside the configured ones.
        seed_everything_default: Of ``--seed_everything``: a seed; True: chosen; False: nothing is seeded.
        parser_kwargs: Arguments of the parsers, such as ``{"default_env": True}``, or of those of single sub-commands:
            ``{"fit": {"default_config_files": ["fit.yaml"]}}``.
        parser_class: The parsers' class.
        subclass_mode_model: Take any subclass of ``model_class``.
        subclass_mode_data: Take any subclass of ``datamodule_class``.
        args: What to parse. A list as on the command line, or the configuration itself. None: ``sys.argv``.
        run: Have sub-commands, and run the one that is given; False: only make the objects.
        auto_configure_optimizers: Have ``--optimizer`` and ``--lr_scheduler``.
        load_from_checkpoint_support: ``save_hyperparameters`` saves the configuration, in which classes stand by name,
            so that ``load_from_checkpoint`` can make them again.
        allow_import: Packages that configurations may name though they are neither installed nor in the script's
            folder; also ``--allow-import PACKAGE`` on the command line.

    Raises:
        SystemExit: The arguments are wrong, or ``--help`` or ``--print_config`` was asked for.
        MisconfigurationException: Several optimizers or schedulers would make ``configure_optimizers``.

    Attributes:
        config: What was parsed.
        config_init: The same with the objects that were made of it.
        model, datamodule, trainer: These objects.
        subcommand: The name of the one given; None with ``run=False``.
    """

    config: Namespace
    config_init: Namespace
    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer

    @understands(CLI_ARGUMENTS)
    def __init__(
        self,
        model_class: type[LightningModule] | Callable[..., LightningModule] | None = None,
        datamodule_class: type[LightningDataModule] | Callable[..., LightningDataModule] | None = None,
        save_config_callback: type[SaveConfigCallback] | None = SaveConfigCallback,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: type[Trainer] | Callable[..., Trainer] = Trainer,
        trainer_defaults: dict[str, Any] | None = None,
        seed_everything_default: bool | int = True,
        parser_kwargs: dict[str, Any] | None = None,
        parser_class: type[LightningArgumentParser] = LightningArgumentParser,
        subclass_mode_model: bool = False,
        subclass_mode_data: bool = False,
        args: ArgsType = None,
        run: bool = True,
        auto_configure_optimizers: bool = True,
        load_from_checkpoint_support: bool = True,
        allow_import: Sequence[str] = (),
    ) -> None:
        self.save_config_callback = save_config_callback
        self.save_config_kwargs = save_config_kwargs or {}
        self.trainer_class = trainer_class
        self.trainer_defaults = legacy.modernize(trainer_defaults or {})
        self.seed_everything_default = seed_everything_default
        self.parser_kwargs = parser_kwargs or {}
        self.parser_class = parser_class
        self.auto_configure_optimizers = auto_configure_optimizers
        self.model_class = model_class
        self.subclass_mode_model = model_class is None or subclass_mode_model
        self.datamodule_class = datamodule_class
        self.subclass_mode_data = datamodule_class is None or subclass_mode_data
        self._model_class = model_class or LightningModule
        self._datamodule_class = datamodule_class or LightningDataModule
        self._instantiators: list[tuple[Any, type, bool]] = []

        main_kwargs, subparser_kwargs = self._setup_parser_kwargs(self.parser_kwargs)
        self.setup_parser(run, main_kwargs, subparser_kwargs)
        self.parser.allow_import = tuple(allow_import)
        self.parse_arguments(self.parser, args)
        for parser in self._subcommand_parsers.values():
            parser.allow_import = self.parser.allow_import
        self._parse_ckpt_path()
        self.subcommand: str | None = self.config["subcommand"] if run else None
        self._set_seed()
        if load_from_checkpoint_support:
            self._add_instantiators()
        self.before_instantiate_classes()
        self.instantiate_classes()
        self.after_instantiate_classes()
        if self.subcommand is not None:
            self._run_subcommand(self.subcommand)

    # ------------------------------------------------------------------------------------------------ the parsers

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        names = self.subcommands().keys()
        main = {key: value for key, value in parser_kwargs.items() if key not in names}
        return main, {key: value for key, value in parser_kwargs.items() if key in names}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser with ``--config``; ``kwargs`` are arguments of ``parser_class``."""
        kwargs.setdefault("dump_header", [f"raylight=={raylight.__version__}"])
        kwargs.setdefault(
            "epilog",
            f"{ALLOW_IMPORT} PACKAGE: also accept class paths of PACKAGE, which is neither installed nor in the folder "
            "of this program.",
        )
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c", "--config", action=ActionConfigFile, help="Path to a configuration file in json or yaml format."
        )
        return parser

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Make ``self.parser``, and with ``add_subcommands`` one for each of them."""
        self.parser = self.init_parser(**main_kwargs)
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        if add_subcommands:
            self._subcommand_method_arguments: dict[str, list[str]] = {}
            self._add_subcommands(self.parser, **subparser_kwargs)
        else:
            self._add_arguments(self.parser)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments that belong to no class."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="Seed with which seed_everything is called before anything is made. True: one is chosen.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of trainer, model and datamodule."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        defaults = {f"trainer.{key}": value for key, value in self.trainer_defaults.items() if key != "callbacks"}
        parser.set_defaults(defaults)
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)
        # Without a datamodule_class the model may have the dataloaders.
        required = self.datamodule_class is not None
        parser.add_lightning_class_args(
            self._datamodule_class, "data", subclass_mode=self.subclass_mode_data, required=required
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Override to add arguments, or to link some.

        Example::

            def add_arguments_to_parser(self, parser):
                parser.link_arguments("data.batch_size", "model.batch_size")
        """

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        self.add_default_arguments_to_parser(parser)
        self.add_core_arguments_to_parser(parser)
        self.add_arguments_to_parser(parser)
        if self.auto_configure_optimizers:  # those that the user has not added just now
            if not parser._optimizers:
                parser.add_optimizer_args((Optimizer,))
            if not parser._lr_schedulers:
                parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        self.link_optimizers_and_lr_schedulers(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The sub-commands, methods of the Trainer, each with those of its arguments that are not for the user."""
        evaluation = {"model", "dataloaders", "datamodule"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": set(evaluation),
            "test": set(evaluation),
            "predict": set(evaluation),
        }

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        subcommands = parser.add_subcommands()
        trainer_class: Any = self.trainer_class
        if not isinstance(trainer_class, type):
            trainer_class = class_from_function(trainer_class)
        for name in self.subcommands():
            description = _first_line(getattr(trainer_class, name))
            subparser_kwargs = {"description": description, **kwargs.get(name, {})}
            subparser = self._prepare_subcommand_parser(trainer_class, name, **subparser_kwargs)
            self._subcommand_parsers[name] = subparser
            subcommands.add_subcommand(name, subparser, help=description)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = self.init_parser(**kwargs)
        self._add_arguments(parser)
        added = parser.add_method_arguments(klass, subcommand, skip=set(self.subcommands()[subcommand]))
        self._subcommand_method_arguments[subcommand] = list(added)
        return parser

    @staticmethod
    def link_optimizers_and_lr_schedulers(parser: LightningArgumentParser) -> None:
        """Link the optimizers and schedulers that were added with a ``link_to``."""
        for key, (cls, link_to) in {**parser._optimizers, **parser._lr_schedulers}.items():
            if link_to == AUTOMATIC:
                continue
            if isinstance(cls, tuple):
                parser.link_arguments(key, link_to)
            else:
                parser.link_arguments(key, link_to, compute_fn=functools.partial(_as_class, cls))

    def _parser(self, subcommand: str | None) -> LightningArgumentParser:
        return self.parser if subcommand is None else self._subcommand_parsers[subcommand]

    # ------------------------------------------------------------------------------------------------ parsing

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args`` into ``self.config``."""
        if args is not None and len(sys.argv) > 1:
            rank_zero_warn(
                "LightningCLI's args parameter is intended to run from within Python like if it were from the command "
                "line. To prevent mistakes it is not recommended to provide both args and command line arguments, got: "
                f"sys.argv[1:]={_without_values(sys.argv[1:])}, args={_without_values(args)}."
            )
        if isinstance(args, dict | Namespace):
            self.config = parser.parse_object(args)
        else:
            self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Take the model's hyperparameters from the checkpoint that is given, where it is a file with some."""
        if not self.config.get("subcommand"):
            return
        ckpt_path = self.config[self.config.subcommand].get("ckpt_path")
        if not ckpt_path or not Path(ckpt_path).is_file():
            return
        hparams = dict(checkpoint_format.load(ckpt_path, "cpu").get("hyper_parameters") or {})
        hparams.pop("_instantiator", None)
        hparams = {name: value for name, value in hparams.items() if not paths_of_redacted(value)}
        if not hparams:
            return
        if "_class_path" in hparams:
            hparams = {"class_path": hparams.pop("_class_path"), "dict_kwargs": hparams}
        try:
            self.config = self.parser.parse_object({self.config.subcommand: {"model": hparams}}, self.config)
        except SystemExit:
            sys.stderr.write("Parsing of ckpt_path hyperparameters failed!\n")
            raise

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if seed is False:
            return
        seed = seed_everything(None if seed is True else seed, workers=True)
        config = self.config[self.subcommand] if self.subcommand else self.config
        config["seed_everything"] = seed

    def _get(self, config: Namespace, key: str, default: Any = None) -> Any:
        """A value of ``config``, in the sub-command's part where there is one."""
        return config.get(str(self.subcommand), config).get(key, default)

    # ---------------------------------------------------------------------------------------------- making objects

    def before_instantiate_classes(self) -> None:
        """Override to do something when the arguments are parsed."""

    def instantiate_classes(self) -> None:
        """Make model, datamodule and trainer."""
        self.config_init = self.parser.instantiate(self.config, instantiators=self._instantiators)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self) -> None:
        """Override to do something before the sub-command runs."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer; ``kwargs`` win over what is configured."""
        parser = self._parser(self.subcommand)
        callbacks = [self._get(self.config_init, key) for key in parser.callback_keys]
        flags = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        return self._instantiate_trainer(flags, callbacks)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if "callbacks" not in config:
            name = getattr(self.trainer_class, "__qualname__", self.trainer_class)
            rank_zero_warn(f"The `{name}` class does not expose the `callbacks` argument so they will not be included.")
            return self.trainer_class(**config)
        always = self.trainer_defaults.get("callbacks")
        config["callbacks"] = [*_as_list(config["callbacks"]), *callbacks, *_as_list(always)]
        if self.save_config_callback and not config.get("fast_dev_run", False):
            own_config = self.config.get(str(self.subcommand), self.config)
            saver = self.save_config_callback(self._parser(self.subcommand), own_config, **self.save_config_kwargs)
            config["callbacks"].append(saver)
        return self.trainer_class(**config)

    def _add_instantiators(self) -> None:
        """Have ``save_hyperparameters`` of model and datamodule save the configuration."""
        modules = (
            ("model", self._model_class, self.subclass_mode_model),
            ("data", self._datamodule_class, self.subclass_mode_data),
        )
        for key, cls, subclasses in modules:
            made = cls if isinstance(cls, type) else inspect.signature(cls, eval_str=True).return_annotation
            self._instantiators.append((functools.partial(self._instantiate, key), made, subclasses))

    def _instantiate(
        self, key: str, class_type: type, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Make the model or the datamodule; ``key`` is "model" or "data"."""
        hparams = self._plain_config.get(key) or {}
        if "class_path" in hparams:
            hparams = {
                "_class_path": hparams["class_path"],
                **hparams.get("init_args", {}),
                **hparams.get("dict_kwargs", {}),
            }
        for target, value in applied_instantiation_links.items():
            if target.startswith(f"{key}."):
                _set_nested(hparams, target.removeprefix(f"{key}.").removeprefix("init_args."), value)
        with given_hyperparameters(class_type, {**hparams, "_instantiator": INSTANTIATOR}):
            return class_type(*args, **kwargs)

    @functools.cached_property
    def _plain_config(self) -> dict[str, Any]:
        """The configuration of this run as plain values."""
        text = self.parser.dump(self.config, skip_link_targets=False, skip_unset=False, format="yaml")
        plain: dict[str, Any] = yaml.safe_load(text)
        return plain[self.config.subcommand] if "subcommand" in self.config else plain

    # ------------------------------------------------------------------------------------------------ optimizers

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """Override to return something else from the model's ``configure_optimizers``."""
        if lr_scheduler is None:
            return optimizer
        if isinstance(lr_scheduler, ReduceLROnPlateau):
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": lr_scheduler, "monitor": lr_scheduler.monitor},
            }
        return [optimizer], [lr_scheduler]

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Give the model a ``configure_optimizers`` where the optimizer comes from arguments."""
        if not self.auto_configure_optimizers:
            return
        parser = self._parser(subcommand)
        optimizers = _automatic(parser._optimizers)
        lr_schedulers = _automatic(parser._lr_schedulers)
        if not optimizers:
            return
        if len(optimizers) > 1 or len(lr_schedulers) > 1:
            raise MisconfigurationException(
                f"`{type(self).__name__}.add_configure_optimizers_method_to_model` expects at most one optimizer and "
                f"one lr_scheduler to be 'AUTOMATIC', but found {[*optimizers, *lr_schedulers]}. In this case the user "
                "is expected to link the argument groups and implement `configure_optimizers`."
            )
        make_optimizer = self._chosen(optimizers)
        if make_optimizer is None:
            return
        name = type(self.model).__name__
        if type(self.model).configure_optimizers is not LightningModule.configure_optimizers:
            rank_zero_warn(
                f"`{name}.configure_optimizers` will be overridden by `{type(self).__name__}.configure_optimizers`."
            )
        # Not a bound method: that would be looked up by name where it is unpickled, and be the class's.
        configured = functools.partial(
            _configure, self.configure_optimizers, self.model, make_optimizer, self._chosen(lr_schedulers)
        )
        self.model.configure_optimizers = configured  # type: ignore[method-assign]

    def _chosen(self, registered: dict[str, Any]) -> Callable[..., Any] | None:
        """The optimizer or scheduler that was given, with its arguments; None if none was."""
        for key, cls in registered.items():
            given = self._get(self.config_init, key)
            given = given.as_dict() if isinstance(given, Namespace) else given
            if not isinstance(cls, tuple):
                return functools.partial(cls, **(given or {}))
            if given:
                return functools.partial(
                    _named_class(given["class_path"], self.parser.allow_import), **given.get("init_args", {})
                )
        return None

    # ------------------------------------------------------------------------------------------------ running

    def _run_subcommand(self, subcommand: str) -> None:
        for method in (f"before_{subcommand}", subcommand, f"after_{subcommand}"):
            if method == subcommand:
                run = getattr(self, subcommand, getattr(self.trainer, subcommand))
                run(**self._prepare_subcommand_kwargs(subcommand))
            elif callable(hook := getattr(self, method, None)):
                hook()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """What the trainer's method is called with."""
        names = self._subcommand_method_arguments[subcommand]
        kwargs = {key: value for key, value in self.config_init[subcommand].items() if key in names}
        kwargs["model"] = self.model
        if self.datamodule is not None:
            kwargs["datamodule"] = self.datamodule
        return kwargs


def instantiate_class(args: Any, init: dict[str, Any]) -> Any:
    """An object of the class ``init["class_path"]``, with its ``init["init_args"]``.

    Args:
        args: Positional arguments, a tuple, or the only one.

    Raises:
        MisconfigurationException: It is no class, or none that a configuration may name.
    """
    positional = args if isinstance(args, tuple) else (args,)
    return _named_class(init["class_path"])(*positional, **init.get("init_args", {}))


def _named_class(path: str, allow_import: Sequence[str] = ()) -> type:
    problem = ImportPolicy(allow_import).problem(path)
    if problem is not None:
        raise MisconfigurationException(f"A configuration may not name {path!r}: {problem}.")
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not inspect.isclass(cls):
        raise MisconfigurationException(f"class_path={path!r} is no class but {cls!r}.")
    return cls


def _configure(
    method: Callable[..., Any],
    model: LightningModule,
    make_optimizer: Callable[..., Optimizer],
    make_lr_scheduler: Callable[..., Any] | None,
) -> Any:
    """``configure_optimizers`` of a model whose optimizer comes from arguments."""
    optimizer = make_optimizer(model.parameters())
    lr_scheduler = make_lr_scheduler(optimizer) if make_lr_scheduler is not None else None
    return method(model, optimizer=optimizer, lr_scheduler=lr_scheduler)


def _automatic(registered: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    return {key: cls for key, (cls, link_to) in registered.items() if link_to == AUTOMATIC}


def _as_class(cls: type, init_args: Any) -> dict[str, Any]:
    if isinstance(init_args, Namespace):
        init_args = init_args.as_dict()
    return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": init_args or {}}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _set_nested(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data[parent]
    data[last] = value


def _first_line(method: Any) -> str | None:
    return (inspect.getdoc(method) or "").partition("\n")[0] or None


def _without_values(args: Any) -> list[str]:
    """Arguments by name: a password may be the value of any."""
    if isinstance(args, dict | Namespace):
        return list(args.keys())
    return [str(argument).partition("=")[0] for argument in args if str(argument).startswith("-")]
