"""Names of checkpoint files: pure functions of a template and metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raylight.checkpoint.names import below

_PLACEHOLDER = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def fill_template(
    template: str, metrics: Mapping[str, Any], auto_insert_metric_name: bool = True, equals_char: str = "="
) -> str:
    """``template`` with every ``{name}`` or ``{name:spec}`` replaced by that metric; a metric that is missing counts 0.

    Args:
        template: Such as ``"{epoch}-{val_loss:.2f}"``. A "/" in it, or in an inserted name, makes a folder; a name that
            would lead out of the folder has "_" in place of "/".
        metrics: Numbers or tensors of one element.
        auto_insert_metric_name: Whether ``{epoch}`` becomes ``epoch=3`` rather than ``3``.
        equals_char: What stands between an inserted name and its value.
    """

    def fill(placeholder: re.Match[str]) -> str:
        name, spec = placeholder[1], placeholder[2] or ""
        value = format(metrics.get(name, 0), spec)
        filled = f"{name}{equals_char}{value}" if auto_insert_metric_name else value
        return below(filled)

    return _PLACEHOLDER.sub(fill, template)


def pattern_of(template: str) -> re.Pattern[str]:
    """Matches the beginning of every name that ``fill_template`` can make of ``template``."""
    literals = _PLACEHOLDER.split(template)[::3]  # split() returns literal, name, spec, literal, ...
    return re.compile(".*".join(re.escape(literal) for literal in literals))
