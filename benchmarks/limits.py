"""What this machine can do at most, measured in the run that is compared with it: FMA rate and copy bandwidth."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from cuda_ops import build, flags, runtime


def fma_peak(threads: int) -> float:
    """fp32 operations per second of fused multiply-adds in registers, on the instruction set that the ops use."""
    level = flags.levels()[runtime.isa()]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.cpp")
        command = [build.find_compiler(None), "-O3", "-std=c++17", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared"]
        subprocess.run([*command, *level, str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).fma_rounds
    function.restype = ctypes.c_double
    sink = (ctypes.c_float * threads)()
    best = 0.0
    for _ in range(8):
        clock = time.perf_counter()
        operations = function(ctypes.c_int64(3_000_000), ctypes.c_int(threads), sink)
        best = max(best, operations / (time.perf_counter() - clock))
    return best


def copy_bandwidth(mib: int = 512) -> float:
    """Bytes per second, read and written, of a copy far larger than the caches."""
    source = torch.ones(mib * 2**18)  # written, so that the pages are real and not one shared page of zeros
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(6):
        clock = time.perf_counter()
        target.copy_(source)
        best = max(best, 2.0 * source.nbytes / (time.perf_counter() - clock))
    return best
