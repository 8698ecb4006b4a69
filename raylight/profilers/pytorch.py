"""PyTorchProfiler: which operators a step spends its time in, on CPU and GPU."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import nn
from torch.profiler import ProfilerAction, ProfilerActivity, record_function

from raylight.checkpoint import storage
from raylight.profilers.base import Profiler
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from torch.autograd.profiler_util import EventList
    from torch.utils.hooks import RemovableHandle

    from raylight.checkpoint.storage import PathOrURI

Schedule = Callable[[int], ProfilerAction]

SHORTEST_SCHEDULED = 5
"""Steps that the default schedule needs: one waiting, one warming up, three recorded."""
OWN_KWARGS = ("enabled", "export_to_flame_graph", "metric")
"""Keyword arguments that are read here and not handed to ``torch.profiler.profile``."""


class RegisterRecordFunction:
    """Labels the forward of each submodule in what torch's profilers record::

    with RegisterRecordFunction(model):
        model(batch)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._open: dict[str, record_function] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if name:
                label = f"[pl][module]{type(module).__module__}.{type(module).__name__}: {name}"
                self._handles.append(module.register_forward_pre_hook(functools.partial(self._begin, label)))
                self._handles.append(module.register_forward_hook(functools.partial(self._end, label)))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, label: str, *_: Any) -> None:
        self._open[label] = record_function(label)
        self._open[label].__enter__()

    def _end(self, label: str, *_: Any) -> None:
        self._open.pop(label).__exit__(None, None, None)


