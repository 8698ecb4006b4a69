"""Nested batches: map over them, move them, detach them, count their samples.

A batch is any nesting of lists, tuples, named tuples, mappings and dataclasses; what is none of these is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """A copy of ``tree``, same containers, with ``function`` applied to every leaf."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        mapped = {key: map_leaves(function, value) for key, value in tree.items()}
        return mapped if type(tree) is dict else _rebuild_mapping(tree, mapped)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_leaves(function, value) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not hasattr(tree, "to"):
        fields = {f.name: map_leaves(function, getattr(tree, f.name)) for f in dataclasses.fields(tree) if f.init}
        return dataclasses.replace(tree, **fields)
    return function(tree)


def _rebuild_mapping(original: Mapping[Any, Any], mapped: dict[Any, Any]) -> Any:
    default_factory = getattr(original, "default_factory", None)
    return type(original)(default_factory, mapped) if default_factory is not None else type(original)(mapped)  # type: ignore[call-arg]


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of ``tree``, depth first, in the order of its containers."""
    if isinstance(tree, Tensor | str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    else:
        yield tree


def to_device(batch: Any, device: torch.device) -> Any:
    """Move tensors, and anything else that has ``.to``, to ``device``; without waiting where the memory is pinned."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=device.type != "cpu")
        moved = leaf.to(device) if hasattr(leaf, "to") and not isinstance(leaf, type) else None
        return leaf if moved is None else moved  # a user's `to` may forget to return

    return map_leaves(move, batch)


def detach(tree: Any) -> Any:
    """``tree`` with every tensor detached from its graph."""
    return map_leaves(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def to_cpu(tree: Any) -> Any:
    """``tree`` with every tensor detached and on the CPU."""
    return map_leaves(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, tree)


def convert_floats(tree: Any, dtype: torch.dtype) -> Any:
    """``tree`` with every floating-point tensor as ``dtype``; integers and bools stay."""
    return map_leaves(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and torch.is_floating_point(leaf) else leaf, tree
    )


def batch_size(batch: Any) -> int | None:
    """Samples in ``batch``: first dimension of the first tensor, else length of the first string, else None."""
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor):
            return leaf.size(0) if leaf.ndim else 1
        if isinstance(leaf, str):
            return len(leaf)
    return None
