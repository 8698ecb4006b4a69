"""``raylight doctor script.py``: what a script is about to train, looked at before it does."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import os
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

import raylight
from raylight.callbacks.base import Callback
from raylight.callbacks.legacy import OLD_CALLBACK_HOOKS
from raylight.cli.capture import FitCall, first_fit
from raylight.cli.run import begin_traceback_at
from raylight.config.accelerators import Placement, place
from raylight.config.flags import TrainerConfig
from raylight.config.messages import DataSource, TrainerFn
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.engine import attributes, portable
from raylight.utilities import aliases
from raylight.utilities.data import sized_len, suggested_max_num_workers
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.findings import Finding, ok, problem, warning
from raylight.utilities.rank_zero import LightningDeprecationWarning, PossibleUserWarning
from raylight.utilities.secrets import redact
from raylight.worker import sharing
from raylight.worker.data import combine
from raylight.worker.legacy import REMOVED, tell_of_old_methods
from raylight.worker.listeners import overrides, unknown_hooks
from raylight.worker.loader_advice import advise
from raylight.worker.verify import has_loader, verify

LARGEST = 100 << 20
"""Bytes of one attribute, beside weights, from which on it should not travel with the model."""
FEW = 0.01
"""Of an epoch's samples, that come twice."""
ALIKE = 0.9
"""Of two names, by difflib, from which on one is taken for the other misspelt."""
BASES = (LightningModule, LightningDataModule, Callback)
Notice = warnings.WarningMessage


def examine_script(path: str, arguments: list[str]) -> Iterator[Finding]:
    """Run a script up to its first ``fit`` and examine that call. The script's exceptions pass through."""
    aliases.install()
    notices: list[Notice] = []
    try:
        with _noting(notices):
            call = first_fit(path, arguments)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
        call = None
    except BaseException as error:
        begin_traceback_at(_frames_of(os.path.abspath(path), error))
        raise
    yield from (_notice(each) for each in _once(notices))
    if call is None:
        yield problem(
            "script",
            f"{path} ended without a call of Trainer.fit.",
            "Give it the arguments that make it train, behind its name. Is the call below `if __name__ == ...`, in a "
            "function that nobody calls?",
        )
        return
    yield from examine_call(call)


@contextlib.contextmanager
def _noting(notices: list[Notice]) -> Iterator[None]:
    """Keep raylight's own notices about a script; all other warnings are shown as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
            if issubclass(category, LightningDeprecationWarning | PossibleUserWarning):
                notices.append(Notice(message, category, filename, lineno, file, line))
            else:
                show(message, category, filename, lineno, file, line)

        for category in (LightningDeprecationWarning, PossibleUserWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = note
        yield


def _once(notices: list[Notice]) -> list[Notice]:
    return list({str(each.message): each for each in notices}.values())


def _notice(notice: Notice) -> Finding:
    """A warning of raylight's: what is seen stands before what to do."""
    is_old = issubclass(notice.category, LightningDeprecationWarning)
    in_script = not notice.filename.startswith(os.path.dirname(raylight.__file__))
    text = str(notice.message)
    mark = next((mark for mark in (". ", ": ", "; ") if mark in text), None)
    what, _, remedy = text.partition(mark) if mark else (text, "", "")
    remedy = remedy[:1].upper() + remedy[1:]
    line = f" ({os.path.basename(notice.filename)}:{notice.lineno})" if is_old and in_script else ""
    subject = "Lightning 1.x" if is_old else "advice"
    return warning(subject, f"{what.rstrip('.')}{line}.", remedy or "Change it, or leave it where it is meant so.")


