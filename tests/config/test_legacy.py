"""Lightning 1.x's flags: what each means today, and its one notice."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import raylight as pl
from raylight.callbacks import ModelCheckpoint, ModelSummary, TQDMProgressBar
from raylight.callbacks.legacy import GradientNormLogger, TerminateOnNaN
from raylight.config.flags import TrainerConfig
from raylight.config.legacy import OLD_FLAGS, OLD_VALUES, modernize, old_parameters
from raylight.utilities.exceptions import MisconfigurationException

Flags = dict[str, Any]


def translated(flags: Flags) -> tuple[Flags, list[str]]:
    """The flags of today, and the notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        new = modernize(flags)
    assert all(issubclass(each.category, DeprecationWarning) for each in caught)
    return new, [str(each.message) for each in caught]


CPU: Flags = {"accelerator": "cpu"}
MEANINGS: list[tuple[Flags, Flags]] = [
    ({"gpus": None}, CPU),
    ({"gpus": 0}, CPU),
    ({"gpus": "0"}, CPU),
    ({"gpus": []}, CPU),
    ({"gpus": 2}, {"accelerator": "gpu", "devices": 2}),
    ({"gpus": "3"}, {"accelerator": "gpu", "devices": 3}),
    ({"gpus": "3,"}, {"accelerator": "gpu", "devices": "3,"}),
    ({"gpus": "0,1"}, {"accelerator": "gpu", "devices": "0,1"}),
    ({"gpus": [1, 3]}, {"accelerator": "gpu", "devices": [1, 3]}),
    ({"gpus": -1}, {"accelerator": "gpu", "devices": -1}),
    ({"gpus": "-1"}, {"accelerator": "gpu", "devices": -1}),
    ({"num_processes": 3}, {"accelerator": "cpu", "devices": 3}),
    ({"num_processes": None}, {}),
    ({"tpu_cores": None}, {}),
    ({"ipus": None}, {}),
    ({"auto_select_gpus": True}, {}),
    ({"replace_sampler_ddp": False}, {"use_distributed_sampler": False}),
    ({"distributed_backend": "ddp"}, {"strategy": "ddp"}),
    ({"distributed_backend": "ddp_cpu"}, {"strategy": "ddp", "accelerator": "cpu"}),
    ({"distributed_backend": None}, {}),
    ({"accelerator": "ddp_spawn"}, {"strategy": "ddp_spawn"}),
    ({"accelerator": "ddp_sharded"}, {"strategy": "ddp"}),
    ({"accelerator": None}, {"accelerator": "auto"}),
    ({"devices": None}, {"devices": "auto"}),
    ({"strategy": None}, {"strategy": "auto"}),
    ({"plugins": "ddp_sharded"}, {"strategy": "ddp", "plugins": None}),
    ({"profiler": True}, {"profiler": "simple"}),
    ({"profiler": False}, {"profiler": None}),
    ({"strategy": "horovod"}, {"strategy": "ddp"}),
    ({"strategy": "bagua"}, {"strategy": "ddp"}),
    ({"strategy": "fsdp_native"}, {"strategy": "fsdp"}),
    ({"strategy": "ddp_sharded_spawn_find_unused_parameters_false"}, {"strategy": "ddp_find_unused_parameters_false"}),
    ({"amp_backend": "native"}, {}),
    ({"amp_level": "O2"}, {}),
    ({"move_metrics_to_cpu": True}, {}),
    ({"max_steps": None}, {"max_steps": -1}),
    ({"resume_from_checkpoint": "a.ckpt"}, {"resume_from_checkpoint": "a.ckpt"}),
    ({"multiple_trainloader_mode": "min_size"}, {"multiple_trainloader_mode": "min_size"}),
    ({"reload_dataloaders_every_epoch": True}, {"reload_dataloaders_every_n_epochs": 1}),
    ({"prepare_data_per_node": False}, {"prepare_data_per_node": False}),
    ({"truncated_bptt_steps": None}, {}),
    ({"automatic_optimization": False}, {"automatic_optimization": False}),
    ({"enable_pl_optimizer": True}, {}),
    ({"auto_lr_find": "my_lr"}, {"auto_lr_find": "my_lr"}),
    ({"auto_scale_batch_size": "binsearch"}, {"auto_scale_batch_size": "binsearch"}),
    ({"stochastic_weight_avg": True}, {"stochastic_weight_avg": True}),
    ({"terminate_on_nan": True}, {"terminate_on_nan": True}),
    ({"track_grad_norm": "inf"}, {"track_grad_norm": "inf"}),
    ({"checkpoint_callback": False}, {"enable_checkpointing": False}),
    ({"checkpoint_callback": None}, {}),
    ({"weights_save_path": "w"}, {"weights_save_path": "w"}),
    ({"progress_bar_refresh_rate": 0}, {"enable_progress_bar": False}),
    ({"progress_bar_refresh_rate": 20}, {"progress_bar_refresh_rate": 20}),
    ({"progress_bar_refresh_rate": None}, {}),
    ({"process_position": 1}, {"process_position": 1}),
    ({"weights_summary": None}, {"enable_model_summary": False}),
    ({"weights_summary": "full"}, {"weights_summary": "full"}),
    ({"log_gpu_memory": "all"}, {"log_gpu_memory": "all"}),
    ({"flush_logs_every_n_steps": 10}, {}),
]


