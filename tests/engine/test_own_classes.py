"""Objects come back from other processes; their classes, which are this one's, are not changed by that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray import cloudpickle

from raylight.engine import own_classes


class Helped:
    def help(self) -> str:
        return helper()


def helper() -> str:
    return "mine"


def test_methods_keep_their_globals() -> None:
    pickled = cloudpickle.dumps(Helped())
    with own_classes.stay():
        back = cloudpickle.loads(pickled)
    assert type(back) is Helped
    assert Helped.help.__globals__ is globals()
    assert own_classes._here.ids == ()


def test_classes_that_were_not_here_come_whole(tmp_path: Path) -> None:
    make = "class New:\n    def help(self):\n        return 'new'\n"
    send = "import sys\nfrom ray import cloudpickle\nsys.stdout.buffer.write(cloudpickle.dumps(New()))\n"
    pickled = subprocess.run([sys.executable, "-c", make + send], capture_output=True, check=True, cwd=tmp_path).stdout
    with own_classes.stay():
        assert cloudpickle.loads(pickled).help() == "new"
