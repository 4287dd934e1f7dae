"""Builds the ops: one shared library, compiled by ninja, that carries the digest of its sources and flags.

An op's stem names its files: cpu/x.cpp, kernels/x.cu, bindings/x.cpp, ops/x.py. A new one is found by its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from cuda_ops import flags
from cuda_ops.errors import UserError
from cuda_ops.toolkit import Toolkit, choose

ROOT = Path(__file__).resolve().parent
LIBRARY = "samebits_ops.so"
DIGEST = "ops.digest"
BINDINGS = "bindings.cpp"
COMPILE_COMMANDS = "compile_commands.json"
LOCK = ".building"
STATUS = {"NINJA_STATUS": "[%f/%t] "}  # before what ninja says of a step that is done

# Included by the files of a stem, but no part of its digest: they declare, refuse, or pick a table of kernels.
PLUMBING = {
    "kernels.inc": "declarations: a signature that changes shows in the stem's own file, or nothing links",
    "cpu/kernels.h": "declares the catalogue for a CPU",
    "kernels/kernels.h": "declares the catalogue for a GPU",
    "cpu/dispatch.h": "picks an instruction set and a number of threads, which may not change a bit",
    "cpu/threads.h": "the number of threads",
    "bindings/backend.h": "picks the GPU's table",
    "bindings/checks.h": "refuses arguments and passes pointers",
}


def sources() -> list[Path]:
    """Every file that the arithmetic is written in, in a fixed order."""
    patterns = [
        "*.inc",
        "bindings/*.cpp",
        "bindings/*.h",
        "cpu/*.cpp",
        "cpu/*.h",
        "kernels/*.cu",
        "kernels/*.h",
        "numerics/*.h",
    ]
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def stems() -> list[str]:
    """Every op's stem, in order: those of the Python faces."""
    return sorted(path.stem for path in (ROOT / "ops").glob("[!_]*.py"))


def binding_files() -> list[Path]:
    """The bindings of the stems, which are compiled together."""
    return sorted(path for path in (ROOT / "bindings").glob("*.cpp") if path.stem not in ("library", "cuda"))


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


def _code(path: Path) -> tuple[str, tuple[Path, ...]]:
    """A file without comments, and the files of cuda_ops that it includes."""
    return _version(path, path.stat().st_mtime_ns)


@cache
def _version(path: Path, changed: int) -> tuple[str, tuple[Path, ...]]:
    text = without_comments(path.read_text(encoding="utf-8"))
    included = [(path.parent / name).resolve() for name in re.findall(r'^#include "([^"]+)"$', text, re.MULTILINE)]
    return text, tuple(file for file in included if file.is_relative_to(ROOT))


def stem_files(stem: str) -> list[Path]:
    """The files that may change a bit of a stem's ops, in a fixed order.

    Its own in cpu/, kernels/ and bindings/ (which round scalars to fp32 and choose sizes), and every header that these
    include, however deep. Headers of loops, launches and scratch memory count too: they set the float environment, move
    values and wait for copies. Only PLUMBING does not, nor what no stem includes: dispatch.cpp, library.cpp, cuda.cpp,
    check.cu. The Python face is Python, for the digest of code.
    """
    waiting = [ROOT / "cpu" / f"{stem}.cpp", ROOT / "kernels" / f"{stem}.cu", ROOT / "bindings" / f"{stem}.cpp"]
    waiting = [path for path in waiting if path.exists()]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _code(path)[1]
    return sorted(path for path in found if path.relative_to(ROOT).as_posix() not in PLUMBING)


def stem_digests() -> dict[str, str]:
    """For each stem, SHA-256 over its files without comments and the flags that the arithmetic rests on.

    What must run again when a kernel changes: the stages that use its stem.
    """
    arithmetic = "\n".join([*flags.ARITHMETIC, *flags.DEVICE_ARITHMETIC])
    digests = {}
    for stem in stems():
        digest = hashlib.sha256()
        for path in stem_files(stem):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\n{_code(path)[0]}\n".encode())
        digest.update(arithmetic.encode())
        digests[stem] = digest.hexdigest()
    return digests


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


def find_ninja() -> str | None:
    """ninja beside this Python, from the module `ninja` wherever it is installed, or on PATH."""
    folders = [Path(sys.executable).parent]
    with suppress(ImportError):
        import ninja

        folders += [Path(ninja.BIN_DIR), Path(ninja.__file__).resolve().parents[1] / "bin"]
    found = next((str(folder / "ninja") for folder in folders if (folder / "ninja").is_file()), None)
    return found or shutil.which("ninja")


