"""What users import and pass: a change here is a decision."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import raylight
import raylight.accelerators
import raylight.callbacks
import raylight.cli
import raylight.demos
import raylight.loggers
import raylight.plugins
import raylight.profilers
import raylight.strategies
import raylight.utilities


def test_package() -> None:
    assert raylight.__all__ == [
        "Callback",
        "LightningDataModule",
        "LightningModule",
        "SweepResult",
        "Trainer",
        "seed_everything",
        "sweep",
    ]


def test_sweep_takes_these_arguments() -> None:
    assert list(inspect.signature(raylight.sweep).parameters) == [
        "model", "space", "datamodule", "train_dataloaders", "val_dataloaders", "trainer", "metric", "mode",
        "num_samples", "scheduler", "search", "workers_per_trial", "resources_per_worker", "max_concurrent",
        "grace_period", "reduction_factor", "max_reports", "storage", "name", "seed", "resource_timeout", "verbose",
    ]  # fmt: skip


def test_ray_tune_is_imported_by_those_that_search() -> None:
    program = "import sys, raylight; print('ray.tune' in sys.modules); raylight.sweep; print('ray.tune' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "True"]


def test_callbacks() -> None:
    assert raylight.callbacks.__all__ == [
        "BackboneFinetuning",
        "BaseFinetuning",
        "BasePredictionWriter",
        "BatchSizeFinder",
        "Callback",
        "Checkpoint",
        "DeviceStatsMonitor",
        "EMAWeightAveraging",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LambdaCallback",
        "LearningRateFinder",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelPruning",
        "ModelSummary",
        "OnExceptionCheckpoint",
        "ProgressBar",
        "RichModelSummary",
        "RichProgressBar",
        "SpikeDetection",
        "StochasticWeightAveraging",
        "TQDMProgressBar",
        "ThroughputMonitor",
        "Timer",
        "WeightAveraging",
    ]


def test_cli() -> None:
    assert raylight.cli.__all__ == [
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


def test_loggers() -> None:
    assert raylight.loggers.__all__ == ["CSVLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]


def test_utilities() -> None:
    assert raylight.utilities.__all__ == [
        "AttributeDict",
        "CombinedLoader",
        "GradClipAlgorithmType",
        "LightningEnum",
        "disable_possible_user_warnings",
        "find_shared_parameters",
        "is_picklable",
        "is_shared_filesystem",
        "measure_flops",
        "move_data_to_device",
        "rank_zero_debug",
        "rank_zero_deprecation",
        "rank_zero_info",
        "rank_zero_only",
        "rank_zero_warn",
        "set_shared_parameters",
        "suggested_max_num_workers",
    ]


def test_profilers() -> None:
    assert raylight.profilers.__all__ == [
        "AdvancedProfiler",
        "PassThroughProfiler",
        "Profiler",
        "PyTorchProfiler",
        "SimpleProfiler",
        "XLAProfiler",
    ]


def test_plugins() -> None:
    assert raylight.plugins.__all__ == [
        "AsyncCheckpointIO",
        "CheckpointIO",
        "DoublePrecision",
        "HalfPrecision",
        "LayerSync",
        "MixedPrecision",
        "Precision",
        "TorchCheckpointIO",
        "TorchSyncBatchNorm",
    ]


def test_accelerators() -> None:
    assert raylight.accelerators.__all__ == [
        "Accelerator",
        "CPUAccelerator",
        "CUDAAccelerator",
        "MPSAccelerator",
        "find_usable_cuda_devices",
    ]


PACKAGES = [
    raylight,
    raylight.accelerators,
    raylight.callbacks,
    raylight.demos,
    raylight.loggers,
    raylight.plugins,
    raylight.profilers,
    raylight.strategies,
    raylight.utilities,
]


@pytest.mark.parametrize("module", PACKAGES)
def test_names_exist(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert [name for name in names if not hasattr(module, name)] == []
    assert names == sorted(names)


def test_flags() -> None:
    assert sorted(name for name in inspect.signature(raylight.Trainer).parameters if name != "self") == [
        "accelerator",
        "accumulate_grad_batches",
        "barebones",
        "benchmark",
        "callbacks",
        "check_val_every_n_epoch",
        "default_root_dir",
        "detect_anomaly",
        "deterministic",
        "devices",
        "elastic",
        "elastic_wait",
        "enable_autolog_hparams",
        "enable_checkpointing",
        "enable_model_summary",
        "enable_progress_bar",
        "fast_dev_run",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "hang_timeout",
        "idle_timeout",
        "inference_mode",
        "launcher",
        "limit_predict_batches",
        "limit_test_batches",
        "limit_train_batches",
        "limit_val_batches",
        "log_every_n_steps",
        "logger",
        "max_epochs",
        "max_failures",
        "max_steps",
        "max_time",
        "min_epochs",
        "min_steps",
        "num_nodes",
        "num_sanity_val_steps",
        "num_workers",
        "overfit_batches",
        "plugins",
        "precision",
        "profiler",
        "reload_dataloaders_every_n_epochs",
        "resource_timeout",
        "resources_per_worker",
        "shard_iterable_datasets",
        "snapshot_every_n_steps",
        "spare_workers",
        "strategy",
        "sync_batchnorm",
        "use_distributed_sampler",
        "val_check_interval",
    ]


OWN_ARGUMENTS = {"predict": ["write_to"]}
"""Behind Lightning's."""


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict", "save_checkpoint"])
def test_methods_take_lightnings_arguments(method: str) -> None:
    import pytorch_lightning

    theirs = inspect.signature(getattr(pytorch_lightning.Trainer, method)).parameters
    ours = inspect.signature(getattr(raylight.Trainer, method)).parameters
    assert list(ours) == [*theirs, *OWN_ARGUMENTS.get(method, ())]
    assert [ours[name].default for name in theirs] == [parameter.default for parameter in theirs.values()]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "core.saving",
            [
                "load_hparams_from_tags_csv",
                "load_hparams_from_yaml",
                "save_hparams_to_tags_csv",
                "save_hparams_to_yaml",
                "update_hparams",
            ],
        ),
        ("utilities.parsing", ["AttributeDict", "clean_namespace", "is_picklable", "parse_class_init_keys"]),
    ],
)
def test_helpers_are_where_lightning_has_them(module: str, names: list[str]) -> None:
    ours = importlib.import_module(f"raylight.{module}")
    theirs = importlib.import_module(f"pytorch_lightning.{module}")
    for name in names:
        function = getattr(ours, name)
        if inspect.isfunction(function):
            assert list(inspect.signature(function).parameters) == list(
                inspect.signature(getattr(theirs, name)).parameters
            )


def test_light_import() -> None:
    """Workers import all of this: Ray, bars and loggers come with their first use."""
    heavy = {"ray", "rich", "tensorboard", "torchmetrics", "torchvision", "yaml", "pandas", "pytorch_lightning"}
    heavy |= {"mlflow", "wandb", "onnx", "jsonargparse"}
    code = f"import sys, raylight; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
