"""Same script, same numbers: every loss and the weights at the end equal Lightning's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

ADAM = {"optimizer": torch.optim.Adam, "lr": 0.05}
MOMENTUM = {"optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9}


def with_optimizer(side: Any, optimizer: Any, scheduler: Any = None, **settings: Any) -> Any:
    """A model trained by ``optimizer(parameters, **settings)``; ``scheduler(optimizer)`` makes the scheduler's dict."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def configure_optimizers(self) -> Any:
            made = optimizer(self.parameters(), **settings)
            return made if scheduler is None else {"optimizer": made, "lr_scheduler": scheduler(made)}

    return Model()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("settings", [ADAM, MOMENTUM], ids=["adam", "sgd"])
def test_losses_of_three_shuffled_epochs(same_in_both: Any, settings: dict[str, Any], accumulate: int) -> None:
    def run(side: Any) -> Any:
        model = with_optimizer(side, **settings)
        return side.outcome(side.fit(model, max_epochs=3, accumulate_grad_batches=accumulate), model)

    result = same_in_both(run)
    assert len(result["losses"]) == 15
    assert result["global_step"] == {1: 15, 3: 6}[accumulate]  # 5 batches: windows of 3 and 2


def test_lbfgs_runs_the_step_as_often_as_it_asks(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = with_optimizer(side, torch.optim.LBFGS, lr=0.5, max_iter=4)
        return side.outcome(side.fit(model, max_epochs=2), model)

    assert len(same_in_both(run)["losses"]) > 2 * 5


@pytest.mark.parametrize(
    "flags", [{"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}]
)
def test_clipping(same_in_both: Any, flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        model = side.Model()
        return side.outcome(side.fit(model, max_epochs=2, accumulate_grad_batches=2, **flags), model)

    same_in_both(run)


def test_own_gradient_clipping(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_gradient_clipping(
                self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any
            ) -> None:
                self.seen = gradient_clip_val, gradient_clip_algorithm
                self.clip_gradients(optimizer, 0.02, "norm")

        model = Model()
        return side.outcome(side.fit(model), model), model.seen

    same_in_both(run)


SCHEDULES: dict[str, Any] = {
    "per epoch": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
    "every second epoch": lambda o: {"scheduler": torch.optim.lr_scheduler.StepLR(o, 1, 0.5), "frequency": 2},
    "per step": lambda o: {"scheduler": torch.optim.lr_scheduler.StepLR(o, 2, 0.5), "interval": "step"},
    "every second step": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ExponentialLR(o, 0.5), "interval": "step", "frequency": 2
    },
    "one cycle": lambda o: {
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=20), "interval": "step"
    },
    "plateau": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9), "monitor": "train_loss"
    },
    "plateau per step": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9),
        "monitor": "train_loss", "interval": "step",
    },
}  # fmt: skip


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers(same_in_both: Any, name: str, accumulate: int) -> None:
    def run(side: Any) -> Any:
        rates: list[float] = []

        def note_rate(trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        model = with_optimizer(side, torch.optim.SGD, SCHEDULES[name], lr=0.2)
        hooks = side.callback(on_train_batch_end=note_rate, on_train_epoch_end=note_rate)
        trainer = side.fit(model, hooks, max_epochs=4, accumulate_grad_batches=accumulate)
        return rates, side.outcome(trainer, model)

    rates, _ = same_in_both(run)
    assert len(set(rates)) > 1


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric nothing:RuntimeWarning")
def test_plateau_without_its_metric(same_in_both: Any, same_error: Any) -> None:
    def run(side: Any, strict: bool) -> Any:
        def plateau(optimizer: Any) -> Any:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"scheduler": scheduler, "monitor": "nothing", "strict": strict}

        model = with_optimizer(side, torch.optim.SGD, plateau, lr=0.2)
        return side.outcome(side.fit(model), model)

    same_in_both(lambda side: run(side, strict=False))
    same_error(lambda side: run(side, strict=True))


