"""Random numbers: seed them all, keep a block from disturbing them, take their state in and out."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import CheckpointError
from raylight.utilities.rank_zero import log, rank, rank_zero_warn

MAX_SEED = 2**32 - 1
MIN_SEED = 0
SEED_VARIABLE = "PL_GLOBAL_SEED"
SEED_WORKERS_VARIABLE = "PL_SEED_WORKERS"
_PACKED = "<i?diid"
_MERSENNE_WORDS = 624
_NO_RANDOM_NUMBERS = "The states of random numbers in the checkpoint are damaged. Load an older checkpoint."


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed python, numpy and torch (all devices), and remember the seed for the workers of later runs.

    Args:
        seed: 0 to 2**32 - 1. None takes ``PL_GLOBAL_SEED`` from the environment, or 0.
        workers: Also seed DataLoader workers, each differently on each rank.
        verbose: Log the seed, and warn where there was none.

    Returns:
        The seed that was set.

    Raises:
        ValueError: The seed is out of range, or that of the environment is no number.
    """
    if seed is None:
        seed = _seed_from_environment(verbose)
    seed = int(seed)
    if not MIN_SEED <= seed <= MAX_SEED:
        raise ValueError(f"{seed} is not in bounds, numpy accepts from {MIN_SEED} to {MAX_SEED}")
    if verbose and rank() == 0:
        log.info("Seed set to %d", seed)
    os.environ[SEED_VARIABLE] = str(seed)
    os.environ[SEED_WORKERS_VARIABLE] = str(int(workers))
    seed_rng(seed)
    return seed


def seed_rng(seed: int) -> None:
    """Seed python, numpy and torch, and remember nothing; ``seed`` is taken modulo 2**32."""
    seed %= MAX_SEED + 1
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _seed_from_environment(verbose: bool) -> int:
    text = os.environ.get(SEED_VARIABLE)
    if text is None:
        if verbose:
            rank_zero_warn("No seed found, seed set to 0")
        return 0
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"Invalid seed specified via {SEED_VARIABLE}: {text!r}") from None


def global_seed(default: int = 0) -> int:
    """The seed that ``seed_everything`` set, or ``default``."""
    return int(os.environ.get(SEED_VARIABLE, default))


def workers_are_seeded() -> bool:
    """Whether ``seed_everything(workers=True)`` was called."""
    return os.environ.get(SEED_WORKERS_VARIABLE, "0") == "1"


def seed_dataloader_worker(worker_id: int) -> None:
    """``worker_init_fn`` that gives each DataLoader worker of each rank its own random numbers.

    The base seed is torch's own for the worker, so a new epoch brings new numbers; numpy and python follow it.
    """
    sequence = np.random.SeedSequence([torch.initial_seed() - worker_id, worker_id, rank()])
    np.random.seed(sequence.generate_state(4))
    torch_sequence, python_sequence = sequence.spawn(2)
    torch.manual_seed(int(torch_sequence.generate_state(1, dtype=np.uint64)[0]))
    random.seed(int(python_sequence.generate_state(1, dtype=np.uint64)[0]))


def rng_state(include_cuda: bool = True) -> dict[str, Any]:
    """State of python's, numpy's and torch's generators, in plain types and tensors."""
    name, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached_gaussian),
        "torch": torch.get_rng_state(),
    }
    if include_cuda and torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def packed_rng_state() -> bytes:
    """State of this process's generators but those of GPUs: what ``set_packed_rng_state`` puts back."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    numbers = (version, gauss is not None, gauss or 0.0, position, has_gauss, cached_gaussian)
    words = np.asarray((*internal, *keys), dtype=np.uint32)
    return struct.pack(_PACKED, *numbers) + words.tobytes() + torch.get_rng_state().numpy().tobytes()


def set_packed_rng_state(state: bytes) -> None:
    """Put back what ``packed_rng_state`` gave.

    Raises:
        CheckpointError: It is something else.
    """
    begin = struct.calcsize(_PACKED)
    if not isinstance(state, bytes) or len(state) != len(packed_rng_state()):
        raise CheckpointError(_NO_RANDOM_NUMBERS)
    version, has_python_gauss, gauss, position, has_gauss, cached_gaussian = struct.unpack(_PACKED, state[:begin])
    if not 0 <= position <= _MERSENNE_WORDS:  # numpy would read beyond its memory
        raise CheckpointError(_NO_RANDOM_NUMBERS)
    words = np.frombuffer(state, dtype=np.uint32, count=2 * _MERSENNE_WORDS + 1, offset=begin)
    internal, keys = words[: _MERSENNE_WORDS + 1], words[_MERSENNE_WORDS + 1 :]
    try:
        random.setstate((version, tuple(internal.tolist()), gauss if has_python_gauss else None))
        torch.set_rng_state(torch.frombuffer(bytearray(state[begin + words.nbytes :]), dtype=torch.uint8))
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(_NO_RANDOM_NUMBERS) from error
    np.random.set_state(("MT19937", keys.copy(), position, has_gauss, cached_gaussian))


@contextlib.contextmanager
def isolate_rng(include_cuda: bool = True) -> Iterator[None]:
    """Leave every generator after the block as it was before it; those of GPUs too, unless ``include_cuda`` is False.

    A forked process must not touch CUDA.
    """
    state = rng_state(include_cuda)
    try:
        yield
    finally:
        set_rng_state(state)


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
