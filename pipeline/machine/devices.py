"""Which device a rank runs on, and what is said when it stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cuda_ops.errors import Fatal, UserError
from cuda_ops.library import device_message
from pipeline.recipe import Bits


def names(devices: str) -> list[str]:
    """`cpu`, `cuda`, or one of them per rank: cuda,cpu."""
    found = devices.split(",")
    unknown = [name for name in found if name not in ("cpu", "cuda")]
    if unknown:
        raise UserError(
            f"--device {devices}: {unknown[0]!r} is neither cpu nor cuda (one for all ranks, or one per rank)"
        )
    return found


def check_device(bits: Bits, devices: str) -> None:
    """Refuse, before anything runs or is compiled, a device that the model is not written for. devices: one name, or
    one per rank: cuda,cpu.
    """
    bits.model.refuse(names(devices))


def name_of(devices: str, rank: int) -> str:
    """The name of a rank's device."""
    found = names(devices)
    return found[0] if len(found) == 1 else found[rank]


def device_of(devices: str, rank: int = 0, local_rank: int = 0) -> torch.device:
    """A rank's device, checked: a UserError says what is missing. GPUs are dealt out in turn."""
    if name_of(devices, rank) == "cpu":
        return torch.device("cpu")
    from cuda_ops import runtime

    device = torch.device("cuda", local_rank % max(1, torch.cuda.device_count()))
    runtime.require_cuda(device.index)
    torch.cuda.set_device(device)
    return device


@contextmanager
def device_errors(what: str) -> Iterator[None]:
    """Turn an error of the GPU itself into a Fatal one; `what` is what was queued. Too little memory is not one: memory.py.

    After it CUDA refuses every call, and freeing pinned memory aborts: the process ends without destructors.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error).splitlines() or [""]
        ours = isinstance(error, torch.AcceleratorError) or re.search(
            r"\bCUDA( driver)? error|: cannot be launched:", str(error)
        )
        if not ours or "out of memory" in str(error):
            raise
        index = device_message()
        if index:
            raise Fatal(
                f"the GPU stopped while {what}: {index}. The prepared data are damaged: the stage that makes them "
                "(prepare_text, prepare_images or prepare_questions) makes them again. The last checkpoint is kept"
            ) from None
        raise Fatal(
            f"the GPU stopped while {what}: {words[0]}. It reports late: any kernel queued before may be the cause. "
            "CUDA_LAUNCH_BLOCKING=1 with --graph 0 names the kernel, and the kernel log (Xid) a fault of the GPU. The last checkpoint is kept"
        ) from None
