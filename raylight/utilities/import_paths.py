"""Where Lightning's modules and names are found in raylight.

``PATHS`` maps a module path of Lightning's to raylight's module, or, where it has no room of its own, each of its names
to the place of that name. All paths are relative to the package. A path is looked up here only where raylight has no
ordinary module of that name; a target is imported when it is first asked for.
"""

from __future__ import annotations

from raylight.utilities.old_import_paths import OLD_INSTEAD, OLD_PATHS


def _modules(package: str, target: str, modules: str) -> dict[str, str]:
    """Modules of ``package`` whose names are all found in ``target``."""
    return {f"{package}.{module}": target for module in modules.split()}


def _names(target: str, names: str) -> dict[str, str]:
    """Names that are found under the same name in the module ``target``."""
    return {name: f"{target}.{name}" for name in names.split()}


_FABRIC_UTILITIES = {
    **_names(
        "utilities",
        "AttributeDict LightningEnum disable_possible_user_warnings is_shared_filesystem measure_flops "
        "move_data_to_device rank_zero_deprecation rank_zero_info rank_zero_only rank_zero_warn "
        "suggested_max_num_workers",
    ),
    **_names("utilities.throughput", "Throughput ThroughputMonitor"),
}

PATHS: dict[str, str | dict[str, str]] = {
    "callbacks.callback": "callbacks.base",
    "callbacks.gradient_accumulation_scheduler": "callbacks.schedules",
    "callbacks.lr_monitor": "callbacks.monitors",
    "callbacks.model_checkpoint": "callbacks.checkpoint",
    "callbacks.model_summary": "callbacks.summary",
    "callbacks.rich_model_summary": "callbacks.summary",
    "callbacks.timer": "callbacks.schedules",
    **_modules(
        "callbacks",
        "callbacks",
        "batch_size_finder device_stats_monitor finetuning lr_finder on_exception_checkpoint prediction_writer pruning "
        "spike stochastic_weight_avg throughput_monitor weight_averaging",
    ),
    **_modules("callbacks.progress", "callbacks.progress", "progress_bar rich_progress tqdm_progress"),
    "core.mixins": _names("core.hparams", "HyperparametersMixin"),
    "core.mixins.hparams_mixin": "core.hparams",
    "core.optimizer": _names("worker.optimizers", "LightningOptimizer"),
    "trainer": _names("utilities.seed", "seed_everything"),
    "trainer.trainer": "trainer",
    "trainer.states": {
        **_names("config.messages", "RunningStage TrainerFn TrainerStatus"),
        "TrainerState": "worker.state.TrainState",
    },
    **_modules("loggers", "loggers", "comet litlogger mlflow neptune wandb"),
    **_modules("strategies", "strategies", "deepspeed fsdp model_parallel parallel single_xla xla"),
    "strategies.strategy": "strategies.base",
    "strategies.single_device": "strategies.base",
    "loops": {"_FitLoop": "worker.fit_loop.FitLoop"},
    "loops.fit_loop": {"_FitLoop": "worker.fit_loop.FitLoop"},
    **_modules("accelerators", "accelerators", "accelerator cpu cuda mps xla"),
    **_modules("plugins", "plugins", "environments io layer_sync precision"),
    **_modules("plugins.io", "plugins", "async_plugin checkpoint_plugin torch_plugin wrapper xla_plugin"),
    **_modules("plugins.precision", "plugins", "amp double half precision"),
    **_modules("profilers", "profilers", "advanced base profiler pytorch simple"),
    **_modules("tuner", "tuner", "batch_size_scaling tuning"),
    "tuner.lr_finder": {"_LRFinder": "callbacks.lr_finder.LRFinder"},
    "utilities": {
        **_names("utilities.grads", "grad_norm"),
        **_names("utilities.throughput", "Throughput ThroughputMonitor"),
    },
    "utilities.model_summary.model_summary": "utilities.model_summary",
    "utilities.migration": _names("checkpoint.migrate", "migrate_checkpoint"),
    "utilities.migration.utils": "utilities.migration",
    "utilities.upgrade_checkpoint": "cli.upgrade_checkpoint",
    "fabric": {
        **_names("utilities.seed", "seed_everything"),
        "__version__": "checkpoint.format.LIGHTNING_VERSION",
    },
    "fabric.utilities": _FABRIC_UTILITIES,
    "fabric.utilities.apply_func": "utilities.apply_func",
    "fabric.utilities.distributed": "utilities.distributed",
    "fabric.utilities.enums": "utilities.enums",
    "fabric.utilities.exceptions": "utilities.exceptions",
    "fabric.utilities.imports": "utilities.imports",
    "fabric.utilities.rank_zero": "utilities.rank_zero",
    "fabric.utilities.seed": "utilities.seed",
    "fabric.utilities.throughput": "utilities.throughput",
    "fabric.utilities.types": "utilities.types",
    "fabric.utilities.warnings": "utilities.warnings",
    "fabric.utilities.data": {
        **_names("utilities.data", "has_iterable_dataset sized_len suggested_max_num_workers"),
        **_names("utilities.parsing", "AttributeDict"),
    },
    "fabric.accelerators": "accelerators",
    "fabric.loggers": _names("loggers", "CSVLogger Logger TensorBoardLogger"),
    "fabric.loggers.csv_logs": "loggers.csv_logs",
    "fabric.loggers.logger": "loggers.logger",
    "fabric.loggers.tensorboard": "loggers.tensorboard",
}