@pytest.mark.parametrize(("old", "new"), MEANINGS, ids=str)
def test_meaning_and_notice(old: Flags, new: Flags) -> None:
    (name, value), *_ = old.items()
    found, notices = translated(old)
    assert found == new
    assert len(notices) == 1
    assert notices[0].startswith(f"`Trainer({name}={value!r})` was removed in Lightning ")
    for flag in new:
        if flag not in OLD_FLAGS:
            assert flag in notices[0]
    TrainerConfig.from_flags(**{name: value for name, value in found.items() if name != "callbacks"})


def test_every_old_flag_is_tried() -> None:
    tried = {name for old, _ in MEANINGS for name in old}
    assert tried == {*OLD_FLAGS, *OLD_VALUES}


def test_old_flags_are_no_flags_of_today() -> None:
    lightnings = set(pl.Trainer.default_attributes())
    assert lightnings.isdisjoint(OLD_FLAGS)
    assert set(OLD_VALUES) <= lightnings


SEVERAL: list[tuple[Flags, Flags]] = [
    ({"gpus": 0, "num_processes": 2}, {"accelerator": "cpu", "devices": 2}),
    ({"gpus": 2, "num_processes": 1}, {"accelerator": "gpu", "devices": 2}),
    ({"gpus": 2, "accelerator": "ddp"}, {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}),
    ({"gpus": 2, "distributed_backend": "ddp"}, {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}),
    ({"gpus": None, "accelerator": "gpu", "devices": 2}, {"accelerator": "gpu", "devices": 2}),
    ({"gpus": 2, "accelerator": "cuda"}, {"accelerator": "cuda", "devices": 2}),
    ({"amp_backend": "apex", "precision": 16}, {"precision": "16-mixed"}),
    ({"amp_backend": "apex", "amp_level": "O0", "precision": 16}, {"precision": "32-true"}),
    ({"amp_backend": "apex", "amp_level": "O1", "precision": 16}, {"precision": "16-mixed"}),
    ({"amp_backend": "apex", "amp_level": "O2"}, {"precision": "16-mixed"}),
    ({"amp_backend": "apex", "amp_level": "O3", "precision": "16"}, {"precision": "16-true"}),
    ({"amp_backend": "apex", "amp_level": "O2", "precision": 32}, {"precision": 32}),
    ({"amp_backend": "apex"}, {}),
]


@pytest.mark.parametrize(("old", "new"), SEVERAL, ids=str)
def test_several_together(old: Flags, new: Flags) -> None:
    assert translated(old)[0] == new


