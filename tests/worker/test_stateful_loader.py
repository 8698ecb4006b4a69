"""torchdata's StatefulDataLoader: accepted as it is, and resumed by its own state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raylight as pl

torchdata = pytest.importorskip("torchdata.stateful_dataloader")


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch.flatten().tolist())
        return self.layer(batch).sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 2:
            self.trainer.save_checkpoint("a.ckpt")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(seed: int, ckpt_path: str | None = None) -> Model:
    torch.manual_seed(seed)
    data = torch.arange(10.0)[:, None]
    model = Model()
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_epochs=2,
    )  # fmt: skip
    trainer.fit(model, torchdata.StatefulDataLoader(data, batch_size=2, shuffle=True), ckpt_path=ckpt_path)
    return model


@pytest.mark.filterwarnings("ignore:.*set_vital:UserWarning")
def test_shuffled_order_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = fit(seed=1)
    states = torch.load("a.ckpt", weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert len(states) == 1
    rest = fit(seed=99, ckpt_path="a.ckpt")  # another seed: the order is in the file
    assert rest.seen[:3] == whole.seen[2:5]
    assert sorted(sum(rest.seen[3:], [])) == list(range(10))
