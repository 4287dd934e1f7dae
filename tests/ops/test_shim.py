"""pytest tests/ops/test_shim.py

The fibers that run CUDA sources on the CPU (tests/cuda_on_cpu) against kernels that are wrong on purpose: each ends in an error that
names kernel, block and thread, or in NaN where real memory might hold the right value by luck.
"""

from __future__ import annotations

import ctypes
import math
import re
from pathlib import Path

import pytest
import torch

from cuda_ops import build
from tests.conftest import run
from tests.cuda_on_cpu.build import HERE, build_shim

FAULTS = {
    0: r"missed_barrier, block \(\d,0,0\): thread \(5,0,0\) has ended, thread \(0,0,0\) waits at faults.cu:8 for the block",
    1: r"two_barriers, block \(0,0,0\): thread \(32,0,0\) waits at faults.cu:16 .*, thread \(0,0,0\) waits at faults.cu:14",
    2: r"lost_lane, block \(0,0,0\): thread \(0,0,0\) waits at faults.cu:22 for the lanes of a warp",
    4: r"unaligned_copy, .* copies 16 bytes at faults.cu:33 from or to an address that is not aligned",
    6: r"memory: cannot be launched: grid \(0,1,1\)",
    7: r"memory: cannot be launched: .* block \(2048,1,1\)",
}
CALL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.samebits_fault(3, (ctypes.c_float * 64)())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    build_shim(folder, HERE, only="faults", torch=False)
    return folder / build.LIBRARY


def call(library: Path, fault: int, out: torch.Tensor) -> str:
    handle = ctypes.CDLL(str(library))
    handle.samebits_fault.restype = ctypes.c_char_p
    message: bytes = handle.samebits_fault(fault, ctypes.c_void_p(out.data_ptr()))
    return message.decode()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("schedule", ["forward", "reverse", "random:4"])
def test_a_wrong_kernel_is_named(library: Path, fault: int, schedule: str) -> None:
    ctypes.CDLL(str(library)).samebits_shim_schedule(schedule.encode())
    assert re.search(FAULTS[fault], call(library, fault, torch.zeros(64)))


def test_a_block_that_never_ends_is_named(library: Path) -> None:
    output = run("-c", CALL, str(library), env={"SAMEBITS_SHIM_SECONDS": "1"}, code=134)
    assert "error: endless, block (0,0,0), thread (0,0,0): not finished in time" in output


def test_shared_memory_starts_as_nan_and_copies_arrive_when_waited_for(library: Path) -> None:
    for _ in range(2):  # what the block before left is gone
        out = torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0])
        assert call(library, 5, out) == ""
        assert all(math.isnan(x) for x in out[4:7].tolist())
        assert out[7] == 3.0
