"""A run's state, to a checkpoint and back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import migrate, progress
from raylight.checkpoint.weights import load_weights
from raylight.config.messages import TrainerFn
from raylight.utilities.exceptions import CheckpointError, IncompleteCheckpointError, MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn
from raylight.utilities.redaction import without_secrets
from raylight.worker import exact, legacy, resizing
from raylight.worker.listeners import overrides

if TYPE_CHECKING:
    import os

    from raylight.strategies import Strategy
    from raylight.worker.run import Run
    from raylight.worker.state import TrainState


OWN_KEY = "raylight"
"""What Lightning does not keep: "ranks", what ``exact`` gave on each."""

# ------------------------------------------------------------------------------------------------ out


def save(run: Run, path: str, weights_only: bool, storage_options: Any = None) -> None:
    """Collective: put the run's state together and let rank 0 write it; the file is then there, or under way."""
    outer, run.metrics.hook = run.metrics.hook, None  # nothing may be logged from here
    checkpoint = dump(run, weights_only)
    run.metrics.hook = outer
    run.strategy.save_checkpoint(checkpoint, path, storage_options)
    run.strategy.barrier("save_checkpoint")


def dump(run: Run, weights_only: bool) -> dict[str, Any]:
    """Collective: the run's state, under Lightning's keys.

    ``raylight.checkpoint.format`` lists them.
    """
    datamodule = run.source.datamodule
    checkpoint = _base(run.model, datamodule, run.state, run.strategy.lightning_module_state_dict())
    if run.train_data is not None and (states := run.train_data.state_dicts()):
        checkpoint["loops"]["fit_loop"]["state_dict"] = {"combined_loader": states}
    if not weights_only:
        _add_training(run, checkpoint)
        run.precision.on_save_checkpoint(checkpoint)
        if run.state.fn == TrainerFn.FITTING:
            checkpoint[OWN_KEY] = {"ranks": run.strategy.all_gather_object(exact.dump(run))}
    _add_datamodule(run, checkpoint)
    if not weights_only:
        for callback, returned in run.of_callbacks("on_save_checkpoint", checkpoint):
            legacy.take_returned_state(callback, returned, checkpoint)
    run.hooked.on_save_checkpoint(checkpoint)
    return checkpoint


def dump_quietly(run: Run) -> dict[str, Any]:
    """Collective: a checkpoint that no hook of the user's knows of, for this run alone."""
    checkpoint: dict[str, Any] = {
        "state_dict": torch.nn.Module.state_dict(run.model),
        "loops": progress.to_loops(run.state.position(), run.model.automatic_optimization),
    }
    if run.train_data is not None and (states := run.train_data.state_dicts()):
        checkpoint["loops"]["fit_loop"]["state_dict"] = {"combined_loader": states}
    _add_training(run, checkpoint)
    _add_datamodule(run, checkpoint)
    run.of_callbacks("on_save_checkpoint", checkpoint, without=_of_the_user(run, "on_save_checkpoint"))
    return checkpoint


def _add_training(run: Run, checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"] = _callback_states(run)
    checkpoint["optimizer_states"] = [run.strategy.optimizer_state(optimizer) for optimizer in run.optimizers]
    checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in run.lr_scheduler_configs]
    if precision_state := run.precision.state_dict():
        checkpoint[type(run.precision).__qualname__] = precision_state


def _add_datamodule(run: Run, checkpoint: dict[str, Any]) -> None:
    datamodule = run.source.datamodule
    if datamodule is not None and (state := run.hooked_data.state_dict()):
        checkpoint[type(datamodule).__qualname__] = state


def _of_the_user(run: Run, hook: str) -> list[Any]:
    """Callbacks whose ``hook`` is not raylight's."""
    return [each for each in run.callbacks if not getattr(type(each), hook).__module__.startswith("raylight.")]


def save_weights(
    strategy: Strategy, model: Any, datamodule: Any, state: TrainState, path: str | os.PathLike[str]
) -> None:
    """Write a checkpoint of weights and hyperparameters, without a run."""
    strategy.save_checkpoint(_base(model, datamodule, state, model.state_dict()), path)