WRONG: list[tuple[Flags, type[Exception], str]] = [
    ({"gpus": 1.5}, TypeError, "must be an int, a string, a sequence of ints"),
    ({"gpus": True}, TypeError, "must be an int"),
    ({"gpus": [0, "1"]}, TypeError, "must be an int"),
    ({"gpus": 2, "devices": 3}, MisconfigurationException, "contradicts devices=3"),
    ({"gpus": 2, "accelerator": "cpu"}, MisconfigurationException, "contradicts accelerator='cpu'"),
    ({"tpu_cores": 8}, MisconfigurationException, "raylight runs on CPUs and GPUs"),
    ({"ipus": 4}, MisconfigurationException, "raylight runs on CPUs and GPUs"),
    ({"strategy": "dp"}, MisconfigurationException, "invalid strategy name: `strategy='dp'`.*Use 'ddp'"),
    ({"strategy": "ddp2"}, MisconfigurationException, "Use 'ddp'"),
    ({"strategy": "colossalai"}, MisconfigurationException, "invalid strategy name"),
    ({"accelerator": "dp"}, MisconfigurationException, "Use 'ddp'"),
    ({"distributed_backend": "smoke"}, MisconfigurationException, "use strategy='ddp'"),
    ({"amp_backend": "cuda"}, MisconfigurationException, "'native' or 'apex'"),
    ({"amp_backend": "apex", "amp_level": "O9"}, MisconfigurationException, "O0, O1, O2, O3"),
    ({"amp_backend": "apex", "precision": "bf16"}, MisconfigurationException, "has no bf16"),
    ({"track_grad_norm": 0}, MisconfigurationException, "must be a positive number or 'inf'"),
    ({"track_grad_norm": "nan-ish"}, MisconfigurationException, "must be a positive number or 'inf'"),
    ({"track_grad_norm": -2}, MisconfigurationException, "must be a positive number or 'inf'"),
    ({"progress_bar_refresh_rate": -1}, MisconfigurationException, "number of batches"),
    ({"weights_summary": "bottom"}, MisconfigurationException, "can be None, 'top', 'full'"),
    ({"log_gpu_memory": "some"}, MisconfigurationException, "'all', 'min_max'"),
    ({"truncated_bptt_steps": 2}, MisconfigurationException, "automatic_optimization = False"),
    ({"replace_sampler_ddp": True, "use_distributed_sampler": False}, MisconfigurationException, "contradicts"),
    ({"auto_scale_batch_size": "double"}, MisconfigurationException, "'power', 'binsearch'"),
    ({"multiple_trainloader_mode": "zip"}, MisconfigurationException, "'max_size_cycle', 'min_size'"),
    ({"terminate_on_nan": "yes"}, TypeError, "must be True or False"),
]


@pytest.mark.parametrize(("flags", "error", "said"), WRONG, ids=str)
@pytest.mark.filterwarnings("ignore:.Trainer.*was removed in Lightning:DeprecationWarning")
def test_refused(flags: Flags, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pl.Trainer(**flags)


def trainer(tmp_path: Path, **flags: Any) -> pl.Trainer:
    settings: Flags = {"accelerator": "cpu", "devices": 1, "launcher": "local", "default_root_dir": str(tmp_path)}
    with pytest.warns(DeprecationWarning, match="was removed in Lightning"):
        return pl.Trainer(**{**settings, **flags})


def callback(trainer: pl.Trainer, kind: type) -> Any:
    return next((each for each in trainer.callbacks if isinstance(each, kind)), None)


def test_callbacks_of_old_flags(tmp_path: Path) -> None:
    bar = callback(trainer(tmp_path, progress_bar_refresh_rate=20), TQDMProgressBar)
    assert bar.refresh_rate == 20
    assert trainer(tmp_path, progress_bar_refresh_rate=0).progress_bar_callback is None
    assert callback(trainer(tmp_path, weights_summary="full"), ModelSummary)._max_depth == -1
    assert callback(trainer(tmp_path, weights_summary="top"), ModelSummary)._max_depth == 1
    assert callback(trainer(tmp_path, weights_summary=None), ModelSummary) is None
    assert trainer(tmp_path, checkpoint_callback=False).checkpoint_callback is None
    own = ModelCheckpoint(monitor="val_loss")
    assert trainer(tmp_path, checkpoint_callback=own).checkpoint_callbacks == [own]
    assert callback(trainer(tmp_path, track_grad_norm=2), GradientNormLogger).norm_type == 2
    assert callback(trainer(tmp_path, track_grad_norm=-1), GradientNormLogger) is None
    assert callback(trainer(tmp_path, terminate_on_nan=True), TerminateOnNaN) is not None


def test_log_gpu_memory(tmp_path: Path) -> None:
    monitor = pytest.importorskip("raylight.callbacks.device_stats_monitor").DeviceStatsMonitor
    assert callback(trainer(tmp_path, log_gpu_memory="all"), monitor) is not None


def test_a_bar_of_the_users_own_wins(tmp_path: Path) -> None:
    own = TQDMProgressBar(refresh_rate=3)
    assert trainer(tmp_path, progress_bar_refresh_rate=20, callbacks=[own]).progress_bar_callback is own


def test_stochastic_weight_avg_uses_the_optimizers_rate(tmp_path: Path) -> None:
    pytest.importorskip("raylight.callbacks.stochastic_weight_avg")
    from raylight.callbacks.legacy_swa import StochasticWeightAveragingAtOwnRate

    rates = []

    class Model(Line):
        def on_train_epoch_end(self) -> None:
            rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    old = trainer(tmp_path, stochastic_weight_avg=True, max_epochs=5, **QUIET)
    assert callback(old, StochasticWeightAveragingAtOwnRate) is not None
    old.fit(Model())
    assert rates == pytest.approx([0.1] * 5)


def test_weights_save_path(tmp_path: Path) -> None:
    without_logger = trainer(tmp_path, weights_save_path=tmp_path / "w", logger=False)
    assert without_logger.checkpoint_callback.dirpath == str(tmp_path / "w" / "checkpoints")
    with_logger = trainer(tmp_path, weights_save_path=tmp_path / "w")
    expected = tmp_path / "w" / "lightning_logs" / "version_0" / "checkpoints"
    assert with_logger.checkpoint_callback.dirpath == str(expected)
    own = ModelCheckpoint(dirpath=tmp_path / "own")
    assert trainer(tmp_path, weights_save_path="w", callbacks=[own]).checkpoint_callback.dirpath == str(
        tmp_path / "own"
    )


def test_apex_runs_on_native_precision(tmp_path: Path) -> None:
    assert trainer(tmp_path, amp_backend="apex", amp_level="O3", precision=16).precision == "16-true"
    assert trainer(tmp_path, amp_level="O2").precision == "32-true"


def test_flags_that_tune_reads(tmp_path: Path) -> None:
    config = trainer(tmp_path, auto_lr_find=True, auto_scale_batch_size="power").config
    assert (config.auto_lr_find, config.auto_scale_batch_size) == (True, "power")


def test_notice_points_at_the_users_line(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="replace_sampler_ddp") as caught:
        pl.Trainer(replace_sampler_ddp=True, launcher="local", accelerator="cpu", logger=False)
    assert [Path(each.filename).name for each in caught] == [Path(__file__).name]


def test_old_defaults() -> None:
    parameters = old_parameters()
    assert list(parameters) == list(OLD_FLAGS)
    defaults = {name: parameters[name].default for name in ("gpus", "track_grad_norm", "replace_sampler_ddp")}
    assert defaults == {"gpus": None, "track_grad_norm": -1, "replace_sampler_ddp": True}


# ------------------------------------------------------------------------------------------------ in a run

QUIET: Flags = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 2))


