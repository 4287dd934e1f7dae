"""The ops are compiled once, in results/build, when a test first needs them: imports them, or runs a program."""

from __future__ import annotations

import fcntl
import importlib.abc
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.forks import forked, forking_python
from tests.slow import LONG_FILES, is_slow

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")

# Pinned files from a folder of copies beside the checkout, so that no test needs a network.
if (ROOT.parent / "shared" / "data").is_dir():
    os.environ.setdefault("SAMEBITS_MIRROR", str(ROOT.parent / "shared" / "data"))
os.environ.setdefault("SAMEBITS_BUILD", str(ROOT / "results" / "build"))
os.environ.setdefault("SAMEBITS_GRAIN", "1")  # small shapes show what threads could change only if threads take them
# Threads that spin between small loops would take the cores from other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# In the background of a script SIGINT is ignored, under nohup SIGHUP, and that is handed on: a stop that a test sends
# would be none. A handler is not handed on, and this process still goes on.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

SHIM = ROOT / "results" / "cuda_on_cpu"
SEED = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda", "shim"), default="cpu",
        help="where ops run in tests/ops: the CPU backend, a GPU, or the CUDA sources on the CPU",
    )  # fmt: skip


@cache
def compile_ops() -> None:
    """Bring results/build up to date, and with --device shim the library of the CUDA sources; once per process."""
    from cuda_ops.build import build

    build(ROOT / "results" / "build")
    if os.environ["SAMEBITS_BUILD"] == str(SHIM):
        from tests.cuda_on_cpu.build import build_shim

        build_shim(beside_ours(SHIM))


def beside_ours(out: Path) -> Path:
    """A folder to build in, with the objects of results/build, once they are made: ninja makes again those whose command is another."""
    if not out.exists():
        shutil.copytree(ROOT / "results" / "build", out)
    return out


class CompileFirst(importlib.abc.MetaPathFinder):
    """Compiles before the module that loads the library is imported; finds nothing itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "cuda_ops.library":
            compile_ops()


def pytest_configure(config: pytest.Config) -> None:
    sys.meta_path.insert(0, CompileFirst())
    device = config.getoption("--device")
    if device == "shim":
        os.environ["SAMEBITS_BUILD"] = str(SHIM)
        settings.register_profile("shim", settings.get_profile("repeatable"), max_examples=5)
        settings.load_profile("shim")
    if device == "cuda":
        from tests.on_device import run_ops_on

        run_ops_on("cuda")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_device = config.getoption("--device") == "cuda"
    for item in items:
        if is_slow(item.name):
            item.add_marker(pytest.mark.slow)
        host = item.get_closest_marker("host")
        if on_device and host:
            item.add_marker(pytest.mark.skip(reason=host.args[0]))
    # Long files first, so that the processes of make test end together.
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What torch draws in a test is the same alone, after other tests and in any process of pytest."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture
def every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA sources on the CPU take it for a device with all matrix units: capability 9.0."""
    monkeypatch.setenv("SAMEBITS_SHIM_MAJOR", "9")


@pytest.fixture(scope="module")
def forking() -> Iterator[None]:
    """The processes that this one starts with sys.executable are forks, where they are stages."""
    real, sys.executable = sys.executable, forking_python()
    yield
    sys.executable = real


@pytest.fixture(scope="session")
def shim() -> Path:
    """The folder of a library whose ops run through the CUDA sources on the CPU."""
    from tests.cuda_on_cpu.build import build_shim

    compile_ops()
    build_shim(beside_ours(SHIM))
    return SHIM


# Whose start is what is tested: without torch, or with packages missing.
STARTED = {"pytest", "pipeline.compile", "pipeline.gpu_proof", "benchmarks.evidence"}


def run(
    *command: str, env: dict[str, str] | None = None, cwd: Path = ROOT, code: int | None = 0, anew: bool = False
) -> str:
    """Run `python <command>` in the project; returns stdout and stderr together, and checks the exit code.

    A fork of a process that has imported torch, where the start itself is not what is tested. anew: a start even so.
    """
    compile_ops()
    merged = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    what = command[1]
    computes = what not in STARTED if command[0] == "-m" else re.search(r"import (\w+, )*(torch|train)\b", what)
    if computes and not anew and all(name.startswith(("SAMEBITS_", "OMP_NUM_")) for name in env or {}):
        found, stdout, stderr = forked("torch", list(map(str, command)), cwd, merged, python=forking_python())
    else:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=merged, cwd=cwd, check=False
        )
        found, stdout, stderr = done.returncode, done.stdout, done.stderr
    output = stdout + stderr
    assert code is None or found == code, f"exit code {found}, expected {code}:\n{output[-3000:]}"
    return output


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one process of this session makes and every other waits for; none may change it."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny recipe with its corpus and tokens."""
    recipe = ROOT / "tests" / "recipes" / "tiny.yaml"

    def make(folder: Path) -> None:
        source = ("--recipe", str(recipe), "--data", str(folder / "data"))
        run("-m", "pipeline.download", "--recipe", str(recipe), "--out", str(folder / "data"))
        run("-m", "pipeline.prepare_text", *source, "--out", str(folder / "tokens"))

    folder = once(tmp_path_factory, "tiny", make)
    return {"recipe": recipe, "data": folder / "data", "tokens": folder / "tokens"}
