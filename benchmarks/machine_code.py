"""What nvcc makes of a .cu file for one architecture: registers, shared memory, and the instructions of each loop."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cuda_ops import build, flags
from cuda_ops.errors import UserError
from cuda_ops.toolkit import find_nvcc

KERNELS = build.ROOT / "kernels"
# What ptxas -v says of a kernel: name, spill stores and loads, registers, the rest.
ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
# Instructions that hand back their issue slot at once are still slots; only padding is none.
PADDING = ("NOP",)


@dataclass(frozen=True)
class Kernel:
    """name: demangled, without namespace and arguments. loops: instructions by name of each loop's body, nested ones too."""

    name: str
    registers: int
    shared: int  # bytes, static
    spilled: int
    loops: list[Counter[str]]
    runs: list[int]

    def main_loop(self) -> Counter[str]:
        """The loop with the most FFMA that holds no other loop with FFMA."""
        return max(self.loops, key=lambda loop: loop["FFMA"])

    def ffma_share(self) -> float:
        loop = self.main_loop()
        return loop["FFMA"] / sum(loop.values())


def find_disassembler() -> Path | None:
    """cuobjdump beside nvcc, on PATH, or in triton, which torch's CUDA wheels bring."""
    nvcc = find_nvcc()
    places = [Path(found) for found in (shutil.which("cuobjdump"),) if found]
    places += [nvcc.resolve().parent / "cuobjdump"] if nvcc else []
    places.append(Path(sysconfig.get_paths()["purelib"]) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump")
    return next((place for place in places if place.exists()), None)


def loops_of(text: str) -> list[Counter[str]]:
    """The loops of one kernel's listing: from the target of each branch backwards to the branch."""
    code = [(int(address, 16), name, rest) for address, name, rest in LINE.findall(text)]
    loops, runs = [], []
    for address, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest) if name.startswith("BRA") else None
        if target and int(target[1], 16) < address:
            first = int(target[1], 16)
            body = [n.split(".")[0] for a, n, _ in code if first <= a <= address]
            loops.append(Counter(n for n in body if n not in PADDING))
            runs.append(max(len(run.split()) for run in " ".join(body).split("FFMA")))
    return loops, runs


def compiled(source: Path, arch: str = "90") -> dict[str, Kernel]:
    """The kernels of a .cu file under the project's flags, by name."""
    nvcc, disassembler = find_nvcc(), find_disassembler()
    if nvcc is None:
        raise UserError(
            "nvcc is not installed: what the kernels cost is counted in its machine code; install the CUDA toolkit"
        )
    if disassembler is None:
        raise UserError(
            "cuobjdump is not installed: it comes with the CUDA toolkit and with triton (pip install triton)"
        )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        command = [
            *flags.DEVICE_ARITHMETIC,
            *(f for flag in flags.DEVICE_BUILD for f in flag.split(" ", 1) if "objdir" not in f),
        ]
        done = subprocess.run(
            [str(nvcc), *command, f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", str(source), "-o", str(cubin)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UserError(f"nvcc cannot compile {source}:\n{done.stderr[-2000:]}")
        listing = subprocess.run(
            [str(disassembler), "-sass", str(cubin)], capture_output=True, text=True, check=True
        ).stdout
    code = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function : |\Z)", listing, re.DOTALL))
    found = {}
    entries = ENTRY.findall(done.stderr)
    plain = subprocess.run(["c++filt", *(e[0] for e in entries)], capture_output=True, text=True, check=True).stdout
    for (name, stores, loads, registers, rest), long in zip(entries, plain.splitlines(), strict=True):
        short = re.sub(r"samebits::device::|^void |\(.*", "", long)
        shared = re.search(r"(\d+) bytes smem", rest)
        spilled = int(stores) + int(loads)
        found[short] = Kernel(short, int(registers), int(shared[1]) if shared else 0, spilled, *loops_of(code[name]))
    return found
