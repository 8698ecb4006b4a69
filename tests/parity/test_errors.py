"""What cannot work is refused with an exception that a Lightning user catches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from raylight.utilities.exceptions import MisconfigurationException

FLAGS: list[dict[str, Any]] = [
    {"accelerator": "nothing"},
    {"accelerator": "gpu"},
    {"devices": 0},
    {"devices": []},
    {"devices": "0"},
    {"num_nodes": 0},
    {"num_nodes": "two"},
    {"strategy": "nothing"},
    {"precision": "17"},
    {"precision": "32-mixed"},
    {"fast_dev_run": -1},
    {"max_epochs": -2},
    {"max_steps": -2},
    {"max_time": "one hour"},
    {"limit_train_batches": -1},
    {"limit_val_batches": 1.5},
    {"limit_test_batches": -0.1},
    {"overfit_batches": 2.5},
    {"val_check_interval": 1.2},
    {"val_check_interval": -1},
    {"check_val_every_n_epoch": 0.5},
    {"check_val_every_n_epoch": None, "val_check_interval": 0.5},
    {"gradient_clip_val": "0.5"},
    {"gradient_clip_algorithm": "total"},
    {"reload_dataloaders_every_n_epochs": -1},
    {"reload_dataloaders_every_n_epochs": 0.5},
    {"profiler": "nothing"},
    {"nothing": 1},
    {"barebones": True, "fast_dev_run": True},
    {"barebones": True, "logger": True},
    {"barebones": True, "detect_anomaly": True},
]


@pytest.mark.parametrize("flags", FLAGS, ids=repr)
def test_flags(flags: dict[str, Any], same_error: Any) -> None:
    def run(side: Any) -> Any:
        settings = {"launcher": "local"} if side.ours else {}
        return side.pl.Trainer(**{"accelerator": "cpu", "devices": 1, **settings, **flags})

    same_error(run)


def test_flags_that_contradict_callbacks(same_error: Any) -> None:
    same_error(lambda side: side.trainer(side.pl.callbacks.ModelCheckpoint(), enable_checkpointing=False))
    same_error(lambda side: side.trainer(side.pl.callbacks.TQDMProgressBar(), enable_progress_bar=False))
    same_error(lambda side: two_bars(side))


def two_bars(side: Any) -> Any:
    bars = side.pl.callbacks.TQDMProgressBar(), side.pl.callbacks.RichProgressBar()
    return side.trainer(*bars, enable_progress_bar=True)


def without(side: Any, *names: str) -> Any:
    """A complete model that lacks ``names``."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).sum()

    def evaluate(self: Any, batch: Any, batch_idx: int) -> None: ...

    def loader(self: Any) -> Any:
        return side.loader(1)

    def make_layer(self: Any) -> None:
        side.pl.LightningModule.__init__(self)
        self.layer = torch.nn.Linear(3, 1)

    methods = {
        "training_step": training_step, "validation_step": evaluate, "test_step": evaluate,
        "configure_optimizers": lambda self: SGD(self.parameters(), 0.1),
        "train_dataloader": loader, "val_dataloader": loader, "test_dataloader": loader, "predict_dataloader": loader,
        "__init__": make_layer,
    }  # fmt: skip
    return type("Model", (side.pl.LightningModule,), {k: v for k, v in methods.items() if k not in names})()


