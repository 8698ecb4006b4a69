"""``trainer.fit_loop``: the counters that Lightning keeps, after a fit and in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

RUNS: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 2},
    "steps": {"max_epochs": -1, "max_steps": 7},
    "accumulation": {"max_epochs": 2, "accumulate_grad_batches": 2},
    "few batches": {"max_epochs": 3, "limit_train_batches": 1},
}


def counters(trainer: Any) -> dict[str, Any]:
    loop = trainer.fit_loop
    epoch_loop = loop.epoch_loop
    automatic = epoch_loop.automatic_optimization.optim_progress
    progresses = {
        "epochs": loop.epoch_progress,
        "batches": epoch_loop.batch_progress,
        "schedulers": epoch_loop.scheduler_progress,
        "steps": automatic.optimizer.step,
        "zero_grads": automatic.optimizer.zero_grad,
        "manual": epoch_loop.manual_optimization.optim_step_progress,
    }
    both = {f"{name} {kind}": dict(vars(getattr(p, kind))) for name, p in progresses.items() for kind in KINDS}
    scalars = (epoch_loop.global_step, epoch_loop.batch_idx, epoch_loop.total_batch_idx, automatic.optimizer_steps)
    return {**both, "scalars": scalars, "is_last_batch": epoch_loop.batch_progress.is_last_batch}


KINDS = ("total", "current")


def model_of(side: Any) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    return Model()


@pytest.mark.parametrize("flags", RUNS.values(), ids=list(RUNS))
def test_after_fit(same_in_both: Callable[..., Any], flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        return counters(side.fit(model_of(side), **flags))

    assert same_in_both(run)["scalars"][0] > 0


def test_manual_optimization(same_in_both: Callable[..., Any]) -> None:
    def run(side: Any) -> Any:
        class Manual(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                    self.manual_backward(self.loss(batch))
                    optimizer.step()

            def configure_optimizers(self) -> Any:
                return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

        return counters(side.fit(Manual(), max_epochs=2))

    assert same_in_both(run)["manual total"]["completed"] == 20
