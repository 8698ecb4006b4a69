"""Lightning 1.x spoken here: old flags and old values, each with its meaning today and its notice."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from raylight.config.flags import TrainerConfig
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_deprecation

Flags = dict[str, Any]
Translation = Callable[[Any, Flags], "Flags | None"]
"""``(value, other flags) -> flags of today``; None: the value is one of today's."""


@dataclass(frozen=True)
class OldFlag:
    """A flag that Lightning has removed, or a value that a flag no longer takes."""

    removed: str
    """The version of Lightning that removed it."""
    translate: Translation
    """What it means today. Raises MisconfigurationException or TypeError for what it never took."""
    notice: str = "Write `Trainer({new})`."
    """What to write instead; ``{new}`` is the translation, ``{value}`` what was given."""
    annotation: Any = None
    """Type, for argparse; None: that of the flag of this name in TrainerConfig."""
    default: Any = None
    """Value in Lightning 1.x; that of TrainerConfig where ``annotation`` is None."""


# ------------------------------------------------------------------------------------------------ translations


def _kept(name: str) -> Translation:
    """The flag has no successor among the flags: TrainerConfig has a field of its name."""
    return lambda value, flags: {name: value}


def _dropped(value: Any, flags: Flags) -> Flags:
    return {}


def _renamed(new: str, meaning: Callable[[Any], Any] = lambda value: value) -> Callable[[Any, Flags], Flags]:
    def translate(value: Any, flags: Flags) -> Flags:
        meant = meaning(value)
        if flags.get(new) is not None and flags[new] != meant:
            raise MisconfigurationException(f"{new}={flags[new]!r} contradicts the old flag, which means {meant!r}.")
        return {new: meant}

    return translate


def _gpus(value: Any, flags: Flags) -> Flags:
    if value is None or (isinstance(value, int | str | list) and value in (0, "0", "", [])):
        told = any(flags.get(name) not in (None, "auto") for name in ("accelerator", "devices"))
        return {} if told else {"accelerator": "cpu"}
    are_ints = isinstance(value, list | tuple) and all(type(each) is int for each in value)
    if not are_ints and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise TypeError(f"Device IDs (GPU/TPU) must be an int, a string, a sequence of ints, but you passed {value!r}.")
    accelerator = flags.get("accelerator") or "auto"
    if accelerator not in ("auto", "gpu", "cuda"):
        raise MisconfigurationException(f"gpus={value!r} contradicts accelerator={accelerator!r}: give one of them.")
    if flags.get("devices") not in (None, "auto", value):
        raise MisconfigurationException(f"gpus={value!r} contradicts devices={flags['devices']!r}: give one of them.")
    devices = int(value) if isinstance(value, str) and value.strip().lstrip("-").isdigit() else value
    return {"accelerator": "gpu" if accelerator == "auto" else accelerator, "devices": devices}


def _num_processes(value: Any, flags: Flags) -> Flags:
    if value is None or flags.get("accelerator") in ("gpu", "cuda") or flags.get("devices") not in (None, "auto"):
        return {}  # as in 1.x, where other devices win
    return {"accelerator": "cpu", "devices": value}


def _other_device(name: str) -> Translation:
    def translate(value: Any, flags: Flags) -> Flags:
        if value is None:
            return {}
        raise MisconfigurationException(
            f"`Trainer({name}={value!r})`: raylight runs on CPUs and GPUs. Use accelerator='cpu' or 'gpu', and devices."
        )

    return translate


APEX_LEVELS = {"O0": "32-true", "O1": "16-mixed", "O2": "16-mixed", "O3": "16-true"}
"""Apex's level -> the nearest precision."""


def _amp_backend(value: Any, flags: Flags) -> Flags:
    if value not in (None, "native", "apex"):
        raise MisconfigurationException(f"amp_backend={value!r} must be 'native' or 'apex'.")
    if value != "apex":
        return {}
    level, precision = flags.get("amp_level"), flags.get("precision")
    if level is not None and level not in APEX_LEVELS:
        raise MisconfigurationException(f"amp_level={level!r} must be one of {', '.join(APEX_LEVELS)}.")
    if "bf16" in str(precision):
        raise MisconfigurationException(
            "amp_backend='apex' has no bf16: leave it out, precision='bf16-mixed' needs none."
        )
    is_half = precision is None and level is not None or str(precision) in ("16", "16-mixed")
    return {"precision": APEX_LEVELS[level or "O2"]} if is_half else {}


