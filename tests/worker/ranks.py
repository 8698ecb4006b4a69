"""What runs in the processes of the fixture ``on_ranks``: whole runs of raylight's workers, in a gloo group."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import raylight as pl
from raylight.checkpoint.io import TorchCheckpointIO
from raylight.config.accelerators import Placement
from raylight.config.flags import TrainerConfig
from raylight.config.messages import DataSource, Job, TrainerFn
from raylight.engine.snapshots import Snapshots, Start
from raylight.strategies import DDPStrategy
from raylight.utilities.exceptions import CheckpointError, CheckpointNotFoundError
from raylight.worker.control import NoSnapshots, StopRequest
from raylight.worker.execute import execute
from raylight.worker.sharing import OwnShare, Turns

MOST = 3
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
}


def serve(pipe: Connection) -> None:
    """Run programs until None comes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    while (task := pipe.recv()) is not None:
        rank, world_size, store, program, kwargs = task
        dist.init_process_group(
            "gloo", f"file://{store}", datetime.timedelta(seconds=30), rank=rank, world_size=world_size
        )
        try:
            pipe.send(globals()[program](rank=rank, world_size=world_size, **kwargs))
        except BaseException as error:  # the test raises it
            pipe.send(error)
        finally:
            dist.destroy_process_group()


def do(
    fn: TrainerFn,
    model: pl.LightningModule,
    rank: int,
    world_size: int,
    data: DataSource,
    write_to: str | None = None,
    ckpt_paths: Sequence[str] = (),
    callbacks: Sequence[pl.Callback] = (),
    snapshots: NoSnapshots | None = None,
    **flags: Any,
) -> Any:
    """One call on this rank, as a Ray worker does it; returns the Run and its Outcome.

    Args:
        ckpt_paths: The checkpoint to start from, and those to try in its place.
    """
    config = TrainerConfig.from_flags(**{name: value for name, value in flags.items() if name != "logger"})
    placement = Placement(
        device_type="cpu", num_workers=world_size, num_nodes=1, resources={}, use_ray=True, device_index=0
    )
    ranks = {"global_rank": rank, "local_rank": rank, "node_rank": 0, "world_size": world_size}
    job = Job(fn=fn, config=config, placement=placement, model=model, data=data, callbacks=list(callbacks), progress={})
    job.write_to, job.return_predictions = write_to, write_to is None
    job.ckpt_path, job.fallbacks = next(iter(ckpt_paths), None), list(ckpt_paths[1:])
    return execute(job, ranks, torch.device("cpu"), lambda event: None, StopRequest(), snapshots)


def samples(size: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(size)) * 1.7)[:, None]


class Measuring(pl.LightningModule):
    """Logs one value per sample in every way of reducing it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)
        torch.nn.init.constant_(self.layer.bias, 0.1)

    def measure(self, stage: str, x: torch.Tensor) -> None:
        value = (x**2 + x).mean()
        self.log(f"{stage}_mean", value, on_step=False, on_epoch=True)
        self.log(f"{stage}_sum", x.sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log(f"{stage}_max", x.max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log(f"{stage}_min", x.min(), on_step=False, on_epoch=True, reduce_fx="min")
        self.log(f"{stage}_count", float(len(x)), on_step=False, on_epoch=True, reduce_fx="sum")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.measure("train", batch[0])
        return ((self.layer(batch[0]) - 1) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.measure("val", batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validate(rank: int, world_size: int, size: int, batch_size: int) -> dict[str, float]:
    """The results of ``Trainer.validate``."""
    loader = DataLoader(TensorDataset(samples(size)), batch_size=batch_size)
    _, outcome = do(TrainerFn.VALIDATING, Measuring(), rank, world_size, DataSource(val=loader), **QUIET)
    return outcome.results[0] if outcome.results else {}


class NotEverywhere(TorchCheckpointIO):
    """Cannot read what is at ``paths``."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if path in self.paths:
            raise CheckpointNotFoundError(f"{path} is not there.")
        return super().load_checkpoint(path, *args, **kwargs)