MISSING = [
    ("fit", "training_step"), ("fit", "configure_optimizers"), ("fit", "train_dataloader"),
    ("validate", "validation_step"), ("validate", "val_dataloader"), ("test", "test_step"), ("test", "test_dataloader"),
    ("predict", "predict_dataloader"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name"), MISSING)
def test_missing_method(method: str, name: str, same_error: Any) -> None:
    error = same_error(lambda side: getattr(side.trainer(), method)(without(side, name)))
    assert isinstance(error, MisconfigurationException)


def test_predict_without_a_forward(same_error: Any) -> None:
    same_error(lambda side: side.trainer().predict(without(side)))


@pytest.mark.parametrize(
    ("name", "message"),
    [("validation_step", "but have no `validation_step`"), ("val_dataloader", "but have no `val_dataloader`")],
)
def test_half_a_validation_is_said(name: str, message: str, ours: Any) -> None:
    with pytest.warns(UserWarning, match=message):
        ours.trainer().fit(without(ours, name))


def test_loaders_beside_a_datamodule(same_error: Any) -> None:
    def data(side: Any) -> Any:
        return type("Data", (side.pl.LightningDataModule,), {"train_dataloader": lambda self: side.loader()})()

    same_error(lambda side: side.trainer().fit(side.Model(), train_dataloaders=side.loader(), datamodule=data(side)))
    same_error(lambda side: side.trainer().fit(side.Model(), val_dataloaders=side.loader(), datamodule=data(side)))
    same_error(lambda side: side.trainer().test(without(side), dataloaders=side.loader(), datamodule=data(side)))


@pytest.mark.parametrize("model", [torch.nn.Linear(1, 1), None, "model"], ids=["Module", "None", "str"])
@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_no_lightning_module(method: str, model: Any, same_error: Any) -> None:
    same_error(lambda side: getattr(side.trainer(), method)(model))


@pytest.mark.parametrize("flags", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}])
def test_flags_against_manual_optimization(flags: dict[str, Any], same_error: Any) -> None:
    def run(side: Any) -> None:
        model = side.Model()
        model.automatic_optimization = False
        side.trainer(**flags).fit(model)

    same_error(run)


@pytest.mark.parametrize("flags", [{"val_check_interval": 7}, {"limit_train_batches": 0.1}, {"overfit_batches": 0.01}])
@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_flags_against_the_data(flags: dict[str, Any], same_error: Any) -> None:
    same_error(lambda side: side.trainer(**flags).fit(without(side), side.loader()))


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.ones(3), torch.ones(1)


@pytest.mark.parametrize("flags", [{"val_check_interval": 0.5}, {"limit_train_batches": 0.5}])
def test_shares_of_an_unknown_length(flags: dict[str, Any], same_error: Any) -> None:
    loader = torch.utils.data.DataLoader(Stream())
    same_error(lambda side: side.trainer(**flags).fit(side.Model(), loader))


OPTIMIZERS: dict[str, Any] = {
    "several": lambda p: [SGD(p, 0.1), SGD(p, 0.1)],
    "text": lambda p: "sgd",
    "number": lambda p: 1,
    "plateau without monitor": lambda p: ([SGD(p, 0.1)], [ReduceLROnPlateau(SGD(p, 0.1))]),
    "plateau dict without monitor": lambda p: scheduled(p, lambda o: {"scheduler": ReduceLROnPlateau(o)}),
    "dict without scheduler": lambda p: scheduled(p, lambda o: {"interval": "step"}),
    "bad interval": lambda p: scheduled(p, lambda o: {"scheduler": StepLR(o, 1), "interval": "batch"}),
    "other optimizer's scheduler": lambda p: ([SGD(p, 0.1)], [StepLR(SGD(p, 0.1), 1)]),
    "scheduler of no known kind": lambda p: scheduled(p, OwnScheduler),
}