def cxx_runtime() -> str:
    """The C++ runtime that torch has loaded into this process, or nothing where there is none to see.

    Named in the link: a toolchain that was moved may hold a dangling libstdc++.so beside a sound libstdc++.a, and a second
    runtime inside our library would share half of its symbols with torch's. Writing a number to a stream then crashes.
    """
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    paths = (line.split(maxsplit=5)[-1] for line in lines if "libstdc++.so" in line)
    return next((path for path in paths if Path(path).is_file()), "")


def word(text: str | Path) -> str:
    """One word of a command in ninja's text, whatever is in a path."""
    return shlex.quote(str(text)).replace("$", "$$")


def file(path: Path) -> str:
    """A file in ninja's text where it is no part of a command."""
    return re.sub(r"([ :$])", r"$\1", str(path))


class Ninja:
    """The build of one library as ninja text: objects one by one, then the link."""

    def __init__(self, compiler: str, opt_level: int, toolkit: Toolkit | None = None, sanitize: bool = False) -> None:
        import torch

        root = Path(torch.__file__).resolve().parent
        self.opt_level, self.toolkit = opt_level, toolkit
        self.sanitizers = [*flags.SANITIZERS] if sanitize else []
        self.objects: list[str] = []
        self.written: dict[str, str] = {}  # files beside build.ninja
        self.includes = " ".join(f"-isystem {word(root / 'include' / path)}" for path in ("", "torch/csrc/api/include"))
        folders = [root / "lib"]
        libraries = ["-ltorch_cpu", "-lc10"]
        if toolkit:
            folders.append(toolkit.runtime.parent)
            libraries += ["-lc10_cuda", f"-l:{toolkit.runtime.name}"]
        link = " ".join(
            [*self.sanitizers, *(f"{word(f'-L{path}')} {word(f'-Wl,-rpath,{path}')}" for path in folders), *libraries]
        )
        prefix = f"-ffile-prefix-map={ROOT}=cuda_ops"
        runtime = [word(path) for path in (cxx_runtime(),) if path]
        self.lines = [
            f"cxx = {word(compiler)}",
            f"common = {' '.join([*flags.ARITHMETIC, *flags.BUILD, word(prefix)])}",
            "rule cc",
            "  command = $cxx $common $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = $cxx -shared -fopenmp -Wl,-z,defs $in {' '.join(runtime)} -o $out {link}",  # undefined symbols fail here, not at load
            "  description = link $out",
        ]
        if toolkit:
            host = ",".join(
                [*(flag for flag in flags.ARITHMETIC if "std=" not in flag), "-fPIC,-fvisibility=hidden", prefix]
            )
            device = " ".join([*flags.DEVICE_ARITHMETIC, *flags.DEVICE_BUILD, *flags.gencode(toolkit.archs)])
            self.lines += [
                "rule nvcc",
                f"  command = {word(toolkit.nvcc)} -ccbin $cxx {device} -Xcompiler {word(host)} -MD -MF $out.d -c $in -o $out",
                "  depfile = $out.d",
                "  deps = gcc",
                "  description = compile $out",
            ]

    def compile(self, source: Path, name: str, *extra: str, level: int | None = None) -> None:
        """An object of a source at an optimisation level, the library's unless it is named."""
        self.objects.append(f"{name}.o")
        level = self.opt_level if level is None else level
        self.lines += [f"build {name}.o: cc {file(source)}", f"  flags = {' '.join([f'-O{level}', *extra])}"]

    def bindings(self, digest: str) -> None:
        """Bindings only check and forward: compiled at -O1 whatever the level.

        Those of the stems are one compilation, since torch's headers take longer than all of them.
        """
        carrier = f'-DSAMEBITS_SOURCE_DIGEST=\\"{digest}\\"'
        self.compile(ROOT / "bindings" / "library.cpp", "library", self.includes, carrier, level=1)
        self.written[BINDINGS] = "".join(f'#include "{path}"\n' for path in binding_files())
        self.compile(Path(BINDINGS), "bindings", self.includes, level=1)
        if self.toolkit:
            archs = f'-DSAMEBITS_ARCHS=\\"{",".join(self.toolkit.archs)}\\"'
            cuda = f"-isystem {word(self.toolkit.headers)}"
            extra = [self.includes, cuda, archs, "-DSAMEBITS_ISA=baseline"]
            self.compile(ROOT / "bindings" / "cuda.cpp", "cuda", *extra, level=1)

    def cpu_kernels(self) -> None:
        """Each kernel once per instruction set, dispatch once."""
        for source in sorted((ROOT / "cpu").glob("*.cpp")):
            if source.stem == "dispatch":
                self.compile(source, "dispatch", "-DSAMEBITS_ISA=baseline")
                continue
            for level, extra in flags.levels().items():
                self.compile(source, f"{source.stem}.{level}", f"-DSAMEBITS_ISA={level}", *extra, *self.sanitizers)

    def cuda_kernels(self) -> None:
        for source in sorted((ROOT / "kernels").glob("*.cu")):
            self.objects.append(f"{source.stem}.cu.o")
            self.lines.append(f"build {source.stem}.cu.o: nvcc {file(source)}")

    def text(self) -> str:
        return "\n".join([*self.lines, f"build {LIBRARY}: link {' '.join(self.objects)}", f"default {LIBRARY}", ""])

    def run(self, out: Path, jobs: int | None = None) -> None:
        """Write out/build.ninja and build what changed; raises UserError with the compiler's words if it fails.

        One process at a time builds in a folder; another waits, and then finds everything made.
        """
        out.mkdir(parents=True, exist_ok=True)
        with open(out / LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process builds in {out}: waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._run(out, jobs)

    def _run(self, out: Path, jobs: int | None) -> None:
        for name, text in {**self.written, "build.ninja": self.text()}.items():
            if not (out / name).exists() or (out / name).read_text(encoding="utf-8") != text:
                (out / name).write_text(text, encoding="utf-8")
        command = [find_ninja() or "ninja", "-C", str(out)]
        try:
            planned = subprocess.run(
                [*command, "-n"], capture_output=True, text=True, check=False, env=os.environ | STATUS
            ).stdout
        except FileNotFoundError:
            raise UserError("ninja is not installed: pip install ninja (it is in requirements.lock)") from None
        if steps := planned.count("\n["):
            print(
                f"compiling the ops (steps: {steps}, at a time: {jobs or 'one a core'}); all of them take minutes on a "
                "few cores, an edit only what it changed",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        self._watched([*command, *(["-j", str(jobs)] if jobs else [])])
        rules = ["-t", "compdb", "cc", *(["nvcc"] if self.toolkit else [])]
        listed = subprocess.run([*command, *rules], capture_output=True, text=True, check=True).stdout
        self._write_compile_commands(out, json.loads(listed[listed.index("[") :]))

    @staticmethod
    def _watched(command: list[str]) -> None:
        """Run ninja; a line at every tenth of its steps. Raises UserError with its last words if it fails."""
        words, tenth = [], 0
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | STATUS
        ) as child:  # fmt: skip
            try:
                for line in child.stdout or ():
                    words.append(line.rstrip())
                    if at := re.match(r"\[(\d+)/(\d+)\] ", line):
                        done, steps = int(at[1]), int(at[2])
                        if 10 * done // steps > tenth:
                            tenth = 10 * done // steps
                            print(f"compiled {done} of {steps}", file=sys.stderr, flush=True)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            raise UserError("compiling the ops failed:\n" + "\n".join(words[-40:]))

    @staticmethod
    def _write_compile_commands(out: Path, entries: list[dict[str, str]]) -> None:
        """How each file is compiled, for editors and linters; a binding as the one compilation that includes it."""
        for together in [entry for entry in entries if entry["file"] == BINDINGS]:
            for path in binding_files():
                command = together["command"].replace(f"-c {BINDINGS} ", f"-c {shlex.quote(str(path))} ")
                entries.append({**together, "file": str(path), "command": command})
        (out / COMPILE_COMMANDS).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def build(
    out: Path,
    opt_level: int = 3,
    cxx: str | None = None,
    jobs: int | None = None,
    archs: str = "auto",
    sanitize: bool = False,
) -> tuple[str, str]:
    """Compile into out/samebits_ops.so; returns the digest and one line on CUDA.

    archs is as for toolkit.choose; sanitize: the CPU kernels look for wrong addresses and undefined behaviour. Only
    what changed is compiled again. Writes ops.digest and compile_commands.json beside it.
    Raises UserError with the compiler's words if it fails.
    """
    chosen, line = choose(archs)
    digest = source_digest()
    ninja = Ninja(find_compiler(cxx), opt_level, chosen, sanitize)
    ninja.bindings(digest)
    ninja.cpu_kernels()
    if chosen:
        ninja.cuda_kernels()
    ninja.run(out.resolve(), jobs)
    (out / DIGEST).write_text(f"{digest}\n", encoding="ascii")
    return digest, line
