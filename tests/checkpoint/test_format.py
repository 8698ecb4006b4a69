import argparse
import enum
import errno
import io
import os
import pickle
import resource
import warnings
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint.format import load, save, to_plain
from raylight.utilities.exceptions import CheckpointError


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class AttributeDict(dict[str, Any]):
    pass


class Words(str):
    pass


class MarkedTensor(torch.Tensor):
    pass


@dataclass
class Settings:
    lr: float
    path: Path


Point = namedtuple("Point", "x y")


class Opaque:
    def __repr__(self) -> str:
        return "Opaque()"


@pytest.fixture(scope="module")
def lightning_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that pytorch_lightning's own Trainer wrote."""
    path = tmp_path_factory.mktemp("lightning") / "lightning.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl_trainer, model = _lightning_run(path.parent)
        pl_trainer.save_checkpoint(path)
    assert model.hparams.width == 4
    return path


def _lightning_model() -> Any:
    import pytorch_lightning

    class Model(pytorch_lightning.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Sequential(torch.nn.Linear(width, 1), torch.nn.BatchNorm1d(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).square().mean()

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=4)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2])]

    return Model


def _lightning_run(folder: Path) -> tuple[Any, Any]:
    import pytorch_lightning

    trainer = pytorch_lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = _lightning_model()()
    trainer.fit(model)
    return trainer, model


def reloaded(value: Any, tmp_path: Path) -> Any:
    """``value`` after a file was written by ``save`` and read by torch's own safe reader."""
    save({"state_dict": {}, "value": value}, tmp_path / "value.ckpt")
    return torch.load(tmp_path / "value.ckpt", weights_only=True)["value"]


def test_lightnings_file_is_read(lightning_file: Path) -> None:
    checkpoint = load(lightning_file)

    assert {
        "epoch",
        "global_step",
        "pytorch-lightning_version",
        "state_dict",
        "loops",
        "callbacks",
        "optimizer_states",
        "lr_schedulers",
        "hparams_name",
        "hyper_parameters",
    } <= set(checkpoint)
    assert checkpoint["pytorch-lightning_version"] == checkpoint_format.LIGHTNING_VERSION
    assert checkpoint["hyper_parameters"] == {"width": 4}
    assert checkpoint["global_step"] == 2


def test_our_file_is_read_by_lightning(lightning_file: Path, tmp_path: Path) -> None:
    original = load(lightning_file)
    save(original, tmp_path / "ours.ckpt")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _lightning_model().load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True)

    assert set(model.state_dict()) == set(original["state_dict"])
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, original["state_dict"][name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Path("a") / "b", os.path.join("a", "b")),
        (argparse.Namespace(lr=0.1, root=Path("a")), {"lr": 0.1, "root": "a"}),
        (AttributeDict(a=AttributeDict(b=1)), {"a": {"b": 1}}),
        (Settings(lr=0.1, path=Path("a")), {"lr": 0.1, "path": "a"}),
        (defaultdict(int, a=1), {"a": 1}),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(["a", "b"]), ["a", "b"]),
        (Color.RED, "red"),
        (Level.LOW, 1),
        (Words("a"), "a"),
        ({Color.RED: 1, (Level.LOW, Path("a")): 2}, {"red": 1, (1, "a"): 2}),
        ({1}, [1]),
        (frozenset({1}), [1]),
        (deque([1, 2]), [1, 2]),
        (Point(1, Path("a")), (1, "a")),
        ((1, [2, (3,)]), (1, [2, (3,)])),
        (Counter({3: 2}), Counter({3: 2})),
        (OrderedDict(b=Path("b"), a=1), OrderedDict(b="b", a=1)),
        (torch.device("cuda:1"), torch.device("cuda:1")),
        (torch.bfloat16, torch.bfloat16),
        (torch.strided, torch.strided),
        (torch.Size([2, 3]), torch.Size([2, 3])),
        (None, None),
        (True, True),
        (1 + 2j, 1 + 2j),
        (b"\x00\xff", b"\x00\xff"),
        (2**1000, 2**1000),
    ],
    ids=repr,
)
def test_plain_form(value: Any, plain: Any, tmp_path: Path) -> None:
    result = reloaded(value, tmp_path)

    assert result == plain
    assert type(result) is type(plain)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(3, dtype=np.uint32),
        np.arange(4)[::-1],
        np.arange(3, dtype=">i4"),
        np.asfortranarray(np.ones((2, 3))),
        np.frombuffer(b"\x01\x02", dtype=np.uint8),
        np.array(2.5),
    ],
    ids=["float", "uint32", "reversed", "big endian", "fortran", "read-only", "scalar"],
)
def test_arrays_become_tensors(array: Any, tmp_path: Path) -> None:
    result = reloaded(array, tmp_path)

    assert isinstance(result, torch.Tensor)
    assert result.tolist() == array.tolist()


