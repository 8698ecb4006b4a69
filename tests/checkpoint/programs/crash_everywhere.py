"""Crash a fit at each of its operations on files in turn, and look at what is left.

    python crash_everywhere.py FOLDER local|background|pyarrow [STEP] [--all]

In every attempt a forked process fits into a folder of its own and is gone, by ``os._exit``, at its n-th operation: in
the middle of a write, before a flush to the disk, a renaming or a deletion. Whatever n is: each file with the name of a
checkpoint is complete, and what the newest holds never becomes older with a larger n. Prints the number of attempts.

STEP: n grows by it. --all: count the writes of less than 500 bytes too.
"""

from __future__ import annotations

import builtins
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CRASHED = 9
NUM_EPOCHS = 3
_left = -1
_least_bytes = 0


def operation(before_crash: Callable[[], Any] | None = None) -> None:
    """One is about to be done; the process is gone if its turn has come."""
    global _left
    _left -= 1
    if _left == 0:
        if before_crash is not None:
            before_crash()
        os._exit(CRASHED)


def crash_at(number: int, least_bytes: int) -> None:
    """Arm this process; writes of less than ``least_bytes`` do not count."""
    global _left, _least_bytes
    _left, _least_bytes = number, least_bytes
    for name in ("replace", "unlink", "fsync"):
        setattr(os, name, counted(getattr(os, name)))
    really_open = builtins.open
    builtins.open = lambda file, mode="r", *rest, **more: (  # type: ignore[assignment]
        CountedStream(really_open(file, mode, *rest, **more))
        if mode == "xb"
        else really_open(file, mode, *rest, **more)
    )


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        operation()
        return function(*args, **kwargs)

    return call


class CountedStream:
    """A crash leaves half of what was to be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._stream.write(bytes(content)[: len(content) // 2])
            self._stream.flush()

        if len(content) >= _least_bytes:
            operation(half)
        return self._stream.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> CountedStream:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()


def crash_pyarrow_at(number: int, least_bytes: int) -> None:
    """Likewise, for files of the scheme faulty://, which are on this disk."""
    global _left, _least_bytes
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    from raylight.checkpoint import storage

    _left, _least_bytes = number, least_bytes
    disk = LocalFileSystem()

    class Faulty(FSSpecHandler):  # type: ignore[misc]
        def __init__(self) -> None: ...

        create_dir = counted(lambda self, path, recursive: disk.create_dir(path, recursive=recursive))
        delete_file = counted(lambda self, path: disk.delete_file(path))
        move = counted(lambda self, source, target: disk.move(source, target))

    Faulty.get_file_info = lambda self, paths: disk.get_file_info(paths)
    Faulty.get_file_info_selector = lambda self, selector: disk.get_file_info(selector)
    Faulty.get_type_name = lambda self: "faulty"
    Faulty.normalize_path = lambda self, path: path
    Faulty.open_input_stream = lambda self, path: disk.open_input_stream(path, compression=None)

    def open_output_stream(self: Any, path: str, metadata: Any) -> Any:
        import pyarrow

        return pyarrow.PythonFile(CountedStream(disk.open_output_stream(path, compression=None)), mode="w")

    Faulty.open_output_stream = open_output_stream
    filesystem = PyFileSystem(Faulty())
    storage._remote_root = lambda uri: (filesystem, "/")  # type: ignore[assignment]


def fit(folder: str, background: bool) -> None:
    """Three files at each of three epochs: the best, the last, and one to resume from."""
    import torch
    from torch.utils.data import DataLoader

    import raylight as pl
    from raylight.demos.boring_classes import RandomDataset

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", max_epochs=NUM_EPOCHS, default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[pl.callbacks.ModelCheckpoint(f"{folder}/kept", save_last=True, async_save=background)],
    )  # fmt: skip
    trainer.fit(Model(), DataLoader(RandomDataset(32, 1)), ckpt_path="auto")


def attempt(folder: Path, mode: str, number: int, least_bytes: int) -> bool:
    """Whether the fit came to its end."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log = folder.with_suffix(".txt").read_text()
        # The fit itself does not crash with the process that writes for it, but hears of it
        assert code in (0, CRASHED) or (mode == "background" and "has ended, with exit code 9" in log), log
        return code == 0
    code = 1
    try:
        os.dup2(os.open(folder.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY, 0o600), 2)
        if mode == "background":
            os.environ["CRASH_AT"] = f"{number},{least_bytes}"  # see sitecustomize.py
        elif mode == "pyarrow":
            crash_pyarrow_at(number, least_bytes)
        else:
            crash_at(number, least_bytes)
        fit(f"faulty://disk{folder}" if mode == "pyarrow" else str(folder), mode == "background")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def newest(folder: Path) -> int:
    """The largest step in a checkpoint; each of them must be complete."""
    from raylight.checkpoint import format as checkpoint_format

    steps = [checkpoint_format.load(path)["global_step"] for path in folder.rglob("*.ckpt")]
    return max(steps, default=0)


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    import torch

    torch.set_num_threads(1)  # a forked process has no other
    fit(str(root / "warm"), background=False)  # imports what every attempt would import
    if mode == "background":
        (root / "sitecustomize.py").write_text(
            "import os, sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "import crash_everywhere\n"
            "if 'CRASH_AT' in os.environ:\n"
            "    crash_everywhere.crash_at(*map(int, os.environ['CRASH_AT'].split(',')))\n"
        )
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ["PYTHONPATH"]])
    number, reached, finished = 1, 0, False
    step_of_number = next((int(each) for each in sys.argv[3:] if each.isdigit()), 1)
    while not finished:
        folder = root / str(number)
        folder.mkdir()
        finished = attempt(folder, mode, number, 0 if "--all" in sys.argv else 500)
        step = newest(folder)
        assert step >= reached, f"crash {number}: the newest has step {step}, after {reached} with an earlier crash"
        reached = step
        number += step_of_number
    assert reached == NUM_EPOCHS, reached
    print(number)


if __name__ == "__main__":
    main()