def _base(model: Any, datamodule: Any, state: TrainState, weights: dict[str, Any]) -> dict[str, Any]:
    """What every checkpoint holds."""
    checkpoint: dict[str, Any] = {
        "epoch": state.epoch,
        "global_step": state.global_step,
        "pytorch-lightning_version": checkpoint_format.LIGHTNING_VERSION,
        "state_dict": weights,
        "loops": progress.to_loops(state.position(), model.automatic_optimization),
    }
    for owner in (model, datamodule):
        if owner is not None and owner.hparams:
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = owner._hparams_name
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = without_secrets(dict(owner.hparams))
    return checkpoint


def _callback_states(run: Run) -> dict[str, Any]:
    states = {}
    for callback in run.callbacks:
        if overrides(callback, "state_dict", Callback) and (state := callback.state_dict()):
            states[callback.state_key] = state
    return states


# ------------------------------------------------------------------------------------------------ in


def read(run: Run) -> dict[str, Any] | None:
    """Collective: the checkpoint that the call was told to start from, in today's form; None without one."""
    if run.going_on:
        return run.snapshots.checkpoint()
    if run.job.ckpt_path is None:
        return None
    *others, last = [run.job.ckpt_path, *run.job.fallbacks]
    for path in others:
        try:
            return _read_file(run, path)
        except CheckpointError as error:
            rank_zero_warn(f"{error} An older checkpoint is tried.")
            run.job.is_trained = False
    return _read_file(run, last)