def test_track_grad_norm_logs_step_and_epoch(tmp_path: Path) -> None:
    old = trainer(tmp_path, track_grad_norm=2, max_epochs=1, **QUIET)
    old.fit(Line())
    found = {name: value.item() for name, value in old.callback_metrics.items()}
    for name in ("grad_2.0_norm/layer.weight", "grad_2.0_norm_total"):
        assert found[f"{name}_step"] == found[f"{name}_epoch"] == pytest.approx(2**0.5)


def test_a_models_own_log_grad_norm(tmp_path: Path) -> None:
    taken: list[Any] = []

    class Own(Line):
        def log_grad_norm(self, norms: Any) -> None:
            taken.append(sorted(norms))

    trainer(tmp_path, track_grad_norm="inf", max_steps=1, **QUIET).fit(Own())
    assert taken == [["grad_inf_norm/layer.weight", "grad_inf_norm_total"]]


@pytest.mark.parametrize("where", ["loss", "parameter"])
def test_terminate_on_nan(tmp_path: Path, where: str) -> None:
    class Broken(Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * (torch.inf if where == "loss" else 1)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            if where == "parameter":
                self.layer.weight.data.fill_(torch.nan)

    said = {"loss": "The loss returned in `training_step` is", "parameter": "nan and/or inf values in `layer.weight`"}
    with pytest.raises(ValueError, match=said[where]):
        trainer(tmp_path, terminate_on_nan=True, max_epochs=1, **QUIET).fit(Broken())


def test_resume_from_checkpoint(tmp_path: Path) -> None:
    first = pl.Trainer(max_epochs=1, launcher="local", accelerator="cpu", **QUIET)
    first.fit(Line())
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed = trainer(tmp_path, resume_from_checkpoint=str(tmp_path / "one.ckpt"), max_epochs=2, **QUIET)
    resumed.fit(Line())
    assert resumed.global_step == 8


def test_multiple_trainloader_mode(tmp_path: Path) -> None:
    class Two(Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).sum()

        def train_dataloader(self) -> Any:
            return [super().train_dataloader(), torch.utils.data.DataLoader(torch.ones(2, 2))]

    shortest = trainer(tmp_path, multiple_trainloader_mode="min_size", max_epochs=1, **QUIET)
    shortest.fit(Two())
    assert shortest.num_training_batches == 2


def test_automatic_optimization(tmp_path: Path) -> None:
    class Manual(Line):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()  # type: ignore[union-attr]

    manual = trainer(tmp_path, automatic_optimization=False, max_epochs=1, **QUIET)
    manual.fit(Manual())
    assert manual.global_step == 4


def test_prepare_data_per_node(tmp_path: Path) -> None:
    assert trainer(tmp_path, prepare_data_per_node=False, **QUIET).config.prepare_data_per_node is False
