"""What self.log stores: accumulate on the device, merge over steps, reduce over ranks once per epoch.

Nothing here waits for the device and nothing communicates, until values are read: at the logging interval, and at the
end of an epoch, when one collective carries all metrics of all ranks (a second where the ranks' names differ).
"""

from __future__ import annotations

import dataclasses
import hashlib
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_deprecation, rank_zero_warn

if TYPE_CHECKING:
    from raylight.strategies.base import Strategy

IN_TRAINING = (True, False)
IN_EVALUATION = (False, True)

LEVELS: dict[str, tuple[bool, bool]] = {
    **dict.fromkeys(
        (
            "training_step", "training_step_end", "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad",
            "optimizer_zero_grad",
            "on_before_backward", "backward", "on_after_backward", "on_before_optimizer_step", "optimizer_step",
            "configure_gradient_clipping", "clip_gradients",
        ),
        IN_TRAINING,
    ),
    **{
        name: IN_EVALUATION
        for stage in ("validation", "test")
        for name in (f"{stage}_step", f"{stage}_step_end", f"on_{stage}_batch_start", f"on_{stage}_batch_end")
    },
}  # fmt: skip
"""Hooks in which both levels are allowed -> default (on_step, on_epoch)."""

EPOCH_ONLY = frozenset(
    ("on_train_start",)
    + tuple(f"on_{stage}_epoch_{end}" for stage in ("train", "validation", "test") for end in ("start", "end"))
    + ("on_validation_start", "on_test_start", "on_train_epoch_end_monitors")
    + ("training_epoch_end", "validation_epoch_end", "test_epoch_end")
)
"""Hooks in which only on_epoch=True is allowed."""

REDUCTIONS = {"mean": "mean", "avg": "mean", "sum": "sum", "min": "min", "max": "max"}
SLOTS = 64
"""Metrics that the one collective of an epoch has room for; more take a second one."""

Place = tuple[str | None, str | tuple[str, str], int | None]
"""Hook, name (with a dict's key), and dataloader_idx."""
Flags = tuple[Any, ...]
"""The arguments of one ``self.log`` but name, value and batch_size."""


@dataclass(slots=True)
class Logged:
    """One name logged in one hook."""

    name: str
    hook: str
    flags: Flags | None
    """None: those of the next time, after a restart."""
    on_step: bool
    on_epoch: bool
    reduction: str
    prog_bar: bool
    logger: bool
    enable_graph: bool
    sync_dist: bool
    rank_zero_only: bool
    dataloader_idx: int | None
    suffix: str
    member: str | None = None
    """Key in the dict that was logged under ``name`` (Lightning 1.x); None for a plain value."""
    attribute: str | None = None
    """Name of the module that is the torchmetrics Metric; None for a plain value."""
    value: Any = None
    """The last step's value, or the Metric."""
    total: Any = None
    """Sum of value x weight, or the extreme so far; a number or a tensor, None before the first."""
    weight: float = 0.0
    computed: Any = None
    """The epoch's value, once reduced."""

    @property
    def step_name(self) -> str:
        return (f"{self.name}_step" if self.on_epoch else self.name) + self.suffix

    @property
    def epoch_name(self) -> str:
        return (f"{self.name}_epoch" if self.on_step else self.name) + self.suffix

    @property
    def place(self) -> Place:
        """Where the store keeps it."""
        return self.hook, self.name if self.member is None else (self.name, self.member), self.dataloader_idx

    @property
    def key(self) -> str:
        return f"{self.hook}.{self.name}.{self.member or ''}.{self.dataloader_idx}"

    def put(self, values: dict[str, Any], name: str, value: Any) -> None:
        """Add ``value`` to ``values`` under ``name``, or to the dict there."""
        if self.member is None:
            values[name] = value
        else:
            values.setdefault(name, {})[self.member] = value

    def accumulate(self, value: Any, weight: float) -> None:
        """Take a step's value into the epoch's."""
        if self.total is None:
            self.total = value * weight if self.reduction == "mean" else value * 1.0
        elif self.reduction == "mean":
            self.total = self.total + value * weight
        elif self.reduction == "sum":
            self.total = self.total + value
        else:
            self.total = _extreme(self.reduction)(torch.as_tensor(self.total), torch.as_tensor(value))
        self.weight += weight

    def absorb(self, other: Logged) -> None:
        """Take another rank's part of the epoch's value into this one."""
        if self.total is None:
            self.total = other.total
        elif self.reduction in ("mean", "sum"):
            self.total = self.total + other.total
        else:
            self.total = _extreme(self.reduction)(torch.as_tensor(self.total), torch.as_tensor(other.total))
        self.weight += other.weight


