"""Builds the ops: one shared library, compiled by ninja, that carries the digest of its sources and flags."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cuda_ops import flags
from cuda_ops.errors import UserError
from cuda_ops.toolkit import Toolkit, choose

ROOT = Path(__file__).resolve().parent
LIBRARY = "samebits_ops.so"
DIGEST = "ops.digest"


def sources() -> list[Path]:
    """Every file that the arithmetic is written in, in a fixed order."""
    patterns = ["*.cpp", "*.h", "*.inc", "cpu/*.cpp", "cpu/*.h", "kernels/*.cu", "kernels/*.h", "numerics/*.h"]
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def without_comments(text: str) -> str:
    """C++ text without comments, blank lines and indentation; lines and string literals stay as they are."""
    literals: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return " "
        literals.append(match[1])
        return f"\0{len(literals) - 1}\0"

    code = re.sub(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', replace, text, flags=re.DOTALL)
    lines = [" ".join(line.split()) for line in code.splitlines()]
    return re.sub(r"\0(\d+)\0", lambda match: literals[int(match[1])], "\n".join(filter(None, lines)))


def source_digest(with_flags: bool = True) -> str:
    """SHA-256 over the sources without comments and, unless told otherwise, the flags that the arithmetic rests on.

    The same on every machine: compiler, optimisation level, instruction set and whether a library has CUDA kernels are
    not part of it, because they may not change a bit.
    """
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode())
        digest.update(without_comments(path.read_text(encoding="utf-8")).encode() + b"\n")
    if with_flags:
        digest.update("\n".join([*flags.ARITHMETIC, *flags.DEVICE_ARITHMETIC]).encode())
    return digest.hexdigest()


def find_compiler(name: str | None) -> str:
    """The C++ compiler: `name`, else $CXX, else g++, else clang++."""
    wanted = name or os.environ.get("CXX")
    for candidate in [wanted] if wanted else ["g++", "clang++"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise UserError(
        f"no C++ compiler: {wanted or 'g++ or clang++'} is not on PATH; install one (Debian: apt-get install g++) "
        "or name it with CXX or --cxx"
    )


class Ninja:
    """The build of one library as ninja text: objects one by one, then the link."""

    def __init__(self, compiler: str, opt_level: int, toolkit: Toolkit | None = None) -> None:
        import torch

        root = Path(torch.__file__).resolve().parent
        self.opt_level, self.toolkit = opt_level, toolkit
        self.objects: list[str] = []
        self.includes = " ".join(f"-isystem {root / 'include' / path}" for path in ("", "torch/csrc/api/include"))
        folders = [root / "lib"]
        libraries = ["-ltorch_cpu", "-lc10"]
        if toolkit:
            folders.append(toolkit.runtime.parent)
            libraries += ["-lc10_cuda", f"-l:{toolkit.runtime.name}"]
        link = " ".join([*(f"-L{path} -Wl,-rpath,{path}" for path in folders), *libraries])
        prefix = f"-ffile-prefix-map={ROOT}=cuda_ops"
        self.lines = [
            f"cxx = {compiler}",
            f"common = {' '.join([*flags.ARITHMETIC, *flags.BUILD, prefix])}",
            "rule cc",
            f"  command = $cxx -O{opt_level} $common $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = $cxx -shared -fopenmp -Wl,-z,defs $in -o $out {link}",  # undefined symbols fail here, not at load
            "  description = link $out",
        ]
        if toolkit:
            host = ",".join(
                [*(flag for flag in flags.ARITHMETIC if "std=" not in flag), "-fPIC,-fvisibility=hidden", prefix]
            )
            device = " ".join([*flags.DEVICE_ARITHMETIC, *flags.DEVICE_BUILD, *flags.gencode(toolkit.archs)])
            self.lines += [
                "rule nvcc",
                f"  command = {toolkit.nvcc} -ccbin $cxx {device} -Xcompiler {host} -MD -MF $out.d -c $in -o $out",
                "  depfile = $out.d",
                "  deps = gcc",
                "  description = compile $out",
            ]

    def compile(self, source: Path, name: str, *extra: str) -> None:
        self.objects.append(f"{name}.o")
        self.lines += [f"build {name}.o: cc {source}", f"  flags = {' '.join(extra)}"]

    def bindings(self, digest: str) -> None:
        """Schemas and bindings only check and forward: compiled at -O1 whatever the level, since torch's headers are long."""
        common = [f"-O{min(self.opt_level, 1)}", self.includes]
        self.compile(ROOT / "schemas.cpp", "schemas", *common, f'-DSAMEBITS_SOURCE_DIGEST=\\"{digest}\\"')
        self.compile(ROOT / "bindings.cpp", "bindings", *common)
        if self.toolkit:
            archs = f'-DSAMEBITS_ARCHS=\\"{",".join(self.toolkit.archs)}\\"'
            cuda = f"-isystem {self.toolkit.headers}"
            self.compile(ROOT / "cuda_bindings.cpp", "cuda_bindings", *common, cuda, archs, "-DSAMEBITS_ISA=baseline")

    def cpu_kernels(self) -> None:
        """Each kernel once per instruction set, dispatch once."""
        for source in sorted((ROOT / "cpu").glob("*.cpp")):
            if source.stem == "dispatch":
                self.compile(source, "dispatch", "-DSAMEBITS_ISA=baseline")
                continue
            for level, extra in flags.levels().items():
                self.compile(source, f"{source.stem}.{level}", f"-DSAMEBITS_ISA={level}", *extra)

    def cuda_kernels(self) -> None:
        for source in sorted((ROOT / "kernels").glob("*.cu")):
            self.objects.append(f"{source.stem}.cu.o")
            self.lines.append(f"build {source.stem}.cu.o: nvcc {source}")

    def text(self) -> str:
        return "\n".join([*self.lines, f"build {LIBRARY}: link {' '.join(self.objects)}", f"default {LIBRARY}", ""])

    def run(self, out: Path, jobs: int | None = None) -> None:
        """Write out/build.ninja and build what changed; raises UserError with the compiler's words if it fails."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "build.ninja").write_text(self.text(), encoding="utf-8")
        ninja = Path(sys.executable).parent / "ninja"
        command = [str(ninja) if ninja.exists() else "ninja", "-C", str(out)]
        command += ["-j", str(jobs)] if jobs else []
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise UserError("ninja is not installed: pip install ninja (it is in requirements.lock)") from None
        if done.returncode:
            words = (done.stdout + done.stderr).strip().splitlines()
            raise UserError("compiling the ops failed:\n" + "\n".join(words[-40:]))


def build(
    out: Path, opt_level: int = 3, cxx: str | None = None, jobs: int | None = None, archs: str = "auto"
) -> tuple[str, str]:
    """Compile into out/samebits_ops.so and write out/ops.digest; returns the digest and one line on CUDA.

    archs is as for toolkit.choose. Only what changed is compiled again. Raises UserError with the compiler's words if it
    fails.
    """
    chosen, line = choose(archs)
    digest = source_digest()
    ninja = Ninja(find_compiler(cxx), opt_level, chosen)
    ninja.bindings(digest)
    ninja.cpu_kernels()
    if chosen:
        ninja.cuda_kernels()
    ninja.run(out.resolve(), jobs)
    (out / DIGEST).write_text(f"{digest}\n", encoding="ascii")
    return digest, line
