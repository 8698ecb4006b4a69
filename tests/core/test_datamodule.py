import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from raylight.checkpoint import format as checkpoint_format
from raylight.core.datamodule import LightningDataModule
from raylight.utilities.exceptions import CheckpointError, MisconfigurationException


class Numbers(LightningDataModule):
    def __init__(self, size: int = 8, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seen = 0

    def setup(self, stage: str | None = None) -> None:
        self.train = TensorDataset(torch.arange(self.hparams.size))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def dataset(size: int) -> TensorDataset:
    return TensorDataset(torch.arange(size))


def checkpoint_of(datamodule: Numbers) -> dict[str, Any]:
    return {
        "state_dict": {},
        "datamodule_hparams_name": datamodule._hparams_name,
        "datamodule_hyper_parameters": dict(datamodule.hparams),
        "Numbers": datamodule.state_dict(),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint in which a ``Numbers(size=6, batch_size=3)`` has seen 12 samples."""
    datamodule = Numbers(size=6, batch_size=3)
    datamodule.seen = 12
    checkpoint_format.save(checkpoint_of(datamodule), tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize("stage", ["train", "val", "test", "predict"])
def test_missing_dataloader_is_named(stage: str) -> None:
    with pytest.raises(
        MisconfigurationException, match=f"`{stage}_dataloader` must be implemented .*: LightningDataModule"
    ):
        getattr(LightningDataModule(), f"{stage}_dataloader")()


def test_defaults() -> None:
    datamodule = LightningDataModule()

    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.teardown("fit")
    datamodule.load_state_dict({})
    datamodule.on_exception(RuntimeError())

    assert datamodule.state_dict() == {}
    assert datamodule.trainer is None
    assert datamodule.prepare_data_per_node is True
    assert datamodule.allow_zero_length_dataloader_with_multiple_devices is False
    assert datamodule.hparams == {}


def test_trainer_is_none_without_a_call_of_super() -> None:
    class Forgetful(LightningDataModule):
        def __init__(self) -> None:
            self.size = 1

    assert Forgetful().trainer is None


def test_batch_transfer() -> None:
    datamodule = LightningDataModule()
    batch = {"x": [torch.ones(2)], "y": (torch.zeros(1), "text")}

    assert datamodule.on_before_batch_transfer(batch, 0) is batch
    assert datamodule.on_after_batch_transfer(batch, 0) is batch
    moved = datamodule.transfer_batch_to_device(batch, torch.device("meta"), 0)

    assert moved["x"][0].device.type == moved["y"][0].device.type == "meta"
    assert moved["y"][1] == "text"


def test_setup_by_hand_without_a_stage() -> None:
    datamodule = Numbers()
    datamodule.setup()

    assert len(datamodule.train_dataloader()) == 4


def test_from_datasets() -> None:
    datamodule = LightningDataModule.from_datasets(dataset(100), dataset(4), batch_size=50)

    assert [batch[0].tolist() for batch in datamodule.val_dataloader()] == [[0, 1, 2, 3]]
    train = torch.cat([batch[0] for batch in datamodule.train_dataloader()]).tolist()
    assert train != sorted(train)
    assert sorted(train) == list(range(100))
    with pytest.raises(MisconfigurationException, match="test_dataloader"):
        datamodule.test_dataloader()


def test_from_several_datasets_and_streams() -> None:
    datamodule = LightningDataModule.from_datasets(
        {"a": dataset(2), "b": [dataset(3), Stream()]}, predict_dataset=[dataset(4), dataset(5)], num_workers=0
    )

    train = datamodule.train_dataloader()
    assert len(train["a"]) == 2
    assert len(train["b"][0]) == 3
    assert [batch.item() for batch in train["b"][1]] == [0, 1, 2]
    assert [len(loader) for loader in datamodule.predict_dataloader()] == [4, 5]


def test_from_datasets_passes_on_what_init_takes() -> None:
    datamodule = Numbers.from_datasets(val_dataset=dataset(4), batch_size=4, size=5)

    assert datamodule.hparams == {"size": 5, "batch_size": 4}
    assert len(datamodule.val_dataloader()) == 1


def test_from_datasets_travels() -> None:
    datamodule = pickle.loads(pickle.dumps(LightningDataModule.from_datasets(dataset(4))))

    assert len(datamodule.train_dataloader()) == 4


def test_load_from_checkpoint(path: Path) -> None:
    datamodule = Numbers.load_from_checkpoint(path)

    assert type(datamodule) is Numbers
    assert datamodule.hparams == {"size": 6, "batch_size": 3}
    assert datamodule.seen == 12


def test_load_from_checkpoint_with_overrides(path: Path) -> None:
    datamodule = Numbers.load_from_checkpoint(str(path), batch_size=1, weights_only=True)

    assert datamodule.hparams == {"size": 6, "batch_size": 1}


def test_load_from_checkpoint_with_hparams_file(path: Path) -> None:
    hparams_file = path.with_name("hparams.yaml")
    hparams_file.write_text("size: 9\n")

    assert Numbers.load_from_checkpoint(path, hparams_file=hparams_file).hparams == {"size": 9, "batch_size": 2}


def test_load_from_stream(path: Path) -> None:
    assert Numbers.load_from_checkpoint(io.BytesIO(path.read_bytes())).seen == 12


def test_load_from_checkpoint_warns(path: Path) -> None:
    with pytest.warns(UserWarning, match="takes no 'wrong'"):
        assert Numbers.load_from_checkpoint(path, wrong=1).seen == 12
    with pytest.warns(UserWarning, match="weights_only=False"):
        assert Numbers.load_from_checkpoint(path, weights_only=False).seen == 12


def test_load_from_checkpoint_refuses(path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        Numbers().load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match="Checkpoint file not found"):
        Numbers.load_from_checkpoint(path.with_name("b.ckpt"))


def test_load_from_lightnings_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning
        from pytorch_lightning.demos.boring_classes import BoringModel

        class Data(pytorch_lightning.LightningDataModule):
            def __init__(self, size: int, batch_size: int) -> None:
                super().__init__()
                self.save_hyperparameters()

            def train_dataloader(self) -> Any:
                return DataLoader(torch.ones(self.hparams.size, 32), batch_size=self.hparams.batch_size)

            def state_dict(self) -> dict[str, Any]:
                return {"seen": 5}

        Data.__qualname__ = "Numbers"
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(BoringModel(), datamodule=Data(size=4, batch_size=2))
        trainer.save_checkpoint(tmp_path / "lightning.ckpt")

    datamodule = Numbers.load_from_checkpoint(tmp_path / "lightning.ckpt")

    assert datamodule.hparams == {"size": 4, "batch_size": 2}
    assert datamodule.seen == 5


def test_prints_the_sizes() -> None:
    datamodule = LightningDataModule.from_datasets(dataset(10), [dataset(2), Stream()], {"a": dataset(3)})

    assert str(datamodule).splitlines() == [
        "{Train dataloader: size=10}",
        "{Validation dataloader: 1. size=2 ; 2. size=NA}",
        "{Test dataloader: a. size=3}",
        "{Predict dataloader: None}",
    ]
    assert str(Numbers()).splitlines()[0] == "{Train dataloader: None}"  # setup has not been called
