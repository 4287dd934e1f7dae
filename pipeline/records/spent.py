"""What a stretch of training took, for its receipt: work, speed, energy, money. What was not measured is None."""

from __future__ import annotations

from typing import Any

from pipeline.recipe import Bits, cost

# Dense fp32 peak in TFLOP/s of a GPU, by the beginning of its name as its driver gives it (vendors' data sheets).
FP32 = {
    "NVIDIA H100 80GB HBM3": 66.9, "NVIDIA H200": 66.9, "NVIDIA H100 PCIe": 51.2, "NVIDIA A100": 19.5, "NVIDIA L4": 30.3,
    "NVIDIA GeForce RTX 4090": 82.6, "Tesla V100": 15.7, "NVIDIA B200": 80.0,
}  # fmt: skip
SATURNV = 9.46  # GFLOPS/W of the most efficient machine of the Green500 of November 2016: LINPACK in fp64, other work than ours


def peak_of(device: str, numerics: str) -> float | None:
    """TFLOP/s of a device, where it is known for these numerics."""
    if numerics != "fp32":
        return None
    return next((peak for name, peak in FP32.items() if device.startswith(name)), None)


def spent(
    bits: Bits, steps: int, seconds: float, device: str, devices: int, price: float,
    gpu_joules: float | None, cpu_joules: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Of so many steps. device: a GPU's name, or "" for CPUs; price: dollars per device and hour, 0: not given."""
    count = steps * bits.units
    flops = count * cost.flops_per_unit(bits)
    peak = peak_of(device, bits.numerics)
    joules = gpu_joules if device else cpu_joules
    rate = count / seconds if seconds > 0 else 0.0
    return {
        f"{bits.model.unit}s": count,
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


def together(costs: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    """The sums over segments; a sum with a part that was not measured is None."""

    def add(key: str) -> Any:
        values = [found[key] for found in costs]
        return None if any(value is None for value in values) else sum(values)

    found = {key: add(key) for key in (f"{unit}s", "flops", "seconds", "gpu_joules", "cpu_joules", "dollars")}
    on_gpu = any(part["device"] != "cpu" for part in costs)
    joules = found["gpu_joules"] if on_gpu else found["cpu_joules"]
    seconds = found["seconds"] or 0.0
    known = all(part["mfu"] is not None for part in costs) and seconds > 0
    return found | {
        "per_second": found[f"{unit}s"] / seconds if seconds else None,
        "mfu": sum(part["mfu"] * part["seconds"] for part in costs) / seconds if known else None,
        "gflops_per_watt": found["flops"] / joules / 1e9 if joules else None,
    }
