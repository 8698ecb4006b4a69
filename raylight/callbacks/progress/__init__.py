"""Progress bars: they decide in the workers when and what to show, and draw it on the driver's terminal."""

from typing import TYPE_CHECKING

from raylight.callbacks.progress.progress_bar import ProgressBar
from raylight.callbacks.progress.rich_progress import RichProgressBar, RichProgressBarTheme
from raylight.callbacks.progress.tqdm_progress import TQDMProgressBar
from raylight.utilities.aliases import lazy_names

__all__ = ["ProgressBar", "RichProgressBar", "RichProgressBarTheme", "TQDMProgressBar"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
