"""How and where the ops run: threads, instruction set, GPUs. No ops, and nothing of it can change a bit."""

from __future__ import annotations

from typing import Any

import torch

from cuda_ops import flags, library
from cuda_ops.errors import UserError
from cuda_ops.toolkit import arch_for, runs_on


def _compiled() -> Any:
    library.load()
    return torch.ops.samebits


def set_threads(count: int) -> None:
    """Threads that a kernel may use from now on in this process."""
    _compiled().set_threads.default(count)


def isa() -> str:
    """The instruction-set level in use: baseline, v3 or v4. SAMEBITS_ISA chooses one before the first op."""
    return str(_compiled().isa.default())


def source_digest() -> str:
    """The digest of sources and arithmetic flags that the loaded library carries."""
    return library.load()


def device_archs() -> list[str]:
    """Architectures whose machine code the library holds, as in ["80", "90a"]; empty for a CPU library."""
    archs = str(_compiled().device_archs.default())
    return archs.split(",") if archs else []


def require_cuda(index: int = 0) -> None:
    """Raise UserError, saying what is missing and what to do, unless the ops can run on GPU `index`."""
    where = f"cuda:{index}"
    if torch.version.cuda is None:
        raise UserError(f"{where}: torch {torch.__version__} is a CPU build; install the one of requirements.lock")
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            words = "torch sees no GPU"
        except RuntimeError as error:  # no driver, or one too old for torch's CUDA: torch says which
            words = str(error).splitlines()[0]
        raise UserError(
            f"{where}: {words}; torch is built for CUDA {torch.version.cuda}; use --device cpu or mend the driver"
        )
    if index >= torch.cuda.device_count():
        raise UserError(f"{where}: this machine has {torch.cuda.device_count()} GPUs")
    major, minor = torch.cuda.get_device_capability(index)
    remedy = f"run: python -m pipeline.compile --archs auto --out {library.build_folder()}"
    held = device_archs()
    if not held:
        raise UserError(f"{where}: the library was compiled without CUDA kernels; {remedy}")
    if arch_for(major, minor) is None:
        raise UserError(
            f"{where} has compute capability {major}.{minor}; the kernels are written for {', '.join(flags.ARCHS)}"
        )
    if not any(runs_on(arch, major, minor) for arch in held):
        raise UserError(
            f"{where} has compute capability {major}.{minor}, the library holds {', '.join(held)}; {remedy}"
        )
