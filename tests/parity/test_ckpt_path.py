"""ckpt_path: which file is meant, and what is said where there is none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.utilities.exceptions import CheckpointError, MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning")


def make(side: Any) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        def val_dataloader(self) -> Any:
            return side.loader(2)

        test_dataloader = val_dataloader

    return Model()


def saver(side: Any, **settings: Any) -> Any:
    return side.pl.callbacks.ModelCheckpoint(side.root, monitor="val_loss", **settings)


def messages(run: Any) -> list[str]:
    """The beginnings of warnings about ckpt_path."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(each.message)[:60].replace('"', "'") for each in caught if "ckpt_path" in str(each.message)]


@pytest.mark.parametrize("method", ["validate", "test"])
@pytest.mark.parametrize("which", [None, "best", "last"])
def test_after_fit(which: str | None, method: str, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side), saver(side, save_last=True), max_epochs=2)
        before = trainer.ckpt_path
        said = messages(lambda: getattr(trainer, method)(ckpt_path=which, verbose=False))
        return before, said, Path(trainer.ckpt_path).name

    assert same_in_both(run)[0] is None


def test_given_model_is_not_loaded_into(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side), saver(side))
        return messages(lambda: trainer.test(make(side), verbose=False)), trainer.ckpt_path

    assert same_in_both(run) == [[], None]


@pytest.mark.parametrize("method", ["validate", "test"])
@pytest.mark.parametrize("callbacks", ["none", "saves nothing", "fast_dev_run"])
@pytest.mark.parametrize("which", [None, "best"])
def test_there_is_no_best(which: str | None, callbacks: str, method: str, same_error: Any) -> None:
    def run(side: Any) -> Any:
        flags = {"fast_dev_run": True} if callbacks == "fast_dev_run" else {}
        trainer = side.fit(make(side), *([] if callbacks == "none" else [saver(side, save_top_k=0)]), **flags)
        getattr(trainer, method)(ckpt_path=which)

    expected = {"none": "is not configured.", "saves nothing": "to save the best", "fast_dev_run": "fast_dev_run"}
    assert expected[callbacks] in str(same_error(run))


def test_several_savers(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side), saver(side, filename="first"), saver(side, filename="second", mode="max"))
        return messages(lambda: trainer.test(ckpt_path="best", verbose=False)), Path(trainer.ckpt_path).name

    assert same_in_both(run)[1] == "first.ckpt"


def test_newest_of_a_cluster(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side))
        for number in (2, 10, 9):
            trainer.save_checkpoint(side.root / f"hpc_ckpt_{number}.ckpt")
        again = side.trainer(max_epochs=2)
        again.fit(make(side), ckpt_path="hpc")
        return Path(again.ckpt_path).name, again.global_step

    assert same_in_both(run) == ["hpc_ckpt_10.ckpt", 10]


def test_none_of_a_cluster(same_error: Any) -> None:
    error = same_error(lambda side: side.trainer().fit(make(side), ckpt_path="hpc"))
    assert "no HPC checkpoint was found" in str(error)


def test_a_registry_is_not_there(ours: Any) -> None:
    with pytest.raises(MisconfigurationException, match="names a model registry, and there is none"):
        ours.trainer().test(make(ours), ckpt_path="registry:mine:version:2")


