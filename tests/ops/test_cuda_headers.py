"""pytest tests/ops/test_cuda_headers.py

The arithmetic headers under nvcc: they compile as device code, and the PTX holds only correctly rounded operations. Needs nvcc, no GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

KERNEL = """
#include "order.h"
#include "philox.h"
#include "optimizer.h"
#include "fingerprint.h"
using namespace samebits::device;
__global__ void every(float* out, const float* x, unsigned long long* f, int function) {
  const int i = threadIdx.x;
  float a, b, p[32];
  normal_from_words(to_bits(x[i]), to_bits(x[i + 1]), &a, &b);
  out[i] = add(unary_function(function, x[i]), add(a, max_(b, uniform_from_word(to_bits(x[2])))));
  for (int j = 0; j < 32; j++) p[j] = x[i * 32 + j];
  out[i + 1] = fold_partials(p);
  adamw_update(out + 2, out + 3, out + 4, x[8], adamw_scalars(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]));
  clip_scale(out + 5, out + 7, x[10], x[11], x[12], x[13]);
  f[0] = fingerprint_mix(to_bits(x[9]), i);
}
"""
ALLOWED = re.compile(r"(add|sub|mul|div|sqrt|fma)\.rn\.f32|cvt\.rn\.f32\.[su](32|64)|cvt\.rzi\.s32\.f32")
ARITHMETIC = re.compile(
    r"\b((?:add|sub|mul|div|sqrt|fma|mad|rcp|rsqrt|ex2|lg2|sin|cos|tanh|cvt|red|atom)\.[a-z0-9.]*f(?:32|64)[a-z0-9.]*)"
)


def audit(ptx: str) -> list[str]:
    """Float operations of the PTX that are not correctly rounded, or that flush or approximate."""
    return [op for op in ARITHMETIC.findall(ptx) if not ALLOWED.fullmatch(op)]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_headers_compile_for_gpus_with_rounded_operations_only(tmp_path: Path, arch: str) -> None:
    (tmp_path / "every.cu").write_text(KERNEL)

    def ptx(*flags: str) -> str:
        command = ["nvcc", "-std=c++17", f"-arch={arch}", "-ptx", f"-I{ROOT / 'cuda_ops' / 'numerics'}", *flags]
        subprocess.run([*command, "every.cu", "-o", "every.ptx"], cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "every.ptx").read_text()

    default = ptx()
    assert default.count("fma.rn.f32") > 20
    assert audit(default) == []
    if arch == "sm_80":
        assert audit(ptx("-use_fast_math")), "the control: fast math must be seen"