_NO_LOOP = "training runs in `raylight.worker`; override the hooks of the LightningModule or of a Callback"
_NO_XLA = "raylight runs on CPUs and CUDA GPUs: accelerator='cpu' or 'gpu'"
_NO_LOGGER = "use TensorBoardLogger, CSVLogger, MLFlowLogger, WandbLogger, or a subclass of raylight.loggers.Logger"
_NO_SHARDING = "use DDPStrategy (strategy='ddp')"
_NO_LAUNCHER = "raylight starts the workers itself: Trainer(launcher=..., devices=..., num_nodes=...)"

INSTEAD: dict[str, str] = {
    "Fabric": "use raylight.Trainer with a LightningModule, in manual optimization where the loop is your own",
    **dict.fromkeys(["serve", "ServableModule", "ServableModuleValidator"], "serve the model with Ray Serve"),
    "is_wrapped": "there are no Fabric wrappers in raylight",
    "DeepSpeedSummary": "use ModelSummary",
    **dict.fromkeys(["BitsandbytesPrecision", "TransformerEnginePrecision"], "use precision='bf16-mixed'"),
    **dict.fromkeys(["DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy", "ParallelStrategy"], _NO_SHARDING),
    **dict.fromkeys(["DeepSpeedPrecision", "FSDPPrecision"], _NO_SHARDING),
    **dict.fromkeys(["CometLogger", "LitLogger", "NeptuneLogger"], _NO_LOGGER),
    **dict.fromkeys(["MPSAccelerator", "XLAAccelerator", "XLACheckpointIO", "XLAPrecision", "XLAProfiler"], _NO_XLA),
    **dict.fromkeys(["XLAStrategy", "SingleDeviceXLAStrategy"], _NO_XLA),
    **dict.fromkeys(["call", "configuration_validator", "connectors", "setup", "overrides"], _NO_LOOP),
    **dict.fromkeys(
        ["evaluation_loop", "prediction_loop", "training_epoch_loop", "fetchers", "optimization"], _NO_LOOP
    ),
    **dict.fromkeys(["loop", "RestartStage"], _NO_LOOP),
    **dict.fromkeys(["deepspeed", "fsdp", "model_summary_deepspeed", "consolidate_checkpoint"], _NO_SHARDING),
    **dict.fromkeys(["bitsandbytes", "transformer_engine"], "use precision='bf16-mixed'"),
    **dict.fromkeys(["TPUAccelerator", "HPUAccelerator", "xla"], _NO_XLA),
    "model_registry": "give ckpt_path= a path or a URI",
    "pl_legacy_patch": "files of any version are read without it; `raylight ckpt upgrade FILE` rewrites them",
    **dict.fromkeys(["launchers", "LightningEnvironment", "SLURMEnvironment", "TorchElasticEnvironment"], _NO_LAUNCHER),
}
"""What to use in place of a name, or of a module, that raylight does not have."""

for _path, _old in OLD_PATHS.items():
    _new = PATHS.get(_path)
    PATHS[_path] = {**_old, **_new} if isinstance(_old, dict) and isinstance(_new, dict) else _old
INSTEAD.update(OLD_INSTEAD)
