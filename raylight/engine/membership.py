"""Which worker has which rank, and what each must know of its place among the others.

Runs on the driver.
"""

from __future__ import annotations

from typing import Any

import ray

from raylight.config.accelerators import Placement
from raylight.engine.actor import Membership, WorkerInfo


def rank_order(infos: list[WorkerInfo]) -> list[int]:
    """Positions of ``infos`` by rank: the driver's node first, nodes together, GPUs in their order."""
    here = ray.get_runtime_context().get_node_id()
    first_seen = {info.node_id: i for i, info in reversed(list(enumerate(infos)))}

    def place(i: int) -> Any:
        info = infos[i]
        return info.node_id != here, first_seen[info.node_id], [gpu_order(gpu) for gpu in info.gpu_ids], i

    return sorted(range(len(infos)), key=place)


def gpu_order(gpu: str) -> tuple[int, str]:
    """Where a GPU stands among a node's: numbers by their size."""
    return (int(gpu), "") if gpu.isdigit() else (0, gpu)


def memberships(infos: list[WorkerInfo], placement: Placement) -> list[Membership]:
    """Each worker's place; ``infos`` in rank order."""
    nodes = list(dict.fromkeys(info.node_id for info in infos))
    local: dict[str, int] = dict.fromkeys(nodes, 0)
    members = []
    for rank, info in enumerate(infos):
        neighbours = [other for other in infos if other.node_id == info.node_id]
        members.append(
            Membership(
                global_rank=rank,
                local_rank=local[info.node_id],
                node_rank=nodes.index(info.node_id),
                world_size=len(infos),
                local_world_size=len(neighbours),
                master=infos[0].host,
                backend=placement.backend,
                gpu_ids=tuple(sorted({gpu for other in neighbours for gpu in other.gpu_ids}, key=gpu_order)),
                own_gpu=info.gpu_ids[0] if info.gpu_ids and placement.device_type == "cuda" else None,
            )
        )
        local[info.node_id] += 1
    return members