def _frames_of(path: str, error: BaseException) -> Any:
    """Where a script's own frames begin; None where it has none, such as at an error of syntax."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != path:
        frame = frame.tb_next
    return frame


# ------------------------------------------------------------------------------------------------ one call of fit


def examine_call(call: FitCall) -> Iterator[Finding]:
    """Examine the objects that a ``fit`` was given. Its data is prepared and set up; nothing is trained."""
    trainer = call.trainer
    model = getattr(call.model, "_orig_mod", call.model)
    if not isinstance(model, LightningModule):
        yield problem(
            "model", f"fit was given a {type(model).__qualname__}.", "Give it an object of a LightningModule's class."
        )
        return
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        try:
            placement = place(trainer.config)
            data = DataSource(call.train_dataloaders, call.val_dataloaders, datamodule=call.datamodule)
            trainer.attach(model, data)
            verify(trainer, TrainerFn.FITTING, model, data)
            tell_of_old_methods(model, trainer.callbacks)
        except Exception as error:  # a refusal of fit's, or whatever configure_callbacks raises
            failure: Exception | None = error
        else:
            failure = None
    yield from (_notice(each) for each in _once(notices))
    if failure is not None:
        yield problem("call", _told(failure), "fit would raise this before it trains: change what it names.")
        return
    size = placement.num_workers
    where = "Ray" if placement.use_ray else "this process"
    yield ok("call", f"fit of {type(model).__name__} on {size} worker{'s' if size > 1 else ''}, in {where}")
    yield from examine_hooks([model, data.datamodule, *trainer.callbacks])
    yield from examine_pickling(call, model, data, placement)
    yield from examine_sizes(trainer, model, data)
    yield from examine_secrets(model, data.datamodule)
    yield from examine_data(trainer.config, model, data, placement)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _told(error: Exception) -> str:
    """What it says; of one that code outside of this package has raised also the kind and the place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if frame.filename.startswith(os.path.dirname(raylight.__file__)):
        return _first_line(error)
    return f"{type(error).__name__}: {_first_line(error)} ({os.path.basename(frame.filename)}:{frame.lineno})."


def examine_hooks(owners: list[Any]) -> Iterator[Finding]:
    """Methods that nothing calls, because their names are not quite those of hooks."""
    for owner in owners:
        base = next((base for base in BASES if isinstance(owner, base)), None)
        if base is None:
            continue
        unknown = set(unknown_hooks(owner)) if base is Callback else set()
        hooks = _hooks(base)
        for name in _own_methods(owner):
            close = [
                hook for hook in difflib.get_close_matches(name, hooks, 1, ALIKE) if not overrides(owner, hook, base)
            ]
            if name in unknown or close:
                guess = f"Did you mean {close[0]}?" if close else "See dir(raylight.Callback) for those that there are."
                yield warning("hook", f"{type(owner).__name__}.{name} is not a hook: nothing calls it.", guess)


def _hooks(base: type) -> list[str]:
    """Methods that a subclass of ``base`` may want to have."""
    ours = [each for each in base.__mro__ if each.__module__.startswith("raylight.")]
    return ["forward", *(name for each in ours for name, value in vars(each).items() if inspect.isfunction(value))]


def _own_methods(owner: Any) -> list[str]:
    """Methods of classes of the user's which neither Lightning nor raylight knows."""
    known = {name for base in BASES for name in dir(base)} | _old_methods()
    ours = ("raylight", "torch", "pytorch_lightning", "lightning")
    classes = [each for each in type(owner).__mro__ if each.__module__.partition(".")[0] not in ours]
    return [
        name
        for each in classes
        for name, value in vars(each).items()
        if inspect.isfunction(value) and name not in known and not name.startswith("_")
    ]


def _old_methods() -> set[str]:
    ends = {f"{stage}_{part}_end" for stage in ("training", "validation", "test") for part in ("step", "epoch")}
    return ends | {*OLD_CALLBACK_HOOKS, *REMOVED}


def examine_pickling(call: FitCall, model: Any, data: DataSource, placement: Placement) -> Iterator[Finding]:
    """What cannot travel to workers of Ray."""
    config = call.trainer.config
    others = {"strategy": config.strategy, "plugins": config.plugins, "profiler": call.trainer.profiler}
    for what, _ in portable.unpicklable(model, data, call.trainer.callbacks, **others):
        if placement.use_ray:
            yield problem("pickling", what, portable.REMEDY)
        else:
            yield warning(
                "pickling", f"{what} In this process it need not be, on Ray or in a sweep it is.", portable.REMEDY
            )


