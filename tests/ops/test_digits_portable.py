"""pytest tests/ops/test_digits_portable.py

The kernels in digits without torch: every instruction set, aarch64 and riscv64 under qemu print the same lines. Sources
that are sabotaged in one place are seen, each at the product where it must show.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cuda_ops import flags
from tests.conftest import ROOT

STEMS = ("digits", "matmul_digits", "attention_digits", "attention_digits_backward", "fill", "fingerprint")


def built(folder: Path, compiler: str = "g++", *extra: str, root: Path = ROOT) -> Path:
    """digits.cpp with the kernels of a checkout."""
    program = folder / "digits"
    command = [compiler, *flags.ARITHMETIC, "-O1", "-fopenmp", "-static", "-DSAMEBITS_ISA=baseline", *extra]
    sources = [str(root / "cuda_ops" / "cpu" / f"{stem}.cpp") for stem in STEMS]
    subprocess.run([*command, str(root / "tests" / "ops" / "digits.cpp"), *sources, "-o", str(program)], check=True)
    return program


def results(program: Path, *runner: str, dot: str = "plain") -> dict[str, str]:
    """Its fingerprints by product and number of digits."""
    env = os.environ | {"SAMEBITS_DOT": dot}
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=True, env=env)
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    lines = results(built(tmp_path_factory.mktemp("native")))
    assert len(lines) == 18
    return lines


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_other_architectures_give_the_same_bits(tmp_path: Path, native: dict[str, str], machine: str) -> None:
    compiler, emulator = f"{machine}-linux-gnu-g++", f"qemu-{machine}"
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"needs g++-{machine}-linux-gnu and qemu-user")
    program = built(tmp_path, compiler)
    assert results(program, emulator) == native
    if machine == "aarch64":
        assert results(program, emulator, "-cpu", "max", dot="instruction") == native


# From the last of the 16 queries to the first, each under the largest value of those behind it too.
ROWS = """    {walk} {{
      const int64_t seen = r < m ? first + r + 1 - j : 0, n = seen < 0 ? 0 : seen < length ? seen : length;
      alignas(64) float folded[kDigitBlock];
      LaneInts {largest};
"""
FUTURE = (
    ROWS.format(walk="for (int r = 0; r < kPanel; r++)", largest="largest = {}"),
    "    LaneInts largest = {};\n" + ROWS.format(walk="for (int r = kPanel - 1; r >= 0; r--)", largest="unused"),
)

NEEDED = {"-march=x86-64-v3": "avx2", "-march=x86-64-v4": "avx512bw"}

# file, text, other text, products that must differ, flags. The first occurrence is exchanged.
SABOTAGE = {
    "a digit off by one": (
        "cpu/digit_bytes.h", "n = n > 127 ? Ints{} + 127 : n;", "n = n > 126 ? Ints{} + 126 : n;",
        {"extreme 1"}, [],
    ),
    "a digit of -128, where packing saturates": (
        "cpu/digit_bytes.h", "_mm512_max_epi8(_mm512_packs_epi16(a, b), _mm512_set1_epi8(-127))",
        "_mm512_packs_epi16(a, b)", {"least 1"}, ["-march=x86-64-v4"],
    ),
    "truncation for ties to even": (
        "cpu/digit_bytes.h", "(Ints)(y + kRounder) - 0x4b400000", "__builtin_convertvector(y, Ints)",
        {"nt 1", "nt 2"}, [],
    ),
    "a chain that a later piece begins anew": (
        "cpu/matmul_digits.cpp", "accumulate || c > 0", "accumulate", {"long nt 1", "long nt 2"}, [],
    ),
    "lengths of the first piece's blocks": (
        "cpu/matmul_digits.cpp", "steps + c", "steps", {"long tn 1", "long tn 2"}, [],
    ),
    "a scale that sees the future": (
        "cpu/attention_digits.h", *FUTURE, {"attention 1", "attention 2"}, [],
    ),
    "a block that does not begin anew with the sequence": (
        "cpu/digits.h", "sequence(sequence < K && sequence > 0 ? sequence : K)", "sequence(K)", {"tn 1", "tn 2"}, [],
    ),
    "a saturating instruction": (
        "cpu/dot.h", "_mm256_maddubs_epi16(_mm256_abs_epi8(l), _mm256_sign_epi8(r, l))",
        "_mm256_maddubs_epi16(_mm256_xor_si256(r, _mm256_set1_epi8((char)0x80)), l)", {"extreme 1", "extreme 2"},
        ["-march=x86-64-v3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(tmp_path: Path, native: dict[str, str], what: str) -> None:
    file, old, new, shown, extra = SABOTAGE[what]
    for flag in extra:
        if f" {NEEDED[flag]} " not in Path("/proc/cpuinfo").read_text():
            pytest.skip(f"this CPU has no {NEEDED[flag]}")
    if extra:
        assert results(built(tmp_path, "g++", *extra)) == native, "the same build without the sabotage"
    for folder in ("cuda_ops", "tests/ops"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.cu"))
    text = (tmp_path / "cuda_ops" / file).read_text()
    assert old in text, f"{file} has no {old!r} any more: mend the test"
    (tmp_path / "cuda_ops" / file).write_text(text.replace(old, new, 1))
    found = results(built(tmp_path, "g++", *extra, root=tmp_path))
    assert {name for name in native if found[name] != native[name]} >= shown
