"""The same small programs under raylight and under Lightning, on one CPU; what they leave behind is compared."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import raylight
from raylight.utilities.exceptions import MisconfigurationException

NUM_TRAIN_BATCHES = 5
BATCH_SIZE = 4
LAST_BATCH_SIZE = 2


class Side:
    """One of the two libraries, and what programs need of it.

    Args:
        pl: ``raylight`` or ``pytorch_lightning``.
        root: Folder of its files.
    """

    def __init__(self, pl: ModuleType, root: Path) -> None:
        self.pl = pl
        self.root = root
        self.Model = make_model_class(pl)
        self.logger = make_logger(pl)

    @property
    def ours(self) -> bool:
        return self.pl is raylight

    def callback(self, **hooks: Callable[..., Any]) -> Any:
        """A callback with these hooks."""
        return type("Hooks", (self.pl.Callback,), {name: _without_self(hook) for name, hook in hooks.items()})()

    def trainer(self, *callbacks: Any, **flags: Any) -> Any:
        """A quiet Trainer of one epoch that logs every step to ``self.logger``."""
        settings: dict[str, Any] = {
            "default_root_dir": str(self.root),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": self.logger,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(each, self.pl.callbacks.Checkpoint) for each in callbacks),
            "callbacks": list(callbacks),
        }
        if self.ours:
            settings["launcher"] = "local"
        return self.pl.Trainer(**{**settings, **flags})

    def fit(self, model: Any, *callbacks: Any, **flags: Any) -> Any:
        """Train ``model`` on shuffled data, from a fixed seed; the Trainer is returned."""
        self.seed()
        trainer = self.trainer(*callbacks, **flags)
        trainer.fit(model)
        return trainer

    def raise_max_epochs(self, trainer: Any, epochs: int) -> None:
        """Let the next ``fit`` train until ``epochs``."""
        (trainer if self.ours else trainer.fit_loop).max_epochs = epochs

    def seed(self) -> None:
        torch.manual_seed(7)

    def loader(self, num_batches: int = NUM_TRAIN_BATCHES, shuffle: bool = False, offset: float = 0.0) -> Any:
        """See ``make_loader``."""
        return make_loader(num_batches, shuffle, offset)

    def outcome(self, trainer: Any, model: Any) -> dict[str, Any]:
        """Everything that a run leaves in the user's hands."""
        return {
            "losses": list(model.losses),
            "weights": {name: value.clone() for name, value in model.state_dict().items()},
            "global_step": trainer.global_step,
            "current_epoch": trainer.current_epoch,
            **self.metrics(trainer),
        }

    def metrics(self, trainer: Any) -> dict[str, Any]:
        """What was logged, wherever it shows."""
        return {
            "callback_metrics": dict(trainer.callback_metrics),
            "logged_metrics": dict(trainer.logged_metrics),
            "progress_bar_metrics": dict(trainer.progress_bar_metrics),
            "rows": list(self.logger.rows),
        }

    def files(self) -> list[str]:
        """Files below ``root``, relative to it."""
        paths = (str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir())
        return sorted(path for path in paths if "tfevents" not in path)


def _without_self(hook: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: hook(*args, **kwargs)


def make_model_class(pl: ModuleType) -> Any:
    """A LightningModule class of ``pl`` that classes of tests derive from: a small net, SGD, shuffled data.

    ``losses`` holds what training_step returned, in order.
    """

    class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
            self.losses: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

        def loss(self, batch: Any) -> Tensor:
            loss = nn.functional.mse_loss(self(batch[0]), batch[1])
            if torch.is_grad_enabled():
                self.losses.append(loss.item())
            return loss

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> Any:
            return make_loader(shuffle=True)

    return Model


def make_loader(num_batches: int = NUM_TRAIN_BATCHES, shuffle: bool = False, offset: float = 0.0) -> DataLoader[Any]:
    """Batches of 4 samples, the last one of 2."""
    num_samples = (num_batches - 1) * BATCH_SIZE + LAST_BATCH_SIZE
    x = torch.linspace(-1, 1, num_samples * 3).reshape(-1, 3) + offset
    y = torch.sin(3 * x.sum(dim=1, keepdim=True))
    return DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=shuffle)


