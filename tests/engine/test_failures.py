"""An exception on any rank reaches the driver as itself, with its place, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from small_models import Linear, batches
from torch.distributed import TCPStore

import raylight as pl
from raylight.callbacks import ModelCheckpoint
from raylight.engine.failures import Failure, describe, revive
from raylight.utilities.exceptions import UnpicklableError, WorkerError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


class Mistake(Exception):
    """The user's own."""

    def __init__(self, hook: str, *, rank: int) -> None:
        super().__init__(f"a mistake in {hook}")
        self.rank = rank

    def __reduce__(self) -> Any:
        return lambda hook, rank: Mistake(hook, rank=rank), (str(self), self.rank)


class Failing(Linear):
    """Raises in one hook on some ranks."""

    def __init__(self, hook: str, ranks: tuple[int, ...]) -> None:
        super().__init__()
        self.hook, self.ranks = hook, ranks

    def reach(self, hook: str) -> None:
        if hook == self.hook and self.trainer.global_rank in self.ranks:
            raise Mistake(hook, rank=self.trainer.global_rank)

    def setup(self, stage: str) -> None:
        self.reach("setup")

    def on_train_start(self) -> None:
        self.reach("on_train_start")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 1:
            self.reach("training_step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))
        if not self.trainer.sanity_checking:
            self.reach("validation_step")


class FailingCallback(pl.Callback):
    """As the model says, at the end of a batch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        pl_module.reach("callback")


@pytest.mark.parametrize(
    ("hook", "ranks"),
    [
        ("training_step", (0, 1)),
        ("setup", (1,)),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("on_train_start", (1,)), ("validation_step", (0,)), ("callback", (0,)))
        ),
    ],
)
def test_an_exception_is_raised_on_the_driver(
    two_workers: Any, nothing_held: Any, hook: str, ranks: tuple[int, ...]
) -> None:
    trainer = two_workers(callbacks=[FailingCallback()])
    with pytest.raises(Mistake, match="a mistake in") as caught:
        trainer.fit(Failing(hook, ranks), batches(), batches(8))

    error: Any = caught.value
    assert error.rank == error.raylight_origin["rank"]
    assert error.rank in ranks
    assert error.raylight_origin["node"]
    assert error.raylight_origin["pid"]
    first_frame = re.search(r'File "(.*)", line \d+, in (\w+)', str(error.__cause__))
    assert first_frame is not None
    assert first_frame[1] == __file__
    assert first_frame[2] == ("on_train_batch_end" if hook == "callback" else hook)
    assert f"rank {error.rank}" in str(error.__cause__)
    assert trainer.interrupted
    nothing_held()


@pytest.mark.slow
def test_the_next_fit_works(two_workers: Any) -> None:
    trainer = two_workers()
    with pytest.raises(Mistake):
        trainer.fit(Failing("training_step", (1,)), batches(), batches(8))
    model = Failing("nothing", ())
    trainer.fit(model, batches(), batches(8))
    assert trainer.state.finished
    assert trainer.global_step == 4


def test_teardown_hooks_run_before_the_end(two_workers: Any, tmp_path: Any) -> None:
    class Tidy(Failing):
        def teardown(self, stage: str) -> None:
            (tmp_path / f"teardown {stage} {self.trainer.global_rank}").touch()

    with pytest.raises(Mistake):
        two_workers().fit(Tidy("training_step", (0, 1)), batches(), batches(8))
    assert (tmp_path / "teardown fit 0").exists() or (tmp_path / "teardown fit 1").exists()


def test_what_was_said_before_the_exception_arrives(two_workers: Any, capsys: Any) -> None:
    class Talking(Failing):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.print(f"batch {batch_idx}")
            return super().training_step(batch, batch_idx)

    with pytest.raises(Mistake):
        two_workers().fit(Talking("training_step", (0,)), batches(), batches(8))
    assert "batch 0\nbatch 1\n" in capsys.readouterr().out


@pytest.mark.slow
def test_saving_on_exception_does_not_wait_for_ranks_that_go_on(two_workers: Any, tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_on_exception=True)
    trainer = two_workers(callbacks=[checkpoint], enable_checkpointing=True)
    with pytest.raises(Mistake):
        trainer.fit(Failing("training_step", (0,)), batches(), batches(8))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0-step=1.ckpt"]


class Unreturnable(Exception):
    """Can be neither pickled nor made again from its arguments."""

    def __init__(self, lock: Any, what: str) -> None:
        super().__init__(f"cannot travel: {what}")
        self.lock = lock


@pytest.mark.slow
def test_an_exception_that_cannot_be_pickled(two_workers: Any, nothing_held: Any) -> None:
    class Raising(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise Unreturnable(threading.Lock(), "this")

    with pytest.raises(WorkerError, match=r"Unreturnable: cannot travel: this \(on rank \d, node ") as caught:
        two_workers().fit(Raising(), batches())
    assert caught.value.rank in (0, 1)
    assert "in training_step" in str(caught.value.__cause__)
    nothing_held()


@pytest.mark.slow
def test_system_exit_in_a_worker_reaches_the_driver(two_workers: Any, nothing_held: Any) -> None:
    class Leaving(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        two_workers().fit(Leaving(), batches())
    assert caught.value.code == 3
    nothing_held()


@pytest.mark.parametrize(
    ("value", "kind"), [(threading.Lock(), "lock"), ((number for number in ()), "generator")], ids=["lock", "generator"]
)
def test_an_unpicklable_attribute_is_named_before_anything_starts(value: Any, kind: str) -> None:
    model = Linear()
    model.layer.inner = {"deep": [value]}  # type: ignore[assignment]
    trainer = pl.Trainer(num_workers=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UnpicklableError, match=rf"Linear\.layer\.inner\['deep'\]\[0\] \(a .*{kind}\)"):
        trainer.fit(model, batches())


def test_an_unpicklable_attribute_is_found_among_references_back() -> None:
    class Helper:
        def __init__(self, owner: Any) -> None:
            self.owner = owner
            self.lock = threading.Lock()

    model = Linear()
    model.helper = Helper(model)  # type: ignore[assignment]
    with pytest.raises(UnpicklableError, match=r"Linear\.helper\.lock \(a _thread.lock\)"):
        pl.Trainer(num_workers=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(model, batches())


@pytest.mark.slow
def test_a_lambda_as_attribute_is_fine(two_workers: Any) -> None:
    class Scaled(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.scale = lambda loss: loss * 2

        def loss(self, batch: Any) -> torch.Tensor:
            return self.scale(super().loss(batch))

    trainer = two_workers()
    trainer.fit(Scaled(), batches())
    assert trainer.global_step == 4


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_a_module_that_only_the_driver_has() -> None:
    def notes(name: str) -> str:
        pickled = cloudpickle.dumps(ModuleNotFoundError(f"No module named '{name}'", name=name))
        return "\n".join(revive(Failure(1, "node", 1, pickled, "", "")).__notes__)

    assert "The driver can import small_models. Send the files along: call `ray.init(run" in notes("small_models")
    assert "driver" not in notes("not_even_here")


def test_lines_of_code_that_a_worker_lacks(tmp_path: Path) -> None:
    """Such as those of a notebook, which only its kernel has."""
    path = tmp_path / "cell.py"
    path.write_text("first()\nsecond()\n")
    frame = f'  File "{path}", line 2, in step\n'
    text = f'{frame}{frame}    shown already\n  File "absent.py", line 1, in step\nValueError: text\n'
    error = revive(Failure(0, "node", 1, None, "ValueError: text", text))
    completed = (
        f'{frame}    second()\n{frame}    shown already\n  File "absent.py", line 1, in step\nValueError: text\n'
    )
    assert str(error.__cause__).endswith(completed)


def lost_peer() -> None:
    TCPStore("127.0.0.1", 1, world_size=2, is_master=False, timeout=timedelta(milliseconds=10))


def collective_without_a_group() -> None:
    torch.distributed.all_reduce(torch.zeros(1))


def raised(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


@pytest.mark.parametrize(
    ("step", "collateral"),
    [
        (lost_peer, True),
        (raised(WorkerError("The stream of a Ray Dataset has ended early: gone")), True),
        (raised(KeyError("igloo")), False),
        (raised(ConnectionRefusedError("Connection refused")), False),
        (raised(BrokenPipeError("Broken pipe")), False),
        (raised(RuntimeError("gloo: Connection closed by peer")), False),
        (collective_without_a_group, False),
    ],
)
def test_what_a_lost_peer_causes(step: Callable[[], None], collateral: bool) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  of any kind
        step()
    assert describe(caught.value, 0, "node", 1).is_collateral is collateral


class OnlyThere(Exception):
    """Can be made again in the process that has raised it only."""

    def __reduce__(self) -> Any:
        return made_in, (os.getpid(), str(self))


def made_in(pid: int, text: str) -> OnlyThere:
    if os.environ.get("ELSEWHERE"):
        raise RuntimeError("no such device")
    return OnlyThere(text)


def test_an_exception_that_cannot_be_unpickled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = describe(OnlyThere("on the device"), 1, "node", 7)
    assert failure.pickled is not None
    monkeypatch.setenv("ELSEWHERE", "1")
    error = revive(failure)
    assert isinstance(error, WorkerError)
    assert str(error).endswith("OnlyThere: on the device (on rank 1, node node, pid 7)")
    assert error.rank == 1
