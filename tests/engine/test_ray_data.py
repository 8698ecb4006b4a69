"""Datasets of Ray Data as the data of two workers: every row once, in order, and nothing waits for ever."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_models import Linear, samples, weights
from torch.utils.data import DataLoader

import raylight as pl
from raylight.data import RayDataLoader
from raylight.engine import pool
from raylight.utilities.exceptions import MisconfigurationException, ResourceError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]
HALF = {"resources_per_worker": {"CPU": 0.5}}
"""Leaves a CPU of the cluster's two for Ray Data."""


@pytest.fixture(autouse=True, scope="module")
def _room_for_tasks(ray_cluster: str) -> None:
    """The workers that other tests have left would hold all CPUs while a Dataset is made."""
    pool.shutdown()


class Ledger(Linear):
    """Writes down which rows it was given; predicts them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def note(self, kind: str, batch: Any) -> None:
        shadow = kind == "train" and self.trainer.run.train_data.in_shadow
        if not shadow:
            with open(self.folder / f"{kind}-{self.current_epoch}-{self.global_rank}", "a") as file:
                file.write(json.dumps(batch["row"].tolist()) + "\n")

    def loss(self, batch: Any) -> Any:
        return super().loss((batch["x"], batch["y"]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.note("train", batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.note("val", batch)
        self.log("mean", batch["row"].double().mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return {"row": batch["row"], "square": batch["row"] ** 2, "pair": batch["x"][:, :2]}


def ledger(folder: Path, kind: str, epoch: int) -> list[list[list[int]]]:
    """Batches by rank."""
    paths = [folder / f"{kind}-{epoch}-{rank}" for rank in range(2)]
    return [[json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [] for path in paths]


def table(count: int) -> pa.Table:
    features, targets = samples(count).tensors
    return pa.table(
        {
            "row": torch.arange(count).numpy(),
            "x": pa.FixedShapeTensorArray.from_numpy_ndarray(features.numpy()),
            "y": pa.FixedShapeTensorArray.from_numpy_ndarray(targets.numpy()),
        }
    )


def dataset(count: int) -> Any:
    """In memory, in one block."""
    import ray.data

    return ray.data.from_arrow(table(count))


def streamed(count: int, folder: Path) -> Any:
    """From three Parquet files."""
    import ray.data

    folder.mkdir(exist_ok=True)
    rows = table(count)
    for number in range(3):
        pq.write_table(
            rows.slice(number * (count // 3), None if number == 2 else count // 3), folder / f"{number}.parquet"
        )
    return ray.data.read_parquet(str(folder))


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.slow
def test_workers_that_hold_all_cpus(two_workers: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ResourceError,
        match=r"none of the cluster's 2 CPUs is left for them: 2 workers hold 1 each, 2 in all. Give each less, "
        r"resources_per_worker=\{'CPU': 0.5\}, use fewer workers",
    ):
        two_workers().fit(Ledger(tmp_path), dataset(4))


def test_what_cannot_work(two_workers: Any, one_worker: Any, tmp_path: Path, ray_cluster: str) -> None:
    import ray.data

    model, rows = Ledger(tmp_path), dataset(4)
    with pytest.raises(MisconfigurationException, match="The Ray Dataset for training has no rows"):
        one_worker().fit(model, ray.data.from_items([]))
    with pytest.raises(MisconfigurationException, match="4 rows, which are no whole batch of 8: .*drop_last=False"):
        one_worker().validate(model, RayDataLoader(rows, batch_size=8, drop_last=True))
    with pytest.raises(
        MisconfigurationException, match="no numbers, or not of one shape: name .such as 'a'.*drop_columns"
    ):
        one_worker().fit(model, ray.data.from_items([{"name": "a"}]))
    with pytest.raises(MisconfigurationException, match="local_shuffle_buffer_size=300 is for training"):
        one_worker().predict(model, RayDataLoader(rows, local_shuffle_buffer_size=300))
    with pytest.raises(MisconfigurationException, match="in the Dataset's order, and this Dataset is shuffled anew"):
        one_worker().predict(model, rows.random_shuffle(), write_to=tmp_path / "predictions")
    with pytest.raises(MisconfigurationException, match="takes a ray.data.Dataset, not a list: "):
        RayDataLoader([1, 2])
    for name, value in (("batch_size", 0), ("prefetch_batches", -1), ("local_shuffle_buffer_size", 10)):
        with pytest.raises(MisconfigurationException, match=f"{name}={value} must be an int of at least"):
            RayDataLoader(rows, **{name: value})


# ------------------------------------------------------------------------------------------------ one process


def test_one_process_has_the_losses_of_a_data_loader(one_worker: Any, tmp_path: Path, ray_cluster: str) -> None:
    class Pairs(Linear):
        pass

    with_loader, with_rows = Pairs(), Ledger(tmp_path)
    trainers = one_worker(max_epochs=2), one_worker(max_epochs=2)
    trainers[0].fit(with_loader, DataLoader(samples(10), batch_size=4))
    trainers[1].fit(with_rows, RayDataLoader(dataset(10), batch_size=4))
    assert trainers[1].num_training_batches == 3
    assert trainers[0].callback_metrics == trainers[1].callback_metrics
    assert all(torch.equal(value, weights(with_rows)[name]) for name, value in weights(with_loader).items())
    predicted = trainers[1].predict(with_rows, RayDataLoader(dataset(10), batch_size=4))
    assert [row["square"] for row in predicted.take_all()] == [i**2 for i in range(10)]


# ------------------------------------------------------------------------------------------------ two workers


def test_each_row_once(two_workers: Any, tmp_path: Path) -> None:
    """Rows in memory; eleven batches, so that one worker has one more."""
    trainer, model = two_workers(**HALF, max_epochs=2), Ledger(tmp_path)
    loader = RayDataLoader(dataset(21), batch_size=2)
    trainer.fit(model, loader, loader)
    for kind in ("train", "val"):
        for epoch in range(2):
            by_rank = ledger(tmp_path, kind, epoch)
            batches = [list(range(start, min(start + 2, 21))) for start in range(0, 21, 2)]
            assert by_rank == [batches[0::2], batches[1::2]]
    assert trainer.callback_metrics["mean"] == 10
    predicted = trainer.predict(model, loader)
    columns = predicted.to_pandas()
    assert columns["row"].tolist() == list(range(21))
    assert next(iter(predicted.iter_batches()))["pair"].shape == (21, 2)


@pytest.mark.slow
def test_streamed_from_files(two_workers: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Several epochs, the sanity check and limits leave passes before their end; all rows, each once."""
    files = tmp_path / "files"
    loader = RayDataLoader(streamed(50, files), batch_size=4)
    trainer, model = two_workers(**HALF, max_epochs=2, limit_val_batches=2), Ledger(tmp_path)
    trainer.fit(model, loader, loader)
    assert trainer.num_training_batches == 7
    for epoch in range(2):
        rows = Counter(row for batches in ledger(tmp_path, "train", epoch) for batch in batches for row in batch)
        assert rows == Counter(range(50))
        seen = [row for batches in ledger(tmp_path, "val", epoch) for batch in batches for row in batch]
        assert sorted(seen) == list(range(16))
    stopped = two_workers(**HALF, max_steps=9, max_epochs=-1)
    stopped.fit(Ledger(tmp_path / "files"), loader)
    assert stopped.global_step == 9
    (result,) = stopped.validate(model, loader, verbose=False)
    assert result["mean"] == 24.5


