"""A run that is broken off and goes on, in the same library or in the other, ends where one run ends."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

EPOCHS = 3
BATCHES = 5
"""Per epoch."""


class Program:
    """A model, its data, callbacks and flags, for either library."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario
        self.flags: dict[str, Any] = {"max_epochs": EPOCHS}
        if scenario == "accumulate":
            self.flags["accumulate_grad_batches"] = 2
        if scenario == "validates within the epoch":
            self.flags["val_check_interval"] = 2

    def model(self, side: Any) -> Any:
        manual, plateau = self.scenario == "two optimizers", self.scenario == "plateau"

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self, rate: float = 0.05) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.automatic_optimization = not manual
                self.at_start: list[Any] = []

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                if not manual:
                    return loss
                first, second = self.optimizers()
                for optimizer in (first, second):
                    optimizer.zero_grad()
                self.manual_backward(loss)
                first.step()
                if batch_idx % 2:
                    second.step()
                    for scheduler in self.lr_schedulers():
                        scheduler.step()
                return None

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", self.loss(batch))

            def configure_optimizers(self) -> Any:
                if manual:
                    first = torch.optim.Adam(self.layer[0].parameters())
                    second = torch.optim.SGD(self.layer[2].parameters(), lr=0.1, momentum=0.9)
                    exponential = torch.optim.lr_scheduler.ExponentialLR
                    return [first, second], [exponential(first, 0.9), exponential(second, 0.8)]
                optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["rate"])
                if plateau:
                    scheduler: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
                    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
                scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7)
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

            def on_train_start(self) -> None:
                trainer = self.trainer
                self.at_start = [
                    trainer.current_epoch,
                    trainer.global_step,
                    [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers],
                    [deepcopy(optimizer.state_dict()["state"]) for optimizer in trainer.optimizers],
                    [config.scheduler.state_dict()["last_epoch"] for config in trainer.lr_scheduler_configs],
                    trainer.datamodule.seen,
                    [callback_state(callback) for callback in trainer.callbacks],
                ]

        return Model()

    def datamodule(self, side: Any) -> Any:
        class Data(side.pl.LightningDataModule):  # type: ignore[misc, name-defined]
            seen = 0

            def train_dataloader(self) -> Any:
                self.seen += 1
                return side.loader(BATCHES)

            def val_dataloader(self) -> Any:
                return side.loader(2)

            def state_dict(self) -> dict[str, Any]:
                return {"seen": self.seen}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                self.seen = state["seen"]

        Data.__qualname__ = "Data"
        return Data()

    def callbacks(self, side: Any, folder: Path) -> list[Any]:
        kinds = side.pl.callbacks
        return [
            kinds.EarlyStopping("val_loss", patience=30, strict=False),
            kinds.Timer(),
            kinds.LearningRateMonitor(),
            kinds.ModelCheckpoint(folder, monitor="val_loss", filename="best"),
            kinds.ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="end-{epoch}"),
        ]

    def run(
        self, side: Any, folder: Path, ckpt_path: Path | None = None, every_batch: bool = False, **flags: Any
    ) -> Any:
        """Train on; the model and the trainer.

        Args:
            every_batch: Save after each, as "batch-3.ckpt".
        """
        model = self.model(side)
        saves = [save_after_batches(side, folder)] if every_batch else []
        trainer = side.trainer(*self.callbacks(side, folder), *saves, **{**self.flags, **flags})
        trainer.fit(model, datamodule=self.datamodule(side), ckpt_path=ckpt_path)
        return model, trainer


