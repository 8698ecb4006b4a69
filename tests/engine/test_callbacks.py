"""Callbacks whose work is divided between two workers, or must be the same on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Linear, batches, samples, weights
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from raylight.callbacks import BackboneFinetuning, BasePredictionWriter, StochasticWeightAveraging

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


class FilePerRank(BasePredictionWriter):
    def __init__(self, folder: Path) -> None:
        super().__init__("batch_and_epoch")
        self.folder = folder

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        torch.save((prediction, batch_indices), self.folder / f"batch-{trainer.global_rank}-{batch_idx}.pt")

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        torch.save((predictions, batch_indices), self.folder / f"epoch-{trainer.global_rank}.pt")


class Echo(Linear):
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[0]


def test_each_rank_writes_the_batches_that_it_had(two_workers: Any, tmp_path: Path) -> None:
    """Samples 0 to 9 in random batches of two: each in exactly one file, under its own index."""
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=2, shuffle=True)
    trainer = two_workers(callbacks=[FilePerRank(tmp_path)])
    assert trainer.predict(Echo(), loader, return_predictions=False) is None

    found = []
    for path in sorted(tmp_path.glob("batch-*.pt")):
        prediction, indices = torch.load(path)
        assert prediction.tolist() == indices
        found += indices
    assert sorted(found) == list(range(10))
    assert found != sorted(found)
    ends = [torch.load(tmp_path / f"epoch-{rank}.pt") for rank in (0, 1)]
    assert [len(predictions) for predictions, _ in ends] == [3, 2]
    for predictions, indices in ends:
        assert [[prediction.tolist() for prediction in predictions]] == indices


class WithBackbone(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        with torch.no_grad():
            self.backbone.weight.copy_(torch.eye(4))
            self.backbone.bias.zero_()

    def loss(self, batch: Any) -> Any:
        return super().loss((self.backbone(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.layer.parameters(), lr=0.1)


def test_gradients_of_what_is_thawed_are_averaged(two_workers: Any) -> None:
    model, expected = WithBackbone(), WithBackbone()
    callback = BackboneFinetuning(1, lambda_func=lambda epoch: 1.0)
    two_workers(max_epochs=2, callbacks=[callback]).fit(model, batches(16))

    optimizer = expected.configure_optimizers()
    samplers = [DistributedSampler(samples(16), 2, rank, shuffle=False) for rank in (0, 1)]
    for epoch in range(2):
        if epoch == 1:
            optimizer.add_param_group({"params": list(expected.backbone.parameters()), "lr": 0.01})
        for of_ranks in zip(*(DataLoader(samples(16), 2, sampler=sampler) for sampler in samplers), strict=True):
            expected.zero_grad()
            (sum(expected.loss(batch) for batch in of_ranks) / 2).backward()
            optimizer.step()
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-6)
    assert callback.previous_backbone_lr == pytest.approx(0.01)


class Normed(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def loss(self, batch: Any) -> Any:
        return super().loss((self.norm(batch[0]), batch[1]))


def test_averaged_weights_come_home(two_workers: Any) -> None:
    model = Normed()
    callback = StochasticWeightAveraging(0.05, swa_epoch_start=1)
    trainer = two_workers(max_epochs=2, callbacks=[callback])
    trainer.fit(model, batches(16))
    assert int(callback.n_averaged) == 2  # type: ignore[arg-type]
    assert (trainer.current_epoch, trainer.max_epochs) == (3, 2)
    assert int(model.norm.num_batches_tracked) == 4
    assert model.norm.momentum == 0.1
