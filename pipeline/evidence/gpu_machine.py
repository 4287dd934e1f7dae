"""What the GPU proof needs of a machine: what is there, what is missing, and the one command that brings it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cuda_ops.build import find_ninja
from cuda_ops.errors import UserError
from cuda_ops.toolkit import find_nvcc, find_runtime, nvcc_version, toolkit_root

if TYPE_CHECKING:
    from pipeline.evidence.gpu_record import ProofMachine

# module -> its package; ninja may also be a program
NEEDED = {
    "torch": "torch", "pytest": "pytest", "ninja": "ninja", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml",
    "safetensors": "safetensors", "tqdm": "tqdm", "hypothesis": "hypothesis",
}  # fmt: skip
SANITIZER = "compute-sanitizer"
LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


@dataclass(frozen=True)
class Tool:
    """Something the proof needs: where it was found, or "" and what it is for and the package that brings it."""

    name: str
    found: str
    purpose: str
    package: str


def missing_packages() -> list[str]:
    """Packages of NEEDED that this Python lacks; a torch that cannot be imported is one."""
    absent = {name for name in NEEDED if find_spec(name) is None}
    absent -= {"ninja"} if find_ninja() else set()
    absent |= {"torch"} if not torch_here()[0] else set()
    return [package for name, package in NEEDED.items() if name in absent]


@cache
def torch_here() -> tuple[str, str, str]:
    """torch's version, the CUDA it is built for ("" for a CPU build), and why it cannot be imported, if so."""
    try:
        import torch
    except (ImportError, OSError) as error:  # absent, without what it imports, or without a library that it loads
        return "", "", str(error).splitlines()[0]
    return torch.__version__, torch.version.cuda or "", ""


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    found = re.search(rf"^{package}==([\d.]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise UserError(f"{LOCK}: no {package}== in it; it belongs to these sources")
    return found[1]


def packaged(cuda: str) -> Path:
    """Where pip's packages of a CUDA toolkit lie: beside torch's own libraries."""
    spec = find_spec("torch")
    root = Path(str(spec.origin)).parent.parent if spec and spec.origin else Path(sys.prefix)
    return root / "nvidia" / f"cu{cuda.split('.')[0]}"


def nvcc_here(cuda: str) -> Path | None:
    """nvcc where the build looks for it, else from pip's package."""
    own = packaged(cuda) / "bin" / "nvcc"
    return find_nvcc() or (own if own.is_file() else None)


def shared_library(nvcc: Path, arch: str, source: Path, library: Path) -> list[str]:
    """nvcc's command for a shared library with the runtime that torch loads.

    pip's nvcc looks for the static one in lib64, which pip does not make.
    """
    root = toolkit_root(nvcc)
    runtime = find_runtime(root, nvcc_version(nvcc).split(".")[0])
    link = [f"-L{runtime.parent}", f"-l:{runtime.name}", "-Xlinker", f"-rpath={runtime.parent}"]
    compile_ = [
        str(nvcc),
        "-O3",
        f"-arch={arch}",
        "-shared",
        "-cudart=none",
        "-Xcompiler=-fPIC",
        f"-I{root / 'include'}",
    ]
    return [*compile_, str(source), "-o", str(library), *link]


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
    """Everything the proof needs on a device, in the order that a reader would bring it; torch may be missing too."""
    ninja = find_ninja() or ""
    tools = [Tool("ninja", ninja, "compiles the ops", "ninja")]
    if device == "cpu":
        return tools
    version, cuda, trouble = torch_here()
    wanted = cuda or locked_cuda()
    nvcc = nvcc_here(wanted)
    return [
        Tool("driver", driver(), "nvidia-smi names it; NVIDIA's driver comes with the system", ""),
        Tool("GPU", gpu_name() if version else "", no_gpu(trouble or not cuda), ""),
        Tool(
            "torch with CUDA",
            f"{version}, CUDA {cuda}" if cuda else "",
            trouble or f"{version} is a CPU build, which runs no kernel",
            "torch",
        ),
        Tool("nvcc", f"{nvcc} ({nvcc_version(nvcc)})" if nvcc else "", "compiles the kernels", "nvcc"),
        Tool(SANITIZER, str(find_sanitizer(nvcc, wanted) or ""), "part sanitizer", "sanitizer"),
        *tools,
    ]


def locked_cuda() -> str:
    """The CUDA that the torch of requirements.lock is built for, as in "13.0"."""
    return ".".join(locked("cuda-toolkit").split(".")[:2])


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def no_gpu(unable: object) -> str:
    """Why no GPU is seen."""
    if unable:
        return "not looked for without a torch that has CUDA"
    return "torch sees none; a container must be given one, as in docker run --gpus all"


def remedy(tools: list[Tool], packages: list[str], cuda: str) -> str:
    """The one command that brings all that a command can bring, or "". cuda: of the torch that is here, or ""."""
    wanted = {tool.package for tool in tools if not tool.found and tool.package} | set(packages)
    if not wanted:
        return ""
    # A CPU build satisfies torch==, so it is replaced by force; what is installed beside it fits the locked one then.
    torch = ["--force-reinstall", f"torch=={locked('torch')}"] if "torch" in wanted else []
    cuda = cuda or locked_cuda()
    names = {"nvcc": "cuda-nvcc", "sanitizer": "cuda-sanitizer"}
    # nvcc's own parts must be of its version: a newer one writes PTX that it cannot read.
    packages_of = {
        "nvcc": ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt"),
        "sanitizer": ("nvidia-cuda-sanitizer-api",),
    }
    rest = [*torch, *sorted(wanted - set(names) - {"torch"})]
    pip = f"{sys.executable} -m pip install"
    if int(cuda.split(".")[0]) < 13 and wanted & set(names):  # before CUDA 13 pip has no nvcc
        dashed = cuda.replace(".", "-")
        system = [f"{names[name]}-{dashed}" for name in names if name in wanted]
        line = f"apt-get install {' '.join(system)} cuda-cudart-dev-{dashed}"
        return f"{line} && {pip} {' '.join(rest)}" if rest else line
    pins = [f"'{package}=={cuda}.*'" for name in packages_of if name in wanted for package in packages_of[name]]
    return f"{pip} {' '.join([*rest, *pins])}"


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
    _, cuda, _ = torch_here()
    if device == "cpu" or not cuda or find_nvcc() or not nvcc_here(cuda):
        return {}
    return {"CUDA_HOME": str(packaged(cuda))}


def machine(device: str) -> ProofMachine:
    """What the proof ran on."""
    import torch

    from pipeline.records.receipt import machine as host

    here = host()
    facts: ProofMachine = {
        "system": here["system"], "cpu": here["cpu"], "cpus": here["cpus"], "versions": here["versions"],
    }  # fmt: skip
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": properties.name, "capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count, "driver": driver() or "unknown", "cuda": torch.version.cuda,
        }  # fmt: skip
    return facts
