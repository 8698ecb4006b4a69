"""Search distributions as text, such as ``loguniform(1e-5, 1e-1)``: read for the command line, written into files.

The text is parsed, never evaluated: only the names below may be called, and only on literals.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Normal, Quantized, Uniform

from raylight.utilities.exceptions import MisconfigurationException

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "uniform": tune.uniform,
    "quniform": tune.quniform,
    "loguniform": tune.loguniform,
    "qloguniform": tune.qloguniform,
    "randn": tune.randn,
    "qrandn": tune.qrandn,
    "randint": tune.randint,
    "qrandint": tune.qrandint,
    "lograndint": tune.lograndint,
    "qlograndint": tune.qlograndint,
    "choice": lambda *values: tune.choice(list(values)),
    "grid_search": lambda *values: tune.grid_search(list(values)),
}
"""Ray Tune's distributions; the values of the last two are arguments of their own."""


def parse(text: str) -> Any:
    """A distribution of Ray Tune's, or a constant. What is neither a call nor a literal stands for itself, as a string.

    Raises:
        MisconfigurationException: It is neither.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return text  # such as a path
    if not isinstance(tree, ast.Call):
        return _constant(tree, text)
    name = ast.unparse(tree.func)
    if name.removeprefix("tune.") not in FUNCTIONS:
        close = difflib.get_close_matches(name, FUNCTIONS, n=1)
        guess = f" (did you mean {close[0]}?)" if close else ""
        raise MisconfigurationException(f"{text!r}: {name} is not one of {', '.join(FUNCTIONS)}{guess}.")
    positional = [_literal(argument, text) for argument in tree.args]
    named = {str(keyword.arg): _literal(keyword.value, text) for keyword in tree.keywords}
    try:
        return FUNCTIONS[name.removeprefix("tune.")](*positional, **named)
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(f"{text!r}: {error}") from error


def _constant(tree: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(tree)
    except ValueError:
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            raise MisconfigurationException(f"{text!r} is neither a distribution nor a constant.") from None
        return text  # such as a word, or a path


def _literal(tree: ast.expr, text: str) -> Any:
    if isinstance(tree, ast.Name):
        return tree.id
    try:
        return ast.literal_eval(tree)
    except ValueError:
        raise MisconfigurationException(
            f"{text!r}: {ast.unparse(tree)} is no literal. Give numbers, strings, True, False, None, or lists of these."
        ) from None


def expression_of(value: Any) -> str | None:
    """The text that ``parse`` makes this distribution from; None where there is none."""
    if isinstance(value, dict) and set(value) == {"grid_search"}:
        return _call("grid_search", value["grid_search"])
    if isinstance(value, Categorical):
        return _call("choice", value.categories)
    if not isinstance(value, Float | Integer):
        return None
    sampler: Any = value.get_sampler()
    step, prefix = [], ""
    if isinstance(sampler, Quantized):
        step, prefix, sampler = [sampler.q], "q", sampler.sampler
    if isinstance(sampler, Normal):
        return _call(f"{prefix}randn", [sampler.mean, sampler.sd, *step])
    if not isinstance(sampler, Uniform | LogUniform):
        return None
    kind = "randint" if isinstance(value, Integer) else "uniform"
    log = "log" if isinstance(sampler, LogUniform) else ""
    return _call(f"{prefix}{log}{kind}", [value.lower, value.upper, *step])


def _call(name: str, values: Any) -> str | None:
    try:
        same = all(ast.literal_eval(repr(each)) == each for each in values)
    except (ValueError, SyntaxError):
        return None
    return f"{name}({', '.join(map(repr, values))})" if same else None


def is_searched(value: Any) -> bool:
    """Whether trials differ in this value of a space."""
    return isinstance(value, Domain) or (isinstance(value, dict) and set(value) == {"grid_search"})
