"""The summary callbacks show their table when a fit starts; LambdaCallback's functions are called in it."""

from __future__ import annotations

from typing import Any

import pytest

import raylight
from raylight.callbacks import ModelSummary, RichModelSummary
from raylight.utilities.model_summary import summarize


def test_table_is_shown(in_raylight: Any, capfd: pytest.CaptureFixture[str]) -> None:
    model = in_raylight.model()
    in_raylight.trainer(ModelSummary(), max_epochs=1).fit(model)
    assert str(summarize(model)) in "".join(capfd.readouterr())


def test_rich_table_is_shown(in_raylight: Any, capfd: pytest.CaptureFixture[str]) -> None:
    in_raylight.trainer(RichModelSummary(), max_epochs=1).fit(in_raylight.model())
    shown = "".join(capfd.readouterr())
    assert "layer" in shown
    assert "Linear" in shown
    assert "Trainable params: 5" in shown


def test_depth_0_shows_nothing(in_raylight: Any, capfd: pytest.CaptureFixture[str]) -> None:
    in_raylight.trainer(ModelSummary(max_depth=0), max_epochs=1).fit(in_raylight.model())
    assert "Trainable params" not in "".join(capfd.readouterr())


def test_overridden_summarize(same_in_both: Any) -> None:
    def run(program: Any) -> list[Any]:
        seen: list[Any] = []

        class Custom(program.pl.callbacks.ModelSummary):  # type: ignore[misc, name-defined]
            @staticmethod
            def summarize(
                summary_data: Any,
                total_parameters: int,
                trainable_parameters: int,
                model_size: float,
                total_training_modes: Any,
                total_flops: int,
                **summarize_kwargs: Any,
            ) -> None:
                seen.append((summary_data, total_parameters, trainable_parameters, round(model_size, 9)))
                seen.append((total_training_modes, total_flops, summarize_kwargs))

        program.trainer(Custom(max_depth=2, answer=42), max_epochs=1).fit(program.model())
        return seen

    assert same_in_both(run)[1] == ({"train": 1, "eval": 0}, 0, {"answer": 42})


def test_lambda_hooks_are_called(same_in_both: Any) -> None:
    def run(program: Any) -> list[str]:
        calls: list[str] = []
        callback = program.pl.callbacks.LambdaCallback(
            setup=lambda trainer, pl_module, stage: calls.append("setup" if stage == "fit" else stage),
            on_train_epoch_end=lambda trainer, pl_module: calls.append(f"epoch {trainer.current_epoch}"),
            on_train_batch_end=lambda *_: calls.append("batch"),
            on_fit_end=None,
        )
        program.trainer(callback, max_epochs=2, limit_train_batches=2).fit(program.model())
        return calls

    assert same_in_both(run) == ["setup", "batch", "batch", "epoch 0", "batch", "batch", "epoch 1"]


def test_a_summary_is_there_by_default(in_raylight: Any) -> None:
    trainer = in_raylight.trainer(enable_model_summary=True)
    assert any(isinstance(callback, raylight.callbacks.ModelSummary) for callback in trainer.callbacks)
