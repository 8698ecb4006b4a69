"""A run's state on its way home: attributes of model, callbacks and datamodule, from rank 0 to the user's own objects.

What an attribute refers to inside the model (a submodule kept in a list, a bound method), or of the trainer and the
callbacks, travels as a name and arrives as the user's own object, so that no second copy of it comes into being.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from ray import cloudpickle

from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.utilities import seed, tree
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker.run import Run

LARGEST = 64 * 1024 * 1024
"""Bytes of one attribute that still travel."""
STAYS = frozenset({*vars(torch.nn.Module()), "_trainer", "_run", "trainer", "_average_model", "_swa_scheduler"})
"""Attributes that travel otherwise, or belong to the worker; averaged weights end in the model."""
References = list[tuple[str, Any]]


def pack(run: Run, outcome: Outcome) -> Outcome:
    """Runs in every worker: what this rank sends; everything from rank 0, predictions from all."""
    if not run.strategy.is_global_zero:
        return Outcome(None, predictions=outcome.predictions, interrupted=outcome.interrupted)
    if run.job.fn == TrainerFn.FITTING:
        outcome.weights = tree.to_cpu(torch.nn.Module.state_dict(run.model))
    names = {id(obj): name for name, obj in _references(run.model, run.callbacks, run.source.datamodule, run.trainer)}
    outcome.attributes = {
        owner: _pack_attributes(obj, names, outcome.left_behind) for owner, obj in _owners(run.job, run.callbacks)
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
    found = dict(_references(job.model, job.callbacks, job.data.datamodule, job.model._trainer))
    for owner, obj in _owners(job, job.callbacks):
        for name, pickled in outcome.attributes.get(owner, {}).items():
            try:
                vars(obj)[name] = _Unpickler(io.BytesIO(pickled), found).load()
            except Exception as error:  # such as a tensor of a device that the driver lacks
                rank_zero_warn(f"{type(obj).__name__}.{name} could not be brought back from the workers: {error}")


def _load_weights(model: Any, weights: dict[str, Any]) -> None:
    model.configure_model()  # layers that so far only the workers have
    dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())  # what a "true" precision made of them
    torch.nn.Module.load_state_dict(model, weights)


def _owners(job: Job, callbacks: list[Any]) -> list[tuple[str, Any]]:
    owners = [("model", job.model)]
    owners += [(f"callback {index}", callback) for index, callback in enumerate(callbacks)]
    owners += [("profiler", job.profiler)] if job.profiler is not None else []
    return [*owners, ("datamodule", job.data.datamodule)] if job.data.datamodule is not None else owners


def _references(model: torch.nn.Module, callbacks: list[Any], datamodule: Any, trainer: Any) -> References:
    references: References = [("trainer", trainer), ("datamodule", datamodule)]
    references += [(f"callback {index}", callback) for index, callback in enumerate(callbacks)]
    references += [(f"module {path}", module) for path, module in model.named_modules()]
    references += [(f"parameter {path}", parameter) for path, parameter in model.named_parameters()]
    return [(name, obj) for name, obj in references if obj is not None]


def _pack_attributes(obj: Any, names: dict[int, str], left_behind: list[str]) -> dict[str, bytes]:
    packed = {}

    def on_cpu(leaf: Any) -> Any:
        return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) and id(leaf) not in names else leaf

    for name, value in vars(obj).items():
        if name in STAYS:
            continue
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, names).dump(tree.map_leaves(on_cpu, value) if id(value) not in names else value)
        except Exception:  # an open file, a generator: it belongs to the worker
            continue
        if buffer.tell() > LARGEST:
            left_behind.append(f"{type(obj).__name__}.{name}")
        else:
            packed[name] = buffer.getvalue()
    return packed


class _Pickler(cloudpickle.Pickler):
    def __init__(self, buffer: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(buffer)
        self._names = names

    def persistent_id(self, obj: Any) -> str | None:
        return self._names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, found: dict[str, Any]) -> None:
        super().__init__(buffer)
        self._found = found

    def persistent_load(self, name: str) -> Any:
        return self._found[name]
