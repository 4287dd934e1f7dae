"""What a stretch of training took, for its receipt: work, speed, energy, money. What was not measured is None.

Peaks are those of the vendors' data sheets, dense: fp32 of the CUDA cores; int8 of the tensor cores, which is half of what a
sheet states with sparsity (H100 SXM and H200 3,958, H100 PCIe 3,026, A100 1,248, L4 485, RTX 4090 1,321, B200 9,000 tera
operations). V100's tensor cores have no int8. A multiplication and its addition are two operations in either. int8x3 makes
three products for one, so its peak is a third of int8x1's.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.recipe import Bits, cost
from pipeline.records.contents import Cost

# Peaks of a GPU in TFLOP/s, fp32 and int8, by the beginning of its name as its driver gives it.
PEAKS: dict[str, tuple[float, float | None]] = {
    "NVIDIA H100 80GB HBM3": (66.9, 1979.0), "NVIDIA H200": (66.9, 1979.0), "NVIDIA H100 PCIe": (51.2, 1513.0),
    "NVIDIA A100": (19.5, 624.0), "NVIDIA L4": (30.3, 242.5), "NVIDIA GeForce RTX 4090": (82.6, 660.6),
    "Tesla V100": (15.7, None), "NVIDIA B200": (80.0, 4500.0),
}  # fmt: skip
PRODUCTS = {"int8x1": 1, "int8x3": 3}  # of digits, for one product
SATURNV = 9.46  # GFLOPS/W of the most efficient machine of the Green500 of November 2016: LINPACK in fp64, other work than ours


def peak_of(device: str, numerics: str) -> float | None:
    """TFLOP/s of a device, where it is known for these numerics."""
    found = [peaks for name, peaks in PEAKS.items() if re.match(rf"{name}\b", device)]  # an L40S is no L4
    fp32, int8 = found[0] if found else (None, None)
    if numerics in PRODUCTS and int8 is not None:
        return int8 / PRODUCTS[numerics]
    return fp32 if numerics == "fp32" else None


def spent(
    bits: Bits, steps: int, seconds: float, device: str, devices: int, price: float,
    gpu_joules: float | None, cpu_joules: float | None,
) -> Cost:  # fmt: skip
    """Of so many steps. device: a GPU's name, or "" for CPUs; price: dollars per device and hour, 0: not given."""
    count = steps * bits.units
    flops = count * cost.flops_per_unit(bits)
    peak = peak_of(device, bits.numerics)
    joules = gpu_joules if device else cpu_joules
    rate = count / seconds if seconds > 0 else 0.0
    found: Cost = {
        "flops": flops,
        "seconds": round(seconds, 3),
        "device": device or "cpu",
        "devices": devices,
        "peak_tflops": peak,
        "mfu": round(cost.mfu(bits, rate, peak, devices), 4) if peak else None,
        "gpu_joules": gpu_joules,
        "cpu_joules": cpu_joules,
        "gflops_per_watt": round(flops / joules / 1e9, 4) if joules else None,
        "dollars": round(seconds / 3600 * devices * price, 4) if price else None,
    }
    if bits.model.unit == "token":
        found["tokens"] = count
    else:
        found["images"] = count
    return found


def together(costs: list[Cost], unit: str) -> dict[str, Any]:
    """The sums over segments; a sum with a part that was not measured is None."""

    def add(key: str) -> Any:
        values: list[Any] = [dict(found)[key] for found in costs]
        return None if any(value is None for value in values) else sum(values)

    found = {key: add(key) for key in (f"{unit}s", "flops", "seconds", "gpu_joules", "cpu_joules", "dollars")}
    on_gpu = any(part["device"] != "cpu" for part in costs)
    joules = found["gpu_joules"] if on_gpu else found["cpu_joules"]
    seconds = found["seconds"] or 0.0
    known = all(part["mfu"] is not None for part in costs) and seconds > 0
    return found | {
        "per_second": found[f"{unit}s"] / seconds if seconds else None,
        "mfu": sum((part["mfu"] or 0.0) * part["seconds"] for part in costs) / seconds if known else None,
        "gflops_per_watt": found["flops"] / joules / 1e9 if joules else None,
    }
