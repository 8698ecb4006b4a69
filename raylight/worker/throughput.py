"""How much a rank has done and what it has waited for: counted by its loops, read by other threads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from raylight.utilities import tree

T = TypeVar("T")
SECONDS_BETWEEN_LOSSES = 1.0
SECONDS_BETWEEN_COUNTS = 0.1
"""At the most: until then they are local variables, which are cheaper to change."""


class Throughput:
    """Counters of one run on one rank. Whoever reads them compares two moments, so that they never start anew."""

    def __init__(self) -> None:
        self.batches = 0
        """Taken from the loaders, of training and of evaluations."""
        self.samples = 0
        """In them."""
        self.waited = 0.0
        """Seconds that they were waited for."""
        self.stepping = 0.0
        """Seconds within ``training_step``, where it does not wait for the other ranks."""
        self.at = 0.0
        """When the latest was there, on this process's ``time.perf_counter``."""
        self._loss: Tensor | None = None
        self._next_loss = 0.0

    def watch(self, items: Iterator[T], size_of: Callable[[T], int] | None = None) -> Iterator[T]:
        """``items``, counted as they are taken. This is on the step path.

        Args:
            items: Batches, or what has them in it.
            size_of: The samples in one; None: of a batch.
        """
        clock, count = time.perf_counter, size_of or num_samples
        batches, samples, waited, next_time = 0, 0, 0.0, 0.0
        asked = now = clock()
        try:
            for item in items:
                now = clock()
                waited += now - asked
                batches += 1
                samples += count(item)
                if now >= next_time:
                    self._add(batches, samples, waited, now)
                    batches, samples, waited, next_time = 0, 0, 0.0, now + SECONDS_BETWEEN_COUNTS
                yield item
                asked = clock()
        finally:
            if batches:
                self._add(batches, samples, waited, now)

    def _add(self, batches: int, samples: int, waited: float, at: float) -> None:
        self.batches += batches
        self.samples += samples
        self.waited += waited
        self.at = max(self.at, at)

    def watch_step(self, step: Callable[..., Any], synchronizes: bool) -> Callable[..., Any]:
        """``step``, whose time is counted, and whose loss is kept about once a second. This is on the step path.

        Args:
            synchronizes: It waits for the other ranks itself, so that its time is not this rank's own.
        """
        clock = time.perf_counter

        def watched(*args: Any) -> Any:
            began = clock()
            returned = step(*args)
            if not synchronizes:
                self.stepping += clock() - began
            if began >= self._next_loss:
                self._next_loss = began + SECONDS_BETWEEN_LOSSES
                self._keep_loss(returned)
            return returned

        return watched

    def _keep_loss(self, returned: Any) -> None:
        loss = returned.get("loss") if isinstance(returned, dict) else returned
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if loss.device.type == "cpu":
            self._loss = loss.detach()
            return
        if self._loss is None:
            self._loss = torch.full((1,), math.nan, pin_memory=loss.device.type == "cuda")
        # Into pinned memory nothing waits for the GPU, neither here nor where the value is read.
        self._loss.copy_(loss.detach().reshape(1), non_blocking=True)

    @property
    def loss(self) -> float | None:
        """What ``training_step`` returned a second or so ago; None before that. For other threads."""
        return None if self._loss is None else float(self._loss)


def num_samples(batch: Any) -> int:
    """Samples in a batch: as of its first tensor; 1 where there is none."""
    first = batch[0] if type(batch) in (list, tuple) and batch else batch  # the usual ones, without walking the tree
    if type(first) is Tensor:
        try:
            return first.size(0)
        except IndexError:  # it has no dimension
            return 1
    return tree.batch_size(batch) or 1
