"""Jobs in this process: the user's own objects, and a graceful Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import QUIET, Linear, batches

import raylight as pl

PROGRAM = Path(__file__).parent / "programs" / "endless_fit.py"


def test_hooks_see_the_users_own_objects(one_worker: Any) -> None:
    seen: dict[str, Any] = {}
    data = batches()

    class Watched(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.update(model=self, trainer=self.trainer, pid=os.getpid(), data=self.trainer.train_dataloader)
            return super().training_step(batch, batch_idx)

    class Watcher(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            seen["callback"] = self

    watcher = Watcher()
    trainer, model = one_worker(callbacks=[watcher]), Watched()
    model.lock = threading.Lock()  # need not travel
    trainer.fit(model, data)
    assert seen == {"model": model, "trainer": trainer, "pid": os.getpid(), "data": data, "callback": watcher}


def test_ray_is_not_touched() -> None:
    code = """
import sys, torch, raylight as pl
from small_models import QUIET, Linear, batches
trainer = pl.Trainer(max_epochs=1, **QUIET)
trainer.fit(Linear(), batches())
assert trainer.global_step == 8
assert "ray" not in sys.modules, "ray was imported"
"""
    path = os.pathsep.join([str(Path(pl.__file__).parents[1]), str(Path(__file__).parent)])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True, timeout=60)


def test_predictions_and_results_need_no_worker(one_worker: Any) -> None:
    class Predicting(Linear):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch_idx

    assert one_worker().predict(Predicting(), batches(6)) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_a_loader_without_batches_has_its_place_in_the_predictions(one_worker: Any) -> None:
    class Predicting(Linear):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return batch_idx

    loaders = [batches(4), batches(0), batches(2)]
    assert one_worker().predict(Predicting(), loaders) == [[0, 1], [], [0]]
    assert one_worker().predict(Predicting(), loaders[1:2]) is None


def test_more_than_one_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="launcher='local' runs one worker"):
        pl.Trainer(launcher="local", devices=2, **QUIET)


def test_an_exception_passes_unchanged(one_worker: Any) -> None:
    error = RuntimeError("mine")

    class Raising(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise error

    trainer = one_worker()
    with pytest.raises(RuntimeError) as caught:
        trainer.fit(Raising(), batches())
    assert caught.value is error
    assert trainer.interrupted


def test_training_in_a_thread_leaves_signals_alone(one_worker: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    trainer = one_worker()
    thread = threading.Thread(target=trainer.fit, args=(Linear(), batches()))
    thread.start()
    thread.join()
    assert trainer.state.finished
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c(times: int, tmp_path: Path, wait_until: Any) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(pl.__file__).parents[1])}
    options = ["stubborn"] if times == 2 else []
    with subprocess.Popen([sys.executable, str(PROGRAM), "local", "1", *options], env=environment) as program:
        try:
            wait_until(lambda: Path("ready").exists() or program.poll() is not None, 40)
            program.send_signal(signal.SIGINT)
            if times == 2:
                with pytest.raises(subprocess.TimeoutExpired):
                    program.wait(0.5)  # it waits for the batch
                program.send_signal(signal.SIGINT)
            assert program.wait(10) == 0
        finally:
            program.kill()
    told = json.loads(Path("report.json").read_text())
    assert told["weights_changed"]
    assert told["interrupted"]
    assert told["heard"] == "KeyboardInterrupt"
    assert told["global_step"] == told["steps_by_rank"][0] >= 10
    assert bool(told["message"]) == (times == 1)
