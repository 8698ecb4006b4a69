"""raylight: the script runs once, on the driver; the second call finds the workers warm."""

from __future__ import annotations

import os

import common

import raylight as pl


class Classifier(common.ClassifierParts, pl.LightningModule):
    pass


def main() -> None:
    model = Classifier()
    trainer = pl.Trainer(
        devices=common.NUM_WORKERS, launcher="ray", default_root_dir=os.environ["BENCHMARK_ROOT"], **common.FLAGS
    )
    trainer.fit(model)
    common.Stamps().add("validate_call")
    trainer.validate(model)


if __name__ == "__main__":
    main()