def _read_file(run: Run, path: str) -> dict[str, Any]:
    """Collective: what is at ``path``, if every rank can read it; ranks that began from different files would differ.

    Raises:
        CheckpointError: This rank cannot read it, or another.
    """
    rank_zero_info(f"Restoring states from the checkpoint path at {path}")
    checkpoint, failure = {}, None
    try:
        checkpoint = migrate.upgraded(run.strategy.load_checkpoint(path), path)
    except CheckpointError as error:
        failure = error
    failures = run.strategy.all_gather_object(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for rank, reason in enumerate(failures):
        if reason is not None:
            raise CheckpointError(f"Rank {rank} cannot read the checkpoint {path}, though others can: {reason}")
    return checkpoint


def restore_model_and_callbacks(run: Run, checkpoint: dict[str, Any]) -> None:
    """Weights, and the states of the datamodule and the callbacks."""
    model = run.model
    if not run.going_on:
        run.hooked.on_load_checkpoint(checkpoint)
    load_weights(model, checkpoint, model.strict_loading)
    datamodule = run.source.datamodule
    if datamodule is not None and type(datamodule).__qualname__ in checkpoint:
        run.hooked_data.load_state_dict(checkpoint[type(datamodule).__qualname__])
    if checkpoint.get("callbacks") is not None:
        _restore_callbacks(run, checkpoint)


def _restore_callbacks(run: Run, checkpoint: dict[str, Any]) -> None:
    states: dict[str, Any] = checkpoint["callbacks"]
    left = set(states) - {key for callback in run.callbacks for key in _state_keys(callback)}
    if left:
        rank_zero_warn(
            "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided during "
            f"`Trainer` instantiation. Please add the following callbacks: {sorted(left)}."
        )
    with_own_state = [callback for callback in run.callbacks if legacy.wants_own_state(callback)]
    unasked = _of_the_user(run, "on_load_checkpoint") if run.going_on else []
    run.of_callbacks("on_load_checkpoint", checkpoint, without=[*with_own_state, *unasked])
    for callback in run.callbacks:
        state = next((states[key] for key in _state_keys(callback) if states.get(key)), None)
        if state is not None and callback in with_own_state and callback not in unasked:
            callback.on_load_checkpoint(run.trainer, run.model, copy.deepcopy(state))
        if state is not None:
            callback.load_state_dict(copy.deepcopy(state))


def _state_keys(callback: Callback) -> tuple[str, str]:
    """Under which names a callback's state may stand; before Lightning 1.5 it was the class."""
    return callback.state_key, type(callback).__qualname__


def restore_training(run: Run, checkpoint: dict[str, Any]) -> None:
    """Optimizers, schedulers, loss scale, and the position."""
    if "optimizer_states" not in checkpoint or "lr_schedulers" not in checkpoint:
        raise IncompleteCheckpointError(
            "Trying to restore optimizer state but checkpoint contains only the model. This is probably due to "
            "`ModelCheckpoint.save_weights_only` being set to `True`. To train on from its weights alone, load them "
            "with `load_from_checkpoint` and call `fit` without `ckpt_path`: epochs and optimizers begin anew."
        )
    _check_count("optimizers", len(run.optimizers), len(checkpoint["optimizer_states"]))
    _check_count("learning-rate schedulers", len(run.lr_scheduler_configs), len(checkpoint["lr_schedulers"]))
    for optimizer, state in zip(run.optimizers, checkpoint["optimizer_states"], strict=True):
        run.strategy.load_optimizer_state(optimizer, state)
    for config, state in zip(run.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(state)
    run.precision.on_load_checkpoint(checkpoint)
    if precision_state := checkpoint.get(type(run.precision).__qualname__):
        run.precision.load_state_dict(precision_state)
    _restore_position(run, progress.from_checkpoint(checkpoint))
    run.loader_states = progress.loader_states(checkpoint)
    run.own_state = _own_state(run, checkpoint)


def _own_state(run: Run, checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """This rank's, where the file has one: Lightning's have not."""
    states: list[dict[str, Any]] = checkpoint.get(OWN_KEY, {}).get("ranks", [])
    if not states:
        return None
    if len(states) != run.strategy.world_size and run.job.placement.is_elastic:
        return resizing.merged(run, states, run.strategy.global_rank)
    if len(states) != run.strategy.world_size:
        rank_zero_info(
            f"The checkpoint was saved by {len(states)} workers, and is resumed by {run.strategy.world_size}: random "
            "numbers, the order of samples and metrics of the epoch do not go on where they were."
        )
        return None
    return states[run.strategy.global_rank]


def _check_count(what: str, here: int, saved: int) -> None:
    if here != saved:
        raise CheckpointError(
            f"The checkpoint holds the state of {saved} {what}, but configure_optimizers made {here}: "
            "resume with the model that saved it."
        )


def _restore_position(run: Run, position: progress.Position) -> None:
    state = run.state
    state.global_step = position.global_step
    state.logger_step = position.logger_step
    state.total_batches = position.total_batches
    state.scheduler_steps = position.scheduler_steps
    state.first_step = position.global_step - position.epoch_steps
    state.first_scheduler_step = position.scheduler_steps - position.epoch_scheduler_steps
    counted = position.global_step if run.model.automatic_optimization else position.total_batches
    state.logger_step = min(position.logger_step + 1, counted)  # a batch's hooks may have been running
    # A run that counts steps goes on within the epoch that its last step has cut short.
    cut_short = run.trainer.max_steps != -1 and position.batches_done > 0 and not position.is_last_batch
    finished = not cut_short and (position.epoch_is_over or (position.is_last_batch and position.batch_is_open))
    state.epoch = position.epoch + int(finished)
    goes_on_within = cut_short or (position.epoch_is_open and not finished)
    state.batches_done = position.batches_done if goes_on_within else 0
    state.epoch_is_open = position.epoch_is_open and state.batches_done > 0
    state.batches_trained, state.is_last_batch = state.batches_done, position.is_last_batch
    run.resumed_within = position.epoch_is_open and not position.epoch_is_over
    limit = run.trainer.max_epochs
    if limit is not None and limit != -1 and position.epoch > limit:
        raise MisconfigurationException(
            f"You restored a checkpoint with current_epoch={position.epoch}, but you have set "
            f"Trainer(max_epochs={limit}): raise max_epochs to train on."
        )
