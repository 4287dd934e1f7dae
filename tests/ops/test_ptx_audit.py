"""pytest tests/ops/test_ptx_audit.py

The whole library for every architecture, compiled and loaded without a GPU: its PTX holds only correctly rounded fp32
arithmetic and does not depend on contraction, no kernel spills registers, the CPU ops in it work. Needs nvcc, no GPU.

    python -m tests.ops.test_ptx_audit     write the table of docs/kernels.md
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cuda_ops import build, flags, toolkit
from tests.conftest import ROOT, compile_ops, run

PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- resources: written by tests/ops/test_ptx_audit.py -->\n", "<!-- end of resources -->"
KERNELS = sorted((ROOT / "cuda_ops" / "kernels").glob("*.cu"))
pytestmark = [
    pytest.mark.skipif(toolkit.find_nvcc() is None, reason="nvcc is not installed"),
    pytest.mark.timeout(3600),  # six architectures: five minutes of two quiet cores
]

# Instructions on floats that the kernels may use: the six operations rounded to nearest, conversions of integers, and what
# moves or compares.
ALLOWED = re.compile(
    r"(add|sub|mul|div|sqrt|fma)\.rn\.f32|cvt\.rn\.f32\.[su](32|64)|cvt\.rzi\.s32\.f32|(neg|abs)\.f32|selp\.f32|"
    r"setp\.[a-z]+\.f32|mov\.f32|(ld|st)(\.(global|shared|param|local|nc|volatile|const))*(\.v[24])?\.f32"
)
# The matrix unit and packed dot products: in files in digits, integers without saturation, and bf16 whose fp32 sums hold a
# block's integers exactly (kernels/mma.h).
MATRIX = re.compile(r"(w?mma|wgmma|tcgen05|ldmatrix|stmatrix|movmatrix|dp[24]a)\b|\.satfinite\b")
INTEGER_MMA = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
BF16_MMA = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
WGMMA = [f"wgmma.mma_async.sync.aligned.m64n{n}k32.s32.s8.s8" for n in (64, 128, 192)]
ALLOWED_MATRIX = {
    INTEGER_MMA, BF16_MMA, *WGMMA, *(f"wgmma.{x}.sync.aligned" for x in ("fence", "commit_group", "wait_group")),
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
}  # fmt: skip
FLOAT = re.compile(r"\.(f16|bf16|f32|f64|tf32)(x2)?\b|\.(ftz|approx)\b")  # x2: packed pairs

# What ptxas -v says of a kernel: name, architecture, spill stores and loads, registers, the rest.
ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\d+a?)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)",
    re.DOTALL,
)


def audit(ptx: str, stem: str = "digits") -> list[str]:
    """Instructions of a PTX text, on floats or of the matrix unit, that are not allowed in the file of this stem."""
    found = []
    for line in ptx.splitlines():
        for statement in re.split("[;{}]", line.split("//")[0]):
            words = statement.replace("@", " @").split()
            words = [word for word in words if not word.startswith("@") and not word.startswith(".")]
            name = words[0] if words else ""
            if MATRIX.search(name):
                found += [name] * (name not in ALLOWED_MATRIX or "digits" not in stem)
            elif FLOAT.search(name) and not ALLOWED.fullmatch(name):
                found.append(name)
    return found


def body(ptx: str) -> str:
    """A PTX text without comments and target."""
    lines = (line.split("//")[0].rstrip() for line in ptx.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith((".version", ".target")))


def to_ptx(source: Path, *extra: str, arch: str = "90a", base: Iterable[str] = flags.DEVICE_ARITHMETIC) -> str:
    """PTX under the project's flags, where each is said outright and -use_fast_math cannot undo it; `extra` come last."""
    nvcc = toolkit.find_nvcc()
    command = [str(nvcc), "-std=c++17", *base, f"-arch=compute_{arch}", "-ptx", *extra, str(source)]
    done = subprocess.run([*command, "-o", "-"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Compiled:
    """A library for all architectures in a folder, with the PTX of each file and what ptxas said of each kernel."""

    def __init__(self, folder: Path) -> None:
        compile_ops()
        nvcc, self.library = toolkit.find_nvcc(), folder / "build"
        shutil.copytree(ROOT / "results" / "build", self.library)  # the CPU's objects need not be made again
        wrapper = folder / "toolkit" / "bin" / "nvcc"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text(f"""#!/bin/sh
case "$*" in
*--dryrun*) ;;
*.cu\\ *)
  for word in "$@"; do case "$word" in *.cu) file=$(basename "$word" .cu) ;; esac; done
  {nvcc} --keep -Xptxas -v "$@" 2> $file.log && exit 0
  cat $file.log >&2
  exit 1 ;;
esac
exec {nvcc} "$@"
""")
        wrapper.chmod(0o755)
        before = os.environ.get("CUDA_HOME")
        os.environ["CUDA_HOME"] = str(folder / "toolkit")
        try:
            self.digest, self.line = build.build(self.library, archs="all")
        finally:
            os.environ.pop("CUDA_HOME")
            if before:
                os.environ["CUDA_HOME"] = before

    def ptx(self, path: Path, arch: str) -> str:
        return (self.library / f"{path.name}.o.compute_{arch}.ptx").read_text()

    def resources(self) -> dict[str, dict[str, tuple[int, int, int]]]:
        """kernel -> architecture -> registers, shared bytes, spilled bytes"""
        found: dict[str, dict[str, tuple[int, int, int]]] = {}
        for path in KERNELS:
            text = (self.library / f"{path.stem}.log").read_text()
            for name, arch, stores, loads, registers, rest in ENTRY.findall(text):
                shared = re.search(r"(\d+) bytes smem", rest)
                usage = int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads)
                found.setdefault(f"{path.stem} {name}", {})[arch] = usage
        names = [name.split()[1] for name in found]
        plain = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
        short = (re.sub(r"samebits::device::|^void |\(.*", "", name) for name in plain)
        return {
            f"{name.split()[0]}.cu: {kernel}": usage for (name, usage), kernel in zip(found.items(), short, strict=True)
        }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("all"))