class MetricStore:
    """All that is logged in one loop: training's, or one evaluation's."""

    def __init__(
        self,
        model: Any,
        strategy: Strategy,
        training: bool,
        enabled: bool = True,
        has_logger: bool = True,
        has_results: bool = True,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.training = training
        self.enabled = enabled
        self.has_logger = has_logger
        self.has_results = has_results
        """False: nothing can be logged at all, as in predict."""
        self.hook: str | None = None
        """The hook that is running: decides the defaults of ``self.log``. None: logging is not allowed."""
        self.batch: Any = None
        """The batch at work, for its number of samples."""
        self.dataloader_idx: int | None = None
        """None where there is one loader."""
        self.in_batches = False
        """Whether values are now those of a step, or those of the epoch."""
        self._batch_size: int | None = None
        self._sized_batch: Any = None
        self._logged: dict[Place, Logged] = {}

    # ------------------------------------------------------------------------------------------------ self.log

    def add(self, name: str, value: Any, flags: Flags, batch_size: int | None, member: str | None = None) -> None:
        """See ``LightningModule.log``. On the step path: no device sync, no communication."""
        key: Place = (self.hook, name if member is None else (name, member), self.dataloader_idx)
        entry = self._logged.get(key)
        if entry is None:
            if not self.enabled:
                rank_zero_warn(
                    "You are trying to `self.log()` but `Trainer(barebones=True)` is configured. Logging can impact "
                    "raw speed so it is disabled under this setting."
                )
                return
            if isinstance(value, dict):
                self._add_dict(name, value, flags, batch_size)
                return
            entry = self._logged[key] = self._register(name, value, flags, member)
        elif entry.flags != flags:
            if entry.flags is not None:
                raise MisconfigurationException(
                    f"You called `self.log({name}, ...)` twice in `{self.hook}` with different arguments. "
                    "This is not allowed"
                )
            entry.flags = flags
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"`self.log({name}, {value})` was called, but the tensor must have a single element. You can try "
                    f"doing `self.log({name}, {value}.mean())`"
                )
            if not entry.enable_graph:
                # A leaf may be the user's own tensor, changed in place later.
                value = value.detach().clone() if value.is_leaf else value.detach()
        elif entry.attribute is not None:
            entry.value = value
            return
        elif type(value) is not float:
            value = self._number(name, value)
        if entry.on_step:
            entry.value = value
        if entry.on_epoch:
            entry.accumulate(_widen(value), self._weight(entry, batch_size))

    def _add_dict(self, name: str, values: dict[str, Any], flags: Flags, batch_size: int | None) -> None:
        for member, value in values.items():
            if isinstance(value, dict):
                raise ValueError(
                    f"`self.log({name}, {values})` was called, but nested dictionaries cannot be logged. Log each with "
                    "a name of its own."
                )
            if (self.hook, (name, member), self.dataloader_idx) not in self._logged:
                rank_zero_deprecation(f"`self.log({name!r}, {{...}})` of a dict is Lightning 1.x: use `self.log_dict`.")
            self.add(name, value, flags, batch_size, member)

    def _register(self, name: str, value: Any, flags: Flags, member: str | None) -> Logged:
        prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, group, add_idx, attribute, zero = flags
        on_step, on_epoch = self._levels(name, on_step, on_epoch)
        if add_idx and "/dataloader_idx_" in name:
            raise MisconfigurationException(
                f"You called `self.log` with the key `{name}` but it should not contain information about "
                "`dataloader_idx` when `add_dataloader_idx=True`."
            )
        if group is not None:
            raise MisconfigurationException(
                f"self.log({name!r}, sync_dist_group=...) is not supported: metrics are reduced over all workers. "
                "Reduce over the group yourself and log the result."
            )
        if logger and not self.has_logger:
            rank_zero_warn(
                f"You called `self.log({name!r}, ..., logger=True)` but have no logger configured. You can enable one"
                " by doing `Trainer(logger=ALogger(...))`"
            )
        index = self.dataloader_idx
        if index is not None and not add_idx:
            self._check_unique(name)
        entry = Logged(
            name=name,
            hook=str(self.hook),
            flags=flags,
            on_step=on_step,
            on_epoch=on_epoch,
            reduction=reduction_name(reduce_fx),
            prog_bar=prog_bar,
            logger=True if logger is None else logger,
            enable_graph=enable_graph,
            sync_dist=sync_dist,
            rank_zero_only=zero,
            dataloader_idx=index,
            suffix=f"/dataloader_idx_{index}" if add_idx and index is not None else "",
            member=member,
        )
        if not isinstance(value, Tensor | numbers.Number):
            entry.attribute = self._metric_attribute(name, value, attribute)
        return entry

    def _check_unique(self, name: str) -> None:
        if any(entry.name == name and entry.hook == self.hook for entry in self._logged.values()):
            raise MisconfigurationException(
                f"You called `self.log({name}, ...)` twice in `{self.hook}` with different arguments: for more than "
                "one dataloader. This is not allowed with add_dataloader_idx=False; give each a name of its own."
            )

    def _levels(self, name: str, on_step: bool | None, on_epoch: bool | None) -> tuple[bool, bool]:
        hook = self.hook
        if not self.has_results:
            raise MisconfigurationException(
                f"You can't `self.log({name!r}, ...)` in `predict` or a hook of it: the loop's result collection is "
                "not registered yet, as it has none. Use `self.logger.log_metrics` instead."
            )
        if hook in EPOCH_ONLY:
            if on_step or on_epoch is False:
                level = "on_step=True" if on_step else "on_epoch=False"
                raise MisconfigurationException(
                    f"You can't `self.log({level})` inside `{hook}`, where {name!r} can only have the epoch's value."
                )
            return False, True
        if hook not in LEVELS:
            where = f"inside `{hook}`" if hook else "here: it is not managed by the `Trainer` control flow"
            raise MisconfigurationException(
                f"You can't `self.log()` {where}. Log {name!r} in a step or a hook of its batch or epoch; you can "
                "still log directly to the logger by using `self.logger.experiment`."
            )
        default_step, default_epoch = LEVELS[hook]
        on_step = default_step if on_step is None else on_step
        on_epoch = default_epoch if on_epoch is None else on_epoch
        if not on_step and not on_epoch:
            raise MisconfigurationException(f"`self.log(on_step=False, on_epoch=False)` of {name!r} is not useful.")
        return on_step, on_epoch

    def _metric_attribute(self, name: str, value: Any, attribute: str | None) -> str:
        if not hasattr(value, "_forward_cache") or not hasattr(value, "compute"):
            raise ValueError(
                f"`self.log({name}, {value})` was called, but `{type(value).__name__}` values cannot be logged: give a "
                "number, a one-element tensor or a torchmetrics Metric."
            )
        found = attribute or next((path for path, module in self.model.named_modules() if module is value), None)
        if found is None:
            raise MisconfigurationException(
                f"Could not find the `LightningModule` attribute for the `torchmetrics.Metric` logged as {name!r}. "
                "You can fix this by setting an attribute for the metric in your `LightningModule`."
            )
        return found

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"self.log({name!r}, ...) takes one number, got {value!r}.") from None

    def _weight(self, entry: Logged, batch_size: int | None) -> float:
        if entry.reduction != "mean":
            return 1.0
        if batch_size is not None:
            return float(batch_size)
        if self.batch is None:
            return 1.0
        if self._sized_batch is not self.batch:
            self._sized_batch, self._batch_size = self.batch, self._infer_batch_size()
        return float(self._batch_size or 1)

    def _infer_batch_size(self) -> int | None:
        size = tree.batch_size(self.batch)
        if size is None:
            raise MisconfigurationException(
                "We could not infer the batch_size from the batch. Either simplify its structure or provide the "
                "batch_size as `self.log(..., batch_size=batch_size)`."
            )
        sizes = {leaf.size(0) for leaf in tree.leaves(self.batch) if isinstance(leaf, Tensor) and leaf.ndim}
        if len(sizes) > 1:
            rank_zero_warn(
                "Trying to infer the `batch_size` from an ambiguous collection. The batch size we found is "
                f"{size}. To avoid any miscalculations, use `self.log(..., batch_size=batch_size)`."
            )
        return size

    # ------------------------------------------------------------------------------------------------ reading

    def start_batch(self, batch: Any, dataloader_idx: int | None = None) -> None:
        """A batch begins; values that are read from now on are those of its step."""
        self.batch = batch
        self.dataloader_idx = dataloader_idx
        self.in_batches = True

    def end_batches(self) -> None:
        """The last batch is done; values that are read from now on are those of the epoch."""
        self.batch = self._sized_batch = None
        self.dataloader_idx = None
        self.in_batches = False

    def reset(self) -> None:
        """Forget the epoch's values and reset its Metrics."""
        for entry in self._logged.values():
            if entry.attribute is not None:
                entry.value.reset()
        self._logged.clear()

    def state_dict(self) -> list[dict[str, Any]]:
        """What was logged so far, in plain types; Metrics by their names."""
        fields = [field.name for field in dataclasses.fields(Logged) if field.name != "flags"]
        entries = [{name: getattr(entry, name) for name in fields} for entry in self._logged.values()]
        for entry in entries:
            if entry["attribute"] is not None:
                entry["value"] = None
        return entries

    def load_state_dict(self, entries: list[dict[str, Any]]) -> None:
        """Put back what ``state_dict`` gave; the Metrics themselves are the model's."""
        self._logged.clear()
        for values in entries:
            entry = Logged(**{**values, "flags": None})
            if entry.attribute is not None:
                entry.value = self.model.get_submodule(entry.attribute)
            self._logged[entry.place] = entry

    @property
    def logged_metrics(self) -> list[Any]:
        """The torchmetrics Metrics that were logged."""
        return [entry.value for entry in self._logged.values() if entry.attribute is not None]

    def callback_values(self) -> dict[str, Tensor]:
        """What ``callback_metrics`` gains now: under plain names and, where both levels are logged, forked ones."""
        values: dict[str, Tensor] = {}
        if self.in_batches and not self.training:
            return values
        for entry, value in self._current():
            entry.put(values, entry.name + entry.suffix, value)
            entry.put(values, entry.step_name if self.in_batches else entry.epoch_name, value)
        return values

    def logged_values(self) -> dict[str, Tensor]:
        """What the loggers get now."""
        values: dict[str, Tensor] = {}
        for entry, value in self._current():
            if entry.logger:
                entry.put(values, entry.step_name if self.in_batches else entry.epoch_name, value)
        return values

    def progress_bar_values(self) -> dict[str, float]:
        """What the progress bar shows now. Waits for the device."""
        values: dict[str, float] = {}
        for entry, value in self._current():
            if entry.prog_bar:
                entry.put(values, entry.step_name if self.in_batches else entry.epoch_name, value.item())
        return values

    def dataloader_values(self, num_dataloaders: int) -> list[dict[str, float]]:
        """The results of an evaluation: one dict per loader, what no loader is named for in each."""
        results: list[dict[str, float]] = [{} for _ in range(num_dataloaders)]
        for entry, value in self._current():
            if not entry.logger:
                continue
            own = results if entry.dataloader_idx is None else [results[entry.dataloader_idx]]
            for result in own:
                entry.put(result, entry.epoch_name, value.item())
        return results

    def _current(self) -> Iterator[tuple[Logged, Tensor]]:
        """Entries that have a value at the current level, in the order they were first logged."""
        for entry in self._logged.values():
            if self.in_batches:
                if not entry.on_step or entry.value is None or entry.dataloader_idx != self.dataloader_idx:
                    continue
                value = entry.value if entry.attribute is None else _checked(entry, entry.value._forward_cache)
            else:
                value = self._epoch_value(entry) if entry.on_epoch else None
            if value is not None:
                yield entry, self._as_tensor(value)

    def _epoch_value(self, entry: Logged) -> Any:
        """The epoch's value; before it is reduced, what this rank alone knows of it."""
        if entry.computed is not None or entry.weight == 0:
            return entry.computed
        return entry.total / entry.weight if entry.reduction == "mean" else entry.total

    def _as_tensor(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            return torch.tensor(float(value), device=self.strategy.device, dtype=torch.get_default_dtype())
        if not torch.is_floating_point(value) or value.dtype in (torch.float16, torch.bfloat16):
            value = value.to(_float_dtype())
        number: Tensor = value.squeeze() if value.ndim else value
        return number

    # ------------------------------------------------------------------------------------------------ reducing

    def reduce_step(self) -> None:
        """Collective where something was logged with sync_dist: the step's values become those of all ranks."""
        shared = [e for e in self._logged.values() if e.on_step and e.sync_dist and e.attribute is None]
        if not shared or self.strategy.world_size == 1:
            return
        for entry in shared:
            value = self._as_tensor(entry.value)
            entry.value = self.strategy.reduce(value.clone(), reduce_op=entry.reduction)

    def reduce_epoch(self) -> None:
        """Collective: compute the epoch's value of everything logged since the last call, over all ranks."""
        if self.strategy.world_size == 1:
            for entry in self._pending(plain=True):
                entry.computed = entry.total / entry.weight if entry.reduction == "mean" else entry.total
        else:
            self._reduce_over_ranks()
        for entry in self._pending(plain=False):
            entry.computed = _compute_metric(entry)  # torchmetrics reduces over the ranks itself

    def _pending(self, plain: bool) -> list[Logged]:
        """Entries whose epoch value is not computed yet: plain values, or Metrics."""
        waiting = (entry for entry in self._logged.values() if entry.on_epoch and entry.computed is None)
        return [entry for entry in waiting if (entry.attribute is None) == plain]

    def _reduce_over_ranks(self) -> None:
        # One collective, unless the ranks logged different names or more than fit.
        entries = self._pending(plain=True)
        gathered = self.strategy.all_gather(self._pack(entries[:SLOTS]))
        if not bool((gathered[:, 0] == gathered[0, 0]).all()):
            self._agree_on_names()
            entries = self._pending(plain=True)
            gathered = self.strategy.all_gather(self._pack(entries[:SLOTS]))
        for start in range(0, len(entries), SLOTS):
            chunk = entries[start : start + SLOTS]
            if start:
                gathered = self.strategy.all_gather(self._pack(chunk))
            for slot, entry in enumerate(chunk, start=1):
                entry.computed = _merge_ranks(entry, gathered[:, slot]).to(torch.get_default_dtype())

    def _pack(self, entries: list[Logged]) -> Tensor:
        """Shape (1 + SLOTS, 2): a fingerprint of all pending names, then each entry's total and weight."""
        keys = "\n".join(entry.key for entry in self._pending(plain=True) + self._pending(plain=False))
        fingerprint = int.from_bytes(hashlib.sha256(keys.encode()).digest()[:6], "big")  # exact in a float64
        rows = torch.zeros(1 + SLOTS, 2, dtype=torch.float64, device=self.strategy.device)
        rows[0, 0] = fingerprint
        for row, entry in zip(rows[1:], entries, strict=False):
            if entry.total is not None:
                row[0], row[1] = entry.total, entry.weight
        return rows

    def _agree_on_names(self) -> None:
        """Collective: every rank learns the names that any rank logged.

        A rank that had no batch, or did not reach a conditional ``self.log``, takes part with weight 0.
        """
        mine = {e.key: _description(e) for e in self._pending(plain=True) + self._pending(plain=False)}
        by_rank: list[dict[str, dict[str, Any]]] = self.strategy.all_gather_object(mine)
        everything = {key: fields for names in by_rank for key, fields in names.items()}
        for key, fields in everything.items():
            absent = [rank for rank, names in enumerate(by_rank) if key not in names]
            if any(by_rank[rank] for rank in absent) and not fields["rank_zero_only"]:
                rank_zero_warn(
                    f"self.log({fields['name']!r}) was not reached on rank(s) {absent}: its epoch value is that of the "
                    "other ranks."
                )
        held = {entry.key: entry for entry in self._logged.values()}
        agreed = [held.pop(key) if key in held else self._empty(fields) for key, fields in everything.items()]
        self._logged = {entry.place: entry for entry in [*held.values(), *agreed]}

    def _empty(self, fields: dict[str, Any]) -> Logged:
        entry = Logged(**fields)
        if entry.attribute is not None:
            entry.value = self.model.get_submodule(entry.attribute)
        return entry


def merge_entries(stores: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """``MetricStore.state_dict`` of several ranks as if one had logged all of it."""
    merged: dict[Place, Logged] = {}
    for entries in stores:
        for values in entries:
            entry = Logged(**{**values, "flags": None})
            first = merged.setdefault(entry.place, entry)
            if first is not entry and entry.total is not None:
                first.absorb(entry)
    fields = [field.name for field in dataclasses.fields(Logged) if field.name != "flags"]
    return [{name: getattr(entry, name) for name in fields} for entry in merged.values()]


def reduction_name(reduce_fx: str | Callable[..., Any]) -> str:
    """ "mean", "sum", "min" or "max" for what ``self.log(reduce_fx=...)`` was given.

    Raises:
        MisconfigurationException: It is none of these.
    """
    name = reduce_fx if isinstance(reduce_fx, str) else None
    if reduce_fx in (torch.mean, torch.sum, torch.min, torch.max, sum, min, max):
        name = reduce_fx.__name__
    if name is None or name.lower() not in REDUCTIONS:
        raise MisconfigurationException(
            f"Only `self.log(..., reduce_fx={{min,max,mean,sum}})` are supported. If you need a custom reduction, "
            f"please log a `torchmetrics.Metric` instance instead. Found: {reduce_fx!r}"
        )
    return REDUCTIONS[name.lower()]


def _extreme(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.minimum if reduction == "min" else torch.maximum


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.dtype not in (torch.float32, torch.float64):
            value = value.to(_float_dtype())
    return value


def _float_dtype() -> torch.dtype:
    """The default dtype, but no less than 32 bits, in which sums keep their size."""
    default = torch.get_default_dtype()
    return default if default in (torch.float32, torch.float64) else torch.float32


def _merge_ranks(entry: Logged, rows: Tensor) -> Tensor:
    """The value over all ranks of ``rows``, shape (world size, 2): each rank's total and weight."""
    totals, weights = rows[:, 0], rows[:, 1]
    present = weights > 0
    if entry.reduction == "mean":
        return totals.sum() / weights.sum()
    if entry.reduction == "sum":
        return totals.sum()
    return totals[present].min() if entry.reduction == "min" else totals[present].max()


def _compute_metric(entry: Logged) -> Tensor:
    value: Tensor = _checked(entry, entry.value.compute())
    return value.detach()


def _checked(entry: Logged, value: Any) -> Any:
    """A Metric's value; None where it was updated without being computed."""
    if value is not None and not isinstance(value, Tensor):
        raise ValueError(
            f"The `.compute()` return of the metric logged as {entry.name!r} must be a tensor. Found {value}"
        )
    return value


def _description(entry: Logged) -> dict[str, Any]:
    """An entry without its values: what another rank needs to take part in its reduction."""
    names = [name for name in Logged.__slots__ if name not in ("value", "total", "weight", "computed")]
    return {name: getattr(entry, name) for name in names}
