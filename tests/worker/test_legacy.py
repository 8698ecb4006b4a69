"""Lightning 1.x: hooks with outputs, step_end, several optimizers, older arguments, dicts in self.log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.utilities.exceptions import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore:.*Lightning 1.x:DeprecationWarning")
BATCHES = 4


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(float(BATCHES * 2))[:, None]), batch_size=2)


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(1, 1)
        self.b = torch.nn.Linear(1, 1)
        self.calls: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.a(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return batch_idx * 10

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader()


def fit(model: pl.LightningModule, **flags: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "launcher": "local", "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    trainer = pl.Trainer(**{**quiet, **flags})
    trainer.fit(model)
    return trainer


# ------------------------------------------------------------------------------------------------ outputs


def test_epoch_end_gets_what_the_steps_returned() -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "index": batch_idx}

        def training_epoch_end(self, outputs: Any) -> None:
            self.calls.append(("training", [output["index"] for output in outputs]))
            assert all(not output["loss"].requires_grad for output in outputs)
            self.log("train_avg", torch.stack([output["loss"] for output in outputs]).mean())

        def on_train_epoch_end(self) -> None:
            self.calls.append("on_train_epoch_end")

        def validation_epoch_end(self, outputs: Any) -> None:
            self.calls.append(("validation", outputs))
            self.log("val_sum", float(sum(outputs)))

    model = Old()
    trainer = fit(model, max_epochs=2)
    once = [("validation", [0, 10, 20, 30]), ("training", [0, 1, 2, 3]), "on_train_epoch_end"]
    assert model.calls == once * 2
    assert trainer.callback_metrics["val_sum"] == 60
    assert trainer.callback_metrics["train_avg"] > 0


def test_outputs_of_several_loaders_are_lists() -> None:
    class Old(Model):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return dataloader_idx, batch_idx

        def test_epoch_end(self, outputs: Any) -> None:
            self.calls = outputs

    model = Old()
    pl.Trainer(launcher="local", accelerator="cpu", logger=False, limit_test_batches=2).test(
        model, [loader(), loader()]
    )
    assert model.calls == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]


def test_epoch_end_must_return_nothing() -> None:
    class Old(Model):
        def training_epoch_end(self, outputs: Any) -> Any:
            return {"log": 1}

    with pytest.raises(MisconfigurationException, match="training_epoch_end` expects a return of None"):
        fit(Old())


def test_what_validation_epoch_end_returns_is_not_used() -> None:
    class Old(Model):
        def validation_epoch_end(self, outputs: Any) -> Any:
            return {"log": {"val_loss": 1.0}}

    with pytest.warns(UserWarning, match="What `validation_epoch_end` returns is not used.*self.log"):
        trainer = fit(Old())
    assert "val_loss" not in trainer.callback_metrics


def test_step_end_takes_the_place_of_the_output() -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.a(batch[0])

        def training_step_end(self, output: Any) -> Any:
            loss = output.pow(2).mean()
            self.log("loss", loss)
            return loss

        def validation_step_end(self, output: Any) -> Any:
            return output + 1

        def validation_epoch_end(self, outputs: Any) -> None:
            self.calls = outputs

    model = Old()
    trainer = fit(model)
    assert model.calls == [1, 11, 21, 31]
    assert trainer.callback_metrics["loss"] > 0


def test_notices_name_what_to_use() -> None:
    class Old(Model):
        def validation_epoch_end(self, outputs: Any) -> None: ...

    with pytest.warns(DeprecationWarning, match="use it in `on_validation_epoch_end`"):
        fit(Old())


# ------------------------------------------------------------------------------------------------ several optimizers


class TwoOptimizers(Model):
    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        own = self.a if optimizer_idx == 0 else self.b
        self.calls.append((batch_idx, optimizer_idx, [p.requires_grad for p in self.parameters()]))
        return own(batch[0]).pow(2).mean()

    def validation_step(self, *args: Any) -> Any: ...

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.001) for layer in (self.a, self.b)]


def test_each_batch_is_for_each_optimizer() -> None:
    model = TwoOptimizers()
    trainer = fit(model)
    first, second = [True, True, False, False], [False, False, True, True]
    assert model.calls == [(batch, index, [first, second][index]) for batch in range(BATCHES) for index in (0, 1)]
    assert trainer.global_step == 2 * BATCHES
    assert all(p.requires_grad for p in model.parameters())


def test_weights_equal_a_loop_by_hand() -> None:
    torch.manual_seed(1)
    model = TwoOptimizers()
    reference = TwoOptimizers()
    reference.load_state_dict(model.state_dict())
    fit(model)
    optimizers = reference.configure_optimizers()
    for (x,) in loader():
        for layer, optimizer in zip((reference.a, reference.b), optimizers, strict=True):
            optimizer.zero_grad()
            layer(x).pow(2).mean().backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_frequencies_take_turns() -> None:
    class Old(TwoOptimizers):
        def configure_optimizers(self) -> Any:
            a, b = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.LambdaLR(b, lambda step: 1 / (step + 1))
            second = {"optimizer": b, "frequency": 2, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
            return [{"optimizer": a, "frequency": 1}, second]

    model = Old()
    trainer = fit(model)
    assert [(batch, index) for batch, index, _ in model.calls] == [(0, 0), (1, 1), (2, 1), (3, 0)]
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.001 / 3)  # stepped when it was its turn


def test_outputs_and_old_arguments_of_several() -> None:
    class Old(TwoOptimizers):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            self.seen.append(("end", len(outputs), dataloader_idx))

        def optimizer_step(  # type: ignore[override]
            self,
            epoch: int,
            batch_idx: int,
            optimizer: Any,
            optimizer_idx: int,
            optimizer_closure: Any,
            on_tpu: bool,
            using_native_amp: bool,
            using_lbfgs: bool,
        ) -> None:
            self.seen.append(("step", optimizer_idx, on_tpu, using_native_amp, using_lbfgs))
            optimizer.step(closure=optimizer_closure)

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int) -> None:
            self.seen.append(("zero", optimizer_idx))
            optimizer.zero_grad()

        def backward(self, loss: Any, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            self.seen.append(("backward", optimizer_idx))
            loss.backward()

        def configure_gradient_clipping(self, optimizer: Any, optimizer_idx: int, gradient_clip_val: Any,
                                        gradient_clip_algorithm: Any) -> None:  # type: ignore[override]  # fmt: skip
            self.seen.append(("clip", optimizer_idx, gradient_clip_val))

        def on_before_optimizer_step(self, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            self.seen.append(("before", optimizer_idx))

        def training_epoch_end(self, outputs: Any) -> None:
            self.seen.append(("epoch", len(outputs), len(outputs[0])))

    model = Old()
    model.seen = []  # type: ignore[assignment]
    fit(model, limit_train_batches=1, gradient_clip_val=3)
    per_optimizer = [
        [("step", i, False, False, False), ("zero", i), ("backward", i), ("before", i), ("clip", i, 3)] for i in (0, 1)
    ]
    assert model.seen == [*per_optimizer[0], *per_optimizer[1], ("end", 2, 0), ("epoch", 1, 2)]


def test_several_optimizers_need_the_index() -> None:
    class New(TwoOptimizers):
        def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
            return None

    with pytest.raises(RuntimeError, match="Training with multiple optimizers is only supported with manual"):
        fit(New())


def test_frequency_for_some_is_refused() -> None:
    class Old(TwoOptimizers):
        def configure_optimizers(self) -> Any:
            a, b = super().configure_optimizers()
            return [{"optimizer": a, "frequency": 1}, {"optimizer": b}]

    with pytest.raises(MisconfigurationException, match="to each optimizer or to none"):
        fit(Old())


# ------------------------------------------------------------------------------------------------ the rest


def test_old_callback_hooks_get_their_arguments() -> None:
    seen = []

    class Old(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):  # type: ignore[no-untyped-def]
            seen.append(("train", batch_idx, dataloader_idx))

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx):  # type: ignore[no-untyped-def]
            seen.append(("val", batch_idx, dataloader_idx))

        def on_train_epoch_end(self, trainer, pl_module, outputs):  # type: ignore[no-untyped-def]
            seen.append(("epoch", len(outputs)))

        def on_predict_epoch_end(self, trainer, pl_module, outputs):  # type: ignore[no-untyped-def]
            seen.append(("predict", [len(of_loader) for of_loader in outputs]))

    class New(Model):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[0]

    trainer = fit(New(), callbacks=[Old()], limit_train_batches=1, limit_val_batches=1)
    assert seen == [("train", 0, 0), ("val", 0, 0), ("epoch", 1)]
    trainer.predict(trainer.lightning_module, loader())
    assert seen[-1] == ("predict", [BATCHES])


def test_log_of_a_dict() -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("losses", {"a": 1.0, "b": torch.tensor(float(batch_idx))}, on_epoch=True)
            return super().training_step(batch, batch_idx)

    trainer = fit(Old())
    assert trainer.callback_metrics["losses"] == {"a": 1, "b": 1.5}  # the epoch's means
    assert trainer.callback_metrics["losses_step"] == {"a": 1, "b": 3}


def test_log_of_a_dict_reaches_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("losses", {"a": 1.0, "b": 2.0})
            return super().training_step(batch, batch_idx)

    from raylight.loggers import TensorBoardLogger

    fit(Old(), logger=TensorBoardLogger(str(tmp_path)), log_every_n_steps=1)
    (folder,) = tmp_path.glob("**/losses_b")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("losses")] == [2.0] * BATCHES


def test_nested_dict_is_refused() -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("losses", {"a": {"b": 1.0}})

    with pytest.raises(ValueError, match="nested dictionaries cannot be logged"):
        fit(Old())


def test_hooks_that_are_gone_are_named() -> None:
    class Old(Model):
        def get_progress_bar_dict(self) -> Any: ...

    with pytest.warns(UserWarning, match="get_progress_bar_dict` is not called any more.*override get_metrics"):
        fit(Old())


def test_truncated_backpropagation_is_refused() -> None:
    model = Model()
    model.truncated_bptt_steps = 2  # type: ignore[assignment]
    with pytest.raises(MisconfigurationException, match="truncated_bptt_steps` is not supported"):
        fit(model)


def test_dataloader_iter_takes_its_own_batches() -> None:
    class Flavor(Model):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            batch, batch_idx, _ = next(dataloader_iter)
            self.calls.append((batch_idx, batch[0].flatten().tolist()))
            return self.a(batch[0]).pow(2).mean()

    model = Flavor()
    trainer = fit(model, max_epochs=2, accumulate_grad_batches=3)
    assert model.calls == [(i, [2.0 * i, 2 * i + 1.0]) for i in range(BATCHES)] * 2
    assert trainer.global_step == 4
    assert trainer.is_last_batch


def test_dataloader_iter_may_take_several_at_once() -> None:
    class Flavor(Model):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            batches = [next(dataloader_iter)[0][0] for _ in range(2)]
            return self.a(torch.cat(batches)).pow(2).mean()

    assert fit(Flavor()).global_step == BATCHES // 2
