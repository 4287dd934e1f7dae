"""pytest tests/ops/test_sanitized.py

Every CPU kernel on the odd shapes of cases.py under the address and undefined-behaviour sanitizers, at each instruction set.
Controls: a read behind the end of an array and a signed overflow, each in a copied kernel, are seen.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ops import build, flags
from tests.conftest import ROOT, beside_ours, compile_ops, run
from tests.ops.test_library import levels

SANITIZED = ROOT / "results" / "sanitized"
ENV = {"ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2"}
ONE_CALL = (
    "import torch\nfrom cuda_ops import ops\nx = torch.ones(16)\nops.gelu_forward(torch.empty(16), x)\nprint('done')"
)


def runtime_library() -> Path:
    """The address sanitizer's runtime, which must be loaded before Python."""
    words = subprocess.run(
        [build.find_compiler(None), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    return Path(words.stdout.strip())


pytestmark = pytest.mark.skipif(not runtime_library().is_absolute(), reason="the compiler has no libasan.so")


def under(folder: Path, *command: str, isa: str = "", code: int | None = 0) -> str:
    env = ENV | {"SAMEBITS_BUILD": str(folder), "SAMEBITS_ISA": isa, "LD_PRELOAD": str(runtime_library())}
    return run(*command, env=env, code=code)


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """The library of `python -m pipeline.compile --sanitize`, not optimised beyond -O1: sooner made."""
    compile_ops()
    build.build(beside_ours(SANITIZED), opt_level=1, archs="none", sanitize=True)
    return SANITIZED


@pytest.mark.parametrize("isa", levels())
def test_no_kernel_leaves_its_arrays(sanitized: Path, tmp_path: Path, isa: str) -> None:
    output = under(sanitized, "-m", "tests.ops.cases", str(tmp_path / "all.safetensors"), isa=isa)
    assert output.splitlines()[-1].startswith(f"{isa} on cpu: ")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("gelu(inp[i])", "done"),
        ("gelu(inp[i + (i == n - 1)])", "AddressSanitizer: heap-buffer-overflow"),
        ("gelu((float)(2147483647 - 15 + (int)i * 2))", "runtime error: signed integer overflow"),
    ],
)
def test_a_fault_in_a_copied_kernel_is_seen(tmp_path: Path, new: str, message: str) -> None:
    """This kernel alone is compiled with the sanitizers; the others are those of results/build."""
    compile_ops()
    code, library = tmp_path / "cuda_ops", beside_ours(tmp_path / "build")
    shutil.copytree(build.ROOT, code, ignore=shutil.ignore_patterns("__pycache__"))
    kernel = code / "cpu" / "gelu.cpp"
    text = kernel.read_text()
    assert text.count("gelu(inp[i])") == 1
    kernel.write_text(text.replace("gelu(inp[i])", new))
    listed = json.loads((library / build.COMPILE_COMMANDS).read_text())
    (command,) = [entry["command"] for entry in listed if entry["output"] == "gelu.baseline.o"]
    ninja = Path(sys.executable).parent / "ninja"
    link = subprocess.run(
        [ninja, "-t", "commands", build.LIBRARY], cwd=library, capture_output=True, text=True, check=True
    )
    for line in (command.replace(str(build.ROOT), str(code)), link.stdout.strip().splitlines()[-1]):
        subprocess.run(f"{line} {' '.join(flags.SANITIZERS)}", shell=True, cwd=library, check=True)
    assert message in under(library, "-c", ONE_CALL, isa="baseline", code=0 if message == "done" else None)


def test_kernels_alone_are_instrumented() -> None:
    """With the flags of flags.py; torch's headers are not ours."""
    ninja = build.Ninja(build.find_compiler(None), 1, sanitize=True)
    ninja.bindings("0" * 64)
    ninja.cpu_kernels()
    objects = re.findall(r"^build \S+: cc (\S+)\n  flags = (.*)$", ninja.text(), re.MULTILINE)
    assert len(objects) == len(ninja.objects)
    for file, given in objects:
        kernel = "/cuda_ops/cpu/" in file and not file.endswith("dispatch.cpp")
        assert all(flag in given.split() for flag in flags.SANITIZERS) == kernel, file


def test_a_sanitized_library_is_none_that_trains() -> None:
    assert "name another folder with --out" in run("-m", "pipeline.compile", "--sanitize", code=2)
