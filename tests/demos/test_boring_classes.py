"""The boring classes are Lightning's: same numbers, same sizes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning.demos.boring_classes as lightnings
import torch

import raylight as pl
import raylight.demos.boring_classes as ours


def batches(loaders: Any) -> list[Any]:
    return [batch.tolist() for loader in (loaders if isinstance(loaders, list) else [loaders]) for batch in loader]


@pytest.mark.parametrize("name", ["BoringDataModule", "BoringDataModuleNoLen", "IterableBoringDataModule"])
@pytest.mark.parametrize(
    ("stage", "kinds"), [("fit", ["train", "val"]), ("validate", ["val"]), ("test", ["test"]), ("predict", ["predict"])]
)
def test_data(name: str, stage: str, kinds: list[str]) -> None:
    drawn = []
    for classes in (lightnings, ours):
        torch.manual_seed(1)
        data = getattr(classes, name)()
        data.setup(stage)
        drawn.append([batches(getattr(data, f"{kind}_dataloader")()) for kind in kinds])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "name", ["RandomDataset", "RandomDictDataset", "RandomIterableDataset", "RandomIterableDatasetWithLen"]
)
def test_datasets(name: str) -> None:
    drawn: list[Any] = []
    for classes in (lightnings, ours):
        torch.manual_seed(1)
        dataset = getattr(classes, name)(3, 5)
        drawn.append((hasattr(dataset, "__len__"), [dataset[2]] if hasattr(dataset, "data") else list(dataset)))
    torch.testing.assert_close(drawn[0], drawn[1])


def step(classes: ModuleType, name: str) -> Any:
    torch.manual_seed(1)
    model = getattr(classes, name)()
    return model.training_step(torch.ones(2, 32), 0)


def test_models() -> None:
    assert torch.equal(step(ours, "BoringModel")["loss"], step(lightnings, "BoringModel")["loss"])
    assert torch.equal(step(ours, "DemoModel"), step(lightnings, "DemoModel"))
    assert list(ours.Net().state_dict()) == list(lightnings.Net().state_dict())


@pytest.mark.parametrize("name", ["BoringModel", "ManualOptimBoringModel"])
def test_every_method_runs(name: str, tmp_path: Any) -> None:
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", fast_dev_run=2, enable_progress_bar=False, default_root_dir=tmp_path
    )
    model = getattr(ours, name)()
    before = model.layer.weight.clone()
    trainer.fit(model)
    assert not torch.equal(model.layer.weight, before)
    trainer.validate(model, verbose=False)
    trainer.test(model, verbose=False)
    predictions = trainer.predict(model)
    assert predictions is not None
    assert [batch.shape for batch in predictions] == [(1, 2), (1, 2)]
