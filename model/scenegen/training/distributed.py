"""One training over many processes, as torchrun starts them; of one process, nothing happens.

A step's work is cut into parts that do not depend on how many processes there are, so neither does the result, but for
the order in which gradients are summed. Knows nothing about models or data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scenegen.scene import InvalidInput


@dataclass(frozen=True)
class Group:
    """The processes of a training. rank: which of ``size`` this one is; the first writes. device: of this one."""

    rank: int
    size: int
    device: str

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """The parts of a step that are this process's. InvalidInput when they can't be shared out evenly."""
        if parts % self.size:
            raise InvalidInput(
                f"a step of {parts} parts can't be shared by {self.size} processes: make `parts` a multiple"
            )
        each = parts // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def same_start(self, model: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up every process's gradients, as one message; parameters that got none in this process count as zero."""
        if self.size == 1:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def own_device(device: str) -> str:
    """The device of this process: with "cuda" under torchrun, each has the GPU of its own number."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


@contextmanager
def processes(device: str) -> Iterator[Group]:
    """The group that torchrun started this process in, or this process alone."""
    size, rank, device = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")), own_device(device)
    if size == 1:
        yield Group(0, 1, device)
        return
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)
    joined_here = not dist.is_initialized()
    if joined_here:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(rank, size, device)
    finally:
        if joined_here:
            dist.destroy_process_group()
