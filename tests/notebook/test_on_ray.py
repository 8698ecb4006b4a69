"""A notebook that trains on a Ray cluster, which its kernel starts or joins."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from kernels import ROOT, Cell

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(280)]

BEGIN = """
import signal, time
from pathlib import Path
import torch
import raylight as pl
from torch.utils.data import DataLoader

class Model(pl.LightningModule):
    says = "one"
    def __init__(self, width=1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, width)
    def training_step(self, batch, batch_idx):
        self.said = self.says, helper()
        self.helped, self.kind = Helped(), type(self)
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        if batch_idx == 0:
            print("from a worker")
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val", self.layer(batch).square().mean(), prog_bar=True)
    def predict_step(self, batch, batch_idx):
        return Helped()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def make(max_epochs=1, **flags):
    return pl.Trainer(num_workers=2, accelerator="cpu", max_epochs=max_epochs, logger=False,
                      enable_model_summary=False, **flags)

data = DataLoader(torch.randn(8, 1))
before = signal.getsignal(signal.SIGINT)
"""
HELPER = """
def helper():
    return 1

class Helped:
    def help(self):
        return helper()
"""
FIT = """
model, trainer = Model(), make(2)
trainer.fit(model, data, data)
print(model.said, model.kind is Model, type(model.helped) is Helped)
"""
VALIDATE = """
since = time.monotonic()
(result,) = make().validate(model, data)
print(sorted(result), time.monotonic() - since < 10)
"""
OTHER_HELPER = """
def helper():
    return 2

print(model.helped.help(), Helped().help())
"""
OTHER_CLASS = """
class Model(Model):
    says = "two"
old, model, trainer = model, Model(), make()
trainer.fit(model, data)
print(model.said, model.kind is Model, type(old) is Model)
loaded = Model.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
print(type(loaded) is Model, torch.equal(loaded.layer.weight, model.layer.weight))
"""
PREDICT = """
predictions = make().predict(model, data)
def helper():
    return 3
print(len(predictions), predictions[0].help(), Helped().help())
"""
FAILING = """
class Mine(Exception):
    def help(self):
        return helper()
class Failing(Model):
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            raise Mine("in the fourth batch")
        return super().training_step(batch, batch_idx)
trainer = make()
trainer.fit(Failing(), data)
"""
AFTER_FAILING = """
def helper():
    return 4
print(trainer.interrupted, Mine().help())
"""
ENDLESS = """
class Endless(Model):
    def on_train_batch_end(self, *args):
        Path("begun").touch()
model, trainer = Endless(), make(-1)
trainer.fit(model, data)
"""
STUBBORN = """
import asyncio
await asyncio.sleep(0)
class Stubborn(Model):
    def training_step(self, batch, batch_idx):
        Path("begun").touch()
        time.sleep(100)
trainer = make()
trainer.fit(Stubborn(), data)
"""
STATE = """
Path("begun").unlink()
print(trainer.interrupted, signal.getsignal(signal.SIGINT) is before, model.said)
"""
MODULE = """
import torch
import raylight as pl

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        self.said = says()
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def says():
    return "one"
"""
RELOAD = """
import importlib
Path("my_models.py").write_text(Path("my_models.py").read_text().replace('"one"', '"two"'))
importlib.reload(my_models)
"""
FIT_OF_MODULE = """
import my_models
model = my_models.Model()
make().fit(model, data)
print(model.said)
"""


def has_begun(cell: Any) -> bool:
    return Path("begun").exists()


def is_stopping(cell: Any) -> bool:
    return "Interrupt the kernel again to stop at once." in cell.log


def test_a_session(kernel: Any) -> None:
    async def session() -> None:
        async with kernel() as notebook:
            (await notebook.run(BEGIN)).check()
            (await notebook.run(HELPER)).check()
            fit = await notebook.run(FIT)
            assert fit.text.endswith("('one', 1) True True\n")
            assert "from a worker" in fit.text
            assert "Epoch" not in fit.text  # the bars are widgets
            assert (4.0, 4.0) in notebook.bars()
            assert (await notebook.run(VALIDATE)).text.endswith("['val'] True\n")
            assert (await notebook.run(OTHER_HELPER)).text == "2 2\n"
            other = await notebook.run(OTHER_CLASS)
            assert "('two', 2) True False\nTrue True\n" in other.text
            assert (await notebook.run(PREDICT)).text == "8 3 3\n"

            failing = await notebook.run(FAILING)
            assert failing.error == "Mine"
            assert failing.traceback.count('raise Mine("in the fourth batch")\n') == 2  # in the worker, and the cell's
            assert "following.py" not in failing.traceback
            assert (await notebook.run(AFTER_FAILING)).text == "True 4\n"

            interrupted = await notebook.run(ENDLESS, [has_begun])
            assert interrupted.error == "KeyboardInterrupt"
            assert "what it has reached is in the model" in interrupted.traceback
            assert (await notebook.run(STATE)).text == "True True ('two', 4)\n"
            assert (await notebook.run(STUBBORN, [has_begun, is_stopping])).error == "KeyboardInterrupt"
            assert (await notebook.run(STATE)).text == "True True ('two', 4)\n"
            assert "('two', 4) True True\n" in (await notebook.run(FIT)).text

            Path("my_models.py").write_text(MODULE)
            assert (await notebook.run(FIT_OF_MODULE)).text.endswith("one\n")
            (await notebook.run(RELOAD)).check()
            assert (await notebook.run(FIT_OF_MODULE)).text.endswith("two\n")

    asyncio.run(session())


def test_a_restart_leaves_nothing_behind(kernel: Any, ray_cluster: str, nothing_held: Any) -> None:
    from raylight.engine import pool

    pool.shutdown()

    async def session() -> None:
        async with kernel(RAY_ADDRESS=ray_cluster) as notebook:
            (await notebook.run(BEGIN + HELPER)).check()
            (await notebook.run(FIT)).check()
            await notebook.client.km.restart_kernel(now=True)
            await notebook.client.kc.wait_for_ready()
            nothing_held()
            assert (await notebook.run("FIT")).error == "NameError"

    asyncio.run(session())


def test_a_cluster_of_its_own_ends_with_the_kernel(kernel: Any, wait_until: Any) -> None:
    own: list[psutil.Process] = []

    async def session() -> None:
        async with kernel() as notebook:
            (await notebook.run(BEGIN + HELPER)).check()
            (await notebook.run(FIT)).check()
            pid = int((await notebook.run("import os; print(os.getpid())")).text)
            own.extend(psutil.Process(pid).children(recursive=True))

    asyncio.run(session())
    assert len(own) > 4  # Ray's own ones and the workers
    wait_until(lambda: not [process for process in own if process.is_running()], 20)


def test_the_example(kernel: Any) -> None:
    example = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in example.cells)

    async def session() -> list[Cell]:
        done = []
        async with kernel() as notebook:
            for cell in example.cells:
                if cell.cell_type == "code":
                    done.append(await notebook.run(cell.source))
                    done[-1].check()
        return done

    cells = asyncio.run(session())
    (accuracy,) = [re.findall(r"test accuracy (\S+)\n", cell.text)[0] for cell in cells if "test accuracy" in cell.text]
    assert 0.9 < float(accuracy) <= 1
    images = [
        output.data["image/png"] for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(images) == 3
