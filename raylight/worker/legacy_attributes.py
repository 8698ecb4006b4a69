"""Attributes that the Trainer of Lightning 1.x had, as ``TrainerView`` finds them where it has none of that name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylight.utilities.rank_zero import rank_zero_deprecation

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


def _num_gpus(trainer: TrainerView) -> int:
    return trainer.num_devices if trainer.state.device_type == "cuda" else 0


def _reload(trainer: TrainerView) -> Callable[..., None]:
    def reset(model: Any = None) -> None:
        if trainer.run is not None:
            trainer.reload_dataloaders()

    return reset


OLD_ATTRIBUTES: dict[str, tuple[Callable[[TrainerView], Any], str]] = {
    "get_model": (lambda trainer: lambda: trainer.lightning_module, "trainer.lightning_module"),
    "gpus": (lambda trainer: _num_gpus(trainer) or None, "trainer.num_devices"),
    "num_gpus": (_num_gpus, "trainer.num_devices"),
    "num_processes": (lambda trainer: trainer.num_devices, "trainer.num_devices"),
    "devices": (lambda trainer: trainer.num_devices, "trainer.num_devices"),
    "root_gpu": (lambda trainer: trainer.strategy.device.index if _num_gpus(trainer) else None, "trainer.strategy"),
    "on_gpu": (lambda trainer: _num_gpus(trainer) > 0, "trainer.num_devices"),
    "tpu_cores": (lambda trainer: None, "trainer.num_devices"),
    "ipus": (lambda trainer: None, "trainer.num_devices"),
    "data_parallel": (lambda trainer: trainer.world_size > 1, "trainer.world_size"),
    "lr_schedulers": (
        lambda trainer: [vars(each) for each in trainer.lr_scheduler_configs],
        "trainer.lr_scheduler_configs",
    ),
    "optimizer_frequencies": (
        lambda trainer: list(trainer.run.frequencies) if trainer.run is not None else [],
        "self.automatic_optimization = False, where the model decides whose turn it is",
    ),
    "use_amp": (lambda trainer: trainer.precision.endswith("mixed"), "trainer.precision"),
    "amp_backend": (lambda trainer: "native" if trainer.precision.endswith("mixed") else None, "trainer.precision"),
    "training_type_plugin": (lambda trainer: trainer.strategy, "trainer.strategy"),
    "accelerator_backend": (lambda trainer: trainer.accelerator, "trainer.accelerator"),
    "disable_validation": (lambda trainer: not trainer.enable_validation, "trainer.enable_validation"),
    "progress_bar_dict": (lambda trainer: trainer.progress_bar_metrics, "trainer.progress_bar_metrics"),
    "tested_ckpt_path": (lambda trainer: trainer.ckpt_path, "trainer.ckpt_path"),
    "validated_ckpt_path": (lambda trainer: trainer.ckpt_path, "trainer.ckpt_path"),
    "predicted_ckpt_path": (lambda trainer: trainer.ckpt_path, "trainer.ckpt_path"),
    "resume_from_checkpoint": (lambda trainer: trainer.config.resume_from_checkpoint, "trainer.ckpt_path"),
    "batch_idx": (lambda trainer: max(trainer.state.batch_idx, 0), "the argument batch_idx of hooks and steps"),
    "total_batch_idx": (lambda trainer: trainer.state.total_batches - 1, "trainer.fit_loop"),
    "terminate_on_nan": (lambda trainer: bool(trainer.config.terminate_on_nan), "Trainer(detect_anomaly=True)"),
    "track_grad_norm": (lambda trainer: trainer.config.track_grad_norm, "raylight.utilities.grads.grad_norm"),
    "weights_summary": (lambda trainer: trainer.config.weights_summary, "the ModelSummary callback"),
    "auto_lr_find": (lambda trainer: trainer.config.auto_lr_find, "raylight.tuner.Tuner"),
    "auto_scale_batch_size": (lambda trainer: trainer.config.auto_scale_batch_size, "raylight.tuner.Tuner"),
    "prepare_data_per_node": (lambda trainer: trainer.config.prepare_data_per_node, "that of model and datamodule"),
    "verbose_test": (lambda trainer: True, "the argument verbose of trainer.test"),
    "verbose_evaluate": (lambda trainer: True, "the argument verbose of trainer.validate and trainer.test"),
    "tuning": (lambda trainer: False, "trainer.state.fn"),
    "prediction_writer_callbacks": (
        lambda trainer: [each for each in trainer.callbacks if hasattr(each, "write_on_batch_end")],
        "trainer.callbacks",
    ),
    **dict.fromkeys(
        ["reset_train_dataloader", "reset_val_dataloader", "reset_test_dataloader", "reset_predict_dataloader"]
        + ["reset_train_val_dataloaders"],
        (_reload, "trainer.fit, which asks for the loaders anew in each call, or reload_dataloaders_every_n_epochs"),
    ),
}
"""Name -> its value, and what to use instead."""

GONE = {
    "is_function_implemented": "use raylight.utilities.model_helpers.is_overridden",
    "call_hook": "hooks are called by the loops alone",
    "evaluation_loop": "override the hooks of the LightningModule or of a Callback",
    **dict.fromkeys(
        ["checkpoint_connector", "logger_connector", "data_connector", "accelerator_connector", "callback_connector"],
        "use the properties of the Trainer",
    ),
}
"""Those that nothing here corresponds to, and what to do."""


def old_attribute(trainer: TrainerView, name: str) -> Any:
    """The end of the Trainer's ``__getattr__``.

    Raises:
        AttributeError: Lightning 1.x had none of that name either, or nothing corresponds to it.
    """
    own = getattr(type(trainer), name, None)
    if isinstance(own, property):
        return own.__get__(trainer)  # it raised AttributeError, whose message would be lost
    if name in OLD_ATTRIBUTES:
        value, instead = OLD_ATTRIBUTES[name]
        rank_zero_deprecation(f"`trainer.{name}` is Lightning 1.x: use {instead}.", stacklevel=7)
        return value(trainer)
    remedy = f": it was Lightning 1.x's; {GONE[name]}" if name in GONE else ""
    raise AttributeError(f"'{type(trainer).__name__}' object has no attribute '{name}'{remedy}")
