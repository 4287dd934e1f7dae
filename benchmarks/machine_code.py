"""What nvcc makes of a .cu file for one architecture: registers, shared memory, and the instructions of each loop.

Needs nvcc and cuobjdump, no GPU. benchmarks/predict.py turns the counts into times.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cuda_ops import build, flags
from cuda_ops.errors import UserError
from cuda_ops.toolkit import find_nvcc, nvcc_version
from pipeline.base.files import write_json

KERNELS = build.ROOT / "kernels"
MADE = build.ROOT.parent / "results" / "machine_code"
# What ptxas -v says of a kernel: name, spill stores and loads, registers, the rest.
ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)


@dataclass(frozen=True)
class Loop:
    """From the target of a branch backwards to the branch; instructions by name, those of loops within it too."""

    first: int
    last: int
    instructions: Counter[str]

    @property
    def ffma_share(self) -> float:
        return self.instructions["FFMA"] / self.instructions.total()

    def holds(self, other: Loop) -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True)
class Kernel:
    """name: demangled, without namespace and arguments. shared: static, in bytes. instructions: of the whole kernel."""

    name: str
    registers: int
    shared: int
    spilled: int
    instructions: int
    loops: list[Loop]

    def main_loop(self) -> Loop:
        """The loop with the most FFMA."""
        return max(self.loops, key=lambda loop: loop.instructions["FFMA"])


def find_disassembler() -> Path | None:
    """cuobjdump on PATH, beside nvcc, or in triton, which torch brings where it is built for CUDA."""
    nvcc, on_path = find_nvcc(), shutil.which("cuobjdump")
    places = [Path(on_path)] if on_path else []
    places += [nvcc.resolve().parent / "cuobjdump"] if nvcc else []
    places.append(Path(sysconfig.get_paths()["purelib"]) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump")
    return next((place for place in places if place.exists()), None)


def loops_of(listing: str) -> tuple[int, list[Loop]]:
    """Instructions of a kernel's listing, padding left out, and its loops."""
    code = [(int(at, 16), name, rest) for at, name, rest in INSTRUCTION.findall(listing) if name != "NOP"]
    loops = []
    for at, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest) if name.startswith("BRA") else None
        first = int(target[1], 16) if target else at
        if first < at:
            loops.append(Loop(first, at, Counter(n.split(".")[0] for a, n, _ in code if first <= a <= at)))
    return len(code), loops


def _texts(source: Path, arch: str, nvcc: Path, disassembler: Path) -> tuple[str, str]:
    """What ptxas says and the listing; kept in MADE until the sources, the flags or the compiler are others."""
    command = [str(nvcc), "-std=c++17", *flags.DEVICE_ARITHMETIC, f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin"]
    key = " ".join([nvcc_version(nvcc), *command[1:], build.stem_digests()[source.stem]])
    kept = MADE / f"{source.stem}.{arch}.json"
    if kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found["said"], found["listing"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        done = subprocess.run([*command, str(source), "-o", cubin], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"nvcc cannot compile {source}:\n{done.stderr[-2000:]}")
        text = subprocess.run([str(disassembler), "-sass", cubin], capture_output=True, text=True, check=True).stdout
    write_json(kept, {"key": key, "said": done.stderr, "listing": text})
    return done.stderr, text


@cache
def compiled(source: Path, arch: str = "90a") -> dict[str, Kernel]:
    """The kernels of a .cu file under the project's flags, by name; a UserError says what is not installed."""
    nvcc, disassembler = find_nvcc(), find_disassembler()
    if nvcc is None:
        raise UserError(
            "nvcc is not installed, and the kernels' cost is counted in its machine code; install the CUDA toolkit"
        )
    if disassembler is None:
        raise UserError("cuobjdump is not installed; install the CUDA toolkit, or triton (pip install triton)")
    said, text = _texts(source, arch, nvcc, disassembler)
    listings = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function : |\Z)", text, re.DOTALL))
    entries = ENTRY.findall(said)
    names = subprocess.run(["c++filt", *(entry[0] for entry in entries)], capture_output=True, text=True, check=True)
    found = {}
    for (mangled, stores, loads, registers, rest), name in zip(entries, names.stdout.splitlines(), strict=True):
        short = re.sub(r"samebits::device::|^void |\(.*", "", name)
        shared = re.search(r"(\d+) bytes smem", rest)
        count, loops = loops_of(listings[mangled])
        usage = int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads)
        found[short] = Kernel(short, *usage, count, loops)
    return found