def examine_sizes(trainer: Any, model: Any, data: DataSource) -> Iterator[Finding]:
    """What is too large to travel with the objects that it is in."""
    named = attributes.references(model, trainer.callbacks, data.datamodule, trainer)
    packer = attributes.Packer(named, LARGEST)
    parts = [
        (f"{type(model).__name__}{'.' if path else ''}{path}.{name}", value)
        for path, module in model.named_modules()
        for name, value in attributes.travelling(module)
    ]
    for owner in (data.datamodule, *trainer.callbacks):
        if owner is not None:
            parts += [(f"{type(owner).__name__}.{name}", value) for name, value in attributes.travelling(owner)]
    given = [
        (f"What fit was given as {name} data", value) for name, value in vars(data).items() if name != "datamodule"
    ]
    for what, value in [*parts, *given]:
        if _is_too_large(packer, value):
            yield warning(
                "size",
                f"{what} takes more than {LARGEST >> 20} MiB, which are sent to each worker of Ray.",
                "Load it in `setup()` of a LightningDataModule, which runs in every worker, from files that are there.",
            )


def _is_too_large(packer: attributes.Packer, value: Any) -> bool:
    try:
        packer.dumps(value)
    except attributes.TooLargeError:
        return True
    except Exception:  # it cannot be pickled at all, which is told elsewhere
        return False
    return False


def examine_secrets(model: Any, datamodule: Any) -> Iterator[Finding]:
    """Hyperparameters that will not be written."""
    for owner in (model, datamodule):
        found = redact(dict(owner.hparams))[1] if owner is not None else []
        if found:
            yield warning(
                "secrets",
                f"{type(owner).__name__}.hparams has {', '.join(found)}: <redacted> stands in its place in checkpoints "
                "and logs, and load_from_checkpoint will ask for it.",
                "Read it from the environment where it is needed, or leave it out: save_hyperparameters(ignore=[...]).",
            )


# ------------------------------------------------------------------------------------------------ data


def examine_data(config: TrainerConfig, model: Any, data: DataSource, placement: Placement) -> Iterator[Finding]:
    """The loaders, and how the workers share them."""
    owners = [owner for owner in (data.datamodule, model) if owner is not None]
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        found: list[tuple[str, Any]] = []
        failure = None
        try:
            for owner in owners:
                owner.prepare_data()
            for owner in owners:
                owner.setup(stage="fit")
            for prefix in ("train", "val"):
                if has_loader(prefix, model, data):
                    loaders = combine(_request(prefix, owners[0], data), "sequential").flattened
                    found += [(prefix, loader) for loader in loaders]
            for prefix, loader in found:
                workers = _workers_per_node(placement)
                advise(loader, prefix, workers, bool(config.reload_dataloaders_every_n_epochs))
        except Exception as error:  # of the user's code, whatever it is
            failure = error
    for each in _once(notices):
        if not str(each.message).startswith("This DataLoader will create"):  # torch's word for examine_processes
            yield _notice(each)
    if failure is not None:
        yield problem(
            "data",
            f"The data could not be made: {_told(failure)}",
            "prepare_data, setup('fit') and the ..._dataloader methods are called as fit would: correct what is named.",
        )
        return
    for prefix, loader in found:
        yield examine_share(config, prefix, loader, placement)
        if isinstance(loader, DataLoader):
            yield from examine_processes(prefix, loader, placement)


def _request(prefix: str, owner: Any, data: DataSource) -> Any:
    given = getattr(data, prefix)
    return given if given is not None else getattr(owner, f"{prefix}_dataloader")()


def _workers_per_node(placement: Placement) -> int:
    return math.ceil(placement.num_workers / placement.num_nodes)


