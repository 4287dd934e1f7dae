"""What the GPU proof needs of a machine: what is there, what is missing, and the one command that brings it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuda_ops.build import find_ninja
from cuda_ops.toolkit import find_nvcc, nvcc_version, toolkit_root

# module -> its package; ninja may also be a program
NEEDED = {
    "torch": "torch", "pytest": "pytest", "ninja": "ninja", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml",
    "safetensors": "safetensors", "tqdm": "tqdm", "hypothesis": "hypothesis",
}  # fmt: skip
SANITIZER = "compute-sanitizer"


@dataclass(frozen=True)
class Tool:
    """Something the proof needs: where it was found, or "" and what it is for and the package that brings it."""

    name: str
    found: str
    purpose: str
    package: str


def missing_packages() -> list[str]:
    """Packages of NEEDED that this Python lacks."""
    return [
        package
        for name, package in NEEDED.items()
        if find_spec(name) is None and not (name == "ninja" and find_ninja())
    ]


def packaged(cuda: str) -> Path:
    """Where pip's packages of a CUDA toolkit lie: beside torch's own libraries."""
    spec = find_spec("torch")
    root = Path(str(spec.origin)).parent.parent if spec and spec.origin else Path(sys.prefix)
    return root / "nvidia" / f"cu{cuda.split('.')[0]}"


def nvcc_here(cuda: str) -> Path | None:
    """nvcc where the build looks for it, else from pip's package."""
    own = packaged(cuda) / "bin" / "nvcc"
    return find_nvcc() or (own if own.is_file() else None)


def find_sanitizer(nvcc: Path | None, cuda: str) -> Path | None:
    """compute-sanitizer beside nvcc, in nvcc's toolkit, on PATH, or from pip's package."""
    folders = [packaged(cuda) / "bin"]
    if nvcc:
        root = toolkit_root(nvcc)
        folders = [nvcc.parent, nvcc.resolve().parent, root / "bin", root / SANITIZER, *folders]
    beside = next((folder / SANITIZER for folder in folders if (folder / SANITIZER).is_file()), None)
    on_path = shutil.which(SANITIZER)
    return beside or (Path(on_path) if on_path else None)


def driver() -> str:
    """The driver's version by nvidia-smi, or ""."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return lines[0] if lines else ""


def look(device: str) -> list[Tool]:
    """Everything the proof needs on a device, in the order that a reader would bring it."""
    import torch

    ninja = find_ninja() or ""
    tools = [Tool("ninja", ninja, "compiles the ops", "ninja")]
    if device == "cpu":
        return tools
    cuda = torch.version.cuda or ""
    nvcc = nvcc_here(cuda) if cuda else None
    sanitizer = find_sanitizer(nvcc, cuda) if cuda else None
    seen = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if seen else ""
    version = driver()
    return [
        Tool("driver", version, "nvidia-smi names it; NVIDIA's driver comes with the system", ""),
        Tool("GPU", name, "torch sees none; a container must be given one, as in docker run --gpus all", ""),
        Tool(
            "torch with CUDA",
            f"{torch.__version__}, CUDA {cuda}" if cuda else "",
            "a CPU build runs no kernel",
            "torch",
        ),
        Tool("nvcc", f"{nvcc} ({nvcc_version(nvcc)})" if nvcc else "", "compiles the kernels", "nvcc"),
        Tool(SANITIZER, str(sanitizer or ""), "part sanitizer", "sanitizer"),
        *tools,
    ]


def remedy(tools: list[Tool], packages: list[str], cuda: str) -> str:
    """The one command that brings all that a command can bring, or ""."""
    wanted = {tool.package for tool in tools if not tool.found and tool.package} | set(packages)
    major = cuda.split(".")[0]
    names = {"nvcc": "cuda-nvcc", "sanitizer": "cuda-sanitizer"}
    if major and int(major) < 13 and wanted & set(names):  # before CUDA 13 pip has no nvcc
        dashed = cuda.replace(".", "-")
        system = [f"{names[name]}-{dashed}" for name in names if name in wanted]
        rest = sorted(wanted - set(names))
        pip = f" && {sys.executable} -m pip install {' '.join(rest)}" if rest else ""
        return f"apt-get install {' '.join(system)} cuda-cudart-dev-{dashed}{pip}"
    # nvcc's own parts must be of its version: a newer one writes PTX that it cannot read.
    packages_of = {
        "nvcc": ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt"),
        "sanitizer": ("nvidia-cuda-sanitizer-api",),
    }
    pins = [f"'{package}=={cuda}.*'" for name in packages_of if name in wanted for package in packages_of[name]]
    pip = " ".join([*sorted(wanted - set(packages_of)), *pins])
    return f"{sys.executable} -m pip install {pip}" if wanted else ""


def lines(tools: list[Tool], packages: list[str], cuda: str) -> list[str]:
    """What is there and what is missing, one line each, and the command last."""
    found = [
        f"{tool.name:18} {tool.found}" if tool.found else f"{tool.name:18} MISSING: {tool.purpose}" for tool in tools
    ]
    if packages:
        found.append(f"{'Python packages':18} MISSING: {' '.join(packages)}")
    command = remedy(tools, packages, cuda)
    return [*found, *([f"{'to bring it':18} {command}"] if command else [])]


def environment(device: str) -> dict[str, str]:
    """What the commands of the proof need to find the tools that pip brought."""
    import torch

    if device == "cpu" or not torch.version.cuda or find_nvcc() or not nvcc_here(torch.version.cuda):
        return {}
    return {"CUDA_HOME": str(packaged(torch.version.cuda))}


def machine(device: str) -> dict[str, Any]:
    """What the proof ran on."""
    import torch

    from pipeline.records.receipt import machine as host

    facts: dict[str, Any] = host()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": properties.name, "capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count, "driver": driver() or "unknown", "cuda": torch.version.cuda,
        }  # fmt: skip
    return facts
