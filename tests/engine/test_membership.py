"""Places of workers among each other."""

from __future__ import annotations

from raylight.engine.membership import gpu_order


def test_gpus_are_in_the_order_of_their_numbers() -> None:
    assert sorted(["10", "2", "0"], key=gpu_order) == ["0", "2", "10"]
    assert sorted(["MIG-b", "MIG-a"], key=gpu_order) == ["MIG-a", "MIG-b"]
