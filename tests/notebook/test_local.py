"""A notebook that trains in its kernel."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

BEGIN = """
import sys
sys.modules["ipywidgets"] = None  # not installed
import signal, time
from pathlib import Path
import torch
import raylight as pl
from torch.utils.data import DataLoader

class Model(pl.LightningModule):
    says = "one"
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        self.said = self.says
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val", self.layer(batch).square().mean(), prog_bar=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def make(max_epochs=1):
    return pl.Trainer(launcher="local", max_epochs=max_epochs, logger=False, enable_model_summary=False,
                      enable_checkpointing=False)

data = DataLoader(torch.randn(8, 1))
model, trainer = Model(), make(2)
before = signal.getsignal(signal.SIGINT)
"""
FIT = """
trainer.fit(model, data, data)
print(model.said)
"""
OTHER_CLASS = """
class Model(Model):
    says = "two"
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            raise LookupError("in the fourth batch")
        return super().training_step(batch, batch_idx)
model = Model()
make().fit(model, data, data)
"""
ENDLESS = """
class Endless(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    training_step, configure_optimizers = Model.__base__.training_step, Model.__base__.configure_optimizers
    says = "three"
    def on_train_batch_end(self, *args):
        Path("begun").touch()
model, trainer = Endless(), make(-1)
trainer.fit(model, data)
"""
STUBBORN = """
import asyncio
await asyncio.sleep(0)
class Stubborn(Endless):
    def training_step(self, batch, batch_idx):
        Path("begun").touch()
        time.sleep(100)
trainer = make()
trainer.fit(Stubborn(), data)
"""
STATE = """
Path("begun").unlink()
print(trainer.interrupted, trainer.global_step > 0, signal.getsignal(signal.SIGINT) is before)
"""


def has_begun(cell: Any) -> bool:
    return Path("begun").exists()


def is_stopping(cell: Any) -> bool:
    return "Stopping after this batch. Interrupt the kernel again to stop at once." in cell.log


def test_a_session(kernel: Any) -> None:
    async def session() -> None:
        async with kernel() as notebook:
            assert not (await notebook.run(BEGIN)).error
            fit = await notebook.run(FIT)
            assert fit.text.endswith("\none\n")
            assert "Epoch 1: 100%" in fit.text
            assert "\x1b[A" not in fit.text  # it would be shown as it is, and as a line of its own
            assert fit.text.count("\n") == 2

            failed = await notebook.run(OTHER_CLASS)
            assert failed.error == "LookupError"
            raised = r'-> \d+ +raise LookupError\("in the fourth batch"\)'
            assert len(re.findall(raised, failed.traceback)) == 1
            assert "two" in (await notebook.run("print(model.said)")).text

            interrupted = await notebook.run(ENDLESS, [has_begun])
            assert interrupted.error == "KeyboardInterrupt"
            assert "what it has reached is in the model" in interrupted.traceback
            assert (await notebook.run(STATE)).text == "True True True\n"

            assert (await notebook.run(STUBBORN, [has_begun, is_stopping])).error == "KeyboardInterrupt"
            assert (await notebook.run(STATE)).text == "True False True\n"
            again = await notebook.run("model = Model.__base__()\n" + FIT.replace("trainer", "make()"))
            assert again.text.endswith("one\n")

    asyncio.run(session())