def test_state_dict_keeps_versions_and_shared_storage(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model[2].weight = model[0].weight
    save({"state_dict": model.state_dict()}, tmp_path / "a.ckpt")

    state_dict = load(tmp_path / "a.ckpt")["state_dict"]

    assert state_dict._metadata == model.state_dict()._metadata
    assert state_dict["2.weight"].data_ptr() == state_dict["0.weight"].data_ptr()


def test_optimizers_and_schedulers_are_plain_already(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], amsgrad=True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    lr_scheduler = torch.optim.lr_scheduler
    schedulers = [
        lr_scheduler.MultiStepLR(optimizer, [1, 2, 2]),
        lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5),
        lr_scheduler.ReduceLROnPlateau(optimizer),
        lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
        lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
        lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(optimizer, 1)], optimizer),
        lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.StepLR(optimizer, 1)], [2]
        ),
        lr_scheduler.CyclicLR(optimizer, 0.1, 0.2, cycle_momentum=False),
    ]
    states = [optimizer.state_dict(), *(scheduler.state_dict() for scheduler in schedulers)]

    assert str(reloaded(states, tmp_path)) == str(states)


def test_tensors_lose_what_only_code_restores(tmp_path: Path) -> None:
    tagged = torch.ones(2)
    tagged.tag = Opaque()  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.ones(2))
    hooked = torch.ones(2, requires_grad=True)
    hooked.register_hook(lambda gradient: gradient)

    subclass, plain, kept, unhooked = reloaded(
        [torch.ones(2).as_subclass(MarkedTensor), tagged, parameter, hooked], tmp_path
    )

    assert type(subclass) is torch.Tensor
    assert not hasattr(plain, "tag")
    assert type(kept) is torch.nn.Parameter
    assert type(unhooked) is torch.Tensor


def test_one_warning_names_what_became_text(tmp_path: Path) -> None:
    checkpoint = {
        "state_dict": {},
        "hyper_parameters": {"loss": Opaque(), "lr": 0.1, "layers": [1, Opaque()], "size": 2**3000},
    }

    with pytest.warns(UserWarning, match="keeps only the text") as caught:
        save(checkpoint, tmp_path / "a.ckpt")

    assert len(caught) == 1
    assert "hyper_parameters.loss (Opaque), hyper_parameters.layers[1] (Opaque), " in str(caught[0].message)
    assert load(tmp_path / "a.ckpt")["hyper_parameters"] == {
        "loss": "Opaque()",
        "lr": 0.1,
        "layers": [1, "Opaque()"],
        "size": str(2**3000),
    }
    assert isinstance(checkpoint["hyper_parameters"]["loss"], Opaque)


def test_container_inside_itself_ends() -> None:
    loop: list[Any] = [1]
    loop.append(loop)

    with pytest.warns(UserWarning, match=r"a\[1\] \(list\)"):
        assert to_plain({"a": loop}) == {"a": [1, "[1, [...]]"]}


def test_one_object_in_two_places_stays_in_both() -> None:
    shared = [1]

    assert to_plain({"a": shared, "b": (shared, shared)}) == {"a": [1], "b": ([1], [1])}


