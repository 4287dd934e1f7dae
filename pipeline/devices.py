"""Which device a rank runs on, and why it cannot, in one sentence."""

from __future__ import annotations

import torch

from pipeline.errors import UserError

OLDEST = (8, 0)  # compute capability of the oldest GPU that the kernels are built for


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
    check_cuda()
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    check_gpu(device)
    torch.cuda.set_device(device)
    return device


def gpus_apart(devices: str, local_ranks: int) -> bool:
    """Whether every rank runs on a GPU of its own, which NCCL asks for."""
    return set(names(devices)) == {"cuda"} and torch.cuda.device_count() >= local_ranks


def check_cuda() -> None:
    """Whether there is a GPU with a driver that this torch can use, and a library with kernels for GPUs."""
    if torch.version.cuda is None:
        raise UserError(
            f"--device cuda: torch {torch.__version__} was built without CUDA; install the CUDA build, or use cpu"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device cuda: {_why(str(error))}") from None
    from cuda_ops import ops

    if not ops.has_cuda():
        raise UserError(
            "--device cuda: the ops were compiled without CUDA kernels, since nvcc was not found; install the CUDA toolkit "
            "(or set CUDA_HOME) and run python -m pipeline.compile again"
        )


def _why(words: str) -> str:
    """torch's words about a failed initialisation with a remedy."""
    first = words.strip().splitlines()[0].rstrip(".") if words.strip() else "CUDA cannot be initialised"
    if "too old" in words:
        return f"{first} (torch needs CUDA {torch.version.cuda}): update the NVIDIA driver, or use --device cpu"
    if "No CUDA GPUs" in words or "no NVIDIA driver" in words:
        return "this machine has no NVIDIA GPU that torch can see (nvidia-smi, CUDA_VISIBLE_DEVICES); use --device cpu"
    return f"{first}; use --device cpu"


def check_gpu(device: torch.device) -> None:
    """Whether the compiled library has kernels for this GPU."""
    from cuda_ops import ops

    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if capability < OLDEST:
        raise UserError(
            f"--device cuda: {name} has compute capability {capability[0]}.{capability[1]}, the kernels need "
            f"{OLDEST[0]}.{OLDEST[1]} or newer; use --device cpu"
        )
    try:
        probe = torch.zeros(1, device=device)
        ops.residual_forward(probe, probe, probe)
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise UserError(
            f"--device cuda: the compiled ops do not run on {name} (sm_{capability[0]}{capability[1]}): "
            f"{str(error).splitlines()[0]}; run python -m pipeline.compile on this machine"
        ) from None
