"""validate, test and predict; ``run_evaluation`` is also the validation inside fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raylight.config.messages import RunningStage
from raylight.utilities import tree
from raylight.worker.listeners import accepts, requires

if TYPE_CHECKING:
    from raylight.worker.data import EvalData
    from raylight.worker.run import Run

Results = list[dict[str, float]]

CONTEXTS = {"validation_step": "val_step"}
"""Steps whose context in a Precision is named otherwise."""


def validate(run: Run) -> Results:
    """The whole of ``Trainer.validate`` on this rank."""
    return _evaluate_alone(run, RunningStage.VALIDATING)


def test(run: Run) -> Results:
    """The whole of ``Trainer.test`` on this rank."""
    return _evaluate_alone(run, RunningStage.TESTING)


def _evaluate_alone(run: Run, stage: RunningStage) -> Results:
    run.state.stage = stage
    if run.config.limit(stage.dataloader_prefix) == 0:
        return []
    with inference(run):
        evaluated = run.load_eval_data(stage)
        return run_evaluation(run, stage, evaluated, evaluated.num_batches)


def run_evaluation(run: Run, stage: RunningStage, evaluated: EvalData, limits: list[float]) -> Results:
    """One pass over an evaluation's loaders, hooks and metrics included. Collective where metrics are logged.

    Args:
        limits: Batches to take of each loader on this rank.

    Returns:
        What was logged, by loader; nothing for the sanity check.
    """
    if evaluated.is_empty:
        return []
    outer_metrics, run.metrics = run.metrics, run.make_metrics(training=False)
    modes = {module: module.training for module in run.model.modules()}
    name = stage.hook_prefix
    try:
        getattr(run.hooked, f"on_{name}_model_eval")()
        run.notify(f"on_{name}_start")
        run.notify(f"on_{name}_epoch_start")
        _run_batches(run, stage, evaluated, limits)
        results = _finish_epoch(run, stage, evaluated.num_dataloaders)
        run.notify(f"on_{name}_end")
        _restore_modes(run, name, modes)
    finally:
        run.metrics.reset()
        run.metrics = outer_metrics
    return results


def _run_batches(run: Run, stage: RunningStage, evaluated: EvalData, limits: list[float]) -> None:
    name = stage.hook_prefix
    step = _step_caller(run, f"{name}_step", evaluated.several)
    metrics, sanity = run.metrics, stage == RunningStage.SANITY_CHECKING
    seen = evaluated.seen
    evaluated.set_epoch(run.state.epoch)
    fetching = f"[_EvaluationLoop].{stage.dataloader_prefix}_next"
    batches = evaluated.batches(limits)
    for batch, batch_idx, dataloader_idx in run.recorder.each(fetching, batches, evaluated.combined.num_batches):
        if batch_idx == 0:
            run.take_metrics()  # of the loader that has ended
        batch = run.transfer(batch, dataloader_idx)
        where = (batch, batch_idx, dataloader_idx) if evaluated.several else (batch, batch_idx)
        metrics.start_batch(batch, dataloader_idx if evaluated.several else None)
        run.notify(f"on_{name}_batch_start", *where)
        metrics.hook = f"{name}_step"
        output = step(*where)
        metrics.hook = None
        run.notify(f"on_{name}_batch_end", output, *where)
        if not sanity:
            run.log_metrics(metrics.logged_values(), step=seen[dataloader_idx])
            seen[dataloader_idx] += 1
    run.take_metrics()
    metrics.end_batches()


def _finish_epoch(run: Run, stage: RunningStage, num_dataloaders: int) -> Results:
    metrics = run.metrics
    metrics.reduce_epoch()
    run.notify(f"on_{stage.hook_prefix}_epoch_end")
    metrics.reduce_epoch()  # what that hook logged
    if stage == RunningStage.SANITY_CHECKING:
        return []
    logged = metrics.logged_values()
    run.state.callback_metrics.update(metrics.callback_values())
    run.state.logged_metrics.update(logged)
    run.state.progress_bar_metrics.update(metrics.progress_bar_values())
    run.log_row(logged, run.state.logger_step)
    return metrics.dataloader_values(num_dataloaders)


def _step_caller(run: Run, name: str, several: bool) -> Callable[..., Any]:
    """Calls a step with those of (batch, batch_idx, dataloader_idx) that it takes."""
    step = run.recorder.call(run.strategy_action(name), getattr(run.model, name))
    takes_loader = accepts(step, "dataloader_idx", 3)
    if several and not takes_loader:
        raise RuntimeError(
            f"You provided multiple `{name.partition('_')[0]}` dataloaders, but no `dataloader_idx` argument in "
            f"`{type(run.model).__name__}.{name}()`. Try adding `dataloader_idx=0` to its signature."
        )
    if not several and requires(step, "dataloader_idx"):
        raise RuntimeError(
            f"You provided only a single `{name.partition('_')[0]}` dataloader, but have included `dataloader_idx` in "
            f"`{type(run.model).__name__}.{name}()`. Remove the argument, or give it a default."
        )
    count = (3 if several else 2) if accepts(step, "batch_idx", 2) else 1

    context = getattr(run.precision, f"{CONTEXTS.get(name, name)}_context")
    if not run.precision.has_context:
        return lambda *where: step(*where[:count])

    def in_precision(*where: Any) -> Any:
        with context():
            return step(*where[:count])

    return in_precision


def _restore_modes(run: Run, name: str, modes: dict[nn.Module, bool]) -> None:
    hook = f"on_{name}_model_train"
    if name != "predict" and run.overrides(hook):
        getattr(run.hooked, hook)()
        return
    for module, training in modes.items():
        module.training = training


def predict(run: Run) -> list[Any]:
    """The whole of ``Trainer.predict`` on this rank.

    Returns:
        A list of this rank's ``(dataloader_idx, batch_idx, output)``, outputs on the CPU; empty where predictions are
        not to be returned.
    """
    stage = RunningStage.PREDICTING
    run.state.stage = stage
    if run.config.limit("predict") == 0:
        return []
    with inference(run):
        predicted = run.load_eval_data(stage)
        if predicted.combined.mode != "sequential":
            raise ValueError(f"predict takes loaders one after the other, not {predicted.combined.mode!r}.")
        if predicted.is_empty:
            return []
        modes = {module: module.training for module in run.model.modules()}
        run.hooked.on_predict_model_eval()
        run.notify("on_predict_start")
        run.notify("on_predict_epoch_start")
        outputs = list(_predict_batches(run, predicted))
        run.notify("on_predict_epoch_end")
        run.notify("on_predict_end")
        _restore_modes(run, "predict", modes)
    return outputs


def _predict_batches(run: Run, predicted: EvalData) -> Iterator[tuple[int, int, Any]]:
    step = _step_caller(run, "predict_step", predicted.several)
    batches = predicted.batches(predicted.num_batches)
    fetching = "[_PredictionLoop].predict_next"
    for batch, batch_idx, dataloader_idx in run.recorder.each(fetching, batches, predicted.combined.num_batches):
        batch = run.transfer(batch, dataloader_idx)
        where = (batch, batch_idx, dataloader_idx) if predicted.several else (batch, batch_idx)
        run.notify("on_predict_batch_start", *where)
        output = step(*where)
        run.notify("on_predict_batch_end", output, *where)
        if run.job.return_predictions:
            yield dataloader_idx, batch_idx, tree.to_cpu(output)


def in_dataset_order(by_rank: list[list[tuple[int, int, Any]]]) -> list[Any]:
    """All ranks' predictions as one process would have made them: batches were dealt to the ranks in turn.

    Returns:
        A list of batches, or with several loaders a list of such lists.
    """
    world_size = len(by_rank)
    loaders: dict[int, dict[int, Any]] = {}
    for rank, outputs in enumerate(by_rank):
        for dataloader_idx, batch_idx, output in outputs:
            loaders.setdefault(dataloader_idx, {})[batch_idx * world_size + rank] = output
    ordered = [[batches[i] for i in sorted(batches)] for _, batches in sorted(loaders.items())]
    return ordered[0] if len(ordered) == 1 else ordered


@contextlib.contextmanager
def inference(run: Run) -> Iterator[None]:
    """No gradients; inference mode where the flag allows it."""
    # gloo cannot reduce tensors that were made in inference mode.
    allowed = run.config.inference_mode and run.strategy.world_size == 1
    with torch.inference_mode() if allowed else torch.no_grad():
        yield
