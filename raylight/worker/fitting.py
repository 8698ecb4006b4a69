"""fit: epochs, batches, validation. ``raylight.callbacks.base`` draws the loop with every hook in its place."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from raylight.config.messages import RunningStage
from raylight.utilities.durations import parse_duration
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import PossibleUserWarning, rank_zero_info, rank_zero_warn
from raylight.utilities.seed import isolate_rng
from raylight.utilities.signatures import has_argument
from raylight.worker import exact, legacy, loading
from raylight.worker.data import as_iterators
from raylight.worker.evaluation import run_evaluation
from raylight.worker.fit_loop import why_done
from raylight.worker.optimization import batch_trainer
from raylight.worker.schedulers import step_after_batch, step_schedulers

if TYPE_CHECKING:
    from raylight.worker.data import EvalData, TrainData
    from raylight.worker.run import Run


FETCHING = "[_TrainingEpochLoop].train_dataloader_next"
"""Lightning's name, for profilers, of taking a batch from the loader."""


class StopFit(Exception):
    """The driver asked for a graceful stop; raised between two batches."""


def fit(run: Run) -> None:
    """The whole of ``Trainer.fit`` on this rank, from the sanity check to ``on_train_end``."""
    state = run.state
    state.stage = RunningStage.TRAINING
    with isolate_rng():
        sanity_check(run)
    with torch.autograd.set_detect_anomaly(run.config.detect_anomaly), torch.enable_grad():
        train(run)


def sanity_check(run: Run) -> None:
    """Try a few validation batches, so that a mistake there shows before training."""
    state = run.state
    if not state.enable_validation or not run.trainer.num_sanity_val_steps or run.going_on or run.job.is_trained:
        return
    if run.resumed and (run.resumed_within or run.trainer.max_steps != -1):
        return
    state.stage = RunningStage.SANITY_CHECKING
    run.notify("on_sanity_check_start")
    with torch.no_grad():
        evaluated = _load_val_data(run, RunningStage.SANITY_CHECKING)
        run_evaluation(run, RunningStage.SANITY_CHECKING, evaluated, state.num_sanity_val_batches)
    run.notify("on_sanity_check_end")
    state.callback_metrics, state.logged_metrics, state.progress_bar_metrics = {}, {}, {}
    state.stage = RunningStage.TRAINING


def train(run: Run) -> None:
    """Epochs until a limit is reached."""
    if run.config.limit("train") == 0 or run.job.is_trained:
        return
    if run.train_data is None:
        loading.load_train(run)
    _start_loaders(run)
    if limit_reached(run):
        return
    _ask_for_validation_data(run)
    _warn_of_eval_mode(run)
    run.notify("on_train_start")
    run.snapshots.restore(run)
    if run.own_state is not None:
        exact.restore(run, run.own_state)
        run.own_state = None
    run.snapshots.begin(run)
    run.stop_request.batch = run.state.total_batches  # a request before the first batch counts from here
    while not limit_reached(run):
        train_epoch(run)
    run.notify("on_train_end")


def _start_loaders(run: Run) -> None:
    """Loaders are new: draw what torch draws for them, at Lightning's moment, so that shuffling is the same."""
    data, state = run.train_data, run.state
    assert data is not None
    run.last_train_load = state.epoch
    if state.epoch and not run.resumed:
        data.skip_seed()
    else:
        data.set_epoch(state.epoch)
        data.load_state_dicts(run.loader_states)
        run.loader_states = []
        if run.own_state is None and not run.going_on:  # else they go on when all of it is put back
            data.start(skip=state.batches_done)
    set_validation_interval(run)


def _ask_for_validation_data(run: Run) -> None:
    # Its size is shown from the start, though it is used later.
    if validates_this_epoch(run) and "val" not in run.eval_data:
        _load_val_data(run, RunningStage.VALIDATING)


def _warn_of_eval_mode(run: Run) -> None:
    if count := sum(not module.training for module in run.model.modules()):
        rank_zero_warn(
            f"Found {count} module(s) in eval mode at the start of training. This may lead to unexpected behavior "
            "during training. If this is intentional, you can ignore this warning.",
            category=PossibleUserWarning,
        )


def limit_reached(run: Run) -> bool:
    """Whether no further epoch begins."""
    if reason := why_done(run.trainer):
        rank_zero_info(f"`Trainer.fit` stopped: {reason}")
        return True
    return may_stop(run)


def may_stop(run: Run) -> bool:
    """Whether a stop was requested and the minimum of epochs and steps is reached."""
    state = run.state
    if not state.should_stop:
        return False
    enough_epochs = not state.min_epochs or state.epoch + int(state.epoch_is_over) >= state.min_epochs
    enough_steps = not run.trainer.min_steps or state.global_step >= run.trainer.min_steps
    if not (enough_epochs and enough_steps):
        run.notices.info(
            f"Trainer was signaled to stop but the required `min_epochs={state.min_epochs!r}` or "
            f"`min_steps={run.trainer.min_steps!r}` has not been met. Training will continue..."
        )
    return enough_epochs and enough_steps


