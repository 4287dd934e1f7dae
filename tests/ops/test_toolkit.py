"""pytest tests/ops/test_toolkit.py

What the build says about CUDA: which architectures, and one clear line or error for everything that can be missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cuda_ops import flags, runtime, toolkit
from cuda_ops.errors import UserError

CUDA_TORCH = torch.version.cuda is not None


def fake_nvcc(folder: Path, version: str) -> Path:
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((8, 0), "80"),
        ((8, 7), "86"),
        ((8, 9), "89"),
        ((9, 0), "90a"),
        ((9, 1), None),  # code for 9.0a runs there alone
        ((10, 3), "100"),
        ((12, 1), "120"),
        ((7, 5), None),
    ],
)
def test_the_architecture_for_a_gpu(capability: tuple[int, int], arch: str | None) -> None:
    assert toolkit.arch_for(*capability) == arch


def test_no_gpu_and_no_nvcc_give_a_cpu_library_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolkit.choose("none") == (None, "CPU only, as asked")
    monkeypatch.setattr(toolkit, "archs_present", list)
    assert toolkit.choose("auto") == (None, "CPU only: no GPU that the CUDA kernels are written for is present")
    monkeypatch.setattr(toolkit, "archs_present", lambda: ["90a"])
    monkeypatch.setattr(toolkit, "find_nvcc", lambda: None)
    chosen, line = toolkit.choose("auto")
    assert chosen is None
    assert line.startswith("CPU only: a GPU is present, but nvcc is not installed")
    with pytest.raises(UserError, match="--archs all: nvcc is not installed"):
        toolkit.choose("all")


def test_what_was_asked_for_and_cannot_be_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for archs in ("75", "90", "90a,", "hopper"):
        with pytest.raises(UserError, match=f"--archs {archs}: allowed are auto, none, all, or any of 80,86"):
            toolkit.choose(archs)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"CUDA_HOME=.*: there is no bin/nvcc in it"):
        toolkit.find_nvcc()
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path / "old", "9.2")))
    message = r"is CUDA 9\.2 and torch .* the first number must agree" if CUDA_TORCH else "is a CPU build"
    with pytest.raises(UserError, match=message):
        toolkit.choose("80")


def test_flags_name_every_architecture_once() -> None:
    assert flags.gencode(["80", "90a"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_reason_is_given() -> None:
    with pytest.raises(UserError, match=r"cuda:0: .*(torch is built for CUDA|is a CPU build)"):
        runtime.require_cuda()
