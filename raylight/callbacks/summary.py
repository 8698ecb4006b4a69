"""The table of the model's layers when a fit starts."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.utilities.model_summary import format_summary_table, summarize, summary_totals

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class ModelSummary(Callback):
    """Show the layers of the model and their parameters when a fit starts.

    Args:
        max_depth: 1: the direct children; n: n levels; -1: all; 0: nothing is shown.
        **summarize_kwargs: Handed to ``summarize``, which a subclass may override.
    """

    def __init__(self, max_depth: int = 1, **summarize_kwargs: Any) -> None:
        self._max_depth = max_depth
        self._summarize_kwargs = summarize_kwargs

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._max_depth:
            return
        # On every rank: with sharded weights the forward of the example input is collective
        summary = summarize(pl_module, self._max_depth)
        if not trainer.is_global_zero:
            return
        text = self.summarize(
            summary.columns(),
            summary.total_parameters,
            summary.trainable_parameters,
            summary.model_size,
            summary.total_training_modes,
            total_flops=summary.total_flops,
            **self._summarize_kwargs,
        )
        if text is not None:
            trainer.emit_text(text)

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> str | None:
        """The text to show. None: an override has shown it by itself.

        Args:
            summary_data: Header and cells of each column.
            total_parameters: Number of all parameters.
            trainable_parameters: Number of those that require a gradient.
            model_size: Size of the parameters in MB.
            total_training_modes: Number of submodules in "train" and in "eval" mode.
            total_flops: Floating-point operations of one forward of the example input.
            **summarize_kwargs: What the callback was made with.
        """
        return format_summary_table(
            total_parameters, trainable_parameters, model_size, total_training_modes, total_flops, *summary_data
        )


class RichModelSummary(ModelSummary):
    """``ModelSummary`` as a table of rich; colours where training runs in the process that owns the terminal.

    Args:
        max_depth: As in ``ModelSummary``.
        header_style: Style of the header line, rich's notation; "bold magenta" if not given.
    """

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> str | None:
        from rich.console import Console
        from rich.table import Table

        table = Table(header_style=summarize_kwargs.get("header_style", "bold magenta"))
        for header, _ in summary_data:
            table.add_column(header, **_COLUMN_STYLES.get(header, {}))
        for row in zip(*(cells for _, cells in summary_data), strict=True):
            table.add_row(*row)

        totals = Table.grid(expand=True)
        totals.add_column()
        for label, value in summary_totals(
            total_parameters, trainable_parameters, model_size, total_training_modes, total_flops
        ):
            totals.add_row(f"[bold]{label.replace('Flops', 'FLOPs')}[/]: {value}")

        text = io.StringIO()
        console = Console(file=text, force_terminal=sys.stdout.isatty())
        console.print(table)
        console.print(totals)
        return text.getvalue().rstrip("\n")


_COLUMN_STYLES: dict[str, dict[str, Any]] = {
    " ": {"style": "dim"},
    "Name": {"justify": "left", "no_wrap": True},
    "Params": {"justify": "right"},
    "FLOPs": {"justify": "right"},
    "In sizes": {"justify": "right", "style": "white"},
    "Out sizes": {"justify": "right", "style": "white"},
}