def save_after_batches(side: Any, folder: Path) -> Any:
    def save(trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.save_checkpoint(folder / f"batch-{trainer.current_epoch * BATCHES + batch_idx + 1}.ckpt")

    return side.callback(on_train_batch_end=save)


def callback_state(callback: Any) -> Any:
    """What a checkpoint keeps of a callback, but for times."""
    state = deepcopy(callback.state_dict())
    if "time_elapsed" in state:
        return sorted(state["time_elapsed"]), min(state["time_elapsed"].values()) >= 0
    return {key: value for key, value in state.items() if "path" not in key and key not in ("best_k_models", "dirpath")}


def assert_ends_alike(model: Any, trainer: Any, whole: Any, whole_trainer: Any) -> None:
    """``model`` has gone on where ``whole`` went through."""
    assert (trainer.current_epoch, trainer.global_step) == (whole_trainer.current_epoch, whole_trainer.global_step)
    assert model.losses == pytest.approx(whole.losses[-len(model.losses) :], rel=1e-5)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(trainer.optimizers, whole_trainer.optimizers, strict=True):
        torch.testing.assert_close(one.state_dict()["state"], other.state_dict()["state"])
    for one, other in zip(trainer.lr_scheduler_configs, whole_trainer.lr_scheduler_configs, strict=True):
        assert one.scheduler.get_last_lr() == pytest.approx(other.scheduler.get_last_lr())


SCENARIOS = ["automatic", "accumulate", "two optimizers", "plateau", "validates within the epoch"]
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")


@pytest.fixture(params=[0, 1], ids=["written by theirs", "written by ours"])
def writer(request: Any, both_sides: Any) -> Any:
    return both_sides[request.param]


@pytest.fixture(params=[0, 1], ids=["read by theirs", "read by ours"])
def reader(request: Any, both_sides: Any) -> Any:
    return both_sides[request.param]


def saved_in(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}.ckpt"))
    assert len(found) == 1, sorted(path.name for path in folder.iterdir())
    return found[0]


@pytest.mark.parametrize("scenario", ["automatic", "accumulate", "two optimizers"])
def test_from_the_end_of_an_epoch(scenario: str, writer: Any, reader: Any, tmp_path: Path, call: Any) -> None:
    """A plateau scheduler steps when the file has been written, and that step is lost in both libraries."""
    program = Program(scenario)
    call(writer, lambda side: program.run(side, tmp_path / "first", max_epochs=2))
    file = saved_in(tmp_path / "first", "end-epoch=1")

    whole, whole_trainer = call(reader, lambda side: program.run(side, tmp_path / "whole"))
    model, trainer = call(reader, lambda side: program.run(side, tmp_path / "first", file))

    assert len(model.losses) == BATCHES
    assert_ends_alike(model, trainer, whole, whole_trainer)
    assert trainer.datamodule.seen == 2


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_find_the_same_in_a_file(scenario: str, writer: Any, same_in_both: Any, tmp_path: Path, call: Any) -> None:
    """Counters, rates, optimizers, schedulers, the datamodule and the callbacks when training starts, and its end."""
    program = Program(scenario)
    call(writer, lambda side: program.run(side, tmp_path / "first", max_epochs=1))

    def resume(side: Any) -> Any:
        model, trainer = program.run(side, tmp_path / "first", tmp_path / "first" / "end-epoch=0.ckpt")
        # Saved within an epoch: raylight goes on with the next batch, Lightning begins the loader anew.
        losses = [] if scenario == "validates within the epoch" else model.losses
        return model.at_start, losses, trainer.current_epoch, trainer.global_step

    at_start = same_in_both(resume)[0]
    assert at_start[5] == 2
    assert [bool(state) for state in at_start[-1]] == [True, True, False, True, True]


@pytest.mark.parametrize("batch", [4, 7])
@pytest.mark.parametrize("scenario", ["plateau", "validates within the epoch"])
def test_from_within_an_epoch(scenario: str, batch: int, writer: Any, ours: Any, tmp_path: Path, call: Any) -> None:
    """raylight goes on with the next batch; Lightning begins the loader anew, which the next test has."""
    program = Program(scenario)
    call(writer, lambda side: program.run(side, tmp_path / "first", max_epochs=2, every_batch=True))
    whole, whole_trainer = program.run(ours, tmp_path / "whole")

    model, trainer = program.run(ours, tmp_path / "first", tmp_path / "first" / f"batch-{batch}.ckpt")

    assert len(model.losses) == EPOCHS * BATCHES - batch
    assert_ends_alike(model, trainer, whole, whole_trainer)


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("scenario", ["automatic", "accumulate", "two optimizers"])
def test_lightning_goes_on_with_either_file(
    scenario: str, batch: int, both_sides: Any, tmp_path: Path, call: Any
) -> None:
    program, theirs = Program(scenario), both_sides[0]
    ends = []
    for side in both_sides:
        folder = tmp_path / side.pl.__name__
        call(side, lambda side, folder=folder: program.run(side, folder, max_epochs=1, every_batch=True))
        file = folder / f"batch-{batch}.ckpt"
        ends.append(call(theirs, lambda side, folder=folder, file=file: program.run(side, folder, file)))

    (from_theirs, their_trainer), (from_ours, our_trainer) = ends
    assert len(from_ours.losses) == len(from_theirs.losses)
    assert_ends_alike(from_ours, our_trainer, from_theirs, their_trainer)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key|Early stopping conditioned on")
@pytest.mark.parametrize("max_steps", [3, 8])
def test_after_max_steps(max_steps: int, writer: Any, same_in_both: Any, tmp_path: Path, call: Any) -> None:
    program = Program("automatic")

    def write(side: Any) -> None:
        _, trainer = program.run(side, tmp_path / "first", max_epochs=-1, max_steps=max_steps)
        trainer.save_checkpoint(tmp_path / "after.ckpt")

    def resume(side: Any) -> Any:
        model, trainer = program.run(side, tmp_path / "first", tmp_path / "after.ckpt")
        return model.at_start, model.losses, trainer.current_epoch, trainer.global_step

    call(writer, write)
    assert same_in_both(resume)[0][1] == max_steps


@pytest.mark.parametrize("method", ["test", "predict"])
def test_evaluated_by_either(method: str, writer: Any, same_in_both: Any, tmp_path: Path, call: Any) -> None:
    program = Program("automatic")
    call(writer, lambda side: program.run(side, tmp_path / "first", max_epochs=1))
    file = saved_in(tmp_path / "first", "end-epoch=0")

    def evaluate(side: Any) -> Any:
        model = program.model(side)
        type(model).test_step = type(model).validation_step
        type(model).predict_step = lambda self, batch, batch_idx: self(batch[0])
        trainer = side.trainer(*program.callbacks(side, tmp_path / "first"))
        more = {} if method == "predict" else {"verbose": False}
        found = getattr(trainer, method)(model, side.loader(2), ckpt_path=file, **more)
        saver = trainer.checkpoint_callbacks[0]
        return found, trainer.global_step, trainer.current_epoch, Path(trainer.ckpt_path).name, saver.best_model_score

    same_in_both(evaluate)


class Stateful:
    """A loader that keeps its own place, as torchdata's."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.place = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        self.place %= len(self.batches)
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def test_loader_with_its_own_place(writer: Any, both_sides: Any, same_in_both: Any, tmp_path: Path, call: Any) -> None:
    def fit(side: Any, *callbacks: Any, **more: Any) -> Any:
        torch.manual_seed(2)
        model = side.Model()
        trainer = side.trainer(*callbacks, max_epochs=2)
        trainer.fit(model, Stateful(list(side.loader(BATCHES))), **more)
        return model.losses, trainer.global_step

    call(writer, lambda side: fit(side, save_after_batches(side, tmp_path)))
    whole = call(both_sides[0], fit)[0]

    losses, steps = same_in_both(lambda side: fit(side, ckpt_path=tmp_path / "batch-3.ckpt"))

    assert losses == pytest.approx(whole[3:], rel=1e-5)
    assert steps == 2 * BATCHES


def test_scaler_state_crosses(both_sides: Any, tmp_path: Path, call: Any) -> None:
    """Under the key of Lightning's plugin; a CPU has no scaler, and the state is left alone there."""
    theirs, ours = both_sides
    program = Program("automatic")
    model, trainer = program.run(ours, tmp_path / "first", max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    scaler = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 3}
    torch.save({**checkpoint, "MixedPrecision": scaler}, tmp_path / "a.ckpt")

    def resume(side: Any) -> Any:
        return program.run(side, tmp_path / "first", tmp_path / "a.ckpt", max_epochs=2, precision="bf16-mixed")[1]

    assert [call(side, resume).global_step for side in (theirs, ours)] == [2 * BATCHES, 2 * BATCHES]


def test_file_of_the_last_epoch_is_no_mistake(same_in_both: Any) -> None:
    """It was written before that epoch was counted."""

    def run(side: Any) -> Any:
        writer = side.pl.callbacks.ModelCheckpoint(dirpath=side.root)
        side.fit(side.Model(), writer, max_epochs=2)
        second = side.trainer(side.pl.callbacks.ModelCheckpoint(dirpath=side.root, save_top_k=0), max_epochs=1)
        second.fit(side.Model(), ckpt_path=writer.best_model_path)
        return second.current_epoch, second.global_step

    assert same_in_both(run)
