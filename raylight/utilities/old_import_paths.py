"""Where modules and names of Lightning 1.x are found in raylight: what ``import_paths`` has beside Lightning 2.

To be read as its ``PATHS`` and ``INSTEAD``.
"""

from __future__ import annotations

_DDP = "strategies.DDPStrategy"
_STRATEGIES = {
    **dict.fromkeys(["DDPSpawnStrategy", "DDPShardedStrategy", "DDPSpawnShardedStrategy"], _DDP),
    **dict.fromkeys(["HorovodStrategy", "BaguaStrategy"], _DDP),
}
"""Their workers average the gradients of their own batches, as in DDP."""
_PRECISIONS = {
    "PrecisionPlugin": "precision.Precision",
    "DoublePrecisionPlugin": "precision.DoublePrecision",
    "NativeMixedPrecisionPlugin": "precision.MixedPrecision",
    "MixedPrecisionPlugin": "precision.MixedPrecision",
}
_PLUGINS = {
    **dict.fromkeys(
        ["DDPPlugin", "DDPSpawnPlugin", "DDPShardedPlugin", "DDPSpawnShardedPlugin", "HorovodPlugin"], _DDP
    ),
    "SingleDevicePlugin": "strategies.SingleDeviceStrategy",
    "TrainingTypePlugin": "strategies.Strategy",
}
_RANK_ZERO = {
    name: f"utilities.rank_zero.{name}"
    for name in ("rank_zero_only", "rank_zero_warn", "rank_zero_info", "rank_zero_debug", "rank_zero_deprecation")
}
_LOGGERS = {
    "LightningLoggerBase": "loggers.legacy.LightningLoggerBase",
    "LoggerCollection": "loggers.legacy.LoggerCollection",
}
_PROFILERS = {
    **{name: f"profilers.{name}" for name in ("SimpleProfiler", "AdvancedProfiler", "PyTorchProfiler", "XLAProfiler")},
    **{name: f"profilers.{name}" for name in ("PassThroughProfiler", "Profiler")},
    **dict.fromkeys(["BaseProfiler", "AbstractProfiler"], "profilers.Profiler"),
}
_CALLBACKS = {
    "ProgressBarBase": "callbacks.progress.ProgressBar",
    "LearningRateLogger": "callbacks.LearningRateMonitor",
}
_GPU = {"GPUAccelerator": "accelerators.CUDAAccelerator"}

OLD_PATHS: dict[str, str | dict[str, str]] = {
    "__about__": {"__version__": "checkpoint.format.LIGHTNING_VERSION"},
    "accelerators": _GPU,
    "accelerators.gpu": _GPU,
    "callbacks": _CALLBACKS,
    "callbacks.lr_logger": _CALLBACKS,
    "callbacks.progress": _CALLBACKS,
    "callbacks.progress.base": _CALLBACKS,
    "callbacks.pt_callbacks": "callbacks",
    "callbacks.swa": "callbacks",
    "core.lightning": "core.module",
    "core.memory": "utilities.model_summary",
    "loggers": _LOGGERS,
    "loggers.base": {**_LOGGERS, "merge_dicts": "loggers.logger.merge_dicts"},
    "logging": "loggers",
    "plugins": {**_PLUGINS, **_PRECISIONS},
    "plugins.ddp_plugin": _PLUGINS,
    "plugins.sharded_plugin": _PLUGINS,
    "plugins.precision": _PRECISIONS,
    **{f"plugins.precision.{module}": _PRECISIONS for module in ("native_amp", "precision_plugin")},
    "plugins.training_type": _PLUGINS,
    **{
        f"plugins.training_type.{module}": _PLUGINS
        for module in ("ddp", "ddp_spawn", "sharded", "sharded_spawn", "single_device", "training_type_plugin")
    },
    "profiler": _PROFILERS,
    **{
        f"profiler.{module}": _PROFILERS
        for module in ("advanced", "base", "profiler", "profilers", "pytorch", "simple")
    },
    "strategies": _STRATEGIES,
    **{f"strategies.{module}": _STRATEGIES for module in ("ddp_spawn", "sharded", "sharded_spawn")},
    "trainer.supporters": {"CombinedLoader": "utilities.combined_loader.CombinedLoader"},
    "tuner": {"_LRFinder": "callbacks.lr_finder.LRFinder"},
    "utilities.apply_func": {"apply_to_collection": "utilities.old_names.apply_to_collection"},
    "utilities.argparse_utils": "utilities.argparse",
    "utilities.cli": "cli",
    "utilities.cloud_io": {"load": "checkpoint.format.load", "atomic_save": "checkpoint.format.save"},
    "utilities.distributed": _RANK_ZERO,
    "utilities.logger": {
        "_convert_params": "loggers.base.convert_params",
        "_flatten_dict": "loggers.base.flatten_params",
        "_sanitize_params": "loggers.base.sanitize_params",
    },
    "utilities.seed": {"pl_worker_init_function": "utilities.seed.seed_dataloader_worker"},
    "utilities.types": {"EPOCH_OUTPUT": "utilities.old_names.EPOCH_OUTPUT"},
    "utilities.warnings": _RANK_ZERO,
}

