from __future__ import annotations

from pathlib import Path

import pytest

from raylight.callbacks.checkpoint_files import lies_in, link, same_path


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


@pytest.mark.parametrize("former", ["nothing", "file", "link", "folder"])
def test_link_replaces_what_was_there(tmp_path: Path, former: str) -> None:
    target, linkpath = tmp_path / "sub" / "new.ckpt", tmp_path / "last.ckpt"
    target.parent.mkdir()
    target.write_text("new")
    other = tmp_path / "other.ckpt"
    other.write_text("other")
    if former == "file":
        linkpath.write_text("old")
    elif former == "link":
        linkpath.symlink_to(other)
    elif former == "folder":
        linkpath.mkdir()
        (linkpath / "shard").touch()
    link(str(target), str(linkpath))
    assert str(linkpath.readlink()) == "sub/new.ckpt"
    assert linkpath.read_text() == "new"
    assert other.read_text() == "other"


def test_no_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("content")
    link(str(path), str(path))
    assert path.read_text() == "content"
    assert not path.is_symlink()
