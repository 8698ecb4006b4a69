"""Lightning alone: ``strategy="ddp"`` runs this script a second time for rank 1, and both processes stay."""

from __future__ import annotations

import os

import common
import pytorch_lightning as pl


class Classifier(common.ClassifierParts, pl.LightningModule):
    pass


def main() -> None:
    model = Classifier()
    trainer = pl.Trainer(
        devices=common.NUM_WORKERS, strategy="ddp", default_root_dir=os.environ["BENCHMARK_ROOT"], **common.FLAGS
    )
    trainer.fit(model)
    common.Stamps().add("validate_call", trainer.global_rank)
    trainer.validate(model)


if __name__ == "__main__":
    main()
