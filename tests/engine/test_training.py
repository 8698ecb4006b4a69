"""Training on two workers gives the numbers of a hand-written DDP loop, and they come back to the user's objects."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from small_models import Linear, batches, samples, weights
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import raylight as pl

pytestmark = pytest.mark.ray


def ddp_by_hand(
    model: Linear, data: TensorDataset, epochs: int = 1, shuffle: bool = False, seed: int = 0, accumulate: int = 1
) -> None:
    """Train ``model`` as two DDP workers with batches of two would: their gradients are averaged."""
    optimizer = model.configure_optimizers()
    samplers = [DistributedSampler(data, 2, rank, shuffle=shuffle, seed=seed) for rank in (0, 1)]
    loaders = [DataLoader(data, batch_size=2, sampler=sampler) for sampler in samplers]
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for batch_idx, of_ranks in enumerate(zip(*loaders, strict=True)):
            if batch_idx % accumulate == 0:
                optimizer.zero_grad()
            loss = sum(model.loss(batch) for batch in of_ranks) / 2
            (loss / accumulate).backward()
            if (batch_idx + 1) % accumulate == 0 or batch_idx + 1 == len(loaders[0]):
                optimizer.step()


def assert_same_weights(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [16, 13])
def test_weights_equal_those_of_a_hand_written_loop(two_workers: Any, count: int) -> None:
    model, expected = Linear(), Linear()
    before = weights(model)
    two_workers(max_epochs=2).fit(model, batches(count))
    ddp_by_hand(expected, samples(count), epochs=2)
    assert_same_weights(model, expected)
    assert not torch.equal(weights(model)["layer.weight"], before["layer.weight"])


def test_shuffling_is_that_of_torchs_distributed_sampler(two_workers: Any) -> None:
    pl.seed_everything(7)
    model, expected = Linear(), Linear()
    two_workers(max_epochs=3).fit(model, batches(13, shuffle=True))
    ddp_by_hand(expected, samples(13), epochs=3, shuffle=True, seed=7)
    assert_same_weights(model, expected)


def test_accumulating_batches_do_not_communicate(two_workers: Any) -> None:
    class Watched(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.synchronized: list[bool] = []

        def on_after_backward(self) -> None:
            first, second = self.all_gather(self.layer.weight.grad)
            self.synchronized.append(torch.equal(first, second))

    model, expected = Watched(), Linear()
    trainer = two_workers(accumulate_grad_batches=3)
    trainer.fit(model, batches(20))
    ddp_by_hand(expected, samples(20), accumulate=3)
    assert model.synchronized == [False, False, True, False, True]
    assert trainer.global_step == 2
    assert_same_weights(model, expected)


class TwoPlayers(pl.LightningModule):
    """A generator and a discriminator with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, 0.1)

    def generator_loss(self, batch: Any) -> torch.Tensor:
        return functional.softplus(-self.discriminator(self.generator(batch[0]))).mean()

    def discriminator_loss(self, batch: Any) -> torch.Tensor:
        made = self.discriminator(self.generator(batch[0]).detach())
        return functional.softplus(made).mean() + functional.softplus(-self.discriminator(batch[0] * 2)).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        losses = (self.generator_loss, self.discriminator_loss)
        for optimizer, compute_loss in zip(self.optimizers(), losses, strict=True):
            self.toggle_optimizer(optimizer)
            loss = compute_loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            self.log(compute_loss.__name__, loss, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(player.parameters(), lr=0.05) for player in (self.generator, self.discriminator)]


def test_manual_optimization_with_two_optimizers(two_workers: Any) -> None:
    model, expected = TwoPlayers(), TwoPlayers()
    trainer = two_workers()
    trainer.fit(model, batches(12))

    optimizers = expected.configure_optimizers()
    shards = [
        DataLoader(samples(12), batch_size=2, sampler=DistributedSampler(samples(12), 2, r, False)) for r in (0, 1)
    ]
    for of_ranks in zip(*shards, strict=True):
        for optimizer, compute_loss in zip(
            optimizers, (expected.generator_loss, expected.discriminator_loss), strict=True
        ):
            expected.zero_grad()
            (sum(compute_loss(batch) for batch in of_ranks) / 2).backward()
            optimizer.step()
    assert_same_weights(model, expected)
    assert trainer.global_step == 6
    assert {"generator_loss_epoch", "discriminator_loss_epoch"} <= set(trainer.callback_metrics)


