"""Whether this is a notebook, and what its output area can do."""

from __future__ import annotations

import importlib.util
import sys


def in_notebook() -> bool:
    """Whether this process is the kernel of a Jupyter notebook, or of what works like one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def has_widgets() -> bool:
    """Whether ipywidgets is installed, which draws in a notebook what changes."""
    return importlib.util.find_spec("ipywidgets") is not None


def has_one_line() -> bool:
    """Whether text that is to change has one line for that: a notebook goes back to its start, but no line up."""
    return in_notebook() and not has_widgets()