class OwnScheduler(SimpleNamespace):
    """No torch scheduler, but with the methods that checkpoints need."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer=optimizer, state_dict=dict, load_state_dict=id)


def scheduled(parameters: Any, make: Any) -> Any:
    optimizer = SGD(parameters, 0.1)
    return {"optimizer": optimizer, "lr_scheduler": make(optimizer)}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers(case: str, same_error: Any) -> None:
    def run(side: Any) -> None:
        model = type(
            "Model", (side.Model,), {"configure_optimizers": lambda self: OPTIMIZERS[case](list(self.parameters()))}
        )
        side.fit(model())

    same_error(run)


@pytest.mark.parametrize("returned", [{"no loss": 1}, 1.0, "loss", [torch.zeros(1)]], ids=str)
def test_what_training_step_may_not_return(returned: Any, same_error: Any) -> None:
    same_error(lambda side: side.fit(type("Model", (side.Model,), {"training_step": lambda self, b, i: returned})()))


def test_several_loaders_need_an_argument(same_error: Any) -> None:
    same_error(lambda side: side.trainer().validate(without(side), [side.loader(1), side.loader(1)]))


def test_one_loader_does_not_give_the_argument(same_error: Any) -> None:
    def run(side: Any) -> None:
        model = type("Model", (side.Model,), {"validation_step": lambda self, batch, batch_idx, dataloader_idx: None})
        side.trainer().validate(model(), side.loader(1), verbose=False)

    same_error(run)


@pytest.mark.parametrize("loader", [1, torch.nn.Linear(1, 1), None], ids=str)
def test_loaders_that_are_none(loader: Any, same_error: Any) -> None:
    same_error(lambda side: side.fit(type("Model", (side.Model,), {"train_dataloader": lambda self: loader})()))


def test_sequential_training(same_error: Any) -> None:
    def run(side: Any) -> None:
        from importlib import import_module

        module = import_module(f"{side.pl.__name__}.utilities.combined_loader")
        side.trainer().fit(side.Model(), module.CombinedLoader([side.loader(1)], "sequential"))

    same_error(run)


def test_two_callbacks_with_one_state_key(same_error: Any) -> None:
    def run(side: Any) -> None:
        stateful = type("Stateful", (side.pl.Callback,), {"state_dict": lambda self: {"a": 1}})
        side.fit(side.Model(), stateful(), stateful())

    same_error(run)


def test_best_without_a_checkpoint_callback(same_error: Any) -> None:
    same_error(lambda side: side.trainer().validate(without(side), ckpt_path="best"))
    same_error(lambda side: side.trainer(fast_dev_run=True).validate(without(side), ckpt_path="best"))


def test_manual_backward_in_automatic_optimization(same_error: Any) -> None:
    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.manual_backward(self.loss(batch))

        side.fit(Model())

    same_error(run)


def test_hparams_that_contradict(same_error: Any) -> None:
    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self, width: int) -> None:
                super().__init__()
                self.save_hyperparameters()

        class Data(side.pl.LightningDataModule):  # type: ignore[misc]
            def __init__(self, width: int) -> None:
                super().__init__()
                self.save_hyperparameters()

            def train_dataloader(self) -> Any:
                return side.loader()

        side.trainer().fit(Model(3), Data(4))

    same_error(run)


def test_model_without_a_trainer(same_error: Any) -> None:
    same_error(lambda side: side.Model().trainer)
    same_error(lambda side: side.Model().optimizers())


def test_unknown_flags_come_with_a_guess() -> None:
    import raylight

    with pytest.raises(
        TypeError,
        match=r"'max_epoch' \(did you mean max_epochs\?\), 'gpu' \(did you mean accelerator='gpu'\?\)",
    ):
        raylight.Trainer(max_epoch=1, gpu=2)


def test_all_mistakes_at_once() -> None:
    import raylight

    with pytest.raises(MisconfigurationException) as caught:
        raylight.Trainer(max_epochs=-2, limit_val_batches=1.5, launcher="nowhere")
    assert all(name in str(caught.value) for name in ("max_epochs", "limit_val_batches", "launcher"))


def test_users_exception_keeps_its_type_and_the_trainer_says_so(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class OwnError(Exception):
            pass

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                raise OwnError

        heard: list[str] = []
        hook = side.callback(on_exception=lambda trainer, module, error: heard.append(type(error).__name__))
        trainer = side.trainer(hook)
        with pytest.raises(OwnError):
            trainer.fit(Model())
        return heard, trainer.interrupted, str(trainer.state.status.value), side.logger.statuses[-1]

    same_in_both(run)
