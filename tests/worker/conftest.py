"""Real process groups without Ray: processes that stay, and join a new gloo group for each run."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ranks  # noqa: E402


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """``on_ranks(world_size, program, **kwargs)``: results by rank of a function of ranks.py, run on 1 to 3 ranks."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(ranks.MOST)]
    processes = [context.Process(target=ranks.serve, args=(theirs,), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()
    store = tmp_path_factory.mktemp("stores")
    count = 0

    def run(world_size: int, program: Callable[..., Any], **kwargs: Any) -> list[Any]:
        nonlocal count
        count += 1
        used = [ours for ours, _ in pipes[:world_size]]
        for rank, pipe in enumerate(used):
            pipe.send((rank, world_size, str(store / str(count)), program.__name__, kwargs))
        replies = [pipe.recv() for pipe in used]
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    yield run
    for ours, _ in pipes:
        ours.send(None)
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
