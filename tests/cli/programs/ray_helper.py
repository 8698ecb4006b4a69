"""A module beside the script: workers import it by its name, and with it Lightning."""

import pytorch_lightning as pl
from lightning.pytorch.utilities.types import STEP_OUTPUT


class Base(pl.LightningModule):
    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        return self.layer(batch).square().mean()
