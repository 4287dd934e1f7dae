"""Finds what the CUDA kernels are compiled with: nvcc, its headers, torch's runtime, the GPUs present."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cuda_ops import flags
from cuda_ops.errors import UserError


@dataclass(frozen=True)
class Toolkit:
    """What one build with CUDA kernels uses."""

    nvcc: Path
    headers: Path  # of the CUDA runtime
    runtime: Path  # the libcudart that torch loads
    archs: list[str]


def find_nvcc() -> Path | None:
    """$CUDA_HOME/bin/nvcc, else nvcc on PATH, else /usr/local/cuda/bin/nvcc."""
    home = os.environ.get("CUDA_HOME")
    if home:
        given = Path(home) / "bin" / "nvcc"
        if not given.is_file():
            raise UserError(f"CUDA_HOME={home}: there is no bin/nvcc in it; name a CUDA toolkit or unset it")
        return given
    found = shutil.which("nvcc")
    usual = Path("/usr/local/cuda/bin/nvcc")
    return Path(found) if found else usual if usual.is_file() else None


def nvcc_version(nvcc: Path) -> str:
    """As in "13.0"."""
    words = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+\.\d+)", words)
    if not match:
        raise UserError(f"{nvcc} --version does not name a release: {words.strip()[:200]!r}")
    return match[1]


def number(arch: str) -> int:
    """Ten times the compute capability: 90 of "90a"."""
    return int(arch.removesuffix("a"))


def runs_on(arch: str, major: int, minor: int) -> bool:
    """Whether machine code for this architecture runs on a GPU of this compute capability."""
    of_major, of_minor = divmod(number(arch), 10)
    return of_major == major and (of_minor == minor if arch.endswith("a") else of_minor <= minor)


def arch_for(major: int, minor: int) -> str | None:
    """The architecture to compile for a GPU of this compute capability: the highest that runs there."""
    return max((arch for arch in flags.ARCHS if runs_on(arch, major, minor)), key=number, default=None)


def archs_present() -> list[str]:
    """What to compile for the GPUs of this machine; a GPU that no kernel is written for is left out."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = {arch_for(*torch.cuda.get_device_capability(i)) for i in range(count)}
    return sorted((arch for arch in found if arch), key=number)


def toolkit_root(nvcc: Path) -> Path:
    """The folder of headers and libraries that nvcc uses; nvcc itself may be a link or a script elsewhere."""
    words = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True, check=False).stderr
    match = re.search(r"^#\$ TOP=(.+)$", words, re.MULTILINE)
    return Path(match[1].strip()).resolve() if match else nvcc.resolve().parent.parent


def find_runtime(root: Path, major: str) -> Path:
    """The libcudart that torch's packages hold, which is then loaded once; else the toolkit's."""
    import torch

    packages = Path(torch.__file__).resolve().parent.parent / "nvidia"
    name = f"libcudart.so.{major}"
    folders = [packages / f"cu{major}" / "lib", packages / "cuda_runtime" / "lib", root / "lib64"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{name} is in none of {', '.join(map(str, folders))}; install torch's CUDA build again")


def choose(archs: str) -> tuple[Toolkit | None, str]:
    """The toolkit for `archs`, or None for a CPU library, and one line that says so.

    "none": no CUDA. "auto": for the GPUs present, a CPU library where there is none or no nvcc. "all" or a list as in
    "80,90a": for those, here or elsewhere; what is missing is then an error.
    """
    if archs == "none":
        return None, "CPU only, as asked"
    present = archs_present() if archs == "auto" else []
    if archs == "auto" and not present:
        return None, "CPU only: no GPU that the CUDA kernels are written for is present"
    names = present or (list(flags.ARCHS) if archs == "all" else archs.split(","))
    unknown = [name for name in names if name not in flags.ARCHS]
    if unknown or not names:
        raise UserError(f"--archs {archs}: allowed are auto, none, all, or any of {','.join(flags.ARCHS)}")
    nvcc = find_nvcc()
    if nvcc is None:
        words = "nvcc is not installed: looked in CUDA_HOME, PATH and /usr/local/cuda"
        if archs == "auto":
            return None, f"CPU only: a GPU is present, but {words}"
        raise UserError(f"--archs {archs}: {words}; install the CUDA toolkit that torch was built with")
    import torch

    version, wanted = nvcc_version(nvcc), torch.version.cuda
    if wanted is None:
        raise UserError(
            f"--archs {archs}: torch {torch.__version__} is a CPU build; install the one of requirements.lock"
        )
    major = wanted.split(".")[0]
    if version.split(".")[0] != major:
        raise UserError(
            f"{nvcc} is CUDA {version} and torch {torch.__version__} is built for {wanted}: the first number must agree; "
            "name another toolkit with CUDA_HOME, or --archs none"
        )
    root = toolkit_root(nvcc)
    if not (root / "include" / "cuda_runtime_api.h").is_file():
        raise UserError(f"{nvcc}: its headers are not in {root / 'include'}; install the whole CUDA toolkit")
    line = f"CUDA {version} for {' '.join(f'sm_{name}' for name in names)}"
    return Toolkit(nvcc, root / "include", find_runtime(root, major), names), line
