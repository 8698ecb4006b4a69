"""raylight: a lost worker is replaced, and the run goes on from a snapshot.

``BENCHMARK_FLAGS``: further flags of the Trainer, as JSON.
"""

from __future__ import annotations

import json
import os
from typing import Any

import common
import steps

import raylight as pl


class Classifier(steps.SteppingParts, pl.LightningModule):
    pass


def main() -> None:
    flags: dict[str, Any] = json.loads(os.environ.get("BENCHMARK_FLAGS", "{}"))
    root = os.environ["BENCHMARK_ROOT"]
    trainer = pl.Trainer(devices=common.NUM_WORKERS, launcher="ray", default_root_dir=root, **steps.FLAGS, **flags)
    trainer.fit(Classifier())


if __name__ == "__main__":
    main()
