"""A Job on this rank, from beginning to end."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from raylight.config.flags import TrainerConfig
from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.utilities.exceptions import SIGTERM_STATUS, SIGTERMException, TunerExit
from raylight.worker import evaluation
from raylight.worker.control import LeaveFit, NoSnapshots, StopRequest
from raylight.worker.fitting import StopFit, fit
from raylight.worker.run import Run
from raylight.worker.trial import try_out

if TYPE_CHECKING:
    from raylight.worker.run import Adapt, Emit


SECONDS_TO_CLEAN_UP = 3.0
"""For the hooks of a rank that has failed, before the driver is told."""


def execute(
    job: Job,
    ranks: dict[str, int],
    device: torch.device,
    emit: Emit,
    stop: StopRequest,
    snapshots: NoSnapshots | None = None,
    watch: Callable[[Run], None] | None = None,
    adapt: Adapt | None = None,
) -> tuple[Run, Outcome]:
    """Do the Job. Collective: every rank of the run must call it with the same Job.

    Args:
        watch: Is shown the run before it starts, for another thread to see how far it is.
        adapt: Makes a loader of what only the engine can read.

    Returns:
        The Run, for a driver in the same process, and what comes back to the user.

    Raises:
        Whatever the user's code raises, after the hooks that clean up.
    """
    if job.trainer is None:  # in the user's process the Trainer did it, and the user may have changed it since
        set_torch_flags(job.config)
    run = Run(job, ranks, device, emit, stop, snapshots)
    run.try_out = functools.partial(try_out, run)
    if adapt is not None:
        run.adapt = adapt
    if job.trainer is not None:
        job.trainer._run = run
        job.trainer.state = run.state
    if watch is not None:
        watch(run)
    outcome = Outcome(run.state)
    try:
        run.start()
        run.begin()
        _run_loops(run, outcome)
        run.end()
    except TunerExit:
        run.end_early()
    except LeaveFit:
        run.leave()
        raise
    except StopFit:
        outcome.interrupted = True
        run.fail(SIGTERMException(SIGTERM_STATUS) if stop.terminates else KeyboardInterrupt())
    except BaseException as error:
        _fail(run, error)
        raise
    finally:
        run.close()
    return run, outcome


def _fail(run: Run, error: BaseException) -> None:
    """Let the hooks clean up; with other workers only for a while, as these may wait elsewhere and never join in."""
    if run.strategy.world_size == 1:
        run.fail(error)
        return
    run.strategy = run.strategy.alone()
    clean = run.leave if run.snapshots.outlives(error) else functools.partial(run.fail, error)
    cleaning = threading.Thread(target=clean, daemon=True)
    with contextlib.suppress(RuntimeError):  # where memory has run out there may be none for a thread
        cleaning.start()
        cleaning.join(SECONDS_TO_CLEAN_UP)


def _run_loops(run: Run, outcome: Outcome) -> None:
    fn = run.job.fn
    if fn == TrainerFn.FITTING:
        fit(run)
    elif fn == TrainerFn.VALIDATING:
        outcome.results = evaluation.validate(run)
    elif fn == TrainerFn.TESTING:
        outcome.results = evaluation.test(run)
    else:
        outcome.predictions = evaluation.predict(run)


def set_torch_flags(config: TrainerConfig) -> None:
    """Process-wide switches of torch, as the newest Trainer wants them."""
    mode = {"warn": 1, True: 2}.get(config.deterministic or False, 0)  # as torch counts them
    if torch.get_deterministic_debug_mode() != mode:  # setting it imports torch's compiler, over a second
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
    if config.benchmark is not None:
        torch.backends.cudnn.benchmark = config.benchmark
    elif config.deterministic:
        torch.backends.cudnn.benchmark = False
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def single_rank() -> dict[str, int]:
    """Ranks of a run of one worker."""
    return {"global_rank": 0, "local_rank": 0, "node_rank": 0, "world_size": 1}