@pytest.mark.slow
def test_losses_are_those_of_a_data_loader(two_workers: Any, tmp_path: Path) -> None:
    """The samples of a step are the same; which of the workers has them is not."""
    with_loader, with_rows = Linear(), Ledger(tmp_path)
    trainers = two_workers(**HALF, max_epochs=2), two_workers(**HALF, max_epochs=2)
    trainers[0].fit(with_loader, DataLoader(samples(24), batch_size=2))
    trainers[1].fit(with_rows, RayDataLoader(dataset(24), batch_size=2))
    for name, value in weights(with_loader).items():
        torch.testing.assert_close(weights(with_rows)[name], value)


@pytest.mark.slow
def test_of_unknown_length(two_workers: Any, tmp_path: Path) -> None:
    from ray.data.expressions import col

    rows = dataset(30).filter(expr=col("row") != 7)
    trainer, model = two_workers(**HALF, max_epochs=2), Ledger(tmp_path)
    trainer.fit(model, RayDataLoader(rows, batch_size=2))
    for epoch in range(2):
        by_rank = ledger(tmp_path, "train", epoch)
        assert sorted(row for batches in by_rank for batch in batches for row in batch) == [*range(7), *range(8, 30)]
        assert min(len(batches) for batches in by_rank) > 0
    predicted = trainer.predict(model, RayDataLoader(rows, batch_size=2))
    assert predicted.to_pandas()["row"].tolist() == [*range(7), *range(8, 30)]