def train_epoch(run: Run) -> None:
    """One epoch: its batches, and what happens at its end."""
    state, metrics = run.state, run.metrics
    if state.total_batches >= run.snapshots.due and not state.epoch_is_open:
        run.snapshots.take(run)
    data = _reloaded(run)
    data.set_epoch(state.epoch)
    state.num_training_batches = data.num_batches
    resumed_within = state.batches_done
    if not state.epoch_is_open:
        state.epoch_val_batches = 0
        state.first_step, state.first_scheduler_step = state.global_step, state.scheduler_steps
        run.notify("on_train_epoch_start")
    state.epoch_is_open, run.validated_last = True, False
    state.is_last_batch = state.is_last_batch and bool(resumed_within)
    state.batches_trained, state.batch_idx = resumed_within, resumed_within - 1
    run.recorder.call("run_training_epoch", train_batches)(run, data)
    if not run.validated_last:  # else these would take the place of the validation's values of the same name
        run.take_metrics()
    metrics.end_batches()
    metrics.reduce_epoch()
    state.epoch_is_over = True
    data.end(state.batches_trained)
    _end_epoch_hooks(run)
    run.take_metrics()
    if state.is_last_batch and state.batches_trained > resumed_within:
        step_schedulers(run, "epoch", plateau=True)
    run.log_row(metrics.logged_values(), state.logger_step - 1)  # the step of the last batch that stepped
    metrics.reset()
    state.epoch += 1
    state.epoch_is_over = state.epoch_is_open = False
    state.batches_done = 0


def _end_epoch_hooks(run: Run) -> None:
    if run.epoch_outputs is not None:
        if hasattr(run.model, "training_epoch_end"):
            legacy.end_epoch(run, "training", list(run.epoch_outputs))
        run.notify("on_train_epoch_end")
        run.epoch_outputs.clear()
    else:
        run.notify("on_train_epoch_end")
    # What the model and plain callbacks logged there must be reduced before the monitoring callbacks read it.
    run.metrics.reduce_epoch()
    run.notify("on_train_epoch_end_monitors")


def train_batches(run: Run, data: TrainData) -> None:
    """The batches of one epoch, from where training stands. This is the step path: what is asked here is asked once."""
    state, stop, metrics = run.state, run.stop_request, run.metrics
    accumulate, max_steps, validates = state.accumulate_grad_batches, run.trainer.max_steps, validates_this_epoch(run)
    log_every = 1 if run.config.num_dev_batches else run.trainer.log_every_n_steps
    hears_start, hears_end = run.listeners["on_train_batch_start"], run.listeners["on_train_batch_end"]
    step_batch, transfers, schedulers = batch_trainer(run), run.transfers, run.lr_scheduler_configs
    snapshots = run.snapshots
    if state.should_stop and may_stop(run):
        return
    # Before the order of the epoch is drawn: that of one which has done nothing is not kept, and drawn again.
    if stop.pending and stop.reached(state.total_batches):
        _heed_request(run)
    first = state.batches_done
    batches = data.batches(skip=first, throughput=run.throughput)
    if has_argument(run.model.training_step, "dataloader_iter"):
        batches, transfers = as_iterators(batches), []
    left = data.num_batches - state.batches_done
    for batch_idx, batch, is_last in run.recorder.each(FETCHING, batches, left):
        if stop.pending and batch_idx > first and stop.reached(state.total_batches):
            _heed_request(run)
        if transfers:
            batch = run.transfer(batch)
        state.batch_idx = batch_idx
        state.is_last_batch = is_last
        state.is_accumulating = not is_last and (batch_idx + 1) % accumulate != 0
        state.total_batches = stop.batch = state.total_batches + 1
        metrics.start_batch(batch)
        if hears_start and batch is not None and _starts_with_skip(run, batch, batch_idx):
            break
        if batch is None:
            rank_zero_warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        outputs = None if batch is None else step_batch(batch, batch_idx)
        state.batches_trained = batch_idx + 1
        if schedulers:
            step_after_batch(run)
        if hears_end:
            run.notify("on_train_batch_end", outputs, batch, batch_idx)
        state.batches_done = batch_idx + 1
        run.validated_last = False
        if not state.is_accumulating and log_every and ((state.logger_step + 1) % log_every == 0 or state.should_stop):
            metrics.reduce_step()
            run.log_row(metrics.logged_values(), state.logger_step)
        if validates and validation_is_due(run):
            _validate(run)
        if not state.is_accumulating:
            if schedulers:
                step_schedulers(run, "step", plateau=True)
            state.logger_step += 1
        if max_steps != -1 and state.global_step >= max_steps or state.should_stop and may_stop(run):
            break
        if state.total_batches >= snapshots.due and not is_last and not state.is_accumulating:
            snapshots.take(run)


def _heed_request(run: Run) -> None:
    """Do what the driver has asked for, between two batches that all ranks agree on."""
    if not run.stop_request.leaves:
        raise StopFit
    if run.snapshots.leave():
        run.stop_request.start_anew()


