"""pytest tests/ops/test_check_cuda.py

kernels/check.cu run on the CPU (tests/cuda_on_cpu): a wrong index stops the device and leaves its name, place and value for the
host, once; and what pipeline.machine.devices makes of it. Not shown here: that a real device's last writes arrive (docs/gpu.md).
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from cuda_ops import library
from cuda_ops.errors import UserError
from pipeline.machine import devices
from tests.cuda_on_cpu.build import build_shim
from tests.cuda_on_cpu.direct import Direct, as_c

GOOD = list(range(0, 600, 2))
BAD = {
    "tokens: element 7 is 600, allowed is 0 to 599": ([*GOOD[:7], 600, *GOOD[8:]], False),
    "tokens: element 299 is -3, allowed is 0 to 599": ([*GOOD[:299], -3], False),
    "tokens: expected ascending and distinct, got 12 then 12 at 7": ([*GOOD[:7], 12, *GOOD[8:]], True),
    "tokens: expected ascending and distinct, got -1 then 80 at 40": ([*GOOD[:39], -1, *GOOD[40:]], True),
}


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    folder = tmp_path_factory.mktemp("check")
    build_shim(folder, only="check", torch=False)
    direct = Direct(folder)
    direct.library.samebits_check_indices.restype = ctypes.c_bool
    direct.library.samebits_device_message.restype = ctypes.c_char_p
    return direct


def stops(cuda: Direct, indices: list[int], ascending: bool) -> bool:
    tensor = torch.tensor(indices, dtype=torch.int32)
    arguments = (*map(as_c, (tensor, len(indices), 600, ascending)), ctypes.c_char_p(b"tokens"))
    return bool(cuda.library.samebits_check_indices(*arguments))


def message(cuda: Direct) -> str:
    words: bytes = cuda.library.samebits_device_message()
    return words.decode()


@pytest.mark.parametrize("expected", BAD)
@pytest.mark.parametrize("schedule", ["forward", "reverse", "random:4"])
def test_a_wrong_index_is_named_once(cuda: Direct, expected: str, schedule: str) -> None:
    cuda.schedule(schedule)
    assert not stops(cuda, GOOD, True)
    assert message(cuda) == ""
    assert stops(cuda, *BAD[expected])
    assert message(cuda) == expected
    assert message(cuda) == ""


def test_of_many_wrong_indices_one_is_named(cuda: Direct) -> None:
    cuda.schedule("random:2")
    assert stops(cuda, [1000 + i for i in range(600)], False)
    place, value = (int(word.strip(",")) for word in message(cuda).split()[2:5:2])
    assert value == 1000 + place


def test_the_user_is_told_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of(left: str) -> str:
        monkeypatch.setattr(devices, "device_message", lambda: left)
        with pytest.raises(UserError) as caught, devices.device_errors("training up to step 3"):
            raise RuntimeError("CUDA error: unspecified launch failure")
        return str(caught.value)

    assert "training up to step 3: tokens: element 7 is 600" in error_of(next(iter(BAD)))
    assert "unspecified launch failure" in error_of("")


def test_a_library_without_gpu_kernels_has_no_message() -> None:
    assert library.device_message() == ""
