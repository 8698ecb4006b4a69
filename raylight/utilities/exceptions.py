"""Every exception that raylight raises on purpose.

::

    RaylightError
    ├── MisconfigurationException (also ValueError)   a flag, a method or a combination cannot work
    │   ├── UnknownFlagError (also TypeError)         a Trainer flag that does not exist
    │   ├── UnpicklableError                          an object cannot travel to the workers
    │   └── MetricNotLoggedError                      a search goes by a metric that its trials do not log
    ├── CheckpointError                               a checkpoint is broken, or not for this model
    │   ├── CheckpointNotFoundError (also FileNotFoundError)   there is none
    │   ├── CheckpointNotWrittenError (also OSError)           the file system refused it
    │   ├── IncompleteCheckpointError (also KeyError)          it has only weights, and more is needed
    │   └── WeightsMismatchError (also RuntimeError)           its weights are those of another model
    ├── ClusterError                                  a cluster cannot be reached, or does not let us in
    ├── ResourceError                                 the cluster cannot give what the run asks for
    ├── WorkerError                                   a worker process is gone or the engine around it failed
    └── MissingNameError (also ModuleNotFoundError)   Lightning has a module or name that raylight lacks

    TunerExit                                         a search has its result: the call it ran in ends here
    SIGTERMException (a SystemExit)                   the process was asked to end by a signal

An exception of the user's code is never one of these: it reaches the driver with its own type, and carries where it
happened as a note (``BaseException.__notes__``, Python 3.11) and in its ``raylight_origin`` attribute.
"""

from typing import Any


class RaylightError(Exception):
    """Base of all exceptions that raylight raises on purpose."""


class MisconfigurationException(RaylightError, ValueError):
    """A flag, a method or a combination of them cannot work; the message says what was expected."""


class UnknownFlagError(MisconfigurationException, TypeError):
    """A keyword argument that does not exist, such as a flag of ``Trainer``; the message guesses what was meant."""


class UnpicklableError(MisconfigurationException):
    """A model, datamodule or callback holds something that cannot be sent to the workers; the attribute is named."""


class MetricNotLoggedError(MisconfigurationException):
    """A search goes by a metric that its trials do not log; the message says what they do log."""


class CheckpointError(RaylightError):
    """A checkpoint is truncated, unsafe, or does not fit the model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint where one was named."""


class CheckpointNotWrittenError(CheckpointError, OSError):
    """A checkpoint could not be written, for want of space or of the right to; older ones are as they were."""


class IncompleteCheckpointError(CheckpointError, KeyError):
    """A checkpoint holds weights only, and training cannot go on from these."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class WeightsMismatchError(CheckpointError, RuntimeError):
    """The weights of a checkpoint are not those of the model; missing, unexpected and mis-shaped ones are named."""


class ClusterError(RaylightError):
    """A cluster cannot be reached, does not let us in, or has not what was named; the message says what to do."""


class ResourceError(RaylightError):
    """The cluster cannot give the resources that the run asks for."""


class WorkerError(RaylightError):
    """A worker process died or stopped answering.

    Args:
        message: What happened.
        rank: Global rank of the worker, or None when it had no rank yet.
        node: Address of the node it ran on, or None when unknown.
    """

    def __init__(self, message: str, rank: int | None = None, node: str | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.node = node

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.rank, self.node)


class MissingNameError(RaylightError, ModuleNotFoundError):
    """raylight has no counterpart of a module or name of Lightning's; the message says what to use."""


class TunerExit(Exception):  # noqa: N818  nothing has gone wrong
    """A search inside a call has its result, and the call was made for nothing else: it ends here, successfully."""


SIGTERM_STATUS = 143
"""Exit status, as a shell gives it to a process that a SIGTERM has ended."""


class SIGTERMException(SystemExit):
    """The process was asked to end, by a SIGTERM; a callback sees it in ``on_exception``."""
