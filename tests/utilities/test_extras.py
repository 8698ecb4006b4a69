"""Optional packages: imported, or named where they are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylight.utilities.extras import import_extra


def test_a_package_that_is_there() -> None:
    assert import_extra("json", "This", "nothing") is json


def test_a_package_that_is_missing() -> None:
    with pytest.raises(
        ModuleNotFoundError, match=r"`This` requires `not_there` to be.*: `pip install raylight\[x\]`"
    ) as e:
        import_extra("not_there.part", "`This`", "raylight[x]")
    assert e.value.name == "not_there"


def test_a_package_that_is_broken_speaks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import its_own_need")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="^No module named 'its_own_need'$"):
        import_extra("broken_package", "This", "raylight[x]")
