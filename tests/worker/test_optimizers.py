"""configure_optimizers, in all the forms that it may return."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau, StepLR

import raylight
from raylight.utilities.exceptions import MisconfigurationException
from raylight.worker.optimizers import LightningOptimizer, configure, needs_closure, raw

PARAMETERS = [torch.nn.Parameter(torch.zeros(1))]


def configured(returned: Any, automatic: bool = True) -> Any:
    model = raylight.LightningModule()
    model.automatic_optimization = automatic
    model.configure_optimizers = lambda: returned  # type: ignore[method-assign]
    return configure(model)[:2]


def sgd() -> SGD:
    return SGD(PARAMETERS, lr=0.1)


FORMS: dict[str, Any] = {
    "optimizer": lambda o, s: o,
    "list": lambda o, s: [o],
    "tuple": lambda o, s: (o,),
    "lists": lambda o, s: ([o], [s]),
    "lists with dict": lambda o, s: ([o], [{"scheduler": s}]),
    "list and dict": lambda o, s: ([o], {"scheduler": s}),
    "dict": lambda o, s: {"optimizer": o},
    "dict with scheduler": lambda o, s: {"optimizer": o, "lr_scheduler": s},
    "dict with dict": lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s}},
    "dict without": lambda o, s: {"optimizer": o, "lr_scheduler": None},
    "list of dicts": lambda o, s: [{"optimizer": o, "lr_scheduler": s}],
    "tuple of dicts": lambda o, s: ({"optimizer": o, "lr_scheduler": {"scheduler": s}},),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    optimizer = sgd()
    scheduler = StepLR(optimizer, 1)
    optimizers, schedulers = configured(FORMS[form](optimizer, scheduler))
    assert optimizers == [optimizer]
    with_scheduler = form not in ("optimizer", "list", "tuple", "dict", "dict without")
    assert [config.scheduler for config in schedulers] == ([scheduler] if with_scheduler else [])


def test_settings_of_a_scheduler() -> None:
    optimizer = sgd()
    settings = {"interval": "step", "frequency": 3, "monitor": "loss", "strict": False, "name": "rate"}
    _, (config,) = configured({"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 1), **settings}})
    assert {name: getattr(config, name) for name in settings} == settings
    assert not config.reduce_on_plateau


def test_monitor_beside_the_scheduler() -> None:
    optimizer = sgd()
    plateau = ReduceLROnPlateau(optimizer)
    _, (config,) = configured({"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "loss"})
    assert (config.monitor, config.reduce_on_plateau) == ("loss", True)
    _, (config,) = configured([{"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "loss"}])
    assert config.monitor == "loss"


def test_several_by_hand() -> None:
    first, second = sgd(), Adam(PARAMETERS)
    optimizers, schedulers = configured(([first, second], [StepLR(first, 1), StepLR(second, 1)]), automatic=False)
    assert (optimizers, len(schedulers)) == ([first, second], 2)


def test_several_automatically() -> None:
    with pytest.raises(RuntimeError, match="manual optimization"):
        configured([sgd(), sgd()])


@pytest.mark.parametrize("returned", ["sgd", 3, [sgd(), "sgd"], {"lr_scheduler": 1}, {"optimiser": 1}], ids=str)
def test_unknown_forms(returned: Any) -> None:
    with pytest.raises(MisconfigurationException, match="configur"):
        configured(returned)


def test_none() -> None:
    with pytest.warns(UserWarning, match="no optimizer"):
        (optimizer,), schedulers = configured(None)
    assert schedulers == []
    assert optimizer.step(lambda: 3) == 3
    assert optimizer.state_dict() == {}


def test_extra_keys_are_said() -> None:
    optimizer = sgd()
    with pytest.warns(RuntimeWarning, match="{'foo'}"):
        configured({"optimizer": optimizer, "foo": 1})
    with pytest.warns(RuntimeWarning, match="{'foo'}"):
        configured({"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 1), "foo": 1}})


@pytest.mark.parametrize(
    "make", [lambda o: OneCycleLR(o, 0.1, total_steps=5), lambda o: CyclicLR(o, 0.1, 0.2, cycle_momentum=False)]
)
def test_cycle_per_epoch_is_said(make: Any) -> None:
    optimizer = SGD(PARAMETERS, lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="didn't mean 'step'"):
        configured({"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer)}})


@pytest.mark.parametrize(
    "make",
    [
        lambda o: {"scheduler": StepLR(o, 1), "interval": "batch"},
        lambda o: {"interval": "step"},
        lambda o: {"scheduler": ReduceLROnPlateau(o)},
        lambda o: ReduceLROnPlateau(o),
        lambda o: StepLR(sgd(), 1),
        lambda o: torch.nn.Module(),
    ],
)
def test_impossible_schedulers(make: Any) -> None:
    optimizer = sgd()
    with pytest.raises(MisconfigurationException, match="[Ss]cheduler"):
        configured({"optimizer": optimizer, "lr_scheduler": make(optimizer)})


def test_scheduler_without_a_state() -> None:
    with pytest.raises(TypeError, match="lr scheduler `object` is invalid"):
        configured({"optimizer": sgd(), "lr_scheduler": object()})


def test_lightning_optimizer_of_no_run() -> None:
    optimizer = LightningOptimizer(sgd())
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3


def test_closure_is_for_those_that_ask() -> None:
    assert needs_closure(LBFGS(PARAMETERS))
    assert not needs_closure(sgd())
    assert not needs_closure(Adam(PARAMETERS))


class CountingRun:
    """What a LightningOptimizer needs of a run."""

    steps = 0

    def step_optimizer(self, optimizer: Any, closure: Any, **kwargs: Any) -> Any:
        self.steps += 1
        return raw(optimizer).step(closure)


def test_lightning_optimizer_is_the_optimizer() -> None:
    optimizer, run = SGD(PARAMETERS, lr=0.1, momentum=0.9), CountingRun()
    wrapped = LightningOptimizer(optimizer, run)  # type: ignore[arg-type]
    assert isinstance(wrapped, SGD)
    assert wrapped.optimizer is optimizer
    assert wrapped.param_groups is optimizer.param_groups
    assert wrapped.state is optimizer.state
    assert repr(wrapped).startswith("LightningSGD")
    StepLR(optimizer, 1)  # puts its own "step" on the optimizer
    wrapped.step()
    assert run.steps == 1
    wrapped.param_groups[0]["lr"] = 0.7
    assert optimizer.param_groups[0]["lr"] == 0.7
    with pytest.raises(MisconfigurationException, match="callable"):
        wrapped.step(closure=3)


def test_lightning_optimizer_travels_as_torchs_own() -> None:
    wrapped = LightningOptimizer(Adam(PARAMETERS), CountingRun())  # type: ignore[arg-type]
    for copied in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert type(copied) is Adam
        assert copied.param_groups[0]["lr"] == 1e-3
