"""Where plots are drawn."""

from __future__ import annotations

from typing import Any

from raylight.utilities.exceptions import MisconfigurationException


def figure_and_axes(ax: Any) -> tuple[Any, Any]:
    """``ax`` with its matplotlib figure; None makes both.

    Raises:
        MisconfigurationException: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise MisconfigurationException(
            "To use the `plot` method, you must have Matplotlib installed: pip install -U matplotlib"
        ) from error
    return plt.subplots() if ax is None else (ax.figure, ax)


def show() -> None:
    """Open a window with what was drawn."""
    import matplotlib.pyplot as plt

    plt.show()
