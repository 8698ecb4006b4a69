"""A run's loaders: asked for, this rank's share of them taken, and made ready to be read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylight.config.messages import RunningStage, TrainerFn
from raylight.utilities.combined_loader import CombinedLoader
from raylight.utilities.exceptions import MisconfigurationException
from raylight.worker import data, sharing
from raylight.worker.loader_advice import advise
from raylight.worker.prediction_parts import open_parts
from raylight.worker.verify import given_as

if TYPE_CHECKING:
    from raylight.worker.run import Run

Share = Callable[[Any, int, int], Any]
"""``(loader, world_size, rank) -> loader``"""


def load_train(run: Run) -> data.TrainData:
    """Ask for the training loaders and take this rank's share of them."""
    loaders = _request(run, "train")
    if run.job.placement.is_elastic and isinstance(loaders, CombinedLoader | list | tuple | dict):
        raise MisconfigurationException(
            "num_workers=(min, max) shares an epoch anew when workers come or go, which needs a single training "
            "loader. Use a fixed num_workers."
        )
    share = _share(run, "train", loaders, sharing.share_for_training)
    run.train_data = data.TrainData(share, run.config.limit("train"), run.config.multiple_trainloader_mode)
    run.train_data.agree(run.strategy)
    run.state.num_training_batches = run.train_data.num_batches
    return run.train_data


def load_eval(run: Run, stage: RunningStage) -> data.EvalData:
    """Ask for an evaluation's loaders and take this rank's share of them."""
    prefix = stage.dataloader_prefix
    run.part_writer = None
    loaders = _share(run, prefix, _request(run, prefix), sharing.share_for_evaluation)
    evaluated = data.EvalData(loaders, run.config.limit(prefix), f"limit_{prefix}_batches")
    evaluated.is_empty = run.strategy.reduce_boolean_decision(evaluated.is_empty, all=True)
    run.eval_data[prefix] = evaluated
    setattr(run.state, f"num_{prefix}_batches", evaluated.num_batches)
    if prefix == "val" and run.state.fn == TrainerFn.FITTING:
        most = run.trainer.num_sanity_val_steps
        run.state.num_sanity_val_batches = [min(most, batches) for batches in evaluated.num_batches]
    return evaluated


def _request(run: Run, prefix: str) -> Any:
    given = getattr(run.source, prefix)
    if given is not None:
        return given
    owner = run.hooked_data if run.hooked_data is not None else run.hooked
    return getattr(owner, f"{prefix}_dataloader")()


def _share(run: Run, prefix: str, loaders: Any, share: Share) -> Any:
    if run.config.overfit_batches and run.job.fn == TrainerFn.FITTING:
        loaders = data.map_loaders(functools.partial(sharing.without_shuffling, prefix), loaders)
    if prefix == "predict" and run.job.write_to is not None:
        return data.map_loaders(functools.partial(_in_parts, run), loaders)
    return data.map_loaders(functools.partial(_own_share, run, prefix, share), loaders)


def _own_share(run: Run, prefix: str, share: Share, loader: Any) -> Any:
    loader = run.adapt(prefix, loader)
    _check_iterable(run, prefix, loader)
    advise(loader, prefix, run.trainer.num_devices, bool(run.config.reload_dataloaders_every_n_epochs))
    world_size, rank = run.strategy.world_size, run.strategy.global_rank
    if prefix == "train" and run.job.placement.is_elastic:
        loader = sharing.share_elastically(loader, run.job.placement.num_workers, world_size, rank)
    elif world_size > 1 and run.config.use_distributed_sampler:
        if run.config.shard_iterable_datasets:
            loader = sharing.shard_iterable(loader, world_size, rank)
        loader = share(loader, world_size, rank)
    return data.prepare_workers(loader)


def _in_parts(run: Run, loader: Any) -> Any:
    """For ``predict(write_to=...)``: each rank takes parts of what is still to be written, in turn."""
    loader = run.adapt("predict", loader)
    _check_iterable(run, "predict", loader)
    run.part_writer = open_parts(run, loader)
    return sharing.share_in_parts(data.prepare_workers(loader), run.part_writer.turns)


def _check_iterable(run: Run, prefix: str, loader: Any) -> None:
    if hasattr(loader, "__iter__") or hasattr(loader, "__getitem__"):
        return
    if getattr(run.source, prefix) is not None:
        raise TypeError(
            f"An invalid dataloader was passed to `Trainer.{run.state.fn}({given_as(run.job.fn)}=...)`. Found {loader}."
        )
    owner = run.source.datamodule if run.source.datamodule is not None else run.model
    raise TypeError(
        f"An invalid dataloader was returned from `{type(owner).__name__}.{prefix}_dataloader()`. Found {loader}."
    )
