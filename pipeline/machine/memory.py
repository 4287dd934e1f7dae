"""Buffers of a run: allocated once, on one device, and counted.

A Memory on the `meta` device only counts, so what another execution would need is known without trying it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cuda_ops.errors import UserError


class OutOfMemory(UserError):
    """The device has no room for a buffer."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed: torch's own class on a GPU, plain errors elsewhere."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words)


class Memory:
    """Allocates on `device`; `bytes` is what it has given so far."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.bytes = 0

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A zeroed buffer; OutOfMemory if there is no room."""
        size = math.prod(shape) * dtype.itemsize
        try:
            buffer = torch.zeros(shape, dtype=dtype, device=self.device)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"{gib(size)} more after {gib(self.bytes)} do not fit on {self.device}") from None
            raise
        self.bytes += size
        return buffer

    def staging(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A zeroed buffer on the host from which the device can be filled without waiting: pinned for a GPU."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self.device.type == "cuda")


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
