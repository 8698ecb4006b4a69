"""Whatever both libraries have is called the same way, and is what it is in Lightning."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning

LIGHTNING = ("pytorch_lightning", "lightning_fabric")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

INTENDED = {
    "Trainer": "model_registry is refused: ckpt_path takes a path or a URI",
    "callbacks.LambdaCallback": "takes every hook there is, by name",
    "callbacks.RichProgressBar": "theme=None is Lightning's theme: rich is imported when a bar is drawn",
    "callbacks.progress.rich_progress.MetricsTextColumn": "takes the bar, which may have no trainer yet",
    "cli.LightningArgumentParser.add_lr_scheduler_args": "the default names raylight's own ReduceLROnPlateau",
    "plugins.TorchCheckpointIO.load_checkpoint": "map_location='cpu' says what Lightning's function does",
    "profilers.pytorch.ScheduleWrapper.pre_step": "raylight's own",
    "strategies.DDPStrategy": "find_unused_parameters and gradient_as_bucket_view come first",
    "strategies.SingleDeviceStrategy": "device=None is the one that the Trainer's flags mean",
    "strategies.Strategy.setup": "the loops are functions of raylight.worker: a strategy is asked for less",
    "trainer.states.TrainerState": "holds the counters too",
    "utilities.parsing.save_hyperparameters": "given_hparams is the CLI's own way in",
    "utilities.types.DistributedDataParallel": "raylight's own",
}
"""Differences on purpose, of an object and of its subclasses, each with its reason."""

MISSING = {
    "Accelerator": "register_accelerators",
    "CUDAAccelerator": "set_nvidia_flags",
    "ClusterEnvironment": "creates_processes_externally detect global_rank local_rank main_address main_port node_rank "
    "set_global_rank set_world_size teardown validate_settings world_size",
    "_DummyExperiment": "nop",
    "ScheduleWrapper": "has_finished is_predicting is_testing is_training is_validating setup",
    "Strategy": "backward lightning_restore_optimizer load_optimizer_state_dict model_sharded_context "
    "model_to_device optimizer_step post_backward post_training_step pre_backward predict_step process_dataloader "
    "register_strategies restore_checkpoint_after_setup setup_environment setup_optimizers setup_precision_plugin "
    "tensor_init_context test_step validation_step",
    "DDPStrategy": "configure_ddp determine_ddp_device_ids distributed_sampler_kwargs is_distributed num_nodes "
    "num_processes parallel_devices process_group_backend set_world_ranks setup_distributed",
    "XLAProfiler": "RECORD_FUNCTIONS STEP_FUNCTIONS",
}
"""Public methods and attributes that raylight's class of this name, or one that it derives from, leaves out."""

OTHER_BASES = {"CheckpointHooks", "ParallelStrategy", "ABC", "StrEnum"}
"""Of Lightning's Precision, strategies and enumerations."""


def modules() -> Iterator[tuple[str, ModuleType, ModuleType]]:
    """Every public module of Lightning's that raylight has too: path, Lightning's, ours."""
    found = pkgutil.walk_packages(pytorch_lightning.__path__, "pytorch_lightning.")
    for name in ["pytorch_lightning", *(each.name for each in found)]:
        path = name.partition(".")[2]
        if any(part.startswith("_") for part in path.split(".")):
            continue
        try:
            yield path, importlib.import_module(name), importlib.import_module(f"raylight.{path}".rstrip("."))
        except ImportError:
            continue


@cache
def pairs() -> dict[str, tuple[Any, Any]]:
    """Lightning's classes and functions with ours, under the first path that has them."""
    found: dict[str, tuple[Any, Any]] = {}
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's optional modules
        for path, theirs, ours in modules():
            for name, thing in vars(theirs).items():
                public = not name.startswith("_") and getattr(thing, "__module__", "").startswith(LIGHTNING)
                if public and id(thing) not in seen and (inspect.isclass(thing) or inspect.isfunction(thing)):
                    try:
                        found[f"{path}.{name}".lstrip(".")] = thing, getattr(ours, name)
                    except (ImportError, AttributeError):
                        continue
                    seen.add(id(thing))
    return found


def classes() -> dict[str, tuple[type, type]]:
    return {path: pair for path, pair in pairs().items() if inspect.isclass(pair[0])}


def callables() -> Iterator[tuple[str, Any, Any]]:
    """Functions, constructors and methods: path, Lightning's, ours."""
    for path, (theirs, ours) in pairs().items():
        if not (inspect.isclass(theirs) and issubclass(theirs, enum.Enum)):
            yield path, theirs, ours
        if inspect.isclass(theirs):
            for name in public_names(theirs):
                method = inspect.getattr_static(theirs, name)
                if inspect.isfunction(method) or isinstance(method, classmethod | staticmethod):
                    yield f"{path}.{name}", getattr(theirs, name), getattr(ours, name, None)