def test_two_optimizers_by_hand(same_in_both: Any) -> None:
    """A generator and a discriminator, one scheduler each."""

    def run(side: Any) -> Any:
        class Gan(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False
                self.generator = nn.Linear(3, 3)
                self.discriminator = nn.Linear(3, 1)
                self.flags: list[Any] = []

            def training_step(self, batch: Any, batch_idx: int) -> None:
                generator, discriminator = self.optimizers()
                self.toggle_optimizer(generator)
                self.flags.append([p.requires_grad for p in self.parameters()])
                loss = nn.functional.softplus(-self.discriminator(self.generator(batch[0]))).mean()
                self.log("generator", loss, prog_bar=True)
                generator.zero_grad()
                self.manual_backward(loss)
                generator.step()
                self.untoggle_optimizer(generator)
                with self.toggled_optimizer(discriminator):
                    self.flags.append([p.requires_grad for p in self.parameters()])
                    fake = nn.functional.softplus(self.discriminator(self.generator(batch[0]).detach()))
                    real = nn.functional.softplus(-self.discriminator(batch[0]))
                    loss = (fake + real).mean()
                    self.losses.append(loss.item())
                    self.log("discriminator", loss, on_epoch=True)
                    discriminator.zero_grad()
                    self.manual_backward(loss)
                    self.clip_gradients(discriminator, 0.1, "norm")
                    discriminator.step()
                for scheduler in self.lr_schedulers():
                    scheduler.step()

            def configure_optimizers(self) -> Any:
                generator = torch.optim.Adam(self.generator.parameters(), lr=0.01)
                discriminator = torch.optim.SGD(self.discriminator.parameters(), lr=0.1)
                schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (generator, discriminator)]
                return [generator, discriminator], schedulers

        model = Gan()
        trainer = side.fit(model, max_epochs=2)
        return side.outcome(trainer, model), model.flags

    result, flags = same_in_both(run)
    assert result["global_step"] == 2 * 2 * 5
    assert flags[0] != flags[1]


def test_closure_by_hand(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                optimizer = self.optimizers()

                def closure() -> Any:
                    loss = self.loss(batch)
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    return loss

                self.returned = optimizer.step(closure=closure)

        model = Model()
        return side.outcome(side.fit(model, max_epochs=2), model), model.returned

    same_in_both(run)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true", "16-true"])
def test_precision(same_in_both: Any, precision: str) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.seen = [str(batch[0].dtype), str(self(batch[0]).dtype), str(torch.ones(1).dtype), str(self.dtype)]
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", self.loss(batch))

            def val_dataloader(self) -> Any:
                return side.loader(2)

        model = Model()
        trainer = side.fit(model, max_epochs=2, precision=precision)
        return model.seen, str(trainer.precision), side.outcome(trainer, model)

    same_in_both(run)


def test_own_optimizer_step(same_in_both: Any) -> None:
    """Warm-up by hand, as in Lightning's manual; the closure's loss is there to see."""

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
                optimizer.step(closure=optimizer_closure)
                for group in optimizer.param_groups:
                    group["lr"] = min(1.0, (self.trainer.global_step + 1) / 8) * 0.2

        model = Model()
        return side.outcome(side.fit(model, max_epochs=2, accumulate_grad_batches=2), model)

    same_in_both(run)


def test_skipped_steps(same_in_both: Any) -> None:
    """training_step returns None for some batches."""

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return None if batch_idx in (1, 3) else super().training_step(batch, batch_idx)

        model = Model()
        with pytest.warns(UserWarning, match="`training_step` returned `None`"):
            trainer = side.fit(model, max_epochs=2)
        return side.outcome(trainer, model)

    same_in_both(run)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_batch_start_that_skips_the_epoch(same_in_both: Any, steps_before: int) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
                return -1 if batch_idx == steps_before else None

        model = Model()
        return side.outcome(side.fit(model, max_epochs=2), model)

    same_in_both(run)


def test_model_without_optimizer(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_optimizers(self) -> None:
                return None

        model = Model()
        with pytest.warns(UserWarning, match="no optimizer"):
            trainer = side.fit(model)
        return side.outcome(trainer, model)

    same_in_both(run)


def test_outputs_of_a_batch(same_in_both: Any) -> None:
    """What on_train_batch_end is given: the loss divided by the window, other keys as they are."""

    def run(side: Any) -> Any:
        outputs = []

        def note(trainer: Any, module: Any, given: Any, batch: Any, batch_idx: int) -> None:
            outputs.append(given)

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                return {"loss": loss, "size": len(batch[0])} if batch_idx % 2 else loss

        side.fit(Model(), side.callback(on_train_batch_end=note), accumulate_grad_batches=2)
        return outputs

    same_in_both(run)


def test_second_fit_goes_on(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = with_optimizer(side, **ADAM)
        trainer = side.fit(model, max_epochs=2)
        first = side.outcome(trainer, model)
        trainer.fit(model)  # max_epochs is reached: nothing happens
        again = side.outcome(trainer, model)
        side.raise_max_epochs(trainer, 3)
        trainer.fit(model)
        return first, again, side.outcome(trainer, model)

    same_in_both(run)


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_sanity_check_leaves_the_random_numbers(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("noise", torch.rand(()))

            def val_dataloader(self) -> Any:
                return side.loader(3, shuffle=True)

        model = Model()
        trainer = side.fit(model, max_epochs=2, num_sanity_val_steps=2)
        return side.outcome(trainer, model)

    same_in_both(run)
