"""``raylight sweep``: search for hyperparameters of a script that trains with Lightning or raylight, without an edit.

The script runs, as with ``raylight run``, up to its first ``Trainer.fit``. What that would have trained is trained in
every trial instead: the model and the datamodule made anew, from the arguments that the script gave them and from
those that ``--set`` varies.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylight.cli.capture import FitCall, first_fit, maker_of
from raylight.utilities import aliases
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.secrets import redact

if TYPE_CHECKING:
    from raylight.sweeps.result import SweepResult

USAGE = "raylight sweep script.py --set NAME=DISTRIBUTION [--set ...] [option ...] [-- script's argument ...]"
BAD_INPUT, INTERRUPTED = 2, 130
"""Exit status."""
ASKED = ("metric", "mode", "num_samples", "search", "max_concurrent", "grace_period", "seed", "workers_per_trial")
"""Options that are arguments of ``sweep``; its own defaults count where they are left out."""
OF_A_NEW_ONE = ("set", "metric", "mode", "storage", "name")
"""Options that ``--resume`` does not go with."""
EPILOG = """\
distributions: uniform(a, b), loguniform(a, b), randint(a, b), lograndint(a, b), randn(mean, sd), quniform(a, b, step),
choice(x, y, ...), grid_search(x, y, ...); anything else is a constant. They are parsed, not run.

names: model.x is an argument of the model's class, data.x of the datamodule's, trainer.x a flag of the Trainer; x alone
is whichever of these it can be.

example: raylight sweep train.py --set model.lr='loguniform(1e-5,1e-1)' --set data.batch_size='choice(32,64)' \\
         --metric val_acc --mode max --num-samples 20 -- --epochs 5
"""


def main(arguments: Sequence[str]) -> int:
    """Runs on the driver: the command line behind ``raylight sweep``; returns the exit status.

    An exception of the script's, or the first one where all trials fail, passes through.
    """
    own, scripts = _split(arguments)
    parser = _parser()
    options = parser.parse_args(own)
    try:
        space = dict(_assignment(text) for text in options.set)
    except MisconfigurationException as error:
        parser.error(str(error))
    if not space and options.resume is None:
        parser.error("give at least one --set NAME=DISTRIBUTION")
    if options.resume is not None and (fixed := [f"--{name}" for name in OF_A_NEW_ONE if getattr(options, name)]):
        parser.error(f"{', '.join(fixed)}: a sweep that is resumed has it from its folder")
    aliases.install()
    try:
        call = first_fit(options.script, scripts)
    except OSError as error:
        print(f"raylight sweep: can't open file {options.script!r}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    if call is None:
        print(f"raylight sweep: {options.script!r} ended without a call of Trainer.fit", file=sys.stderr)
        return BAD_INPUT
    try:
        result = _search(call, options, space)
    except (MisconfigurationException, FileNotFoundError) as error:
        print(f"raylight sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    _tell(result, options.plot)
    if not result.interrupted:
        return 0
    again = shlex.join([options.script, "--resume", result.path, *(["--", *scripts] if scripts else [])])
    print(f"interrupted; go on with: raylight sweep {again}")
    return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raylight sweep", usage=USAGE, description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("script", help="path of the script")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=DISTRIBUTION", help="what trials vary")
    parser.add_argument("--metric", help="name of a logged metric (val_loss)")
    parser.add_argument("--mode", choices=("min", "max"), help="what is better (min)")
    parser.add_argument("--num-samples", type=int, help="trials (10)")
    parser.add_argument("--scheduler", choices=("asha", "pbt", "hyperband", "none"), help="(asha)")
    parser.add_argument("--search", choices=("random", "optuna"), help="(random)")
    parser.add_argument("--workers-per-trial", type=int, help="(as many as the script's Trainer has)")
    parser.add_argument("--max-concurrent", type=int, help="trials at a time (as many as there is room for)")
    parser.add_argument("--grace-period", type=int, help="reports before which no trial is ended (1)")
    parser.add_argument("--storage", help="folder, or URI, of all sweeps (raylight_sweeps)")
    parser.add_argument("--name", help="of this one's folder in it (by date and time)")
    parser.add_argument("--seed", type=int, help="of the search")
    parser.add_argument(
        "--resume", metavar="FOLDER", help="go on with the sweep of this folder; more --num-samples add trials"
    )
    parser.add_argument("--plot", metavar="FILE", help="write curves and parallel coordinates into a picture")
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """This command's arguments, and those behind ``--``, which are the script's."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _assignment(text: str) -> tuple[str, Any]:
    from raylight.sweeps.expressions import parse

    name, equals, expression = text.partition("=")
    if not equals or not name.strip() or not expression.strip():
        raise MisconfigurationException(f"--set {text!r} must be NAME=DISTRIBUTION, such as lr='loguniform(1e-5,1e-1)'")
    return name.strip(), parse(expression)


def _search(call: FitCall, options: argparse.Namespace, space: dict[str, Any]) -> SweepResult:
    from raylight.sweeps import resume, sweep

    asked = {name: getattr(options, name) for name in ASKED if getattr(options, name) is not None}
    if options.scheduler is not None:
        asked["scheduler"] = None if options.scheduler == "none" else options.scheduler
    asked.update(_recipe(call))
    if options.resume is not None:
        return resume(options.resume, **asked)
    asked.setdefault("workers_per_trial", _workers(call))
    return sweep(space=space, **asked, storage=options.storage, name=options.name)


def _tell(result: SweepResult, plot: str | None) -> None:
    if any(trial.best is not None for trial in result.trials):
        best = ", ".join(f"{name}={value}" for name, value in redact(result.best_params)[0].items())
        print(f"best: {result.metric}={result.best_value:.6g} with {best}\ncheckpoint: {result.best_checkpoint}")
    if plot is not None:
        result.plot().savefig(plot)
        print(f"plot: {os.path.abspath(plot)}")


def _recipe(call: FitCall) -> dict[str, Any]:
    """The arguments of ``sweep`` that a script's call of ``fit`` stands for."""
    from raylight.sweeps.recipe import SETTLED

    kept = {name: value for name, value in call.flags.items() if name not in SETTLED and name != "logger"}
    if call.flags.get("logger", True) is False:
        kept["logger"] = False
    return {
        "model": maker_of(call.model),
        "datamodule": maker_of(call.datamodule),
        "train_dataloaders": call.train_dataloaders,
        "val_dataloaders": call.val_dataloaders,
        "trainer": kept,
    }


def _workers(call: FitCall) -> int:
    """Workers of the script's own Trainer."""
    from raylight.config.accelerators import place

    return place(call.trainer.config).num_workers
