"""validate, test and predict on two workers give what one process gives, for any number of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from small_models import Linear
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


def whole_numbers(count: int) -> DataLoader[Any]:
    """Batches of two, whose sums and means are exact in any order."""
    return DataLoader(TensorDataset(torch.arange(count, dtype=torch.float32)), batch_size=2)


class Measuring(Linear):
    """Logs in every way there is; predicts the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torchmetrics.MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(torch.ones(1, 4)).sum()

    def evaluate(self, batch: Any) -> None:
        numbers = batch[0]
        self.mean.update(numbers)
        self.log("metric", self.mean)
        self.log("mean", numbers.mean())
        for reduction in ("sum", "min", "max"):
            self.log(reduction, getattr(numbers, reduction)(), reduce_fx=reduction)
        self.log("synced", numbers.mean(), sync_dist=True)
        self.log("bare number", 3)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluate(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"numbers": batch[0] * 10, "loader": dataloader_idx}


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(10, id="odd number of batches"),
        pytest.param(7, id="small last batch"),
        pytest.param(3, id="a batch per rank, one small"),
        pytest.param(2, id="one batch, rank 1 has none"),
    ],
)
def test_metrics_equal_those_of_one_process(two_workers: Any, one_worker: Any, count: int) -> None:
    results = [make().validate(Measuring(), whole_numbers(count), verbose=False) for make in (two_workers, one_worker)]
    assert results[0] == results[1]
    assert results[0][0]["mean"] == results[0][0]["metric"] == (count - 1) / 2
    assert results[0][0]["max"] == count - 1


def test_synced_steps_of_ranks_with_unequal_batches(two_workers: Any, one_worker: Any) -> None:
    class Stepwise(Measuring):
        def evaluate(self, batch: Any) -> None:
            self.log("synced", batch[0].mean(), sync_dist=True, on_step=True, on_epoch=True)

    results = [make().validate(Stepwise(), whole_numbers(10), verbose=False) for make in (two_workers, one_worker)]
    assert results[0] == results[1] == [{"synced_epoch": 4.5}]


def test_several_loaders_one_of_them_for_rank_0_only(two_workers: Any, one_worker: Any) -> None:
    loaders = [whole_numbers(7), whole_numbers(2)]
    results = [make().test(Measuring(), loaders, verbose=False) for make in (two_workers, one_worker)]
    assert results[0] == results[1]
    assert results[0][1]["mean/dataloader_idx_1"] == 0.5


def test_validation_inside_fit_where_rank_1_has_no_batch(two_workers: Any, one_worker: Any) -> None:
    found = []
    for make in (two_workers, one_worker):
        trainer, model = make(), Measuring()
        trainer.fit(model, whole_numbers(8), whole_numbers(2))
        found.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize("counts", [(9,), (2,), (7, 3), (1, 8)])
def test_predictions_come_in_dataset_order(two_workers: Any, one_worker: Any, counts: tuple[int, ...]) -> None:
    loaders = [whole_numbers(count) for count in counts]
    given = loaders if len(loaders) > 1 else loaders[0]
    predictions, expected = [make().predict(Measuring(), given) for make in (two_workers, one_worker)]
    torch.testing.assert_close(predictions, expected, rtol=0, atol=0)
    by_loader = predictions if len(loaders) > 1 else [predictions]
    seen = [torch.cat([batch["numbers"] for batch in batches]) for batches in by_loader]
    torch.testing.assert_close(seen, [torch.arange(count) * 10.0 for count in counts])


def test_return_predictions_false_sends_nothing_back(two_workers: Any) -> None:
    assert two_workers().predict(Measuring(), whole_numbers(4), return_predictions=False) is None


def test_a_shuffled_loader_is_seen_once(two_workers: Any) -> None:
    loader = DataLoader(TensorDataset(torch.arange(9.0)), batch_size=2, shuffle=True)
    predictions = two_workers().predict(Measuring(), loader)
    seen = torch.cat([batch["numbers"] for batch in predictions])
    torch.testing.assert_close(seen.sort().values, torch.arange(9) * 10.0)


def test_self_log_reached_on_one_rank_only(two_workers: Any) -> None:
    class Conditional(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.global_rank == 1:
                self.log("of rank 1", 5.0, on_step=False, on_epoch=True)
            self.log("of both", float(self.global_rank), on_step=False, on_epoch=True)
            return self.layer(torch.ones(1, 4)).sum()

    trainer = two_workers()
    trainer.fit(Conditional(), whole_numbers(8))
    assert trainer.callback_metrics["of rank 1"] == 5.0
    assert trainer.callback_metrics["of both"] == 0.5


def test_metric_in_training(two_workers: Any) -> None:
    class Trained(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torchmetrics.MeanMetric()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.mean.update(batch[0])
            self.log("metric", self.mean, on_step=False, on_epoch=True)
            return self.layer(torch.ones(1, 4)).sum()

    trainer = two_workers()
    trainer.fit(Trained(), whole_numbers(8))
    assert trainer.callback_metrics["metric"] == 3.5