def table(compiled: Compiled) -> str:
    version = toolkit.nvcc_version(toolkit.find_nvcc() or Path())
    lines = [
        f"nvcc {version}; registers for {', '.join(f'sm_{arch}' for arch in flags.ARCHS)}; static shared memory in bytes.",
        "",
        "| kernel | registers | shared | spilled |",
        "|---|---|---|---|",
    ]
    for name, usage in sorted(compiled.resources().items()):
        registers = [str(usage[arch][0]) for arch in flags.ARCHS]
        shown = registers[0] if len(set(registers)) == 1 else " ".join(registers)
        shared, spilled = (max(usage[arch][i] for arch in flags.ARCHS) for i in (1, 2))
        lines.append(f"| `{name}` | {shown} | {shared} | {spilled} |")
    return "\n".join(lines) + "\n"


def test_ptx_is_rounded_arithmetic_only(compiled: Compiled) -> None:
    for path in KERNELS:
        for arch in flags.ARCHS:
            text = compiled.ptx(path, arch)
            assert ".entry" in text
            assert audit(text, path.stem) == [], f"{path.name} for sm_{arch}"
    assert compiled.ptx(Path("layernorm.cu"), "90a").count("fma.rn.f32") > 20


def test_ptx_of_small_kernels_is_rounded_arithmetic_only() -> None:
    """The same for one architecture and the kernels that compile in seconds: make test."""
    digits = (INTEGER_MMA, BF16_MMA, *WGMMA)
    for stem, kept in (("adamw", ["fma.rn.f32"]), ("gelu", ["fma.rn.f32"]), ("matmul_digits", digits)):
        ptx = to_ptx(ROOT / "cuda_ops" / "kernels" / f"{stem}.cu")
        assert all(name in ptx for name in kept), stem
        assert not audit(ptx, stem), stem


def test_nothing_depends_on_contraction(compiled: Compiled) -> None:
    """With -fmad=true the PTX is the same: every product and sum is written as the one or the other."""

    def check(path: Path) -> None:
        assert body(to_ptx(path, "-fmad=true")) == body(compiled.ptx(path, "90a")), path.name

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, KERNELS))


def test_no_kernel_spills(compiled: Compiled) -> None:
    resources = compiled.resources()
    assert {name.split(":")[0] for name in resources} == {path.name for path in KERNELS}
    spills = {(name, arch): u[2] for name, usage in resources.items() for arch, u in usage.items() if u[2]}
    assert not spills
    assert all(set(usage) == set(flags.ARCHS) for usage in resources.values())


def test_the_table_is_current(compiled: Compiled) -> None:
    text = PAGE.read_text()
    written = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    version = toolkit.nvcc_version(toolkit.find_nvcc() or Path())
    if f"nvcc {version};" not in written:
        pytest.skip("the table is another nvcc's")
    assert written == table(compiled), "run: python -m tests.ops.test_ptx_audit"


