"""CheckpointIO: torch's, and the one that saves in a thread."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.checkpoint.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO


class Memory(CheckpointIO):
    """Keeps checkpoints in a dict; saves when ``gate`` is open."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.gate.wait(10)
        if path == "bad":
            raise OSError("disk full")
        self.saved[path] = checkpoint
        self.calls.append(f"save {path} {storage_options}")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return self.saved[path]

    def remove_checkpoint(self, path: Any) -> None:
        del self.saved[path]
        self.calls.append(f"remove {path}")

    def teardown(self) -> None:
        self.calls.append("teardown")


def test_torch(tmp_path: Path) -> None:
    io, path = TorchCheckpointIO(), tmp_path / "new" / "a.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, path)
    assert torch.equal(io.load_checkpoint(path)["state_dict"]["w"], torch.ones(2))
    io.remove_checkpoint(path)
    assert not path.exists()
    io.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(path)
    with pytest.raises(TypeError, match="with `storage_options` arg is not supported for `TorchCheckpointIO`"):
        io.save_checkpoint({}, path, storage_options={})


def test_async_saves_what_there_was() -> None:
    base = Memory()
    base.gate.clear()
    io = AsyncCheckpointIO(base)
    weight, numbers = torch.ones(2), [1, 2]
    io.save_checkpoint({"w": weight, "nested": {"numbers": numbers, "pair": (weight, 3)}}, "a", storage_options="o")
    weight.zero_()
    numbers.append(3)
    base.gate.set()
    saved = io.load_checkpoint("a")
    assert torch.equal(saved["w"], torch.ones(2))
    assert saved["nested"]["numbers"] == [1, 2]
    assert torch.equal(saved["nested"]["pair"][0], torch.ones(2))
    assert base.calls == ["save a o"]
    io.teardown()


def test_async_keeps_the_kinds_of_dicts() -> None:
    base, state = Memory(), torch.nn.BatchNorm1d(2).state_dict()
    io = AsyncCheckpointIO(base)
    io.save_checkpoint({"state_dict": state}, "a")
    io.teardown()
    assert base.saved["a"]["state_dict"]._metadata == state._metadata  # type: ignore[attr-defined]


def test_async_removes_after_it_has_saved() -> None:
    base = Memory()
    base.gate.clear()
    io = AsyncCheckpointIO(base)
    io.save_checkpoint({}, "a")
    io.remove_checkpoint("a")
    base.gate.set()
    io.teardown()
    assert base.calls == ["save a None", "remove a", "teardown"]


def test_async_error_at_the_end_and_once() -> None:
    io = AsyncCheckpointIO(Memory())
    io.save_checkpoint({}, "bad")
    with pytest.raises(OSError, match="disk full"):
        io.teardown()
    io.teardown()


def test_async_error_at_the_next_save(wait_until: Any) -> None:
    io = AsyncCheckpointIO(Memory())
    io.save_checkpoint({}, "bad")
    wait_until(lambda: io._pending[0].done())
    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({}, "good")
    io.save_checkpoint({}, "good")
    assert io.load_checkpoint("good") == {}
    io.teardown()


def test_async_travels() -> None:
    io = AsyncCheckpointIO(TorchCheckpointIO())
    io.save_checkpoint({}, "/dev/null/impossible")
    assert isinstance(pickle.loads(pickle.dumps(io)).checkpoint_io, TorchCheckpointIO)
    with pytest.raises(OSError, match="/dev/null"):
        io.teardown()


def test_base_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        CheckpointIO()  # type: ignore[abstract]
