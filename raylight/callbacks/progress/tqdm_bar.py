"""tqdm's bar; apart from the callback, so that tqdm is imported when a bar is drawn."""

from __future__ import annotations

from typing import Any

from raylight.utilities.notebook import has_widgets

if has_widgets():
    from tqdm.auto import tqdm
else:  # tqdm.auto would warn in a notebook, and show nothing
    from tqdm import tqdm

WIDTH = 5


class Tqdm(tqdm):  # type: ignore[misc]
    """A bar whose numbers keep their width, so that it does not flicker."""

    @staticmethod
    def format_num(n: int | float | str) -> str:
        """A number, or a text that is one, filled up with zeros to five characters; integers and words as they are."""
        text = n if isinstance(n, str) else str(tqdm.format_num(n))
        if isinstance(n, int) or "e" in text or len(text) >= WIDTH or not _is_number(text):
            return text
        return (text if "." in text else f"{text}.").ljust(WIDTH, "0")


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
