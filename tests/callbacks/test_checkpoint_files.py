from __future__ import annotations

from pathlib import Path

import pytest

from raylight.callbacks.checkpoint_files import lies_in, same_path


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("/a/b/c.ckpt", "/a/b", True),
        ("/a/b/sub/c.ckpt", "/a/b/", True),
        ("/a/bc/c.ckpt", "/a/b", False),
        ("/a/b", "/a/b", False),
        ("/a/b/../c.ckpt", "/a/b", False),
        ("s3://bucket/a/c.ckpt", "s3://bucket/a", True),
        ("s3://bucket/a/c.ckpt?region=x", "s3://bucket/a?region=x", True),
        ("s3://bucket/b/c.ckpt", "s3://bucket/a", False),
        ("/a/c.ckpt", "s3://bucket/a", False),
    ],
)
def test_lies_in(path: str, folder: str, inside: bool) -> None:
    assert lies_in(path, folder) is inside


def test_same_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert same_path("a.ckpt", str(tmp_path / "b" / ".." / "a.ckpt"))
    assert not same_path("a.ckpt", "s3://bucket/a.ckpt")