_NO_RESULT = "return the loss, or a dict with it, and log with self.log or self.log_dict"
_NO_REGISTRY = "leave it out: LightningCLI takes any class by its import path"
_NO_DP = (
    "use DDPStrategy (strategy='ddp'), where each worker takes batches of its own: divide batch_size by their number"
)
_NO_SHARDING = "use DDPStrategy (strategy='ddp')"
_NO_DEVICE = "raylight runs on CPUs and GPUs: accelerator='cpu' or 'gpu'"
_NO_LITE = "use raylight.Trainer with a LightningModule, in manual optimization where the loop is your own"

OLD_INSTEAD: dict[str, str] = {
    "metrics": "use torchmetrics, which it became: `import torchmetrics`",
    **dict.fromkeys(["EvalResult", "TrainResult", "step_result"], _NO_RESULT),
    **dict.fromkeys(
        ["data_loader", "auto_move_data", "decorators"], "leave the decorator out, the Trainer does its work"
    ),
    **dict.fromkeys(["GPUStatsMonitor", "gpu_stats_monitor"], "use DeviceStatsMonitor"),
    "QuantizationAwareTraining": "prepare and convert the model with torch.ao.quantization in its hooks",
    **dict.fromkeys(
        ["TestTubeLogger", "test_tube"], "use TensorBoardLogger, whose files are the same kind, or CSVLogger"
    ),
    **dict.fromkeys(["MODEL_REGISTRY", "DATAMODULE_REGISTRY", "CALLBACK_REGISTRY", "OPTIMIZER_REGISTRY"], _NO_REGISTRY),
    **dict.fromkeys(["LR_SCHEDULER_REGISTRY", "LOGGER_REGISTRY"], _NO_REGISTRY),
    **dict.fromkeys(["DataParallelPlugin", "DataParallelStrategy", "DDP2Plugin", "DDP2Strategy", "dp"], _NO_DP),
    **dict.fromkeys(["DeepSpeedPlugin", "DDPFullyShardedPlugin", "DDPFullyShardedStrategy"], _NO_SHARDING),
    **dict.fromkeys(["DDPFullyShardedNativeStrategy", "RPCSequentialPlugin", "ParallelPlugin"], _NO_SHARDING),
    "ApexMixedPrecisionPlugin": "torch's own mixed precision has taken Apex's place: precision='16-mixed'",
    **dict.fromkeys(["TPUAccelerator", "IPUAccelerator", "HPUAccelerator", "XLAStatsMonitor"], _NO_DEVICE),
    **dict.fromkeys(["TPUSpawnPlugin", "TPUSpawnStrategy", "SingleTPUStrategy", "SingleTPUPlugin"], _NO_DEVICE),
    **dict.fromkeys(["IPUPlugin", "IPUStrategy", "xla_device", "xla_device_utils"], _NO_DEVICE),
    **dict.fromkeys(["lite", "LightningLite"], _NO_LITE),
    **dict.fromkeys(["auto_gpu_select", "pick_single_gpu", "pick_multiple_gpus"], "say devices=1: Ray gives free GPUs"),
}