def public_names(theirs: type) -> list[str]:
    """What a class of Lightning's has of Lightning's."""
    owners = [owner for owner in theirs.__mro__ if owner.__module__.startswith(LIGHTNING)]
    return sorted({name for owner in owners for name in vars(owner) if not name.startswith("_")})


def is_intended(path: str) -> bool:
    if path in INTENDED:
        return True
    owner, _, name = path.rpartition(".")
    if owner not in classes():
        return False
    bases = [base.__name__ for base in classes()[owner][0].__mro__]
    return any(intended.endswith(f".{base}.{name}") for base in bases for intended in INTENDED)


def parameters(function: Any) -> dict[str, Any] | None:
    """Names in their order with their defaults; None where Python cannot tell."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return {name: each.default for name, each in found.items() if each.kind not in VARIADIC}


def is_variadic(function: Any) -> bool:
    return any(each.kind in VARIADIC for each in inspect.signature(function).parameters.values())


def difference(theirs: Any, ours: Any) -> str | None:
    """What Lightning's callers would notice. Arguments that only raylight has come last, or by name."""
    expected, got = parameters(theirs), parameters(ours)
    if expected is None or got is None:
        return None
    if "cls" not in got:
        expected.pop("cls", None)  # Lightning's load_from_checkpoint shows it
    if missing := [name for name in expected if name not in got]:
        return f"lacks {missing}"
    keyword_only = any(each.kind is each.KEYWORD_ONLY for each in inspect.signature(ours).parameters.values())
    if not keyword_only and list(got)[: len(expected)] != list(expected):
        return f"has the order {list(got)} instead of {list(expected)}"
    required = [name for name, default in got.items() if default is inspect.Parameter.empty and name not in expected]
    if required and not is_variadic(theirs):
        return f"also requires {required}"
    changed = {name: (default, got[name]) for name, default in expected.items() if not same_default(default, got[name])}
    return f"has other defaults (Lightning's, ours): {changed}" if changed else None


def same_default(theirs: Any, ours: Any) -> bool:
    if all(inspect.isclass(default) or inspect.isfunction(default) for default in (theirs, ours)):
        return theirs.__name__ == ours.__name__
    return theirs is ours or bool(theirs == ours)


def test_most_of_lightning_is_compared() -> None:
    assert len(pairs()) > 130
    assert sum(1 for _ in callables()) > 1000


def test_calls() -> None:
    found = {path: difference(theirs, ours) for path, theirs, ours in callables() if ours is not None}
    assert {path: text for path, text in found.items() if text is not None and not is_intended(path)} == {}


def test_every_intended_difference_is_one() -> None:
    differs = {path for path, theirs, ours in callables() if ours is not None and difference(theirs, ours) is not None}
    assert [path for path in INTENDED if path not in differs] == []


def left_out(theirs: type) -> set[str]:
    return {name for base in theirs.__mro__ for name in MISSING.get(base.__name__, "").split()}


def on_instances(ours: type) -> set[str]:
    """Attributes that ``__init__`` sets."""
    return {
        name for base in ours.__mro__ if inspect.isfunction(base.__init__) for name in base.__init__.__code__.co_names
    }


def test_methods_and_attributes() -> None:
    lacking = {
        f"{path}.{name}"
        for path, (theirs, ours) in classes().items()
        for name in public_names(theirs)
        if not hasattr(ours, name) and name not in on_instances(ours) and name not in left_out(theirs)
    }
    assert sorted(lacking) == []


def test_what_is_called_missing_is() -> None:
    for path, (theirs, ours) in classes().items():
        listed = MISSING.get(theirs.__name__, "").split()
        assert [name for name in listed if hasattr(ours, name) or not hasattr(theirs, name)] == [], path


def test_bases() -> None:
    lacking = {}
    for path, (theirs, ours) in classes().items():
        expected = {base.__name__ for base in theirs.__mro__[1:] if not base.__name__.startswith("_")} - OTHER_BASES
        if missing := expected - {base.__name__ for base in ours.__mro__}:
            lacking[path] = missing
    assert lacking == {}


def test_members_of_enumerations() -> None:
    enums = {path: pair for path, pair in classes().items() if issubclass(pair[0], enum.Enum)}
    assert len(enums) >= 6
    for path, (theirs, ours) in enums.items():
        assert issubclass(ours, enum.Enum)
        assert {name: member.value for name, member in ours.__members__.items()} == {
            name: member.value for name, member in theirs.__members__.items()
        }, path


@pytest.mark.parametrize("path", [path for path, (theirs, _) in classes().items() if not issubclass(theirs, enum.Enum)])
def test_constants(path: str) -> None:
    theirs, ours = classes()[path]
    plain = (str, int, float, bool, tuple, type(None))
    for name in public_names(theirs):
        value = inspect.getattr_static(theirs, name)
        if isinstance(value, plain) and hasattr(ours, name) and isinstance(getattr(ours, name), plain):
            own = getattr(ours, name)
            assert (own[: len(value)] if isinstance(value, tuple) else own) == value, name  # a tuple may have more
