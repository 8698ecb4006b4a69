"""A short run inside another's hook, as batch-size and learning-rate searches need it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from raylight.config.messages import DataSource, Event, TrainerFn
from raylight.utilities.seed import isolate_rng
from raylight.worker import data, evaluation, sharing
from raylight.worker.fitting import fit
from raylight.worker.model_state import ModelState
from raylight.worker.run import Run

if TYPE_CHECKING:
    from raylight.worker.state import TrainState


def try_out(outer: Run, callbacks: list[Any], fn: TrainerFn, batch_size: int | None, **flags: Any) -> TrainState:
    """See ``TrainerView.try_out``.

    Model, metrics, loss scale and random numbers are afterwards as they were, however the trial ended.
    """
    trial = _prepared(outer, callbacks, fn, batch_size, flags)
    before, scale = ModelState(outer.model), outer.precision.state_dict()
    try:
        with isolate_rng():
            trial.start_within(outer)
            _run(trial, fn)
    finally:
        before.restore()
        outer.precision.load_state_dict(scale)
        trial.give_back(outer)
    return trial.state


def _prepared(outer: Run, callbacks: list[Any], fn: TrainerFn, batch_size: int | None, flags: dict[str, Any]) -> Run:
    config = dataclasses.replace(outer.config, profiler=None, **flags)
    source = outer.source if batch_size is None else _with_batch_size(outer.source, batch_size)
    job = dataclasses.replace(
        outer.job, fn=fn, config=config, callbacks=callbacks, data=source, loggers=[], progress={}, ckpt_path=None,
        trainer=None, strategy=outer.strategy, return_predictions=False,
    )  # fmt: skip
    names = ("global_rank", "local_rank", "node_rank", "world_size")
    ranks = {name: getattr(outer.state, name) for name in names}
    return Run(job, ranks, outer.strategy.device, _unheard, outer.stop_request)


def _run(trial: Run, fn: TrainerFn) -> None:
    if fn == TrainerFn.FITTING:
        fit(trial)
    else:
        {
            TrainerFn.VALIDATING: evaluation.validate,
            TrainerFn.TESTING: evaluation.test,
            TrainerFn.PREDICTING: evaluation.predict,
        }[fn](trial)


def _with_batch_size(source: DataSource, batch_size: int) -> DataSource:
    kinds = ("train", "val", "test", "predict")
    given = {kind: getattr(source, kind) for kind in kinds if getattr(source, kind) is not None}
    resized = {
        kind: data.map_loaders(lambda loader: sharing.with_batch_size(loader, batch_size), loaders)
        for kind, loaders in given.items()
    }
    return dataclasses.replace(source, **resized)


def _unheard(event: Event) -> None:
    """Nobody watches a trial."""