@pytest.mark.slow
def test_shuffled_in_each_worker(two_workers: Any, tmp_path: Path) -> None:
    loader = RayDataLoader(dataset(64), batch_size=4, local_shuffle_buffer_size=16)
    orders = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        pl.seed_everything(1)
        two_workers(**HALF, max_epochs=2).fit(Ledger(tmp_path / run), loader)
        orders.append([ledger(tmp_path / run, "train", epoch) for epoch in range(2)])
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    for by_rank in orders[0]:
        rows = [row for batches in by_rank for batch in batches for row in batch]
        assert rows != sorted(rows)
        assert sorted(rows) == list(range(64))


class Killed(Ledger):
    """The worker of rank 1 is killed once, in the second epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        flag = self.folder / "killed"
        if self.global_rank == 1 and self.current_epoch == 1 and batch_idx == 4 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [None, 8], ids=["in order", "shuffled"])
def test_a_killed_worker(two_workers: Any, tmp_path: Path, shuffle: int | None) -> None:
    loader = RayDataLoader(dataset(48), batch_size=2, local_shuffle_buffer_size=shuffle)
    models, incidents = [], []
    for kind in (Ledger, Killed):
        (tmp_path / kind.__name__).mkdir()
        pl.seed_everything(1)
        models.append(kind(tmp_path / kind.__name__))
        trainer = two_workers(**HALF, max_epochs=3, snapshot_every_n_steps=1)
        trainer.fit(models[-1], loader)
        incidents.append(len(trainer.incidents))
    assert incidents == [0, 1]
    assert all(torch.equal(value, weights(models[1])[name]) for name, value in weights(models[0]).items())
    for epoch in (0, 2):  # of the second, batches after the snapshot were done twice
        assert ledger(models[0].folder, "train", epoch) == ledger(models[1].folder, "train", epoch)


@pytest.mark.slow
def test_predictions_are_written(two_workers: Any, tmp_path: Path) -> None:
    folder, model = tmp_path / "predictions", Ledger(tmp_path)
    trainer, loader = two_workers(**HALF), RayDataLoader(streamed(90, tmp_path / "files"), batch_size=2)
    assert trainer.predict(model, loader, write_to=folder) is None
    written = pq.read_table(folder)
    assert written["row"].to_pylist() == list(range(90))
    assert written["square"].to_pylist() == [row**2 for row in range(90)]
    parts = sorted(folder.glob("part-*"))
    parts[3].unlink()
    before = {part: part.stat().st_mtime_ns for part in parts if part.exists()}
    with pytest.raises(MisconfigurationException, match="read them back with pyarrow.parquet.read_table"):
        trainer.predict(model, loader, write_to=folder, return_predictions=True)
    assert not parts[3].exists()
    assert trainer.predict(model, loader, write_to=folder) is None
    assert sorted(folder.glob("part-*")) == parts
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert pq.read_table(folder)["row"].to_pylist() == list(range(90))
    with pytest.raises(MisconfigurationException, match="data.batch_size was 2, and is 3"):
        trainer.predict(model, RayDataLoader(streamed(90, tmp_path / "files"), batch_size=3), write_to=folder)


@pytest.mark.slow
def test_what_hooks_return(two_workers: Any, tmp_path: Path) -> None:
    class Own(Ledger):
        def train_dataloader(self) -> Any:
            import ray.data

            return ray.data.range(4)

    with pytest.raises(MisconfigurationException, match=r"Give the Dataset to the call instead: trainer.fit\(model"):
        two_workers(**HALF).fit(Own(tmp_path))


@pytest.mark.slow
def test_an_error_in_a_function_of_the_dataset(two_workers: Any, tmp_path: Path) -> None:
    def broken(row: Any) -> Any:
        raise KeyError("no such pixel")

    with pytest.raises(Exception, match="no such pixel"):
        two_workers(**HALF).fit(Ledger(tmp_path), RayDataLoader(dataset(8).map(broken), batch_size=2))


@pytest.mark.slow
def test_combined_loaders(two_workers: Any, tmp_path: Path) -> None:
    loaders = {"a": RayDataLoader(dataset(6), batch_size=1), "b": DataLoader(samples(16))}
    with pytest.raises(MisconfigurationException, match="max_size_cycle"):
        two_workers(**HALF).fit(Ledger(tmp_path), loaders)


@pytest.mark.slow
def test_idle_workers_make_room_for_this_process(two_workers: Any, one_worker: Any, tmp_path: Path) -> None:
    pool.shutdown()
    trainer = two_workers()
    trainer.fit(Linear(), DataLoader(samples(4)))
    one_worker().fit(Ledger(tmp_path), streamed(9, tmp_path / "files"))
    assert ledger(tmp_path, "train", 0)[0] == [list(range(9))]
