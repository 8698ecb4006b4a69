"""What a call of the Trainer raises, says, hands on and takes up again, as in Lightning."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from raylight.demos.boring_classes import BoringModel
from raylight.utilities.exceptions import IncompleteCheckpointError, MisconfigurationException

# ------------------------------------------------------------------------------------------------ errors


WITHOUT_VALIDATION = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
OLD_PYTREE = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # in Lightning


def bare(side: Any) -> Any:
    """A model that has steps and no loaders."""

    class Bare(side.pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Bare()


def with_loaders(side: Any, given: Any) -> Any:
    model = bare(side)
    model.train_dataloader = model.val_dataloader = None if given is None else lambda: given
    return model


ERRORS = {
    "no loader": lambda side: side.trainer().fit(bare(side)),
    "loader is no loader": lambda side: side.trainer().fit(bare(side), 5),
    "one of them is none": lambda side: side.trainer().validate(bare(side), [side.loader(), 3]),
    "hook is None": lambda side: side.trainer().fit(with_loaders(side, None)),
    "no step": lambda side: side.trainer().fit(side.pl.LightningModule(), side.loader()),
    "no evaluation step": lambda side: side.trainer().test(bare(side), side.loader()),
    "no model": lambda side: side.trainer().validate(dataloaders=side.loader()),
    "no LightningModule": lambda side: side.trainer().fit(torch.nn.Linear(1, 1)),
    "both": lambda side: side.trainer().fit(bare(side), side.loader(), datamodule=side.pl.LightningDataModule()),
    "both in test": lambda side: side.trainer().test(
        bare(side), side.loader(), datamodule=side.pl.LightningDataModule()
    ),
    "share of the unknown": lambda side: side.trainer(limit_val_batches=0.5).validate(bare(side), iter([1])),
    "share too small": lambda side: side.trainer(limit_train_batches=0.01).fit(bare(side), side.loader()),
    "no such file": lambda side: side.trainer().fit(bare(side), side.loader(), ckpt_path="nothing.ckpt"),
}


@WITHOUT_VALIDATION
@OLD_PYTREE
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str, same_error: Any, both_sides: Any) -> None:
    """Of the same class, and the message begins in the same way."""
    error = same_error(ERRORS[name])
    with pytest.raises(Exception, match=".") as theirs:
        ERRORS[name](both_sides[0])
    assert str(error)[:35] == str(theirs.value)[:35]


@WITHOUT_VALIDATION
def test_state_after_an_error(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.trainer()
        with pytest.raises(ValueError if side.ours else side.pl.utilities.exceptions.MisconfigurationException):
            trainer.fit(bare(side))
        return [trainer.state.status.value, trainer.state.fn.value, trainer.state.stage]

    assert same_in_both(run) == ["interrupted", "fit", None]


def test_optimization_that_cannot_work(same_error: Any) -> None:
    def model(side: Any, automatic: bool = True, **methods: Any) -> Any:
        made = type("Wrong", (side.Model,), methods)()
        made.automatic_optimization = automatic
        return made

    def clips(self: Any, optimizer: Any, **_: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=3, gradient_clip_algorithm="norm")

    def refused(run: Any) -> str:
        error = same_error(run)
        assert isinstance(error, MisconfigurationException)
        return str(error)

    said = refused(lambda side: side.fit(model(side, configure_gradient_clipping=clips), gradient_clip_val=1))
    assert said.startswith("You have set `Trainer(gradient_clip_val=1)` and have passed")
    said = refused(lambda side: side.fit(model(side, optimizer_step=lambda *_: None)))
    assert said.startswith("The closure hasn't been executed.")
    said = refused(lambda side: side.fit(model(side, automatic=False, training_step=lambda *_: 3)))
    assert said == "In manual optimization, `training_step` must either return a Tensor or have no return."
    said = refused(lambda side: side.fit(model(side, training_step=lambda self, batch, idx: self.manual_backward(0))))
    assert said.startswith("to use manual_backward, please disable automatic optimization")


def test_scheduler_without_a_state(same_error: Any) -> None:
    class Stateless:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_optimizers(self) -> Any:
                optimizer = super().configure_optimizers()
                return [optimizer], [Stateless(optimizer)]

        side.fit(Model())

    assert "provided lr scheduler `Stateless` is invalid" in str(same_error(run))


# ------------------------------------------------------------------------------------------------ warnings


class Backwards(Sampler[int]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Any:
        return iter(range(self.length - 1, -1, -1))

    def __len__(self) -> int:
        return self.length


def sampled(sampler: type[Any] | None = None, **settings: Any) -> Any:
    dataset = torch.utils.data.TensorDataset(torch.ones(4, 3), torch.ones(4, 1))
    return DataLoader(dataset, sampler=None if sampler is None else sampler(4), **settings)


def test_loaders_are_commented_on(ours: Any) -> None:
    def fit(loader: Any, *val: Any, **flags: Any) -> Any:
        trainer = ours.trainer(**flags)
        trainer.fit(ours.Model() if not val else bare(ours), loader, *val)
        return trainer

    with pytest.warns(UserWarning, match="Total length of `DataLoader` across ranks is zero"):
        fit(DataLoader([]))
    with pytest.warns(UserWarning, match="Your `val_dataloader`'s sampler has shuffling enabled"):
        fit(sampled(), sampled(shuffle=True))
    with pytest.warns(UserWarning, match="to overfit but enabled train dataloader shuffling"):
        trainer = fit(sampled(Backwards), overfit_batches=1)
    assert isinstance(trainer.train_dataloader.sampler, SequentialSampler)
    with pytest.warns(UserWarning, match="to overfit but enabled val dataloader shuffling"):
        trainer = fit(sampled(), sampled(shuffle=True), overfit_batches=1, num_sanity_val_steps=0)
    assert not isinstance(trainer.val_dataloaders.sampler, RandomSampler)


@pytest.mark.filterwarnings("default:The '.*_dataloader' does not have many workers")
def test_few_processes_are_commented_on(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylight.worker.loader_advice.suggested_max_num_workers", lambda workers: 7)
    with pytest.warns(UserWarning, match="The 'train_dataloader' does not have many workers .* `num_workers=7`"):
        ours.fit(ours.Model())


def test_what_predict_returns(ours: Any) -> None:
    class Model(ours.Model):  # type: ignore[misc, name-defined]
        def predict_step(self, batch: Any, batch_idx: int) -> None: ...

    with pytest.warns(UserWarning, match="predict returned None if it was on purpose"):
        assert ours.trainer().predict(Model(), ours.loader(2)) == [None, None]
    assert ours.trainer(limit_predict_batches=0).predict(Model(), ours.loader(2)) is None


def test_a_stop_that_comes_too_early_is_told_once(ours: Any, caplog: pytest.LogCaptureFixture) -> None:
    def stop(trainer: Any, *_: Any) -> None:
        trainer.should_stop = True

    trainer = ours.fit(ours.Model(), ours.callback(on_train_batch_end=stop), min_epochs=2, max_epochs=3)
    assert trainer.current_epoch == 2
    assert sum("signaled to stop but the required" in message for message in caplog.messages) == 1


# ------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("saved", ["at the epoch's end", "after fit"])
@pytest.mark.parametrize("first", [{"max_steps": 2}, {"max_steps": 7, "max_epochs": -1}])
def test_an_epoch_that_max_steps_cut_short_goes_on(saved: str, first: dict[str, int], same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        path, seen = side.root / "saved.ckpt", []
        saving = side.callback(on_train_epoch_end=lambda trainer, _: trainer.save_checkpoint(path))
        trainer = side.fit(side.Model(), *([saving] if saved == "at the epoch's end" else []), **first)
        if saved == "after fit":
            trainer.save_checkpoint(path)
        note = side.callback(
            on_train_epoch_start=lambda trainer, _: seen.append(["epoch", trainer.current_epoch]),
            on_train_batch_start=lambda trainer, *args: seen.append([trainer.current_epoch, args[-1]]),
        )
        trainer = side.trainer(note, max_steps=11, max_epochs=-1)
        trainer.fit(side.Model(), ckpt_path=path)
        return [*seen, trainer.global_step, trainer.current_epoch]

    same_in_both(run)


def test_sanity_check_of_a_fit_that_goes_on(same_in_both: Any) -> None:
    """It comes after whole epochs, and not within one."""

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                seen.append(self.trainer.sanity_checking)

            def val_dataloader(self) -> Any:
                return side.loader(1)

        seen: list[bool] = []
        saving = side.callback(
            on_train_batch_end=lambda trainer, *args: (
                trainer.save_checkpoint(side.root / "within.ckpt") if args[-1] == 1 else None
            ),
            on_train_end=lambda trainer, _: trainer.save_checkpoint(side.root / "after.ckpt"),
        )
        side.fit(Model(), saving)
        found = []
        for name in ("within", "after"):
            seen.clear()
            side.trainer(max_epochs=2, num_sanity_val_steps=1).fit(Model(), ckpt_path=side.root / f"{name}.ckpt")
            found.append(list(seen))
        return found

    same_in_both(run)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_counters_of_a_checkpoint_made_within_a_batch(batch: int, accumulate: int, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, given: Any, batch_idx: int) -> Any:
                if (self.current_epoch, batch_idx) == (1, batch):
                    self.trainer.save_checkpoint(side.root / "within.ckpt")
                return super().training_step(given, batch_idx)

        side.fit(Model(), max_epochs=2, accumulate_grad_batches=accumulate)
        return torch.load(side.root / "within.ckpt", weights_only=False)["loops"]["fit_loop"]

    same_in_both(run)


def test_weights_are_not_enough_to_go_on(ours: Any) -> None:
    trainer = ours.fit(ours.Model())
    trainer.save_checkpoint(ours.root / "weights.ckpt", weights_only=True)
    with pytest.raises(IncompleteCheckpointError, match="checkpoint contains only the model"):
        ours.trainer(max_epochs=2).fit(ours.Model(), ckpt_path=ours.root / "weights.ckpt")


def test_loaders_are_asked_for_again(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

            def val_dataloader(self) -> Any:
                seen.append(self.current_epoch)
                return side.loader(1)

        seen: list[int] = []
        flags = {"max_epochs": 6, "reload_dataloaders_every_n_epochs": 3, "check_val_every_n_epoch": 2}
        side.fit(Model(), num_sanity_val_steps=1, **flags)
        return seen

    assert same_in_both(run) == [0, 1, 5]


# ------------------------------------------------------------------------------------------------ loops and hooks


def test_steps_that_take_the_iterator(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        seen = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, dataloader_iter: Any) -> None:
                _, batch_idx, dataloader_idx = next(dataloader_iter)
                seen.append([batch_idx, dataloader_idx])

            def predict_step(self, dataloader_iter: Any) -> int:
                return int(next(dataloader_iter)[1])

        trainer = side.trainer()
        trainer.validate(Model(), [side.loader(2), side.loader(1)], verbose=False)
        return [*seen, trainer.predict(Model(), side.loader(3))]

    assert same_in_both(run) == [[0, 0], [1, 0], [0, 1], [0, 1, 2]]


def test_a_wrapped_hook_is_called_but_no_hook_of_its_own(same_in_both: Any) -> None:
    """Such as a test puts on a model, to see what is called."""

    def run(side: Any) -> Any:
        seen: list[str] = []
        model = side.Model()
        for name in ("prepare_data", "on_train_start", "configure_model", "configure_gradient_clipping"):
            method = getattr(model, name)

            def called(method: Any, *args: Any, **kwargs: Any) -> Any:
                seen.append(method.__name__)
                assert sorted(kwargs) in ([], ["gradient_clip_algorithm", "gradient_clip_val"])
                return method(*args, **kwargs)

            setattr(model, name, functools.update_wrapper(functools.partial(called, method), method))
        model.validation_step = None
        side.fit(model, limit_train_batches=1)
        return seen

    assert same_in_both(run) == ["on_train_start", "configure_gradient_clipping"]


def test_views_of_the_loops(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        trainer, model = side.trainer(), Model()
        before = trainer.fit_loop.max_steps
        trainer.fit(model, side.loader(), side.loader(2))
        loop = trainer.fit_loop
        found = [before, loop.done, loop.skip, loop.state_dict(), trainer.val_check_batch]
        found.append(loop.epoch_loop.val_loop.batch_progress.total.ready)
        trainer.validate(model, [side.loader(3)], verbose=False)
        return [*found, trainer.validate_loop.max_batches, trainer.validate_loop.num_dataloaders]

    same_in_both(run)


def test_optimizers_stay_readable(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = side.Model()
        side.fit(model)
        return [type(model.optimizers()).__name__, model.optimizers().param_groups[0]["lr"], model.lr_schedulers()]

    same_in_both(run)


def test_estimate_of_the_unknown(same_in_both: Any) -> None:
    class Endless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return torch.ones(3), torch.ones(1)

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_optimizers(self) -> Any:
                seen.append(self.trainer.estimated_stepping_batches)
                return super().configure_optimizers()

        seen: list[float] = []
        for max_steps in (-1, 3):
            loader = (batch for batch in [(torch.ones(1, 3), torch.ones(1, 1))])
            side.trainer(max_steps=max_steps).fit(Model(), loader)
        return seen

    assert same_in_both(run) == [-1, 3]


# ------------------------------------------------------------------------------------------------ the Trainer itself


def test_a_trainer_can_be_copied(ours: Any) -> None:
    trainer = ours.fit(BoringModel(), logger=False)
    for copied in (pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)):
        assert copied.global_step == trainer.global_step == 64
        assert copied.run is None
    copied.fit_loop.max_epochs = 2
    copied.fit(copied.lightning_module)
    assert copied.current_epoch == 2


def test_print_without_a_run(ours: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ours.trainer().print("one", "two", sep="-")
    assert capsys.readouterr().out == "one-two\n"


def test_init_module(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        with side.trainer(precision="bf16-true").init_module():
            layer = torch.nn.Linear(1, 1)
        generator = torch.random.get_rng_state()
        with side.trainer().init_module(empty_init=True):
            empty = torch.nn.Linear(1, 1)
        drawn = not torch.equal(generator, torch.random.get_rng_state())
        return [str(layer.weight.dtype), str(empty.weight.dtype), drawn]

    assert same_in_both(run) == ["torch.bfloat16", "torch.float32", False]
