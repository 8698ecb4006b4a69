from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from raylight.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar


def test_a_bar_of_ones_own(in_raylight: Any) -> None:
    out = io.StringIO()

    class Percent(in_raylight.pl.callbacks.ProgressBar):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            print(f"{100 * (batch_idx + 1) / self.total_train_batches:.0f} %", file=out)

    bar = Percent()
    trainer = in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=1)
    trainer.fit(in_raylight.model())
    assert out.getvalue().split("\n") == ["25 %", "50 %", "75 %", "100 %", ""]
    assert trainer.progress_bar_callback is bar
    assert bar.trainer is trainer


def test_totals(in_raylight: Any) -> None:
    totals = {}

    class Bar(in_raylight.pl.callbacks.ProgressBar):  # type: ignore[misc]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            totals[trainer.current_epoch] = (self.total_train_batches, self.total_val_batches)

    trainer = in_raylight.trainer(
        Bar(), enable_progress_bar=True, max_epochs=-1, max_steps=6, check_val_every_n_epoch=2
    )
    trainer.fit(in_raylight.model(val_losses=[1.0]))
    assert totals == {0: (4, 0), 1: (2, 1)}


def test_loaders_are_told_apart() -> None:
    bar = ProgressBar()
    assert [bar.has_dataloader_changed(index) for index in (0, 0, 1, 1)] == [True, False, True, False]
    bar.reset_dataloader_idx_tracker()
    assert bar.has_dataloader_changed(1)


def test_no_trainer_yet() -> None:
    with pytest.raises(TypeError, match="The `ProgressBar._trainer` reference has not been set yet"):
        ProgressBar().trainer  # noqa: B018


@pytest.mark.parametrize("method", ["enable", "disable"])
def test_a_kind_of_bar_must_be_able_to(method: str) -> None:
    with pytest.raises(NotImplementedError):
        getattr(ProgressBar(), method)()


@pytest.mark.parametrize("kind", [RichProgressBar, TQDMProgressBar])
def test_switch(kind: Any) -> None:
    bar = kind()
    assert bar.is_enabled
    bar.disable()
    assert bar.is_disabled
    bar.enable()
    assert not bar.is_disabled
    assert kind(refresh_rate=0).is_disabled


@pytest.mark.parametrize("kind", [RichProgressBar, TQDMProgressBar])
def test_pickled_after_use(kind: Any, in_raylight: Any) -> None:
    bar = kind(leave=True)
    in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=1).fit(in_raylight.model())
    copy = pickle.loads(pickle.dumps(bar))
    assert copy.refresh_rate == bar.refresh_rate
    with pytest.raises(TypeError):
        copy.trainer  # noqa: B018


def test_metric_named_as_a_standard_one(in_raylight: Any) -> None:
    class Model(type(in_raylight.model())):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("v_num", 7.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    bar = TQDMProgressBar()
    trainer = in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=1, logger=True)
    model = Model()
    with pytest.warns(UserWarning, match="The progress bar already tracks a metric with the .* 'v_num'"):
        trainer.fit(model)
    assert trainer.progress_bar_metrics == {"v_num": 7.0}
