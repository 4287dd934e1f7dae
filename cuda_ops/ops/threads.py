"""How the kernels run here; nothing of it can change a bit."""

from __future__ import annotations

from cuda_ops.ops._registry import compiled


def set_threads(count: int) -> None:
    """Threads that a kernel may use from now on in this process."""
    compiled.set_threads.default(count)


def isa() -> str:
    """The instruction-set level in use: baseline, v3 or v4. SAMEBITS_ISA chooses one before the first op."""
    return str(compiled.isa.default())
