"""Lightning's import paths, as ``raylight.<path>`` and, where raylight has taken its place, under its own names."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest

import raylight
from raylight.checkpoint.format import LIGHTNING_VERSION
from raylight.utilities import aliases

from .conftest import PROGRAMS, Python

GOLDEN = {
    "": "Callback LightningDataModule LightningModule Trainer seed_everything",
    "accelerators": "Accelerator CPUAccelerator CUDAAccelerator MPSAccelerator find_usable_cuda_devices",
    "accelerators.accelerator": "Accelerator",
    "accelerators.cpu": "CPUAccelerator",
    "accelerators.cuda": "CUDAAccelerator",
    "accelerators.mps": "MPSAccelerator",
    "callbacks": "BackboneFinetuning BaseFinetuning BasePredictionWriter BatchSizeFinder Callback Checkpoint "
    "DeviceStatsMonitor EMAWeightAveraging EarlyStopping GradientAccumulationScheduler LambdaCallback "
    "LearningRateFinder LearningRateMonitor ModelCheckpoint ModelPruning ModelSummary OnExceptionCheckpoint "
    "ProgressBar RichModelSummary RichProgressBar SpikeDetection StochasticWeightAveraging TQDMProgressBar "
    "ThroughputMonitor Timer WeightAveraging",
    "callbacks.batch_size_finder": "BatchSizeFinder",
    "callbacks.callback": "Callback",
    "callbacks.checkpoint": "Checkpoint",
    "callbacks.device_stats_monitor": "DeviceStatsMonitor",
    "callbacks.early_stopping": "EarlyStopping EarlyStoppingReason",
    "callbacks.finetuning": "BackboneFinetuning BaseFinetuning multiplicative",
    "callbacks.gradient_accumulation_scheduler": "GradientAccumulationScheduler",
    "callbacks.lambda_function": "LambdaCallback",
    "callbacks.lr_finder": "LearningRateFinder",
    "callbacks.lr_monitor": "LearningRateMonitor",
    "callbacks.model_checkpoint": "ModelCheckpoint",
    "callbacks.model_summary": "ModelSummary",
    "callbacks.on_exception_checkpoint": "OnExceptionCheckpoint",
    "callbacks.prediction_writer": "BasePredictionWriter WriteInterval",
    "callbacks.progress": "ProgressBar RichProgressBar TQDMProgressBar",
    "callbacks.progress.progress_bar": "ProgressBar get_standard_metrics",
    "callbacks.progress.rich_progress": "RichProgressBar RichProgressBarTheme",
    "callbacks.progress.tqdm_progress": "TQDMProgressBar Tqdm",
    "callbacks.pruning": "ModelPruning",
    "callbacks.rich_model_summary": "RichModelSummary",
    "callbacks.spike": "SpikeDetection",
    "callbacks.stochastic_weight_avg": "StochasticWeightAveraging",
    "callbacks.throughput_monitor": "ThroughputMonitor",
    "callbacks.timer": "Interval Timer",
    "callbacks.weight_averaging": "EMAWeightAveraging WeightAveraging",
    "cli": "LightningArgumentParser LightningCLI ReduceLROnPlateau SaveConfigCallback instantiate_class "
    "instantiate_module",
    "core": "LightningDataModule LightningModule",
    "core.datamodule": "LightningDataModule",
    "core.hooks": "CheckpointHooks DataHooks ModelHooks",
    "core.mixins": "HyperparametersMixin",
    "core.mixins.hparams_mixin": "HyperparametersMixin",
    "core.module": "LightningModule",
    "core.optimizer": "LightningOptimizer",
    "core.saving": "load_hparams_from_tags_csv load_hparams_from_yaml save_hparams_to_tags_csv save_hparams_to_yaml "
    "update_hparams",
    "demos": "BoringDataModule BoringModel DemoModel LightningLSTM LightningTransformer SequenceSampler SimpleLSTM "
    "Transformer WikiText2",
    "demos.boring_classes": "BoringDataModule BoringDataModuleNoLen BoringModel DemoModel IterableBoringDataModule "
    "ManualOptimBoringModel Net RandomDataset RandomDictDataset RandomIterableDataset RandomIterableDatasetWithLen",
    "demos.lstm": "LightningLSTM SequenceSampler SimpleLSTM",
    "demos.mnist_datamodule": "MNISTDataModule",
    "demos.transformer": "Dictionary LightningTransformer PositionalEncoding Transformer WikiText2 tokenize",
    "loggers": "CSVLogger Logger MLFlowLogger TensorBoardLogger WandbLogger",
    "loggers.csv_logs": "CSVLogger ExperimentWriter",
    "loggers.logger": "DummyLogger Logger merge_dicts",
    "loggers.mlflow": "MLFlowLogger",
    "loggers.tensorboard": "TensorBoardLogger",
    "loggers.wandb": "WandbLogger",
    "loops": "_FitLoop",
    "loops.fit_loop": "_FitLoop",
    "plugins": "AsyncCheckpointIO CheckpointIO DoublePrecision HalfPrecision LayerSync MixedPrecision Precision "
    "TorchCheckpointIO TorchSyncBatchNorm",
    "plugins.environments": "ClusterEnvironment",
    "plugins.io": "AsyncCheckpointIO CheckpointIO TorchCheckpointIO",
    "plugins.io.async_plugin": "AsyncCheckpointIO",
    "plugins.io.checkpoint_plugin": "CheckpointIO",
    "plugins.io.torch_plugin": "TorchCheckpointIO",
    "plugins.layer_sync": "LayerSync TorchSyncBatchNorm",
    "plugins.precision": "DoublePrecision HalfPrecision MixedPrecision Precision",
    "plugins.precision.amp": "MixedPrecision",
    "plugins.precision.double": "DoublePrecision",
    "plugins.precision.half": "HalfPrecision",
    "plugins.precision.precision": "Precision",
    "profilers": "AdvancedProfiler PassThroughProfiler Profiler PyTorchProfiler SimpleProfiler XLAProfiler",
    "profilers.advanced": "AdvancedProfiler",
    "profilers.base": "PassThroughProfiler",
    "profilers.profiler": "Profiler",
    "profilers.pytorch": "PyTorchProfiler RegisterRecordFunction ScheduleWrapper",
    "profilers.simple": "SimpleProfiler",
    "profilers.xla": "XLAProfiler",
    "strategies": "DDPStrategy SingleDeviceStrategy Strategy",
    "strategies.ddp": "DDPStrategy",
    "strategies.single_device": "SingleDeviceStrategy",
    "strategies.strategy": "Strategy",
    "trainer": "Trainer seed_everything",
    "trainer.states": "RunningStage TrainerFn TrainerState TrainerStatus",
    "trainer.trainer": "Trainer",
    "tuner": "Tuner",
    "tuner.tuning": "Tuner",
    "utilities": "AttributeDict CombinedLoader FLOAT16_EPSILON FLOAT32_EPSILON FLOAT64_EPSILON GradClipAlgorithmType "
    "LightningEnum disable_possible_user_warnings find_shared_parameters grad_norm is_picklable is_shared_filesystem "
    "measure_flops move_data_to_device rank_zero_deprecation rank_zero_info rank_zero_only rank_zero_warn "
    "set_shared_parameters suggested_max_num_workers",
    "utilities.combined_loader": "CombinedLoader",
    "utilities.compile": "from_compiled to_uncompiled",
    "utilities.data": "extract_batch_size has_len_all_ranks",
    "utilities.enums": "GradClipAlgorithmType LightningEnum",
    "utilities.exceptions": "MisconfigurationException SIGTERMException",
    "utilities.grads": "grad_norm",
    "utilities.imports": "_OMEGACONF_AVAILABLE _RICH_AVAILABLE _TORCHVISION_AVAILABLE",
    "utilities.memory": "garbage_collection_cuda is_cuda_out_of_memory is_cudnn_snafu is_oom_error "
    "is_out_of_cpu_memory recursive_detach",
    "utilities.migration": "migrate_checkpoint",
    "utilities.migration.utils": "migrate_checkpoint",
    "utilities.model_helpers": "get_torchvision_model is_overridden",
    "utilities.model_summary": "LayerSummary ModelSummary get_formatted_model_size get_human_readable_count "
    "parse_batch_shape summarize",
    "utilities.model_summary.model_summary": "LEFTOVER_PARAMS_NAME LayerSummary ModelSummary NOT_APPLICABLE "
    "PARAMETER_NUM_UNITS UNKNOWN_SIZE get_formatted_model_size get_human_readable_count parse_batch_shape summarize",
    "utilities.parameter_tying": "find_shared_parameters set_shared_parameters",
    "utilities.parsing": "AttributeDict clean_namespace collect_init_args get_init_args is_picklable "
    "lightning_getattr lightning_hasattr lightning_setattr parse_class_init_keys save_hyperparameters",
    "utilities.rank_zero": "LightningDeprecationWarning WarningCache rank_prefixed_message rank_zero_debug "
    "rank_zero_deprecation rank_zero_info rank_zero_only rank_zero_warn",
    "utilities.seed": "isolate_rng",
    "utilities.signature_utils": "is_param_in_hook_signature",
    "utilities.types": "DistributedDataParallel EVAL_DATALOADERS LRSchedulerConfig LRSchedulerConfigType "
    "LRSchedulerPLType LRSchedulerType LRSchedulerTypeTuple LRSchedulerTypeUnion OptimizerConfig OptimizerLRScheduler "
    "OptimizerLRSchedulerConfig STEP_OUTPUT TRAIN_DATALOADERS",
    "utilities.upgrade_checkpoint": "main",
    "utilities.warnings": "PossibleUserWarning",
    "tuner.lr_finder": "_LRFinder",
}


def test_every_path_and_name(python: Python) -> None:
    golden = {path: names.split() for path, names in GOLDEN.items()}
    told = python(str(PROGRAMS / "import_all.py"), stdin=json.dumps(golden))
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert report.pop("failures") == []
    assert report == {"same": True, "by_attribute": True, "versions": [LIGHTNING_VERSION] * 3, "fabric": True}


def test_golden_names_are_lightnings() -> None:
    for path, names in GOLDEN.items():
        theirs = importlib.import_module(f"pytorch_lightning.{path}".rstrip("."))
        assert [name for name in names.split() if not hasattr(theirs, name)] == []


REFUSED = {
    "from pytorch_lightning import Fabric": "'Fabric'.*use raylight.Trainer",
    "import lightning as L; L.Fabric": "'Fabric'.*use raylight.Trainer",
    "from lightning.pytorch.strategies import FSDPStrategy": "'FSDPStrategy'.*use DDPStrategy",
    "from pytorch_lightning.strategies.fsdp import FSDPStrategy": "'FSDPStrategy'.*use DDPStrategy",
    "from pytorch_lightning.loggers import CometLogger": "'CometLogger'.*use TensorBoardLogger",
    "from pytorch_lightning.plugins import FSDPPrecision": "no FSDPPrecision: there is no FSDP strategy",
    "from pytorch_lightning.plugins.environments import SLURMEnvironment": "Ray places the workers",
    "import pytorch_lightning.strategies.launchers": "'launchers'.*raylight starts the workers itself",
    "import pytorch_lightning.utilities.consolidate_checkpoint": "'consolidate_checkpoint'.*use DDPStrategy",
    "from pytorch_lightning.utilities.migration import pl_legacy_patch": "'pl_legacy_patch'.*raylight ckpt upgrade",
    "from pytorch_lightning.trainer.connectors.data_connector import X": "'connectors'.*override the hooks",
    "from pytorch_lightning.callbacks import Nonsense": "'Nonsense' from 'raylight.callbacks'",
    "import pytorch_lightning.nonsense": r"'nonsense'.*dir\(pytorch_lightning\)",
    "import lightning.app": r"'app'.*dir\(lightning\)",
}


@pytest.mark.slow
def test_what_is_missing_is_named(python: Python) -> None:
    told = python(str(PROGRAMS / "refusals.py"), stdin=json.dumps(list(REFUSED)))
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    for statement, pattern in REFUSED.items():
        assert_matches(pattern, report.get(statement, "nothing"))
    # Pickles of such a process can be read in any other: in one of Ray's, say.
    elsewhere = python(str(PROGRAMS / "unpickle.py"))
    assert elsewhere.stdout == "<class 'raylight.trainer.Trainer'> raylight.utilities.seed\n"


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ImportError, match=pattern):
        raise ImportError(text)


@pytest.mark.parametrize(
    ("statement", "error", "pattern"),
    [
        ("raylight.Fabric", AttributeError, "'Fabric'.*use raylight.Trainer"),
        ("from raylight import Fabric", ImportError, "'Fabric'.*use raylight.Trainer"),
        ("from raylight.strategies import DeepSpeedStrategy", ImportError, "use DDPStrategy"),
        ("import raylight.trainer.connectors", ImportError, "override the hooks"),
        ("from raylight.callbacks import Nonsense", ImportError, "Nonsense"),
        ("import raylight.nonsense", ImportError, "No module named 'raylight.nonsense'"),
        ("raylight.nonsense", AttributeError, "module 'raylight' has no attribute 'nonsense'"),
        ("raylight.core.mixins.Nonsense", AttributeError, "Nonsense"),
    ],
)
def test_what_raylight_lacks(statement: str, error: type[Exception], pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        exec(statement, {"raylight": raylight})


def test_ordinary_modules_are_lightnings_paths_too() -> None:
    """One module, one object: what is patched in the one is patched in the other."""
    modules: Any = [
        importlib.import_module(f"raylight.callbacks.{name}") for name in ("model_checkpoint", "checkpoint")
    ]
    assert modules[0] is modules[1]
    assert raylight.trainer.trainer is sys.modules["raylight.trainer"]


def test_lightning_itself_must_not_be_imported() -> None:
    import pytorch_lightning

    assert pytorch_lightning.LightningModule is not raylight.LightningModule
    with pytest.raises(RuntimeError, match=r"cannot take the place of .*, which is imported already"):
        aliases.install()
    assert not aliases.installed()
