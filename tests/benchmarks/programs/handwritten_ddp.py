"""DistributedDataParallel by hand; a second call starts new processes, for the first ones are gone."""

from __future__ import annotations

import os
import socket

import common
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


def join_group(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=common.NUM_WORKERS)


def leave_group() -> None:
    # Together: without the barrier, one run in five aborted at the exit of a rank ("terminate called ...").
    dist.barrier()
    dist.destroy_process_group()


def train(rank: int, port: int, weights: str) -> None:
    join_group(rank, port)
    stamps = common.Stamps()
    network = DistributedDataParallel(common.build_network())
    optimizer = common.build_optimizer(network)
    images = common.build_train_set()
    loader = DataLoader(images, batch_size=common.BATCH_SIZE, sampler=DistributedSampler(images))
    for step, (inputs, labels) in enumerate(loader):
        stamps.at_training_step(step, rank)
        loss = F.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    evaluate(network, rank, stamps)
    stamps.add_peak_memory(rank)
    if rank == 0:
        torch.save(network.module.state_dict(), weights)
    leave_group()


def validate(rank: int, port: int, weights: str) -> None:
    join_group(rank, port)
    network = common.build_network()
    network.load_state_dict(torch.load(weights))
    evaluate(network, rank, common.Stamps())
    leave_group()


@torch.no_grad()
def evaluate(network: nn.Module, rank: int, stamps: common.Stamps) -> None:
    images = common.build_validation_set()
    total = torch.zeros(())
    network.eval()
    for step, (inputs, labels) in enumerate(
        DataLoader(images, batch_size=common.BATCH_SIZE, sampler=DistributedSampler(images, shuffle=False))
    ):
        if step == 0:
            stamps.add("validation_batch", rank)
        total += F.cross_entropy(network(inputs), labels)
    dist.all_reduce(total)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    weights = os.path.join(os.environ["BENCHMARK_ROOT"], "weights.pt")
    mp.spawn(train, (find_free_port(), weights), nprocs=common.NUM_WORKERS)
    common.Stamps().add("validate_call")
    mp.spawn(validate, (find_free_port(), weights), nprocs=common.NUM_WORKERS)


if __name__ == "__main__":
    main()