class ScheduleWrapper:
    """A schedule of torch's profiler that each kind of step goes through on its own, once."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.step_name: str | None = None
        self._counts: Counter[str] = Counter()
        self._finished: set[str] = set()
        self._previous = ProfilerAction.NONE

    def pre_step(self, action_name: str) -> None:
        """A step is over; ``action_name`` ends with its name, such as "training_step"."""
        self.step_name = action_name.rpartition(".")[2]

    @property
    def num_step(self) -> int:
        """Steps of the kind at work so far."""
        return self._counts[self.step_name or ""]

    def __call__(self, num_step: int) -> ProfilerAction:
        if self.step_name is None:
            return ProfilerAction.NONE
        action = ProfilerAction.NONE
        if self.step_name not in self._finished:
            self._counts[self.step_name] += 1
            action = self._schedule(self.num_step)
        under_way = self._previous in (ProfilerAction.WARMUP, ProfilerAction.RECORD)
        if under_way and action in (ProfilerAction.NONE, ProfilerAction.WARMUP):
            action = self._previous  # another kind of step has come between, and torch cannot go back
        if action == ProfilerAction.RECORD_AND_SAVE:
            self._finished.add(self.step_name)
        self._previous = action
        return action


class PyTorchProfiler(Profiler):
    """Records operators with ``torch.profiler``, labelled with the actions of the run.

    Args:
        dirpath: See ``Profiler``; traces are written there too.
        filename: See ``Profiler``.
        group_by_input_shapes: One row per operator and shape of its inputs; needs ``record_shapes=True``.
        emit_nvtx: Emit NVTX ranges for ``nvprof --profile-from-start off`` instead of recording; there is no report.
        export_to_chrome: Write traces that Chrome and TensorBoard show.
        row_limit: Rows of the report; -1 for all.
        sort_by_key: Column that the report is sorted by, one of ``AVAILABLE_SORT_KEYS``. None: the total time, on the
            GPU where there is one.
        record_module_names: Label the forward of each submodule.
        table_kwargs: Other arguments of ``EventList.table``.
        **profiler_kwargs: Arguments of ``torch.profiler.profile``, such as ``schedule``, ``activities``,
            ``record_shapes``, ``profile_memory``, ``with_stack``, ``on_trace_ready``; and ``export_to_flame_graph``
            with ``metric``. The default schedule waits one step, warms up in one and records three, of each kind of
            step.

    Raises:
        MisconfigurationException: There is no such key or argument, or the schedule is none.
        KeyError: ``table_kwargs`` has what the table does not take.
    """

    STEP_FUNCTIONS = {"training_step", "validation_step", "test_step", "predict_step"}
    AVAILABLE_SORT_KEYS = {
        "cpu_time",
        "cuda_time",
        "cpu_time_total",
        "cuda_time_total",
        "cpu_memory_usage",
        "cuda_memory_usage",
        "self_cpu_memory_usage",
        "self_cuda_memory_usage",
        "count",
    }

    def __init__(
        self,
        dirpath: PathOrURI | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        emit_nvtx: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        record_module_names: bool = True,
        table_kwargs: dict[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename)
        _check_profiler_kwargs(profiler_kwargs)
        self._table_kwargs = _checked_table_kwargs(table_kwargs or {})
        self._sort_by_key = sort_by_key or _default_sort_key(profiler_kwargs.get("activities"))
        if self._sort_by_key not in self.AVAILABLE_SORT_KEYS:
            raise MisconfigurationException(
                f"Found sort_by_key: {self._sort_by_key}. Should be within {sorted(self.AVAILABLE_SORT_KEYS)}."
            )
        self._group_by_input_shapes = group_by_input_shapes and profiler_kwargs.get("record_shapes", False)
        self._emit_nvtx = emit_nvtx
        self._export_to_chrome = export_to_chrome
        self._row_limit = row_limit
        self._record_module_names = record_module_names
        self._profiler_kwargs = profiler_kwargs

        self.function_events: EventList | None = None
        """What was recorded last."""
        self._begin()

    def _begin(self) -> None:
        self.profiler: Any = None
        """torch's own, while it records."""
        self._nvprof: Any = None
        self._schedule: ScheduleWrapper | None = None
        self._register: RegisterRecordFunction | None = None
        self._open: dict[str, record_function] = {}

    def __getstate__(self) -> dict[str, Any]:
        live = ("profiler", "_nvprof", "_schedule", "_register", "_open")
        return {name: value for name, value in super().__getstate__().items() if name not in live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    # ------------------------------------------------------------------------------------------------ recording

    def start(self, action_name: str) -> None:
        if self.profiler is None:
            self._enter_profiler()
        if self._record_module_names and self._register is None and self._lightning_module is not None:
            self._register = RegisterRecordFunction(self._lightning_module)
            self._register.__enter__()
        if action_name not in self._open:
            self._open[action_name] = record_function(f"[pl][profile]{action_name}")
            self._open[action_name].__enter__()

    def stop(self, action_name: str) -> None:
        if action_name in self._open:
            self._open.pop(action_name).__exit__(None, None, None)
        if self.profiler is None or self._emit_nvtx or not action_name.endswith(tuple(self.STEP_FUNCTIONS)):
            return
        if self._schedule is not None:
            self._schedule.pre_step(action_name)
            if self._too_short_for_default_schedule(action_name):
                rank_zero_warn(
                    "The PyTorch Profiler default schedule will be overridden as there is not enough steps to "
                    "properly record traces."
                )
                self._schedule = None
                self.profiler.schedule = lambda step: ProfilerAction.RECORD
        if "on_trace_ready" not in self._profiler_kwargs:
            self.profiler.on_trace_ready = functools.partial(self._export, action_name)
        if self._schedule is not None:
            self.profiler.step_num = self._schedule.num_step
        self.profiler.step()

    def _enter_profiler(self) -> None:
        # One that a failed run did not end may still be on.
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            torch.autograd._disable_profiler()  # type: ignore[attr-defined]
        if self._emit_nvtx:
            self._nvprof = torch.cuda.profiler.profile()
            self._nvprof.__enter__()
            self.profiler = torch.autograd.profiler.emit_nvtx()
        else:
            self.profiler = torch.profiler.profile(**self._torch_kwargs())
        self.profiler.__enter__()

    def _torch_kwargs(self) -> dict[str, Any]:
        kwargs = {name: value for name, value in self._profiler_kwargs.items() if name not in OWN_KWARGS}
        schedule = kwargs.get("schedule", _default_schedule())
        self._schedule = ScheduleWrapper(schedule) if schedule is not None else None
        kwargs["schedule"] = self._schedule
        kwargs.setdefault("acc_events", True)  # else validation's cycle takes the place of training's
        kwargs["activities"] = kwargs.get("activities") or _default_activities()
        kwargs["with_stack"] = kwargs.get("with_stack", False) or self._exports_flame_graph
        return kwargs

    @property
    def _exports_flame_graph(self) -> bool:
        return bool(self._profiler_kwargs.get("export_to_flame_graph", False))

    def _too_short_for_default_schedule(self, action_name: str) -> bool:
        if "schedule" in self._profiler_kwargs or self._lightning_module is None:
            return False
        trainer = self._lightning_module.trainer
        batches: dict[str, list[float]] = {
            "training_step": [trainer.num_training_batches],
            "validation_step": [*trainer.num_val_batches, *trainer.num_sanity_val_batches],
            "test_step": trainer.num_test_batches,
            "predict_step": trainer.num_predict_batches,
        }
        return sum(batches.get(action_name.rpartition(".")[2], [SHORTEST_SCHEDULED])) < SHORTEST_SCHEDULED

    def _export(self, action_name: str, profiler: torch.profiler.profile) -> None:
        if self.dirpath is None:
            rank_zero_warn("The PyTorchProfiler failed to export trace as `dirpath` is None")
            return
        name = self._prepare_filename(action_name=action_name, extension="")
        if self._export_to_chrome:
            trace = f"{name}.{time.time_ns()}.pt.trace.json"  # TensorBoard looks for names of this kind
            _write(storage.join(self.dirpath, trace), profiler.export_chrome_trace)
        if self._exports_flame_graph:
            metric = self._profiler_kwargs.get("metric", "self_cpu_time_total")
            stacks = storage.join(self.dirpath, f"{name}.stack")
            _write(stacks, functools.partial(profiler.export_stacks, metric=metric))

    # ------------------------------------------------------------------------------------------------ reporting

    def summary(self) -> str:
        if self._emit_nvtx or not self._profiler_kwargs.get("enabled", True):
            return ""
        self._exit_profiler()
        if not self.function_events:
            return ""
        averages = self.function_events.key_averages(group_by_input_shapes=self._group_by_input_shapes)
        table = averages.table(sort_by=self._sort_by_key, row_limit=self._row_limit, **self._table_kwargs)
        return self._stats_to_str({"records": table})

    def teardown(self, stage: str | None) -> None:
        self._exit_profiler()

    def _exit_profiler(self) -> None:
        for action_name in list(self._open):
            self._open.pop(action_name).__exit__(None, None, None)
        if self._register is not None:
            self._register.__exit__()
            self._register = None
        if self.profiler is not None:
            self.profiler.__exit__(None, None, None)
            # torch's own profiler is there once a schedule has let it begin
            if not self._emit_nvtx and self.profiler.profiler is not None:
                self.function_events = self.profiler.events()
            self.profiler = self._schedule = None
        if self._nvprof is not None:
            self._nvprof.__exit__(None, None, None)
            self._nvprof = None


def _write(target: str, export: Callable[[str], Any]) -> None:
    """Have ``export`` write a file, which then appears at ``target``, a path or a URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file.json")
        export(path)

        def copy(stream: BinaryIO) -> None:
            with open(path, "rb") as source:
                shutil.copyfileobj(source, stream)

        storage.write_atomic(target, copy)


@functools.lru_cache(1)
def _default_schedule() -> Schedule:
    return torch.profiler.schedule(wait=1, warmup=1, active=3)


def _default_activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]


def _default_sort_key(activities: Any) -> str:
    on_gpu = ProfilerActivity.CUDA in (activities or _default_activities())
    return "cuda_time_total" if on_gpu else "cpu_time_total"


def _check_profiler_kwargs(kwargs: dict[str, Any]) -> None:
    known = {*inspect.signature(torch.profiler.profile.__init__).parameters, *OWN_KWARGS} - {"self"}
    if unknown := sorted(set(kwargs) - known):
        raise MisconfigurationException(f"PyTorchProfiler has no arguments {unknown}: use some of {sorted(known)}.")
    schedule = kwargs.get("schedule")
    if schedule is None:
        return
    if not callable(schedule):
        raise MisconfigurationException(f"Schedule should be a callable. Found: {schedule}")
    action = schedule(0)
    if not isinstance(action, ProfilerAction):
        raise MisconfigurationException(f"Schedule should return a `torch.profiler.ProfilerAction`. Found: {action}")


def _checked_table_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    from torch.autograd.profiler_util import EventList

    own = ("sort_by", "row_limit")
    valid = set(inspect.signature(EventList.table).parameters) - {"self", *own}
    for name in kwargs:
        if name in own:
            raise KeyError(
                f"Found invalid table_kwargs key: {name}. This is already a positional argument of the Profiler."
            )
        if name not in valid:
            raise KeyError(f"Found invalid table_kwargs key: {name}. Should be within {sorted(valid)}.")
    return kwargs