def _starts_with_skip(run: Run, batch: Any, batch_idx: int) -> bool:
    """Call ``on_train_batch_start``; where the model returns -1, the epoch ends as if this batch were its last."""
    if run.notify("on_train_batch_start", batch, batch_idx) != -1 or not run.skips_epoch:
        return False
    run.state.is_last_batch = True
    step_schedulers(run, "step", plateau=False)
    step_schedulers(run, "epoch", plateau=False)
    return True


# ------------------------------------------------------------------------------------------------ validation


def _validate(run: Run) -> None:
    """Validation inside fit."""
    state = run.state
    if not state.is_accumulating:
        run.hooked.on_validation_model_zero_grad()  # frees the gradients' memory for a while
    state.stage = RunningStage.VALIDATING
    run.take_metrics()
    with torch.no_grad():
        evaluated = _val_data(run)
        seen = sum(evaluated.seen)
        run_evaluation(run, RunningStage.VALIDATING, evaluated, evaluated.num_batches)
    state.val_batches = sum(evaluated.seen) - seen
    state.epoch_val_batches += state.val_batches
    state.stage = RunningStage.TRAINING
    run.last_validation = time.monotonic()
    run.val_deadline.restart()
    run.validated_last = True


def _val_data(run: Run) -> EvalData:
    every = run.config.reload_dataloaders_every_n_epochs
    if "val" in run.eval_data and not (every and run.state.epoch - run.last_val_load >= every):
        return run.eval_data["val"]
    return _load_val_data(run, RunningStage.VALIDATING)


def _load_val_data(run: Run, stage: RunningStage) -> EvalData:
    if stage == RunningStage.VALIDATING or validates_this_epoch(run):
        run.last_val_load = run.state.epoch
    return loading.load_eval(run, stage)


def _reloaded(run: Run) -> TrainData:
    every = run.config.reload_dataloaders_every_n_epochs
    if run.train_data is None or (every and run.state.epoch - run.last_train_load >= every):
        loading.load_train(run)
        _start_loaders(run)
    assert run.train_data is not None
    return run.train_data


def validates_this_epoch(run: Run) -> bool:
    """Whether the epoch at work is one that validates."""
    every = run.trainer.check_val_every_n_epoch
    return run.state.enable_validation and (every is None or (run.state.epoch + 1) % every == 0)


def validation_is_due(run: Run) -> bool:
    """Whether to validate after the batch at work, in an epoch that validates."""
    state = run.state
    if state.is_last_batch and math.isinf(state.val_check_batch) and run.val_check_seconds is None:
        return True
    if state.should_stop and may_stop(run):
        return True
    if run.val_check_seconds is not None:
        remaining = run.val_check_seconds - (time.monotonic() - run.last_validation)
        return run.val_deadline.reached(run.trainer, remaining)
    if math.isinf(state.val_check_batch):
        return False
    across_epochs = run.trainer.check_val_every_n_epoch is None
    done = state.total_batches if across_epochs else state.batch_idx + 1
    return done % state.val_check_batch == 0


def set_validation_interval(run: Run) -> None:
    """Work out ``val_check_batch`` for the loader at hand.

    Raises:
        ValueError: More batches between validations than the epoch has.
        MisconfigurationException: A share of an epoch whose length is unknown.
    """
    state, interval = run.state, run.trainer.val_check_interval
    batches = state.num_training_batches / state.shares  # as of the largest number of workers
    if batches == 0:
        return
    if not isinstance(interval, int | float):
        run.val_check_seconds = parse_duration(interval, "val_check_interval").total_seconds()
        run.last_validation = time.monotonic()
        state.val_check_batch = math.inf
        return
    if isinstance(interval, int):
        within_epoch = run.trainer.check_val_every_n_epoch is not None and run.config.limit("val") > 0
        too_many = within_epoch and interval > batches
        if too_many:
            raise ValueError(
                f"`val_check_interval` ({interval}) must be less than or equal to the number of the training batches "
                f"({batches}). If you want to disable validation set `limit_val_batches` to 0.0 instead. If you want "
                "to validate based on the total training batches, set `check_val_every_n_epoch=None`."
            )
        state.val_check_batch = max(1, round(interval * state.shares))
    elif math.isinf(batches):
        if interval != 1.0:
            raise MisconfigurationException(
                "When using an IterableDataset for `train_dataloader`, `Trainer(val_check_interval)` must be time "
                "based, `1.0` or an int. An int k specifies checking validation every k training batches."
            )
        state.val_check_batch = math.inf
    else:
        state.val_check_batch = max(1, round(max(1, int(batches * interval)) * state.shares))
    if run.loggers and batches < run.trainer.log_every_n_steps and not run.config.num_dev_batches:
        rank_zero_warn(
            f"The number of training batches ({batches}) is smaller than the logging interval "
            f"Trainer(log_every_n_steps={run.trainer.log_every_n_steps}). Set a lower value for log_every_n_steps if "
            "you want to see logs for the training epoch."
        )