def _track_grad_norm(value: Any, flags: Flags) -> Flags:
    try:
        valid = value in (-1, None) or float(value) > 0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise MisconfigurationException(
            f"`track_grad_norm` must be a positive number or 'inf' (infinity norm). Got {value}."
        )
    return {"track_grad_norm": -1 if value is None else value}


def _checkpoint_callback(value: Any, flags: Flags) -> Flags:
    if value is None:
        return {}
    if isinstance(value, bool):
        return _renamed("enable_checkpointing")(value, flags)
    given = flags.get("callbacks")  # before 1.3 it was the callback itself
    callbacks = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    return {"callbacks": [*callbacks, value]}


def _progress_bar_refresh_rate(value: Any, flags: Flags) -> Flags:
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MisconfigurationException(f"progress_bar_refresh_rate={value!r} must be a number of batches >= 0.")
    return {"enable_progress_bar": False} if value == 0 else {"progress_bar_refresh_rate": value}


def _weights_summary(value: Any, flags: Flags) -> Flags:
    if value not in ("top", "full", None):
        raise MisconfigurationException(f"`weights_summary` can be None, 'top', 'full', got {value!r}.")
    return {"enable_model_summary": False} if value is None else {"weights_summary": value}


def _log_gpu_memory(value: Any, flags: Flags) -> Flags:
    if value not in (None, True, False, "all", "min_max"):
        raise MisconfigurationException(f"log_gpu_memory={value!r} must be 'all', 'min_max' or None.")
    return {"log_gpu_memory": value or None}


def _truncated_bptt_steps(value: Any, flags: Flags) -> Flags:
    if value in (None, 0):
        return {}
    raise MisconfigurationException(
        f"`Trainer(truncated_bptt_steps={value!r})`: Lightning 2 has no truncated backpropagation through time. Set "
        "`self.automatic_optimization = False` and, in training_step, split the batch along its time, call "
        "manual_backward and step the optimizer for each part, and detach the hidden state between them."
    )


# ------------------------------------------------------------------------------------------------ old values

SAME_AS_DDP = {
    "horovod": "ddp", "bagua": "ddp", "ddp_cpu": "ddp", "ddp_sharded": "ddp", "ddp_sharded_spawn": "ddp",
    "ddp_sharded_find_unused_parameters_false": "ddp_find_unused_parameters_false",
    "ddp_sharded_spawn_find_unused_parameters_false": "ddp_find_unused_parameters_false",
}  # fmt: skip
"""Their workers average the gradients of their own batches, as in DDP; ``devices`` says how many there are."""
RENAMED_STRATEGIES = {
    "fsdp_native": "fsdp", "ddp_fully_sharded": "fsdp", "fsdp_native_full_shard_offload": "fsdp_cpu_offload",
    "tpu_spawn": "xla", "tpu_spawn_debug": "xla_debug",
}  # fmt: skip
GONE_STRATEGIES = {
    "dp": "it splits each batch over the GPUs of one process. Use 'ddp', where each worker takes batches of its own: "
    "divide batch_size by the number of GPUs for the same global batch",
    "ddp2": "it is DP within a node and DDP between nodes. Use 'ddp', where each worker takes batches of its own",
    "colossalai": "use 'fsdp' or 'ddp'",
    "collaborative": "use 'ddp'",
    "hivemind": "use 'ddp'",
    "ipu_strategy": "use 'ddp' on CPUs or GPUs",
    "hpu_single": "use 'auto' on CPUs or GPUs",
    "hpu_parallel": "use 'ddp' on CPUs or GPUs",
}
"""Strategies that nothing here has the same meaning as, and what to do."""
STRATEGIES_AS_ACCELERATOR = ("dp", "ddp", "ddp2", "ddp_cpu", "ddp_spawn", "horovod", "ddp_sharded", "ddp_sharded_spawn")
"""What ``accelerator`` (and ``distributed_backend``) took before 1.7."""


def _old_strategy(value: Any, flags: Flags) -> Flags | None:
    if value is None:
        return {"strategy": "auto"}
    if not isinstance(value, str):
        return None
    if value in GONE_STRATEGIES:
        raise MisconfigurationException(
            f"You selected an invalid strategy name: `strategy={value!r}` was removed in Lightning 2.0: "
            f"{GONE_STRATEGIES[value]}."
        )
    new = SAME_AS_DDP.get(value) or RENAMED_STRATEGIES.get(value)
    return {"strategy": new} if new else None


def _strategy_as_accelerator(value: Any, flags: Flags) -> Flags | None:
    if value is None:
        return {}
    if value not in STRATEGIES_AS_ACCELERATOR:
        return None
    device = {"accelerator": "cpu"} if value == "ddp_cpu" else {}
    return {**(_old_strategy(value, flags) or {"strategy": value}), **device}


