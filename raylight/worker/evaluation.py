"""validate, test and predict; ``run_evaluation`` is also the validation inside fit."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raylight.config.messages import RunningStage, TrainerFn
from raylight.utilities.exceptions import TunerExit
from raylight.utilities.model_helpers import is_overridden
from raylight.utilities.signatures import accepts, has_argument, requires
from raylight.worker import legacy, loading
from raylight.worker.data import as_eval_iterators
from raylight.worker.throughput import num_samples

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
        evaluated = loading.load_eval(run, stage)
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
    name = stage.hook_prefix
    try:
        with _evaluating(run, name):
            run.notify(f"on_{name}_start")
            if stage.dataloader_prefix not in run.eval_data:  # a search has changed the batch size
                evaluated = loading.load_eval(run, stage)
                limits = evaluated.num_batches
            run.notify(f"on_{name}_epoch_start")
            outputs = _run_batches(run, stage, evaluated, limits)
            run.metrics.reduce_epoch()
            if outputs is not None:
                legacy.end_epoch(run, name, outputs if evaluated.several else outputs[0])
            results = _finish_epoch(run, stage, evaluated.num_dataloaders)
            run.notify(f"on_{name}_end")
    finally:
        run.metrics.reset()
        run.metrics = outer_metrics
    return results


def _run_batches(run: Run, stage: RunningStage, evaluated: EvalData, limits: list[float]) -> list[list[Any]] | None:
    """The batches of one pass.

    Returns:
        What the steps returned, by loader, where a hook of Lightning 1.x wants it; else None.
    """
    name = stage.hook_prefix
    keeps = legacy.epoch_end_hook(run.model, name) is not None
    outputs: list[list[Any]] = [[] for _ in range(evaluated.num_dataloaders)]
    step = _step_caller(run, f"{name}_step", evaluated.several)
    metrics, sanity = run.metrics, stage == RunningStage.SANITY_CHECKING
    seen = evaluated.seen
    if run.state.fn == TrainerFn.FITTING:
        evaluated.set_epoch(run.state.epoch)
    fetching = f"[_EvaluationLoop].{stage.dataloader_prefix}_next"
    batches, transfer = _fetching(run, f"{name}_step", evaluated, limits)
    for batch, batch_idx, dataloader_idx in run.recorder.each(fetching, batches, evaluated.combined.num_batches):
        if batch_idx == 0:
            run.take_metrics()  # of the loader that has ended
        batch = transfer(batch, dataloader_idx)
        where = (batch, batch_idx, dataloader_idx) if evaluated.several else (batch, batch_idx)
        metrics.start_batch(batch, dataloader_idx if evaluated.several else None)
        run.notify(f"on_{name}_batch_start", *where)
        metrics.hook = f"{name}_step"
        output = step(*where)
        metrics.hook = None
        run.notify(f"on_{name}_batch_end", output, *where)
        if keeps and output is not None:
            outputs[dataloader_idx].append(output)
        if not sanity:
            run.log_metrics(metrics.logged_values(), step=seen[dataloader_idx])
            seen[dataloader_idx] += 1
    run.take_metrics()
    metrics.end_batches()
    return outputs if keeps else None


def _fetching(
    run: Run, step: str, evaluated: EvalData, limits: list[float]
) -> tuple[Iterator[tuple[Any, int, int]], Callable[[Any, int], Any]]:
    """The batches of a pass, and what brings each to the device; for ``step(dataloader_iter)`` iterators of them."""
    batches = evaluated.batches(limits)
    if run.throughput is not None:
        batches = run.throughput.watch(batches, lambda item: num_samples(item[0]))
    if has_argument(getattr(run.model, step), "dataloader_iter"):
        return as_eval_iterators(batches), lambda dataloader_iter, _: dataloader_iter
    return batches, run.transfer


def _finish_epoch(run: Run, stage: RunningStage, num_dataloaders: int) -> Results:
    metrics = run.metrics
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
    prefix = "val" if name == "validation_step" else name.removesuffix("_step")
    takes_iterator = has_argument(step, "dataloader_iter")
    takes_loader = takes_iterator or accepts(step, "dataloader_idx", 3)
    if several and not takes_loader:
        raise RuntimeError(
            f"You provided multiple `{prefix}_dataloader`, but no `dataloader_idx` argument in "
            f"`{type(run.model).__name__}.{name}()`. Try adding `dataloader_idx=0` to its signature."
        )
    if not several and requires(step, "dataloader_idx"):
        raise RuntimeError(
            f"You provided only a single `{prefix}_dataloader`, but have included `dataloader_idx` in "
            f"`{type(run.model).__name__}.{name}()`. Remove the argument, or give it a default."
        )
    count = (3 if several else 2) if accepts(step, "batch_idx", 2) and not takes_iterator else 1
    step = legacy.with_step_end(run, name.removesuffix("_step"), step)

    context = getattr(run.precision, f"{CONTEXTS.get(name, name)}_context")
    if not run.precision.has_context:
        return lambda *where: step(*where[:count])

    def in_precision(*where: Any) -> Any:
        with context():
            return step(*where[:count])

    return in_precision


@contextlib.contextmanager
def _evaluating(run: Run, name: str) -> Iterator[None]:
    """The model in evaluation mode; afterwards each submodule in the mode that it had, unless a hook sees to it."""
    modes = {module: module.training for module in run.model.modules()}
    getattr(run.hooked, f"on_{name}_model_eval")()
    try:
        yield
    except TunerExit:
        _put_back(modes)
        raise
    hook = f"on_{name}_model_train"
    if name != "predict" and is_overridden(hook, run.model):
        getattr(run.hooked, hook)()
    else:
        _put_back(modes)


def _put_back(modes: dict[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


def predict(run: Run) -> list[list[tuple[int, Any]]]:
    """The whole of ``Trainer.predict`` on this rank.

    Returns:
        For each loader a list of this rank's ``(index, output)``, where the index is that of the batch among those of
        all ranks, outputs on the CPU; no loaders where there is no batch, or predictions are not to be returned.
    """
    stage = RunningStage.PREDICTING
    run.state.stage = stage
    if run.config.limit("predict") == 0:
        return []
    with inference(run):
        predicted = loading.load_eval(run, stage)
        if predicted.combined.mode != "sequential":
            raise ValueError('`trainer.predict()` only supports the `CombinedLoader(mode="sequential")` mode.')
        if predicted.is_empty:
            if run.part_writer is not None:  # all were written by an earlier call
                run.part_writer.finish(run)
            return []
        with _evaluating(run, "predict"):
            run.notify("on_predict_start")
            if "predict" not in run.eval_data:  # a search has changed the batch size
                predicted = loading.load_eval(run, stage)
            run.predict_loop.start(predicted, run.callbacks, run.job.return_predictions, run.strategy)
            run.notify("on_predict_epoch_start")
            _predict_batches(run, predicted)
            if run.part_writer is not None:
                run.part_writer.finish(run)
            run.notify("on_predict_epoch_end")
            outputs = run.predict_loop.end()
            run.notify("on_predict_end")
    return outputs


def _predict_batches(run: Run, predicted: EvalData) -> None:
    step, loop = _step_caller(run, "predict_step", predicted.several), run.predict_loop
    batches, transfer = _fetching(run, "predict_step", predicted, predicted.num_batches)
    fetching = "[_PredictionLoop].predict_next"
    for batch, batch_idx, dataloader_idx in run.recorder.each(fetching, batches, predicted.combined.num_batches):
        batch = transfer(batch, dataloader_idx)
        where = (batch, batch_idx, dataloader_idx) if predicted.several else (batch, batch_idx)
        if loop.watches:
            loop.start_batch(dataloader_idx)
        run.notify("on_predict_batch_start", *where)
        output = step(*where)
        run.notify("on_predict_batch_end", output, *where)
        if output is None:
            run.notices.warn("predict returned None if it was on purpose, ignore this warning...")
        if run.part_writer is not None:
            run.part_writer.add(output)
        if loop.keeps_predictions:
            loop.keep(dataloader_idx, output)


def in_dataset_order(
    by_rank: list[list[list[tuple[int, Any]]]], finish: Callable[[list[Any]], Any] = lambda batches: batches
) -> Any:
    """All ranks' predictions as one process would have made them.

    Args:
        by_rank: What ``predict`` gave; of no loaders where a rank returns nothing.
        finish: Makes the result of a loader's batches.

    Returns:
        A list of batches, or with several loaders a list of such lists.
    """
    ordered = []
    for of_loader in zip(*filter(None, by_rank), strict=True):
        batches = sorted(itertools.chain.from_iterable(of_loader), key=itemgetter(0))
        ordered.append(finish([output for _, output in batches]))
    return ordered[0] if len(ordered) == 1 else ordered


@contextlib.contextmanager
def inference(run: Run) -> Iterator[None]:
    """No gradients; inference mode where the flag allows it."""
    # gloo cannot reduce tensors that were made in inference mode.
    allowed = run.config.inference_mode and run.strategy.world_size == 1
    with torch.inference_mode() if allowed else torch.no_grad():
        yield