def test_the_library_for_all_architectures_works_on_the_cpu(compiled: Compiled) -> None:
    """The same results from it as from the CPU library, and one digest of sources for both."""
    script = """
import torch
from cuda_ops import ops, runtime
x = torch.randn(7, 33, generator=torch.Generator().manual_seed(1)); out = torch.empty(7, 7)
ops.matmul(out, x, x)
print(ops.fingerprint(out), ",".join(runtime.device_archs()))
"""
    full = run("-c", script, env={"SAMEBITS_BUILD": str(compiled.library)}).split()[-2:]
    cpu = run("-c", script, env={"SAMEBITS_BUILD": str(ROOT / "results" / "build")}).split()
    assert full[0] in cpu
    assert full[1] == ",".join(flags.ARCHS)
    assert compiled.digest == (ROOT / "results" / "build" / build.DIGEST).read_text().strip()


# ---------------------------------------------------------------- the controls

PLAIN = "__global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }"
SABOTAGE = {
    "fast math": ("__global__ void f(float* x) { x[0] = x[1] / x[2]; }", ["-use_fast_math"], "div.approx.ftz.f32"),
    "flush to zero": (PLAIN, ["-ftz=true"], ".ftz.f32"),
    "an estimate": ("__global__ void f(float* x) { x[0] = __expf(x[1]); }", [], "ex2.approx"),
    "a float atomic": ("__global__ void f(float* x) { atomicAdd(x, x[1]); }", [], ".add.f32"),
    "a bare product": ("__global__ void f(float* x) { x[0] = x[1] * x[2]; }", ["-fmad=true"], "mul.f32"),
    "binary64": ("__global__ void f(float* x) { x[0] = (float)(x[1] * 0.1); }", [], ".f64"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(tmp_path: Path, what: str) -> None:
    text, extra, expected = SABOTAGE[what]
    (tmp_path / "f.cu").write_text(text)
    found = audit(to_ptx(tmp_path / "f.cu", *extra, base=() if what == "fast math" else flags.DEVICE_ARITHMETIC))
    assert any(expected in op for op in found), found


OTHER_MATRIX = [
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32",
    "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32",
    "wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8", "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8.satfinite",
    "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", "ldmatrix.sync.aligned.m8n8.x2.shared.b16",
    "tcgen05.mma.cta_group::1.kind::i8", "dp4a.s32.s32", "cvt.sat.s8.s32.satfinite",
]  # fmt: skip


@pytest.mark.parametrize("op", ["add.rn.f32x2", "fma.rn.f16x2", "mul.rn.bf16x2", "sub.rn.bf16x2", *OTHER_MATRIX])
def test_packed_and_matrix_arithmetic_is_seen(op: str) -> None:
    """Written by hand, since no C++ of ours compiles to it; a predicate or a brace in front hides nothing."""
    allowed = "".join(f"{name} {{%r1, %r2, %r3, %r4}}, {{%r5}};\n" for name in ALLOWED_MATRIX)
    text = f"{op} %x1, %x2, %x3;\n@%p1 {op} %x1, %x2, %x3;\n{{.reg .pred p; {op} %x1, %x2;}}\nfma.rn.f32 %f1, %f2;\n"
    assert audit(allowed + text) == [op, op, op]


def test_the_matrix_unit_is_refused_outside_of_digits() -> None:
    text = "".join(f"{name} {{%r1, %r2}}, {{%r5}};\n" for name in sorted(ALLOWED_MATRIX))
    assert audit(text, "attention_digits") == []
    assert audit(text, "matmul") == sorted(ALLOWED_MATRIX)


def test_contraction_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "f.cu"
    source.write_text(PLAIN)
    assert audit(to_ptx(source)) == []
    assert body(to_ptx(source)) != body(to_ptx(source, "-fmad=true"))


HUNGRY = """
__global__ void f(float* x, int n) {
  float a[64];
  x += 64 * threadIdx.x;
#pragma unroll
  for (int k = 0; k < 64; k++) a[k] = x[k];
  for (int i = 0; i < n; i++) {
#pragma unroll
    for (int k = 0; k < 64; k++) a[k] = a[k] * x[i] + a[(k + 7) % 64];
  }
#pragma unroll
  for (int k = 0; k < 64; k++) x[k] = a[k];
}
"""


def test_spills_are_seen(tmp_path: Path) -> None:
    """64 values in 32 registers."""
    (tmp_path / "f.cu").write_text(HUNGRY)
    command = [
        str(toolkit.find_nvcc()),
        "-arch=sm_90a",
        "-maxrregcount=32",
        "-Xptxas",
        "-v",
        "-cubin",
        "f.cu",
        "-o",
        "f.o",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    ((_, arch, stores, loads, registers, _),) = ENTRY.findall(done.stderr)
    assert (arch, registers) == ("90a", "32")
    assert int(stores) > 0
    assert int(loads) > 0


if __name__ == "__main__":
    build.build(ROOT / "results" / "build")
    with tempfile.TemporaryDirectory() as folder:
        rows = table(Compiled(Path(folder)))
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(BEGIN) + len(BEGIN)] + rows + page[page.index(END) :])