def test_kept_by_the_trainer(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side), saver(side))
        trainer.save_checkpoint(side.root / "kept.ckpt")
        trainer.save_checkpoint(side.root / "other.ckpt")
        seen = []
        trainer = side.trainer(saver(side))
        trainer.ckpt_path = str(side.root / "kept.ckpt")
        trainer.validate(make(side), verbose=False)
        seen.append(trainer.ckpt_path)
        trainer.test(make(side), verbose=False)
        seen.append(trainer.ckpt_path)
        said = messages(lambda: trainer.test(make(side), ckpt_path=str(side.root / "other.ckpt"), verbose=False))
        seen.append(trainer.ckpt_path)
        trainer.test(make(side), verbose=False)
        seen.append(trainer.ckpt_path)
        trainer.ckpt_path = None
        return [each and Path(each).name for each in [*seen, trainer.ckpt_path]], [bool(text) for text in said]

    assert same_in_both(run) == [["kept.ckpt", "kept.ckpt", "other.ckpt", None, None], [True]]


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_bad_files(method: str, ours: Any) -> None:
    ours.fit(make(ours)).save_checkpoint(ours.root / "good.ckpt")
    good = (ours.root / "good.ckpt").read_bytes()
    (ours.root / "half.ckpt").write_bytes(good[: len(good) // 2])
    torch.save({"w": torch.ones(1)}, ours.root / "weights.ckpt")

    def load(path: str) -> None:
        getattr(ours.trainer(), method)(make(ours), ours.loader(2), ckpt_path=path)

    with pytest.raises(FileNotFoundError, match="Checkpoint file not found: .*nothing.ckpt"):
        load(str(ours.root / "nothing.ckpt"))
    with pytest.raises(CheckpointError, match="truncated"):
        load(str(ours.root / "half.ckpt"))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(str(ours.root / "weights.ckpt"))


def test_file_of_another_model(same_error: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side)).save_checkpoint(side.root / "good.ckpt")
        other = make(side)
        other.head = torch.nn.Linear(1, 1)
        side.trainer().fit(other, ckpt_path=side.root / "good.ckpt")

    error = same_error(run)
    assert isinstance(error, RuntimeError)
    assert "head.weight" in str(error)


def test_callbacks_that_are_missing(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side), side.pl.callbacks.EarlyStopping("val_loss")).save_checkpoint(side.root / "a.ckpt")
        return messages(lambda: side.trainer(max_epochs=2).fit(make(side), ckpt_path=side.root / "a.ckpt"))

    assert len(same_in_both(run)) == 1


def test_weights_alone_cannot_go_on(same_error: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side)).save_checkpoint(side.root / "a.ckpt", weights_only=True)
        side.trainer(max_epochs=2).fit(make(side), ckpt_path=side.root / "a.ckpt")

    error = same_error(run)
    assert "contains only the model" in str(error)
    assert "load_from_checkpoint" in str(error)


def test_position_beyond_max_epochs(same_error: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side), max_epochs=3).save_checkpoint(side.root / "a.ckpt")
        side.trainer(max_epochs=1).fit(make(side), ckpt_path=side.root / "a.ckpt")

    assert "current_epoch=3" in str(same_error(run))


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_saved_after_an_evaluation(method: str, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer, model = side.trainer(), make(side)
        type(model).predict_step = lambda self, batch, batch_idx: None
        getattr(trainer, method)(model, side.loader(1))
        trainer.save_checkpoint(side.root / "a.ckpt")
        checkpoint = torch.load(side.root / "a.ckpt", weights_only=True)
        return sorted(checkpoint), checkpoint["optimizer_states"], checkpoint["epoch"], checkpoint["global_step"]

    same_in_both(run)


def test_saved_after_a_failure(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        def fail(*_: Any) -> None:
            raise ValueError("mine")

        trainer = side.trainer(side.callback(on_train_epoch_end=fail))
        with pytest.raises(ValueError, match="mine"):
            trainer.fit(make(side))
        trainer.save_checkpoint(side.root / "a.ckpt")
        checkpoint = torch.load(side.root / "a.ckpt", weights_only=True)
        return sorted({*checkpoint} - {"raylight"}), checkpoint["global_step"], len(checkpoint["optimizer_states"])

    same_in_both(run)


def test_fit_goes_on_after_an_exception(ours: Any) -> None:
    """With a callback of one file, as OnExceptionCheckpoint, None is "last"."""

    class SavesOnce(ours.pl.callbacks.Checkpoint):  # type: ignore[misc, name-defined]
        ckpt_path = str(ours.root / "on_exception.ckpt")

    trainer = ours.fit(make(ours))
    assert messages(lambda: ours.trainer(SavesOnce(), max_epochs=2).fit(make(ours))) == []  # there is none
    trainer.save_checkpoint(SavesOnce.ckpt_path)

    again = ours.trainer(SavesOnce(), max_epochs=2)
    assert "goes on from" in messages(lambda: again.fit(make(ours)))[0]
    assert (again.ckpt_path, again.global_step) == (SavesOnce.ckpt_path, 10)
