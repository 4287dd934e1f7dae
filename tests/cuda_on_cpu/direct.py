"""CUDA sources run on the CPU beside the shipped library: launchers called by name, without torch's registry."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cuda_ops import build as cpu_build
from tests.cuda_on_cpu.build import build_shim

ROOT = Path(__file__).resolve().parents[2]
TILES = ("large", "square", "wide", "small", "few_rows")
# As in kernels/matmul_digits.h.
DIGIT_TILES = ("large", "small", "wgmma", "narrow wgmma", "wide wgmma", "large bf16", "small bf16")
LAYOUTS = ("nt", "nn", "tn")


class Direct:
    """The launchers of a library made by build_shim(torch=False); tensors are passed as pointers."""

    def __init__(self, folder: Path) -> None:
        self.library = ctypes.CDLL(str(folder / cpu_build.LIBRARY))
        self.library.samebits_kernel.restype = ctypes.c_void_p
        self.library.samebits_matmul_digits_with_tile.restype = ctypes.c_char_p

    def schedule(self, text: str) -> None:
        self.library.samebits_shim_schedule(text.encode())

    def call(self, kernel: str, *arguments: Any) -> None:
        address = self.library.samebits_kernel(kernel.encode())
        assert address, f"no kernel {kernel}"
        values = [as_c(x) for x in arguments]
        ctypes.CFUNCTYPE(None, *(type(x) for x in values))(address)(*values)

    def tile_for(self, m: int, n: int, layout: str) -> str:
        return TILES[self.library.samebits_matmul_tile_for(as_c(m), as_c(n), LAYOUTS.index(layout))]

    def digit_tile_for(self, m: int, n: int, digits: int) -> str:
        return DIGIT_TILES[self.library.samebits_matmul_digits_tile_for(as_c(m), as_c(n), ctypes.c_int(digits))]

    def matmul(
        self,
        out: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
        layout: str,
        accumulate: bool,
        tile: str | None = None,
    ) -> None:
        """matmul of cuda_ops.ops, with a tile of kernels/matmul.h or the one it would pick."""
        m, n = out.shape
        k = a.shape[0 if layout == "tn" else 1]
        number = TILES.index(tile or self.tile_for(m, n, layout))
        arguments = (out, a, b, bias, m, n, k)
        self.library.samebits_matmul_with_tile(
            *map(as_c, arguments), ctypes.c_int(LAYOUTS.index(layout)), ctypes.c_bool(accumulate), ctypes.c_int(number)
        )

    def matmul_digits(
        self,
        out: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        kept: torch.Tensor | None,
        bias: torch.Tensor | None,
        layout: str,
        accumulate: bool,
        tier: str,
        sequence: int,
        tile: str,
    ) -> None:
        """matmul_digits of cuda_ops.ops, or with `kept` matmul_kept_digits, with a tile of kernels/matmul_digits.h.

        RuntimeError: what the shim says of a kernel that cannot be launched or go on.
        """
        k = a.shape[0 if layout == "tn" else 1]
        arguments = (out, a, None if kept is not None else b, kept, bias, *out.shape, k)
        error = self.library.samebits_matmul_digits_with_tile(
            *map(as_c, arguments), ctypes.c_int(LAYOUTS.index(layout)), ctypes.c_bool(accumulate),
            ctypes.c_int({"int8x1": 1, "int8x3": 2}[tier]), as_c(sequence), ctypes.c_int(DIGIT_TILES.index(tile)),
        )  # fmt: skip
        if error:
            raise RuntimeError(error.decode())


def as_c(x: Any) -> Any:
    if x is None or isinstance(x, torch.Tensor):
        return ctypes.c_void_p(None if x is None else x.data_ptr())
    return {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_float}[type(x)](x)


def sabotaged(folder: Path, source: str, old: str, new: str, only: str | None = None, delete: str = "") -> Direct:
    """The kernels with a piece of text of one file exchanged everywhere in it, and another left out.

    `only` names the .cu files that use it.
    """
    kernels = folder / "cuda_ops" / "kernels"
    kernels.mkdir(parents=True)
    (folder / "tests").symlink_to(ROOT / "tests")
    for name in ("numerics", "cpu", "kernels.inc"):
        (folder / "cuda_ops" / name).symlink_to(ROOT / "cuda_ops" / name)
    for path in (ROOT / "cuda_ops" / "kernels").iterdir():
        text = path.read_text()
        if path.name == source:
            assert old in text, f"{source} has no {old!r}"
            assert delete in text, f"{source} has no {delete!r}"
            text = text.replace(delete, "").replace(old, new) if delete else text.replace(old, new)
        (kernels / path.name).write_text(text)
    # Not optimised: making it takes longer than running it.
    only = only or source.split(".")[0].split("_")[0] + "*"
    build_shim(folder / "build", kernels, opt_level=0, only=only, torch=False)
    return Direct(folder / "build")
