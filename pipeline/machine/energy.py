"""Joules of a stretch of time: of the GPUs by NVML (nvidia-ml-py, if installed), of the CPU by RAPL where it may be read.

What cannot be measured is None, never a guess. A GPU's counter is of the whole board, a CPU's of the whole package, so other
programs on the machine are in it. Neither has the rest of the machine: fans, memory of the host, power supply.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

RAPL = Path("/sys/class/powercap")


def _packages(folder: Path) -> dict[Path, int]:
    """Microjoules so far of each CPU package that may be read."""
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:  # a part of a package
            continue
        try:
            found[zone] = int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found


def _gpus() -> Callable[[], list[float]] | None:
    """A function that gives the joules so far of each GPU, or None where there is no counter."""
    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore]

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]

        def read() -> list[float]:
            return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]

        read()
        return read if handles else None
    except Exception:  # whatever NVML says is wrong: no counter
        return None


class Energy:
    """Counters from now on."""

    def __init__(self, gpu: bool, folder: Path = RAPL) -> None:
        self._read = _gpus() if gpu else None
        self._gpus = self._read() if self._read else []
        self._cpu = _packages(folder)

    def gpu_joules(self) -> float | None:
        """Of all GPUs of the machine since the beginning."""
        if self._read is None:
            return None
        return sum(now - before for now, before in zip(self._read(), self._gpus, strict=True))

    def cpu_joules(self) -> float | None:
        """Of all packages since the beginning; a counter that began anew at its range is taken on from there, once."""
        total, now = (
            0,
            {zone: value for parent in {z.parent for z in self._cpu} for zone, value in _packages(parent).items()},
        )
        for zone, before in self._cpu.items():
            if zone not in now:
                return None
            grown = now[zone] - before
            if grown < 0:
                grown += int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            total += grown
        return total / 1e6 if self._cpu else None