def validate_from(rank: int, world_size: int, paths: list[str], missing: dict[int, list[str]]) -> tuple[Any, str, str]:
    """The weight that a rank has begun with, and the warnings or the error; ``missing``: of ``paths``, by rank."""
    model, data = Measuring(), DataSource(val=DataLoader(TensorDataset(samples(2))))
    strategy = DDPStrategy(checkpoint_io=NotEverywhere(missing.get(rank, [])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            do(TrainerFn.VALIDATING, model, rank, world_size, data, ckpt_paths=paths, strategy=strategy, **QUIET)
        except CheckpointError as error:
            return None, "", f"{type(error).__name__}: {error}"
    said = [str(each.message) for each in caught if "older checkpoint" in str(each.message)]
    return model.layer.weight.item(), " ".join(said), ""


class Part(Dataset[Any]):
    """The rank's own samples, of a number of its own."""

    def __init__(self, first: int, size: int) -> None:
        self.data = samples(first + size)[first:]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return (self.data[index],)


class Stream(IterableDataset[Any]):
    """The same, without a length."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __iter__(self) -> Any:
        return (self.part[index] for index in range(len(self.part)))


class Manual(Measuring):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def fit_unevenly(rank: int, world_size: int, sizes: list[int], sized: bool, manual: bool = False) -> dict[str, Any]:
    """Train each rank on its own number of samples, batches of one."""
    part = Part(sum(sizes[:rank]), sizes[rank])
    loader = DataLoader(part if sized else Stream(part), batch_size=1)
    model = Manual() if manual else Measuring()
    seen: list[int] = []
    model.on_train_batch_end = lambda outputs, batch, batch_idx: seen.append(batch_idx)  # type: ignore[method-assign]
    run, _ = do(
        TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), use_distributed_sampler=False, **QUIET
    )
    return {
        "weight": model.layer.weight.item(),
        "bias": model.layer.bias.item(),
        "steps": run.state.global_step,
        "batches": seen,
        "metrics": {name: value.item() for name, value in run.state.callback_metrics.items()},
    }


def fit_sharded(rank: int, world_size: int, size: int, shard: bool) -> list[float]:
    """The samples of a stream that a rank trains on."""
    model = Measuring()
    got: list[float] = []
    model.on_train_batch_start = lambda batch, batch_idx: got.extend(batch[0].flatten().tolist())  # type: ignore[method-assign]
    loader = DataLoader(Stream(Part(0, size)), batch_size=2)
    do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), shard_iterable_datasets=shard, **QUIET)
    return got


class TwoOptimizers(pl.LightningModule):
    """Lightning 1.x: each optimizer has its own part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(1, 1)
        self.b = torch.nn.Linear(1, 1)
        for layer in (self.a, self.b):
            torch.nn.init.constant_(layer.weight, 0.5)
            torch.nn.init.constant_(layer.bias, 0.0)

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        layer = self.a if optimizer_idx == 0 else self.b
        return (layer(batch[0]) - 1).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.a.parameters(), lr=0.1), torch.optim.SGD(self.b.parameters(), lr=0.01)]


def fit_two_optimizers(rank: int, world_size: int) -> list[float]:
    """The weights after an epoch."""
    model = TwoOptimizers()
    loader = DataLoader(TensorDataset(samples(8)), batch_size=8 // world_size)
    do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), **QUIET)
    return [parameter.item() for parameter in model.parameters()]


def with_sampler_of_its_own(rank: int, world_size: int) -> list[float]:
    """The samples of a rank whose loader has a DistributedSampler already."""
    data = TensorDataset(samples(6))
    loader = DataLoader(data, sampler=DistributedSampler(data, world_size, rank, shuffle=False))
    model = Measuring()
    got: list[float] = []
    model.on_train_batch_start = lambda batch, batch_idx: got.extend(batch[0].flatten().tolist())  # type: ignore[method-assign]
    do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), **QUIET)
    return got


def fit_with_comm_hook(rank: int, world_size: int, backend: str) -> tuple[int, int]:
    """Gradient buckets that the hook saw and hooks that the wrapper saw, in a step."""
    seen: list[int] = []
    wrapped = []

    def local(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, but not as text
        state.append(bucket.index())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def wrapper(hook: Any) -> Any:
        wrapped.append(hook)
        return hook

    strategy = DDPStrategy(
        ddp_comm_state=seen,
        ddp_comm_hook=local,
        ddp_comm_wrapper=wrapper,
        process_group_backend=backend,
        timeout=datetime.timedelta(seconds=20),
    )
    model = Measuring()
    loader = DataLoader(TensorDataset(samples(2)))
    do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), **QUIET, strategy=strategy)
    return len(seen), len(wrapped)


def prepare_slowly(rank: int, world_size: int, seconds: float, timeout: float) -> str:
    """What a rank raises where rank 0 takes so long to prepare the data."""
    model = Measuring()
    model.prepare_data = lambda: time.sleep(seconds)  # type: ignore[method-assign]
    strategy = DDPStrategy(timeout=datetime.timedelta(seconds=timeout))
    loader = DataLoader(TensorDataset(samples(2)))
    try:
        do(
            TrainerFn.VALIDATING,
            model,
            rank,
            world_size,
            DataSource(val=loader),
            **QUIET,
            strategy=strategy,
            prepare_data_per_node=False,
        )
    except RuntimeError as error:
        return str(error)
    return ""


