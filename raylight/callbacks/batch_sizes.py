"""Which batch sizes a search tries, and which of them it returns; how a size is tried is another matter."""

from __future__ import annotations

import math

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info

MODES = ("power", "binsearch", "throughput")


class Sizes:
    """Doubles the size until it does not fit; then, if the mode says so, halves the distance between the last two.

    What is returned has always been run: where a margin, or an effective batch to be kept, asks for another size than
    those tried so far, that is tried too.

    Args:
        mode: "power": the largest that fitted; "binsearch": found to the sample, less the margin; "throughput": the one
            of those that fitted with the most samples per second.
        first: First size.
        most: Largest to try.
        margin: With "binsearch": share of the largest size that is left free.
        trials: Sizes to try at most before one is chosen.
        effective: Samples between two optimizer steps that are to stay as they are: only its divisors are returned.
            None: that does not matter.
    """

    def __init__(
        self, mode: str, first: int, most: int, margin: float, trials: int, effective: int | None = None
    ) -> None:
        self._mode = mode
        self._most = most if effective is None else min(most, effective)
        self._margin = margin
        self._trials_left = trials
        self._effective = effective
        self._rates: dict[int, float] = {}
        """Of the sizes that fitted."""
        self._failed: int | None = None
        """The smallest size that did not fit."""
        self._searched = False
        self.size: int | None = min(first, self._most)
        """To try next; None: the search is over."""

    @property
    def _fitted(self) -> int:
        return max(self._rates, default=0)

    def take(self, fits: bool, samples: float, rate: float = math.nan) -> None:
        """The outcome for ``size``.

        Args:
            fits: Whether it did.
            samples: Size of the data on one worker, inf where unknown.
            rate: Samples per second.
        """
        tried = self.size
        assert tried is not None
        if fits:
            self._rates[tried] = rate
        else:
            self._failed = tried if self._failed is None else min(self._failed, tried)
        if not self._searched:
            self._trials_left -= 1
            following = self._following(tried, samples)
            self._searched = following is None or not self._trials_left
            self.size = following
        if self._searched:
            wanted = self._wanted()
            self.size = None if wanted in self._rates else wanted
        if self.size is not None:
            verdict = "succeeded" if fits else "failed"
            rank_zero_info(f"Batch size {tried} {verdict}, trying batch size {self.size}")

    def _following(self, tried: int, samples: float) -> int | None:
        if self._failed is None:
            return None if tried >= samples or tried >= self._most else min(tried * 2, self._most)
        if not self._fitted:
            return None if tried == 1 else max(tried // 2, 1)
        if self._mode != "binsearch" or self._failed - self._fitted <= 1:
            return None
        return (self._fitted + self._failed) // 2

    def _wanted(self) -> int | None:
        """The size to return, whether it has been tried or not; None where there is none left."""
        if not self._fitted:
            return None if self._failed == 1 or self._effective is None else self._divisor(self._failed or 1)
        best = self._fitted
        if self._mode == "throughput":
            best = max(self._rates, key=lambda size: (self._rates[size], -size))
        elif self._mode == "binsearch":
            best = max(1, int(best * (1 - self._margin)))
        if self._failed is not None and best >= self._failed:  # the margin's size was tried, and failed
            best = max((size for size in self._rates if size < self._failed), default=1)
        return best if self._effective is None else self._divisor(best)

    def _divisor(self, most: int) -> int | None:
        """The largest divisor of the effective batch up to ``most`` that is not known to fail."""
        assert self._effective is not None
        limit = most if self._failed is None else min(most, self._failed - 1)
        return next((size for size in range(limit, 0, -1) if self._effective % size == 0), None)

    @property
    def result(self) -> int:
        """The size that was found.

        Raises:
            MisconfigurationException: None fitted.
        """
        wanted = self._wanted()
        if wanted is None or wanted not in self._rates:
            raise MisconfigurationException(
                f"No batch size fits into memory, down to {self._failed}: make the model smaller, or use precision="
                "'bf16-mixed'."
            )
        return wanted
