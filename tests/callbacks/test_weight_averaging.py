"""WeightAveraging by itself; what it does to numbers and files is compared with Lightning in tests/parity."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import pytest
import torch

from raylight.callbacks import WeightAveraging
from raylight.callbacks.weight_averaging import EMAWeightAveraging


@pytest.mark.parametrize(
    ("arguments", "steps", "epochs"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7], []),
        ({"update_every_n_steps": 3}, [0, 3, 6], []),
        ({"update_every_n_steps": 3, "update_starting_at_step": 4}, [6], []),
        ({"update_every_n_steps": 0}, [], []),
        ({"update_starting_at_step": 6, "update_starting_at_epoch": 2}, [6, 7], [2, 3]),
    ],
)
def test_when_to_update(arguments: Any, steps: list[int], epochs: list[int]) -> None:
    callback = EMAWeightAveraging(**arguments)
    assert [step for step in range(8) if callback.should_update(step_idx=step)] == steps
    assert [epoch for epoch in range(4) if callback.should_update(epoch_idx=epoch)] == epochs
    assert not callback.should_update()


def test_validation_sees_the_average(in_raylight: Any) -> None:
    seen: list[Any] = []

    class Watching(WeightAveraging):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            current, average = deepcopy(pl_module.state_dict()), deepcopy(self._average_model.module.state_dict())  # type: ignore[union-attr]
            super().on_validation_epoch_start(trainer, pl_module)
            seen.append((average, deepcopy(pl_module.state_dict()), current))

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_validation_epoch_end(trainer, pl_module)
            seen[-1] = (*seen[-1], deepcopy(pl_module.state_dict()))

    model, callback = in_raylight.model(val_losses=[1.0]), Watching()
    in_raylight.trainer(callback, max_epochs=2).fit(model)
    average, in_validation, before, after = seen[-1]
    torch.testing.assert_close(in_validation, average, rtol=0, atol=0)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(average["layer.weight"], before["layer.weight"])
    torch.testing.assert_close(model.state_dict(), average, rtol=0, atol=0)


def test_the_copy_is_its_own_model(in_raylight: Any) -> None:
    model, callback = in_raylight.model(), WeightAveraging()
    in_raylight.trainer(callback, max_epochs=1).fit(model)
    average: Any = callback._average_model
    assert average.module is not model
    assert average.module._trainer is None
    assert int(average.n_averaged) == 4


def test_a_new_trainer_begins_anew(in_raylight: Any) -> None:
    callback = WeightAveraging()
    for _ in range(2):
        in_raylight.trainer(callback, max_epochs=1).fit(in_raylight.model())
        assert int(callback._average_model.n_averaged) == 4  # type: ignore[union-attr]


def test_saving_without_an_average(in_raylight: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In an evaluation there is none: the file is as without the callback."""
    model, callback = in_raylight.model(val_losses=[1.0]), WeightAveraging()
    trainer = in_raylight.trainer(callback)
    trainer.validate(model, verbose=False)
    with caplog.at_level(logging.INFO, logger="raylight"):
        trainer.save_checkpoint(in_raylight.root / "model.ckpt")
    assert any("saving a checkpoint outside the 'fit' stage" in message for message in caplog.messages)
    assert "averaging_state" not in torch.load(in_raylight.root / "model.ckpt")


def test_averaged_weights_are_those_of_the_file(in_raylight: Any) -> None:
    callback = EMAWeightAveraging(decay=0.5)
    model = in_raylight.model()
    trainer = in_raylight.trainer(callback, max_epochs=1)
    trainer.fit(model)
    path = in_raylight.root / "model.ckpt"
    trainer.save_checkpoint(path)
    loaded = type(model).load_from_checkpoint(path)
    torch.testing.assert_close(loaded.state_dict(), callback._average_model.module.state_dict(), rtol=0, atol=0)  # type: ignore[union-attr]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_device(in_raylight: Any, device: Any) -> None:
    callback = WeightAveraging(device=device)
    in_raylight.trainer(callback, fast_dev_run=True).fit(in_raylight.model())
    assert next(callback._average_model.parameters()).device.type == "cpu"  # type: ignore[union-attr]
