"""Cells that run in a kernel, and are interrupted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]


class Cell:
    """A cell that has run, or is running."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    @property
    def outputs(self) -> list[Any]:
        return list(self._cell.outputs)

    @property
    def text(self) -> str:
        """What it wrote to its standard output."""
        return self._stream("stdout")

    @property
    def log(self) -> str:
        """What it wrote to its standard error."""
        return self._stream("stderr")

    def _stream(self, name: str) -> str:
        return "".join(output.text for output in self.outputs if output.get("name") == name)

    @property
    def error(self) -> str:
        """The name of the exception that has ended it; "" where none has."""
        return next((str(output.ename) for output in self.outputs if output.output_type == "error"), "")

    @property
    def traceback(self) -> str:
        """Without its colours."""
        lines = [line for output in self.outputs for line in output.get("traceback", [])]
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))

    def check(self) -> None:
        """Fail where an exception has ended it."""
        assert not self.error, self.traceback


class Kernel:
    """Runs cell after cell, as a person does."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    async def run(self, source: str, interrupts: Sequence[Callable[[Cell], bool]] = (), seconds: float = 60) -> Cell:
        """A cell to its end; the kernel is interrupted when the first of ``interrupts`` is true, then the second."""
        made = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(made)
        cell = Cell(made)
        running = asyncio.ensure_future(self.client.async_execute_cell(made, len(self.client.nb.cells) - 1))

        async def follow() -> None:
            for is_time in interrupts:
                while not is_time(cell):
                    assert not running.done(), cell.log + cell.traceback
                    await asyncio.sleep(0.02)
                await self.client.km.interrupt_kernel()
            await running

        await asyncio.wait_for(follow(), seconds)
        return cell

    def bars(self) -> list[tuple[float, float]]:
        """Of the progress bars that are widgets: where each is, and its end."""
        states = list(self.client.widget_state.values())
        return [(each["value"], each["max"]) for each in states if each.get("_model_name") == "FloatProgressModel"]
