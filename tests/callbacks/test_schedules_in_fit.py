"""Timer and GradientAccumulationScheduler do in a fit what Lightning's do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch


def test_accumulation_by_epoch(same_in_both: Any) -> None:
    def run(program: Any) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []

        class Watch(program.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                seen.append((trainer.accumulate_grad_batches, trainer.global_step))

        scheduler = program.pl.callbacks.GradientAccumulationScheduler({1: 2, 3: 4})
        program.trainer(scheduler, Watch(), max_epochs=4).fit(program.model())
        return seen

    assert same_in_both(run) == [(1, 4), (2, 6), (2, 8), (4, 9)]


def test_accumulation_given_twice(same_in_both: Any) -> None:
    def run(program: Any) -> None:
        scheduler = program.pl.callbacks.GradientAccumulationScheduler({1: 2})
        with pytest.raises(ValueError, match="You have set `accumulate_grad_batches` and are using"):
            program.trainer(scheduler, max_epochs=1, accumulate_grad_batches=2).fit(program.model())

    same_in_both(run)


def test_accumulation_with_manual_optimization(same_in_both: Any) -> None:
    def run(program: Any) -> None:
        model = program.model()
        model.automatic_optimization = False
        scheduler = program.pl.callbacks.GradientAccumulationScheduler({1: 2})
        with pytest.raises(RuntimeError, match="not supported for\\s+manual"):
            program.trainer(scheduler, max_epochs=1).fit(model)

    same_in_both(run)


@pytest.mark.parametrize(("interval", "steps"), [("step", 1), ("epoch", 4)])
def test_timer_stops(same_in_both: Any, interval: str, steps: int) -> None:
    def run(program: Any) -> int:
        class Deplete(program.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                timer._offset = 100_000.0

        timer = program.pl.callbacks.Timer(duration="00:12:00:00", interval=interval)
        trainer = program.trainer(timer, Deplete(), max_epochs=3)
        trainer.fit(program.model())
        return int(trainer.global_step)

    assert same_in_both(run) == steps


def test_timer_that_is_over_before_the_start(same_in_both: Any) -> None:
    def run(program: Any) -> int:
        trainer = program.trainer(program.pl.callbacks.Timer(duration=timedelta(0)), max_epochs=3)
        trainer.fit(program.model())
        return int(trainer.global_step)

    same_in_both(run)


def test_max_time_left_when_resumed(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        pl = program.pl
        checkpoint = pl.callbacks.ModelCheckpoint(program.root)
        program.trainer(pl.callbacks.Timer(duration=timedelta(days=1)), checkpoint, max_epochs=1).fit(program.model())
        path = checkpoint.best_model_path
        content = torch.load(path, weights_only=True)
        elapsed = content["callbacks"]["Timer"]["time_elapsed"]
        assert 0 < elapsed["train"] < 60
        elapsed["train"] = 90_000.0
        content["callbacks"] = {"Timer": content["callbacks"]["Timer"]}
        torch.save(content, path)

        timer = pl.callbacks.Timer(duration=timedelta(days=1))
        trainer = program.trainer(timer, max_epochs=2)
        trainer.fit(program.model(), ckpt_path=path)
        assert timer.time_elapsed() >= 90_000
        return {"stages": sorted(elapsed), "steps": trainer.global_step}

    assert same_in_both(run)["stages"] == ["predict", "sanity_check", "test", "train", "validate"]


def test_times_of_the_stages(same_in_both: Any) -> None:
    def run(program: Any) -> list[bool]:
        timer = program.pl.callbacks.Timer()
        trainer, model = program.trainer(timer, max_epochs=1), program.model([1.0])
        trainer.fit(model)
        trainer.test(model, verbose=False)
        return [timer.time_elapsed(stage) > 0 for stage in ("train", "validate", "test", "predict")]

    assert same_in_both(run) == [True, True, True, False]