def make_logger(pl: ModuleType) -> Any:
    """A logger that keeps what it is given in ``rows``, ``(step, metrics)``, and ``calls``."""

    class RecordingLogger(pl.loggers.Logger):  # type: ignore[misc, name-defined]
        name, version = "recording", 0

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[int | None, dict[str, float]]] = []
            self.hparams: list[dict[str, Any]] = []
            self.statuses: list[str] = []

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.rows.append((step, dict(metrics)))

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.hparams.append(dict(params))

        def finalize(self, status: str) -> None:
            self.statuses.append(status)

    return RecordingLogger()


Run = Callable[[Side], Any]


@pytest.fixture
def both_sides(tmp_path: Path) -> tuple[Side, Side]:
    """Lightning's and ours."""
    sides = []
    for pl in (pytorch_lightning, raylight):
        (tmp_path / pl.__name__).mkdir()
        sides.append(Side(pl, tmp_path / pl.__name__))
    return sides[0], sides[1]


@pytest.fixture
def ours(both_sides: tuple[Side, Side]) -> Side:
    return both_sides[1]


@pytest.fixture
def same_in_both(both_sides: tuple[Side, Side]) -> Callable[[Run], Any]:
    """``same_in_both(run)``: ``run(side)`` returns the same for both libraries; what it returned is returned.

    Numbers may differ by float32 rounding.
    """

    def compare(run: Run) -> Any:
        theirs, ours = (plain(call(side, run)) for side in both_sides)
        assert_same(ours, theirs)
        return ours

    return compare


@pytest.fixture
def same_error(both_sides: tuple[Side, Side]) -> Callable[[Run], BaseException]:
    """``same_error(run)``: both libraries raise, ours an instance of what Lightning's users catch; ours is returned."""

    def compare(run: Run) -> BaseException:
        theirs, ours = (error_of(side, run) for side in both_sides)
        assert theirs is not None, f"Lightning accepts what raises {ours!r} in raylight"
        assert ours is not None, f"raylight accepts what raises {theirs!r} in Lightning"
        expected = MisconfigurationException if "Misconfiguration" in type(theirs).__name__ else type(theirs)
        assert isinstance(ours, expected), f"{ours!r} instead of {theirs!r}"
        return ours

    return compare


@pytest.fixture(name="call")
def call_fixture() -> Callable[[Side, Run], Any]:
    """``call(side, run)``: one library's outcome."""
    return call


def call(side: Side, run: Run) -> Any:
    """``run(side)``, deaf to Lightning's warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="predict returned None")  # the programs' predict_step only notes
        if not side.ours:
            warnings.simplefilter("ignore")
            logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        return run(side)


def error_of(side: Side, run: Run) -> BaseException | None:
    try:
        call(side, run)
    except Exception as error:
        return error
    return None


def plain(value: Any) -> Any:
    """``value`` with lists for tuples and tensors, enums as text."""
    if isinstance(value, Tensor):
        return value.detach().double().tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    return value


def assert_same(ours: Any, theirs: Any, where: str = "result") -> None:
    """Equal structure; floats to 1e-6."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert sorted(ours, key=str) == sorted(theirs, key=str), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs), f"{where}: {ours} != {theirs}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, f"{where}[{index}]")
    elif isinstance(theirs, float) and isinstance(ours, float):
        same = math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-7) or (math.isnan(ours) and math.isnan(theirs))
        assert same, f"{where}: {ours} != {theirs}"
    else:
        assert type(ours) is type(theirs), f"{where}: {ours!r} != {theirs!r}"
        assert ours == theirs, where
