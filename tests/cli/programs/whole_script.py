"""A script as Lightning's users write it: who am I, what was I given, can my classes travel?"""

import json
import sys
from dataclasses import dataclass

import lightning as L
import pytorch_lightning as pl
import torch
from lightning.pytorch.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, Dataset

assert __name__ in ("__main__", "__mp_main__")  # the second in a process that loads data


@dataclass
class Numbers(Dataset):
    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        import pytorch_lightning

        assert pytorch_lightning.LightningModule is pl.LightningModule
        return torch.full((32,), float(index))


class Model(BoringModel):
    def train_dataloader(self):
        # Not forked: a new interpreter imports this script again, and Lightning with it.
        return DataLoader(Numbers(4), num_workers=1, multiprocessing_context="spawn")


class Counter(Callback):
    steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1


if __name__ == "__main__":
    counter = Counter()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[counter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model())
    main = sys.modules["__main__"]
    report = {
        "argv": sys.argv,
        "file": __file__,
        "path": sys.path[0],
        "main": main.Counter is Counter,
        "doc": main.__doc__ == __doc__,
        "spec": str(__spec__),
        "steps": counter.steps,
        "trainer": type(trainer).__module__,
    }
    print(json.dumps(report))
    sys.exit(7)
