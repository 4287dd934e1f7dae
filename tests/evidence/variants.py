"""Copies of the project with one exact edit each, and their libraries: for controls that must be seen to differ.

Only the edited kernel is compiled again, for one instruction set, with the commands of the real build; the other objects are
shared. The library carries the digest of the edited sources, so it is no stale one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cuda_ops import build
from pipeline.records.modules import KEPT
from tests.conftest import ROOT

LEVEL = "v3" if " avx2 " in Path("/proc/cpuinfo").read_text() else "baseline"


@dataclass
class Variant:
    """edits: (file, old, new), each of which must be there. flags: for the one edited kernel."""

    name: str
    edits: list[tuple[str, str, str]] = field(default_factory=list)
    kernel: str = ""
    flags: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def make(self, folder: Path) -> tuple[Path, Path]:
        """The edited code, and the folder of its library."""
        code, library = folder / "code", ROOT / "results" / "build"
        for package in ("pipeline", "cuda_ops"):
            shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        if (kept := ROOT / KEPT).exists():
            shutil.copytree(kept, code / KEPT)
        for file, old, new in self.edits:
            path = code / file
            text = path.read_text()
            assert old in text, f"{self.name}: {file} has no {old!r} any more: mend the control"
            path.write_text(text.replace(old, new))
        if self.kernel:
            library = folder / "build"
            self._compile(code, library)
        return code, library

    def _compile(self, code: Path, library: Path) -> None:
        base = ROOT / "results" / "build"
        shutil.copytree(base, library)
        listed = subprocess.run(
            [build.find_ninja() or "ninja", "-C", str(base), "-t", "commands"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        target = f"{self.kernel}.{LEVEL}.o"
        (compile_one,) = [line for line in listed if f" -c {ROOT}/cuda_ops/cpu/{self.kernel}.cpp -o {target}" in line]
        (link,) = [line for line in listed if "-shared" in line]
        source = f"{ROOT}/cuda_ops/cpu/{self.kernel}.cpp"
        compile_one = compile_one.replace(f"-c {source}", f"{self.flags} -c {source}").replace(str(ROOT), str(code))
        found = subprocess.run(
            [sys.executable, "-c", "from cuda_ops import build; print(build.source_digest())"],
            env=os.environ | {"PYTHONPATH": str(code)}, cwd=code, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        # The digest is text in the object of library.cpp; torch's headers would take longer than all the rest.
        carrier = library / "library.o"
        content = carrier.read_bytes()
        old = build.source_digest().encode()
        assert content.count(old) == 1
        carrier.write_bytes(content.replace(old, found.encode()))
        for command in (compile_one, link):
            done = subprocess.run(command, shell=True, cwd=library, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
