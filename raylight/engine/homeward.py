"""A run's state on its way home: weights and attributes, from rank 0 to the user's own objects."""

from __future__ import annotations

from typing import Any

import torch

from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine.attributes import Packer, TooLargeError, loads, owners, references, travelling
from raylight.utilities import seed, tree
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker.run import Run

LARGEST = 64 * 1024 * 1024
"""Bytes of one attribute that still travel."""


def pack(run: Run, outcome: Outcome) -> Outcome:
    """Runs in every worker: what this rank sends; everything from rank 0, predictions from all."""
    if not run.strategy.is_global_zero:
        return Outcome(None, predictions=outcome.predictions, interrupted=outcome.interrupted)
    if run.job.fn == TrainerFn.FITTING:
        outcome.weights = tree.to_cpu(torch.nn.Module.state_dict(run.model))
    packer = Packer(references(run.model, run.callbacks, run.source.datamodule, run.trainer), LARGEST)
    outcome.attributes = {
        owner: _pack_attributes(obj, packer, outcome.left_behind)
        for owner, obj in owners(run.model, run.callbacks, run.source.datamodule, run.job.profiler)
    }
    outcome.rng_state = seed.rng_state(include_cuda=False)
    return outcome


def unpack(outcome: Outcome, job: Job) -> None:
    """Runs on the driver: weights, attributes and random numbers go where a run in this process would have put them."""
    if outcome.weights is not None:
        _load_weights(job.model, outcome.weights)
    if outcome.rng_state is not None:
        seed.set_rng_state(outcome.rng_state)
    if outcome.left_behind:
        rank_zero_warn(
            f"Too large to come back from the workers (over {LARGEST >> 20} MiB): {', '.join(outcome.left_behind)}."
        )
    found = dict(references(job.model, job.callbacks, job.data.datamodule, job.model._trainer))
    for owner, obj in owners(job.model, job.callbacks, job.data.datamodule, job.profiler):
        for name, pickled in outcome.attributes.get(owner, {}).items():
            try:
                vars(obj)[name] = loads(pickled, found)
            except Exception as error:  # such as a tensor of a device that the driver lacks
                rank_zero_warn(f"{type(obj).__name__}.{name} could not be brought back from the workers: {error}")


def _load_weights(model: Any, weights: dict[str, Any]) -> None:
    model.configure_model()  # layers that so far only the workers have
    dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())  # what a "true" precision made of them
    torch.nn.Module.load_state_dict(model, weights)


def _pack_attributes(obj: Any, packer: Packer, left_behind: list[str]) -> dict[str, bytes]:
    packed = {}
    for name, value in travelling(obj):
        try:
            packed[name] = packer.dumps(value)
        except TooLargeError:
            left_behind.append(f"{type(obj).__name__}.{name}")
        except Exception:  # an open file, a generator: it belongs to the worker
            continue
    return packed
