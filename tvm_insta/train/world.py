"""The processes of one run: one, or as many as torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from tvm_insta.errors import TrainError


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: Its number; process 0 writes the files.
        size: Number of processes.
        device: What it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Add numbers over all processes.

        Args:
            values: Of this process.

        Returns:
            The sums, equal in all processes.
        """
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the other processes, where torchrun has started several.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where there is one.

    Yields:
        This process among them.

    Raises:
        TrainError: There is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, chosen)
    finally:
        distributed.destroy_process_group()


def _device(asked: str, local_rank: int) -> torch.device:
    if asked not in ("cpu", "cuda", "auto"):
        raise TrainError(f"got device {asked!r}, but allowed are cpu, cuda and auto")
    found = torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and not found):
        return torch.device("cpu")
    if local_rank >= found:
        raise TrainError(
            f"process {local_rank} of this machine got device cuda, but PyTorch finds {found} CUDA "
            "devices: start fewer processes, or give --device cpu"
        )
    return torch.device("cuda", local_rank)