@pytest.fixture
def files_of_at_most_64_kib() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_at_most_64_kib")
def test_disk_that_fills_up_keeps_the_older_file(tmp_path: Path) -> None:
    save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "last.ckpt")

    with pytest.raises((OSError, RuntimeError)):
        save({"state_dict": {"w": torch.zeros(2**16)}}, tmp_path / "last.ckpt")

    assert load(tmp_path / "last.ckpt")["state_dict"]["w"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Checkpoint file not found: .*a.ckpt"):
        load(tmp_path / "a.ckpt")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened as a file"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.ckpt"
    save({"state_dict": {"w": torch.ones(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])

    with pytest.raises(CheckpointError, match="a.ckpt cannot be read: it is truncated") as caught:
        load(path)

    assert "weights_only" not in str(caught.value)


def test_flipped_bit_is_without_effect_or_found(tmp_path: Path) -> None:
    """Wherever in the file it is: in a tensor, a record's name, the index, its place."""
    checkpoint = {"state_dict": {"w": torch.arange(4.0), "n": torch.arange(3)}, "epoch": 3, "text": ["a", 1.5]}
    save(checkpoint, tmp_path / "whole.ckpt")
    content = (tmp_path / "whole.ckpt").read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 7):  # each byte, and every bit of a byte in turn
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            loaded = load(io.BytesIO(broken))
        except CheckpointError:
            refused += 1
        else:
            tensors = loaded.pop("state_dict")
            assert loaded == {"epoch": 3, "text": ["a", 1.5]}, bit
            assert tensors.keys() == {"w", "n"}, bit
            assert all(torch.equal(tensors[name], value) for name, value in checkpoint["state_dict"].items()), bit
    assert 0 < refused < 8 * len(content) / 7


@pytest.mark.parametrize(
    ("place", "bit", "said"),
    [
        (8, 0, "RuntimeError: .*encrypted"),
        (10, 4, "NotImplementedError: That compression"),
        (46, 7, "UnicodeDecodeError"),
        (38, 4, "'archive/data/0' is not what its checksum and its entry in the file's index say"),
    ],
    ids=["encrypted", "compressed in another way", "name", "folder"],
)
def test_damaged_index(tmp_path: Path, place: int, bit: int, said: str) -> None:
    """A bit of the entry that the index has for a tensor; torch's reader takes a "folder" for an empty record."""
    save({"state_dict": {"w": torch.ones(1000)}}, tmp_path / "whole.ckpt")
    content = bytearray((tmp_path / "whole.ckpt").read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"archive/data/0"))
    content[entry + place] ^= 1 << bit
    (tmp_path / "whole.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"whole.ckpt is damaged.*{said}.*Load an older checkpoint"):
        load(tmp_path / "whole.ckpt")


def test_disk_that_cannot_be_read(tmp_path: Path) -> None:
    class BrokenAtItsBeginning(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() < 100:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    save({"state_dict": {}}, tmp_path / "whole.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read .*Input/output error"):
        load(BrokenAtItsBeginning((tmp_path / "whole.ckpt").read_bytes()))


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("hello world")

    with pytest.raises(CheckpointError, match=r"not written by `torch\.save`"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("content", "found"),
    [({"layer.weight": torch.ones(1)}, "layer.weight"), ({}, "nothing"), ([1], "list")],
)
def test_file_of_something_else(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")

    with pytest.raises(CheckpointError, match=f"not a checkpoint: .*'state_dict' was expected, but it holds {found}"):
        load(tmp_path / "a.ckpt")


class Hostile:
    """Leaves a file when it is unpickled."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [os.system, exec, eval, os.mkdir])
@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_file_runs_nothing(tmp_path: Path, function: Any, legacy: bool) -> None:
    canary = tmp_path / "canary"
    argument = {
        os.system: f"touch {canary}",
        exec: f"open({str(canary)!r}, 'w')",
        eval: f"open({str(canary)!r}, 'w')",
        os.mkdir: str(canary),
    }[function]
    path = tmp_path / "hostile.ckpt"
    content = {"state_dict": {"w": torch.ones(1)}, "callbacks": Hostile(function, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(CheckpointError, match=rf"restoring \S*{function.__name__} would run code"):
        load(path)

    assert not canary.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert canary.exists()  # the file was hostile indeed


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_hostile_pickle_without_torch_runs_nothing(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Hostile(os.mkdir, str(canary))}, protocol=protocol))

    with pytest.raises(CheckpointError):
        load(path)

    assert not canary.exists()


def test_object_of_an_unknown_class_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"root": Path("a"), "loss": Opaque()}}, tmp_path / "a.ckpt")

    with pytest.raises(CheckpointError, match="restoring .*Opaque would run code"):
        load(tmp_path / "a.ckpt")


def test_stream_and_uri(tmp_path: Path) -> None:
    save({"state_dict": {"w": torch.ones(1)}}, f"memory://{tmp_path.name}/a.ckpt")
    save({"state_dict": {"w": torch.ones(1)}}, (tmp_path / "b.ckpt").as_uri())

    assert load(f"memory://{tmp_path.name}/a.ckpt")["state_dict"]["w"].item() == 1
    with open(tmp_path / "b.ckpt", "rb") as stream:
        assert load(stream)["state_dict"]["w"].item() == 1


def test_map_location(tmp_path: Path) -> None:
    save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "a.ckpt")

    assert load(tmp_path / "a.ckpt", map_location="meta")["state_dict"]["w"].device.type == "meta"
    assert load(tmp_path / "a.ckpt", map_location=None)["state_dict"]["w"].device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_tensor_of_a_missing_device_comes_to_the_cpu(tmp_path: Path) -> None:
    # How torch writes a CUDA tensor: the location is a string beside the data.
    save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "a.ckpt")
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "cuda.ckpt", "w") as archive:
        for name, content in entries.items():
            if name.endswith("data.pkl"):
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            archive.writestr(name, content)

    assert load(tmp_path / "cuda.ckpt", map_location=None)["state_dict"]["w"].tolist() == [1]
    with pytest.raises(CheckpointError, match="CUDA"):
        load(tmp_path / "cuda.ckpt", map_location="cuda:0")


def test_what_weights_only_means() -> None:
    checkpoint_format.check_weights_only(None)
    checkpoint_format.check_weights_only(True)
    with pytest.warns(UserWarning, match="weights_only=False would let a checkpoint run code"):
        checkpoint_format.check_weights_only(False)
