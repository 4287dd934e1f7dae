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
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parent
LIBRARY = "samebits_ops.so"
DIGEST = "ops.digest"


def sources() -> list[Path]:
    """Every file that the arithmetic is written in, in a fixed order."""
    patterns = [
        "bindings.cpp",
        "checks.h",
        "kernels.inc",
        "cpu/*.cpp",
        "cpu/*.h",
        "kernels/*.cu",
        "kernels/*.h",
        "numerics/*.h",
    ]
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def without_comments(text: str) -> str:
    """C++ text without comments and with single spaces; string literals stay as they are."""
    pattern = r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\])*")'
    kept = re.sub(pattern, lambda m: m.group(1) or " ", text, flags=re.DOTALL)
    return " ".join(kept.split())


def source_digest(with_flags: bool = True) -> str:
    """SHA-256 over the sources without comments and, unless told otherwise, the flags that the arithmetic rests on.

    The same on every machine: compiler, optimisation level and instruction set are not part of it, because they may
    not change a bit.
    """
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode())
        digest.update(without_comments(path.read_text(encoding="utf-8")).encode() + b"\n")
    if with_flags:
        digest.update("\n".join(flags.ARITHMETIC).encode())
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


def ninja_file(out: Path, compiler: str, opt_level: int, digest: str) -> str:
    """The build as ninja text: each kernel once per instruction set, dispatch and bindings once."""
    import torch.utils.cpp_extension as extension

    includes = " ".join(f"-isystem {path}" for path in extension.include_paths())
    libraries = [Path(path) for path in extension.library_paths()]
    link = " ".join(f"-L{path} -Wl,-rpath,{path}" for path in libraries)
    common = " ".join([*flags.ARITHMETIC, *flags.BUILD, f"-ffile-prefix-map={ROOT}=cuda_ops"])
    lines = [
        f"cxx = {compiler}",
        f"common = {common}",
        "rule cc",
        f"  command = $cxx -O{opt_level} $common $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $out",
        "rule link",
        f"  command = $cxx -shared -fopenmp $in -o $out {link} -ltorch_cpu -lc10",
        "  description = link $out",
    ]
    objects = []

    def compile_one(source: Path, name: str, extra: str) -> None:
        objects.append(f"{name}.o")
        lines.extend([f"build {name}.o: cc {source}", f"  flags = {extra}"])

    # The bindings only check and forward: compiled at -O1 whatever the level, since torch's headers are long.
    binding_flags = f'-O{min(opt_level, 1)} {includes} -DSAMEBITS_SOURCE_DIGEST=\\"{digest}\\"'
    compile_one(ROOT / "bindings.cpp", "bindings", binding_flags)
    for source in sorted((ROOT / "cpu").glob("*.cpp")):
        if source.stem == "dispatch":
            compile_one(source, "dispatch", "-DSAMEBITS_ISA=baseline")
            continue
        for level, extra in flags.levels().items():
            compile_one(source, f"{source.stem}.{level}", " ".join([f"-DSAMEBITS_ISA={level}", *extra]))
    lines += [f"build {LIBRARY}: link {' '.join(objects)}", f"default {LIBRARY}", ""]
    return "\n".join(lines)


def build(out: Path, opt_level: int = 3, cxx: str | None = None, jobs: int | None = None) -> str:
    """Compile into out/samebits_ops.so and write out/ops.digest; returns the digest.

    Only what changed is compiled again. Raises UserError with the compiler's words if it fails.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    compiler = find_compiler(cxx)
    digest = source_digest()
    (out / "build.ninja").write_text(ninja_file(out, compiler, opt_level, digest), encoding="utf-8")
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
    (out / DIGEST).write_text(f"{digest}\n", encoding="ascii")
    return digest