class Numbers(OwnShare):
    """The rank's batches of the numbers from 0 on, each batch of one number."""

    def __init__(self, size: int, turns: Turns, sized: bool) -> None:
        super().__init__(turns, float(size) if sized else float("inf"), {"size": size})
        self.size = size

    def __iter__(self) -> Any:
        return ([torch.tensor([[float(i)]])] for i in range(self.size) if self.turns.take(i))


class Batches:
    """An iterable of batches that is no DataLoader."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def __iter__(self) -> Any:
        return ([each] for each in self.numbers.split(2))


class Repeating(pl.LightningModule):
    """Predicts the batch; fails at a number."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)
        torch.nn.init.constant_(self.layer.bias, 0.1)
        self.made: list[float] = []
        self.fails_at = fails_at

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        numbers = batch[0].flatten()
        if self.fails_at in numbers:
            raise RuntimeError("stopped here")
        self.made += numbers.tolist()
        return numbers


def fit_own_share(rank: int, world_size: int, size: int, chunk: int, sized: bool) -> list[list[float]]:
    """The numbers that a rank trains on, by epoch, without repetitions."""
    model = Measuring()
    got: list[list[float]] = []
    loader = Numbers(size, Turns(world_size, rank, chunk), sized)

    def note(batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            got.append([])
        if not run_of(model).train_data.in_shadow:
            got[-1] += batch[0].flatten().tolist()

    model.on_train_batch_start = note  # type: ignore[method-assign]
    do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), **{**QUIET, "max_epochs": 2})
    return got


def run_of(model: pl.LightningModule) -> Any:
    return model.trainer.run


def predict_own_share(rank: int, world_size: int, size: int, chunk: int) -> list[list[tuple[int, Any]]]:
    loader = Numbers(size, Turns(world_size, rank, chunk), sized=False)
    _, outcome = do(TrainerFn.PREDICTING, Repeating(), rank, world_size, DataSource(predict=loader), **QUIET)
    return outcome.predictions


def predict_several(rank: int, world_size: int, sizes: list[int]) -> list[list[tuple[int, Any]]]:
    """Of a loader for each size, which may be 0."""

    class Several(Repeating):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return batch[0].flatten().tolist()

    loaders = [DataLoader(TensorDataset(torch.arange(float(size))), batch_size=2) for size in sizes]
    data = DataSource(predict=loaders)
    return do(TrainerFn.PREDICTING, Several(), rank, world_size, data, **QUIET)[1].predictions


def write_predictions(
    rank: int, world_size: int, path: str, size: int, loader: str = "map", fails_at: int = -1
) -> tuple[list[float], str]:
    """The numbers that a rank has predicted, and what it raised."""
    model = Repeating(fails_at)
    numbers = torch.arange(float(size))[:, None]
    loaders: dict[str, Any] = {
        "map": DataLoader(TensorDataset(numbers), batch_size=2),
        "iterable": Batches(numbers),
        "own": Numbers(size, Turns(world_size, rank, 2), sized=False),
    }
    error = ""
    try:
        do(TrainerFn.PREDICTING, model, rank, world_size, DataSource(predict=loaders[loader]), path, **QUIET)
    except Exception as raised:
        error = str(raised)
    return model.made, error


class LostError(Exception):
    """Stands for the end of a process."""


class Freezing(TwoOptimizers):
    """Trains half of itself in its second epoch."""

    def __init__(self, rewraps: bool, lost_at: int) -> None:
        super().__init__()
        self.rewraps, self.lost_at = rewraps, lost_at

    def on_train_epoch_start(self) -> None:
        self.b.requires_grad_(self.current_epoch != 1)
        if self.rewraps:
            self.trainer.strategy.rewrap()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.fit_loop.total_batch_idx == self.lost_at:
            raise LostError

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return (self.b(self.a(batch[0])) - 1).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_freezing(rank: int, world_size: int, rewraps: bool, lost_at: int) -> list[float]:
    """The weights after three epochs of four batches; those of a run that was lost once, from its last snapshot on."""

    def attempt(lost_at: int, snapshots: Snapshots) -> list[float]:
        model, strategy = Freezing(rewraps, lost_at), DDPStrategy(find_unused_parameters=not rewraps)
        flags = {**QUIET, "max_epochs": 3, "strategy": strategy}
        loader = DataLoader(TensorDataset(samples(4 * world_size)))
        do(TrainerFn.FITTING, model, rank, world_size, DataSource(train=loader), snapshots=snapshots, **flags)
        return [parameter.item() for parameter in model.parameters()]

    first = Snapshots(1, None)
    try:
        return attempt(lost_at, first)
    except LostError:
        newest = None
        while (later := first.next(0.0)) is not None:
            newest = later
        parts: list[Any] = [None] * world_size
        dist.all_gather_object(parts, newest)
        return attempt(-1, Snapshots(1, Start(parts)))
