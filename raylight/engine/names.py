"""What this process's workers and placement groups are called on the cluster. Runs on the driver."""

from __future__ import annotations

import os
import re
import sys
import uuid

WITHOUT_SCRIPT = "python"
NOT_SCRIPTS = {
    "": WITHOUT_SCRIPT,
    "-": WITHOUT_SCRIPT,
    "-c": WITHOUT_SCRIPT,
    "ipykernel_launcher": "notebook",
    "__main__": None,
}
"""What ``sys.argv`` names where there is no script: what it is called then; None: as the package whose it is."""
LONGEST = 40


def new_run_name() -> str:
    """``<script>-<four hexadecimal digits>``: the same script may run on the cluster more than once."""
    return f"{script_name()}-{uuid.uuid4().hex[:4]}"


def script_name() -> str:
    """The script's file name without its ending, in letters that Ray and Prometheus show as they are."""
    path = sys.argv[0] if sys.argv else ""
    stem = os.path.splitext(os.path.basename(path))[0]
    known = NOT_SCRIPTS.get(stem, stem)
    name = known if known is not None else os.path.basename(os.path.dirname(os.path.abspath(path)))
    return re.sub(r"[^\w.-]+", "_", name)[:LONGEST].strip("-_.") or WITHOUT_SCRIPT