def _is_strategy(plugin: Any) -> bool:
    if isinstance(plugin, str):
        return plugin in {*SAME_AS_DDP, *RENAMED_STRATEGIES, *GONE_STRATEGIES, *STRATEGIES_AS_ACCELERATOR}
    return hasattr(plugin, "strategy_name")


def _plugins(value: Any, flags: Flags) -> Flags | None:
    """Before 1.7 a strategy, or its name, could be among the plugins."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    strategies = [each for each in given if _is_strategy(each)]
    if not strategies:
        return None
    if len(strategies) > 1:
        raise MisconfigurationException(f"plugins={value!r} has several strategies: say strategy=... for one of them.")
    strategy = strategies[0]
    if isinstance(strategy, str):
        strategy = (_old_strategy(strategy, flags) or {"strategy": strategy})["strategy"]
    flags["strategy"] = strategy
    left = [each for each in given if each not in strategies]
    return {"strategy": strategy, "plugins": left or None}


def _profiler(value: Any, flags: Flags) -> Flags | None:
    if not isinstance(value, bool):
        return None
    return {"profiler": "simple" if value else None}


def _distributed_backend(value: Any, flags: Flags) -> Flags:
    new = _strategy_as_accelerator(value, flags)
    if new is None:
        raise MisconfigurationException(f"distributed_backend={value!r} does not exist: use strategy='ddp'.")
    return new


# ------------------------------------------------------------------------------------------------ the tables

OLD_FLAGS: dict[str, OldFlag] = {
    # Where it runs; in the order in which one looks at what the other means
    "distributed_backend": OldFlag("1.5", _distributed_backend, annotation=str | None),
    "gpus": OldFlag(
        "2.0", _gpus, "Write `Trainer({new})`; 0 and None mean accelerator='cpu'.", list[int] | str | int | None
    ),
    "num_processes": OldFlag(
        "2.0", _num_processes, "Write `Trainer(accelerator='cpu', devices={value!r})`.", int | None
    ),
    "tpu_cores": OldFlag("2.0", _other_device("tpu_cores"), "There is only `devices`.", int | str | None),
    "ipus": OldFlag("2.0", _other_device("ipus"), "There is only `devices`.", int | None),
    "auto_select_gpus": OldFlag(
        "2.0", _dropped, "Ray gives every worker free GPUs; in this process name them in `devices`.", bool, False
    ),
    "replace_sampler_ddp": OldFlag("2.0", _renamed("use_distributed_sampler"), annotation=bool, default=True),
    # Numbers
    "amp_backend": OldFlag(
        "2.0", _amp_backend, "Torch's own mixed precision is always used; say `precision` only: ({new}).", str, "native"
    ),
    "amp_level": OldFlag("2.0", _dropped, "It is Apex's; write `precision`, such as '16-mixed'.", str | None),
    "move_metrics_to_cpu": OldFlag(
        "2.0", _dropped, "Metrics are one number each, and come to the CPU when the run ends.", bool, False
    ),
    # How long and with what data
    "resume_from_checkpoint": OldFlag(
        "2.0", _kept("resume_from_checkpoint"), "Write `trainer.fit(model, ckpt_path={value!r})`."
    ),
    "multiple_trainloader_mode": OldFlag(
        "2.0", _kept("multiple_trainloader_mode"), "Return `CombinedLoader(loaders, mode={value!r})`."
    ),
    "reload_dataloaders_every_epoch": OldFlag(
        "1.6", _renamed("reload_dataloaders_every_n_epochs", int), annotation=bool, default=False
    ),
    "prepare_data_per_node": OldFlag(
        "1.7", _kept("prepare_data_per_node"), "Set the attribute `prepare_data_per_node` of the model and datamodule."
    ),
    "truncated_bptt_steps": OldFlag("1.5", _truncated_bptt_steps, "Split the sequence in training_step.", int | None),
    # Optimization
    "automatic_optimization": OldFlag(
        "1.3", _kept("automatic_optimization"), "Set `self.automatic_optimization = {value!r}` in the model."
    ),
    "enable_pl_optimizer": OldFlag(
        "1.3", _dropped, "Call `self.optimizers(use_pl_optimizer=...)` in the model.", bool | None
    ),
    "auto_lr_find": OldFlag("2.0", _kept("auto_lr_find"), "Write `Tuner(trainer).lr_find(model)`."),
    "auto_scale_batch_size": OldFlag(
        "2.0", _kept("auto_scale_batch_size"), "Write `Tuner(trainer).scale_batch_size(model)`."
    ),
    "stochastic_weight_avg": OldFlag(
        "1.7", _kept("stochastic_weight_avg"), "Write `Trainer(callbacks=StochasticWeightAveraging(swa_lrs=...))`."
    ),
    "terminate_on_nan": OldFlag(
        "1.7", _kept("terminate_on_nan"), "Write `Trainer(detect_anomaly=True)`, or EarlyStopping(check_finite=True)."
    ),
    "track_grad_norm": OldFlag(
        "2.0",
        _track_grad_norm,
        "Log `raylight.utilities.grads.grad_norm(self, {value!r})` in `on_before_optimizer_step`.",
    ),
    # Files and the terminal
    "checkpoint_callback": OldFlag(
        "1.7",
        _checkpoint_callback,
        "Write `Trainer(enable_checkpointing=...)`, and the callback in `callbacks`.",
        bool | None,
    ),
    "weights_save_path": OldFlag(
        "1.8", _kept("weights_save_path"), "Write `Trainer(callbacks=ModelCheckpoint(dirpath={value!r}))`."
    ),
    "progress_bar_refresh_rate": OldFlag(
        "1.7",
        _progress_bar_refresh_rate,
        "Write `Trainer(callbacks=TQDMProgressBar(refresh_rate={value!r}))`, or `Trainer(enable_progress_bar=False)`.",
    ),
    "process_position": OldFlag(
        "1.7", _kept("process_position"), "Write `Trainer(callbacks=TQDMProgressBar(process_position={value!r}))`."
    ),
    "weights_summary": OldFlag(
        "1.7",
        _weights_summary,
        "Write `Trainer(callbacks=ModelSummary(max_depth=...))`, 1 for 'top' and -1 for 'full', or "
        "`Trainer(enable_model_summary=False)`.",
    ),
    "log_gpu_memory": OldFlag("1.7", _log_gpu_memory, "Write `Trainer(callbacks=DeviceStatsMonitor())`."),
    "flush_logs_every_n_steps": OldFlag(
        "1.7",
        _dropped,
        "Loggers write once a second; a CSVLogger also takes `flush_logs_every_n_steps={value!r}`.",
        int | None,
    ),
}
"""Every flag of Lightning 1.x that Lightning 2 does not have."""

OLD_VALUES: dict[str, OldFlag] = {
    "accelerator": OldFlag(
        "1.7", lambda v, flags: {"accelerator": "auto"} if v is None else _strategy_as_accelerator(v, flags)
    ),
    "strategy": OldFlag("2.0", _old_strategy),
    "plugins": OldFlag("1.7", _plugins),
    "profiler": OldFlag("1.4", _profiler),
    "devices": OldFlag("2.0", lambda value, flags: {"devices": "auto"} if value is None else None),
    "max_steps": OldFlag("1.7", lambda value, flags: {"max_steps": -1} if value is None else None),
}
"""Flags of today that took other values in Lightning 1.x."""


# ------------------------------------------------------------------------------------------------ what the Trainer uses


def modernize(flags: Flags) -> Flags:
    """The flags of a call of ``Trainer``, with today's in place of Lightning 1.x's; a notice for each of those.

    Raises:
        MisconfigurationException: An old flag cannot mean anything here, or contradicts another flag.
        TypeError: An old flag has a value that it never took.
    """
    if not any(name in OLD_FLAGS or name in OLD_VALUES for name in flags):
        return flags
    flags = dict(flags)
    for name, old in [("accelerator", OLD_VALUES["accelerator"]), *OLD_FLAGS.items(), *OLD_VALUES.items()]:
        if name not in flags:
            continue
        value = flags.pop(name)
        new = old.translate(value, flags)
        if new is None:
            flags[name] = value
            continue
        flags.update(new)
        rank_zero_deprecation(_notice(name, value, old, new), stacklevel=7)
    return flags


def _notice(name: str, value: Any, old: OldFlag, new: Flags) -> str:
    written = ", ".join(f"{flag}={meaning!r}" for flag, meaning in new.items() if flag != "callbacks")
    return (
        f"`Trainer({name}={value!r})` was removed in Lightning {old.removed}, and still works here. "
        + old.notice.format(new=written or "...", value=value)
    )


def old_parameters() -> dict[str, inspect.Parameter]:
    """The flags that Lightning 2 does not have, with the types and defaults that they had."""
    kept = {field.name: field for field in dataclasses.fields(TrainerConfig)}
    hints = get_type_hints(TrainerConfig)
    return {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=old.default if old.annotation is not None else kept[name].default,
            annotation=old.annotation if old.annotation is not None else hints[name],
        )
        for name, old in OLD_FLAGS.items()
    }
