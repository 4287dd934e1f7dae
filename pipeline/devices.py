"""Which device a rank runs on."""

from __future__ import annotations

import torch

from pipeline.errors import UserError


def names(devices: str) -> list[str]:
    """`cpu`, `cuda`, or one of them per rank: cuda,cpu."""
    found = devices.split(",")
    unknown = [name for name in found if name not in ("cpu", "cuda")]
    if unknown:
        raise UserError(
            f"--device {devices}: {unknown[0]!r} is neither cpu nor cuda (one for all ranks, or one per rank)"
        )
    return found


def name_of(devices: str, rank: int) -> str:
    """The name of a rank's device."""
    found = names(devices)
    return found[0] if len(found) == 1 else found[rank]


def device_of(devices: str, rank: int = 0, local_rank: int = 0) -> torch.device:
    """A rank's device, checked: a UserError says what is missing. GPUs are dealt out in turn."""
    if name_of(devices, rank) == "cpu":
        return torch.device("cpu")
    from cuda_ops import ops

    device = torch.device("cuda", local_rank % max(1, torch.cuda.device_count()))
    ops.require_cuda(device.index)
    torch.cuda.set_device(device)
    return device


def gpus_apart(devices: str, local_ranks: int) -> bool:
    """Whether every rank runs on a GPU of its own, which NCCL asks for."""
    return set(names(devices)) == {"cuda"} and torch.cuda.device_count() >= local_ranks