def examine_share(config: TrainerConfig, prefix: str, loader: Any, placement: Placement) -> Finding:
    """How the workers share the batches of one loader."""
    size, subject = placement.num_workers, f"{prefix} loader"
    if prefix == "train" and placement.is_elastic:
        try:
            sharing.share_elastically(loader, size, size, 0)
        except MisconfigurationException as error:
            return problem(subject, _first_line(error), "Use such a loader, or a fixed num_workers.")
    batches = sized_len(loader)
    told = f"{'an unknown number of' if batches is None else batches} batches"
    if size == 1:
        return ok(subject, told)
    if not config.use_distributed_sampler:
        return ok(subject, f"{told}, divided among {size} workers by yourself: use_distributed_sampler is False")
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
        return _examine_iterable(config, loader, size, subject)
    if prefix == "train":
        return _examine_training_share(loader, size, subject)
    if batches is not None and batches < size:
        return warning(
            subject,
            f"It has {batches} batches for {size} workers: {size - batches} of them have nothing to do.",
            "Make the batches smaller; results are exact either way.",
        )
    return ok(subject, f"{told}, in turn to {size} workers, each to exactly one")


def _examine_iterable(config: TrainerConfig, loader: Any, size: int, subject: str) -> Finding:
    name = type(loader.dataset).__name__
    if config.shard_iterable_datasets or isinstance(loader.dataset, sharing.ShardedIterableDataset):
        count = sized_len(loader.dataset)
        if count is not None and count % size:
            return warning(
                subject,
                f"The {count} samples of {name} are not divisible by {size} workers: some have a batch more, the "
                "others then repeat their last one, which counts for nothing.",
                f"Harmless; a number of samples that {size} divides avoids it.",
            )
        return ok(subject, f"the samples of {name} go to {size} workers in turn")
    return warning(
        subject,
        f"{name} is an IterableDataset, which only itself can divide: if it does not, each of {size} workers sees all "
        "of its data.",
        "Use Trainer(shard_iterable_datasets=True), divide it by torch.distributed.get_rank(), or use a map-style "
        "dataset.",
    )


def _examine_training_share(loader: Any, size: int, subject: str) -> Finding:
    if not isinstance(loader, DataLoader):
        return warning(
            subject,
            f"A {type(loader).__name__} is not divided among the workers: if it does not do that, each of {size} sees "
            "all of its data.",
            "Use a DataLoader with a map-style dataset, or divide it by torch.distributed.get_rank().",
        )
    if sharing.is_distributed(loader):
        return ok(subject, f"{len(loader)} batches for each worker, by a DistributedSampler of yours")
    own = sharing.has_own_batches(loader)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each = len(sharing.share_for_training(loader, size, 0))
    except MisconfigurationException as error:
        return problem(subject, f"cannot be divided among {size} workers", str(error))
    count, unit = (len(loader), "batches") if own else (len(loader.sampler), "samples")  # type: ignore[arg-type]
    told = f"{each} batches for each of {size} workers"
    if not own and loader.batch_size is not None:
        told += f", {loader.batch_size * size} samples in a step of all"
    told += f", of {count} {unit}"
    if each == 0:
        return problem(
            subject,
            f"{count} {unit} over {size} workers leave none a batch of {loader.batch_size}, and drop_last is set.",
            "Use fewer workers, smaller batches, or drop_last=False.",
        )
    missing = -count % size
    told += f"; {missing} of these come twice in each epoch, as {size} does not divide them" if missing else ""
    if missing > FEW * count:
        remedy = f"Use a number of {unit} that {size} divides, or another number of workers."
        return warning(subject, told, remedy)
    return ok(subject, told)


def examine_processes(prefix: str, loader: Any, placement: Placement) -> Iterator[Finding]:
    """Whether the loaders' own processes have cores to run on."""
    workers, cores = _workers_per_node(placement), os.cpu_count() or 1
    wanted = loader.num_workers * workers
    if wanted > cores:
        yield warning(
            f"{prefix} loader",
            f"num_workers={loader.num_workers} of {workers} worker{'s' if workers > 1 else ''} on a node are {wanted} "
            f"processes; this machine has {cores} cores.",
            f"On a node like this use at most num_workers={suggested_max_num_workers(workers)} in the DataLoader.",
        )
