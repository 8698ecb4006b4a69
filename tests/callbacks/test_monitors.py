"""Names of LearningRateMonitor equal Lightning's for all mixtures of optimizers and schedulers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import LearningRateMonitor as LightningMonitor
from torch.optim import SGD, Adam

from raylight.callbacks import LearningRateMonitor
from raylight.callbacks.monitors import _watch
from raylight.utilities.exceptions import MisconfigurationException


def make_parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1))


def make_optimizer(cls: Any, *group_names: str | None) -> Any:
    groups: list[dict[str, Any]] = []
    for name in group_names or (None,):
        groups.append({"params": [make_parameter()]} | ({} if name is None else {"name": name}))
    return cls(groups, lr=0.1)


def make_config(optimizer: Any, name: str | None = None, interval: str = "epoch") -> Any:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    return SimpleNamespace(scheduler=scheduler, name=name, interval=interval)


def mixtures() -> dict[str, tuple[list[Any], list[Any]]]:
    """Scheduler configs, and optimizers, by what is special."""
    sgd, adam, second_sgd, third_sgd = (make_optimizer(cls) for cls in (SGD, Adam, SGD, SGD))
    groups, named = make_optimizer(SGD, None, None), make_optimizer(SGD, "body", "head")
    return {
        "no scheduler": ([], [sgd]),
        "one": ([make_config(sgd)], [sgd]),
        "one with a name": ([make_config(sgd, "mine")], [sgd]),
        "two classes": ([make_config(sgd), make_config(adam)], [sgd, adam]),
        "one class twice": ([make_config(sgd), make_config(second_sgd)], [sgd, second_sgd]),
        "thrice, one scheduled": ([make_config(second_sgd)], [sgd, second_sgd, third_sgd]),
        "two schedulers of one": ([make_config(sgd), make_config(sgd, interval="step")], [sgd]),
        "name and class": ([make_config(sgd, "mine"), make_config(second_sgd)], [sgd, second_sgd]),
        "groups": ([make_config(groups)], [groups, sgd]),
        "named groups": ([], [named]),
        "one named group": ([], [make_optimizer(Adam, "all")]),
    }


@pytest.mark.parametrize("mixture", mixtures())
def test_names_are_lightnings(mixture: str) -> None:
    configs, optimizers = mixtures()[mixture]
    trainer: Any = SimpleNamespace(lr_scheduler_configs=configs, optimizers=optimizers, loggers=[object()])
    ours, lightnings = LearningRateMonitor(), LightningMonitor()
    ours.on_train_start(trainer, trainer)
    lightnings.on_train_start(trainer, trainer)
    assert list(ours.lrs) == list(lightnings.lrs)
    assert ours.last_momentum_values == lightnings.last_momentum_values
    assert ours.last_weight_decay_values == lightnings.last_weight_decay_values


def test_equal_group_names() -> None:
    trainer: Any = SimpleNamespace(lr_scheduler_configs=[], optimizers=[make_optimizer(SGD, "same", "same")])
    with pytest.raises(MisconfigurationException, match="identical `name` values. lr-SGD has .*'same'"):
        _watch(trainer)


def test_unknown_interval() -> None:
    interval: Any = "test"
    with pytest.raises(MisconfigurationException, match="logging_interval should be `step` or `epoch` or `None`"):
        LearningRateMonitor(logging_interval=interval)


def test_warns_without_momentum() -> None:
    adagrad = make_optimizer(torch.optim.Adagrad)
    trainer: Any = SimpleNamespace(lr_scheduler_configs=[], optimizers=[adagrad], loggers=[object()])
    with pytest.warns(RuntimeWarning, match="some optimizers do not have momentum"):
        LearningRateMonitor(log_momentum=True).on_train_start(trainer, trainer)