class Validated(Linear):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


def test_results_come_back_to_the_users_objects(two_workers: Any, tmp_path: Any) -> None:
    class Counter(pl.Callback):
        num_batches = 0

        def on_train_batch_end(self, *args: Any) -> None:
            self.num_batches += 1

    from raylight.callbacks import ModelCheckpoint

    class Remembering(Validated):
        def on_train_end(self) -> None:
            self.seen = {"epoch": self.current_epoch, "device": str(self.device)}

    counter, checkpoint = Counter(), ModelCheckpoint(tmp_path / "best", monitor="val_loss")
    trainer = two_workers(max_epochs=2, callbacks=[counter, checkpoint], enable_checkpointing=True)
    model = Remembering()
    trainer.fit(model, batches(16), batches(6))

    assert counter.num_batches == 2 * 4
    assert model.seen == {"epoch": 2, "device": "cpu"}
    assert os.path.exists(checkpoint.best_model_path)
    assert checkpoint.best_model_score <= trainer.callback_metrics["val_loss"]
    assert trainer.checkpoint_callback is checkpoint
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    assert set(trainer.callback_metrics) == {"train_loss", "val_loss"}
    assert all(value.device.type == "cpu" for value in trainer.callback_metrics.values())
    assert trainer.state.finished
    assert model.trainer is trainer
    with torch.no_grad():
        expected = torch.stack([model.loss(batch) for batch in batches(6)]).mean()
    torch.testing.assert_close(trainer.callback_metrics["val_loss"], expected)


def test_logged_metrics_come_back(two_workers: Any) -> None:
    from raylight.loggers import CSVLogger

    trainer = two_workers(logger=CSVLogger("."), log_every_n_steps=2)
    trainer.fit(Validated(), batches(16), batches(6))
    assert set(trainer.logged_metrics) == {"train_loss", "val_loss"}


def test_hooks_read_the_scripts_arguments(two_workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reads(Linear):
        def on_train_start(self) -> None:
            self.arguments = sys.argv.copy()

    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    model = Reads()
    two_workers().fit(model, batches())
    assert model.arguments == ["train.py", "--lr", "0.1"]


def test_fit_again_goes_on(two_workers: Any) -> None:
    model, expected = Linear(), Linear()
    trainer = two_workers()
    trainer.fit(model, batches(16))
    trainer.max_epochs = 2
    trainer.fit(model, batches(16))
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    ddp_by_hand(expected, samples(16))
    ddp_by_hand(expected, samples(16))  # a new fit makes new optimizers
    assert_same_weights(model, expected)


def test_the_same_seed_gives_the_same_weights(two_workers: Any) -> None:
    class Noisy(Linear):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss([functional.dropout(batch[0]), batch[1]])

    def train(seed: int) -> dict[str, torch.Tensor]:
        pl.seed_everything(seed)
        model = Noisy()
        two_workers().fit(model, batches(16, shuffle=True))
        return weights(model)

    first, again, other = train(1), train(1), train(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer.weight"], other["layer.weight"])


class Sample(NamedTuple):
    features: torch.Tensor
    pid: torch.Tensor


class OwnDataset(Dataset[Any]):
    """Like ``Sample`` a class that the workers cannot import, as those of a script."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.full((4,), float(index)), torch.tensor([os.getpid()]))


def test_dataloader_workers(two_workers: Any, wait_until: Any) -> None:
    class Collecting(Linear):
        pids: frozenset[int] = frozenset()

        def training_step(self, batch: Sample, batch_idx: int) -> torch.Tensor:
            self.pids |= set(self.all_gather(batch.pid).flatten().tolist())
            return self.layer(batch.features).sum()

    def collate(drawn: list[Sample]) -> Sample:
        return Sample(*map(torch.stack, zip(*drawn, strict=True)))

    model = Collecting()
    two_workers(max_epochs=2).fit(
        model, DataLoader(OwnDataset(), batch_size=1, num_workers=2, collate_fn=collate, persistent_workers=True)
    )
    assert len(model.pids) == 4  # two of each rank, kept over both epochs
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in model.pids))
