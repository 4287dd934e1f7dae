"""Every tile of products in digits on an H100 or H200, without cutting and with it apart, beside PyTorch's bf16.

    python -m benchmarks.digit_tiles --out tiles.md

Microseconds and TFLOP/s of the product; the outputs of each tile are held bit for bit to those of the first, `mma 128`.
Events over ten launches, medians of `--rounds`. Tiles are those of cuda_ops/kernels/matmul_digits.cu. Needs nvcc.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_cases import MODELS, lm_head_rows, products
from benchmarks.table import write
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.toolkit import find_nvcc
from pipeline.evidence.gpu_machine import shared_library

LAUNCHES = 10
LONG = ctypes.c_longlong


def compiled(folder: Path) -> ctypes.CDLL:
    nvcc = find_nvcc()
    if nvcc is None:
        raise UserError("tiles are compiled with nvcc, which is not installed; install the CUDA toolkit")
    library = folder / "digit_tiles.so"
    subprocess.run(
        [*shared_library(nvcc, "sm_90a", Path(__file__).with_suffix(".cu"), library), "-std=c++17"], check=True
    )
    found = ctypes.CDLL(str(library))
    found.tile_name.restype, found.cut_bytes.restype = ctypes.c_char_p, LONG
    return found


def microseconds(launch: Callable[[], object], rounds: int) -> float:
    launch()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(LAUNCHES):
            launch()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / LAUNCHES * 1e3)
    return float(statistics.median(times))


def checked(launch: Callable[..., int], *arguments: object) -> None:
    if launch(*arguments):
        raise UserError("a tile cannot be launched")


def measure(library: ctypes.CDLL, layout: str, m: int, n: int, k: int, rounds: int) -> list[str]:
    """Cells of a product: PyTorch's bf16, then of each number of digits the cuts and each tile."""
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = 0.02 * torch.randn((n, k) if layout == "nt" else (k, n))
    left, right = a.t() if layout == "tn" else a, b.t() if layout == "nt" else b
    left16, right16 = left.bfloat16(), right.bfloat16()
    sequence, operations = 1024 if layout == "tn" else 0, 2.0 * m * n * k
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def cell(name: str, launch: Callable[[], object]) -> str:
        time = microseconds(launch, rounds)
        return f"{name} {time:,.0f} µs {operations / time / 1e6:,.0f}"

    cells = [cell("bf16", lambda: left16 @ right16)]
    for digits in (2, 1):
        operands = []
        for x, rows, transposed in ((a, m, layout == "tn"), (b, n, layout != "nt")):
            size = int(library.cut_bytes(LONG(rows), LONG(k), LONG(sequence), digits))
            operands.append(torch.zeros(size, dtype=torch.uint8))
            to, source = ctypes.c_void_p(operands[-1].data_ptr()), ctypes.c_void_p(x.data_ptr())
            arguments = (digits, to, source, LONG(rows), LONG(k), LONG(sequence), int(transposed), stream)
            time = microseconds(partial(checked, library.cut_launch, *arguments), rounds)
            cells.append(f"{digits}: cut {time:,.0f} µs")
        first, tile = None, 0
        while name := library.tile_name(tile):
            if library.tile_digits(tile) == digits:
                out = torch.full((m, n), torch.nan)
                pointers = [ctypes.c_void_p(t.data_ptr()) for t in (out, *operands)]
                all_ = (tile, *pointers, LONG(m), LONG(n), LONG(k), LONG(sequence), stream)
                text = cell(name.decode(), partial(checked, library.tile_launch, *all_))
                first = out if first is None else first
                cells.append(text if torch.equal(out.view(torch.int32), first.view(torch.int32)) else f"{text} DIFFERS")
            tile += 1
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description="Tiles of products in digits on compute capability 9.0.")
    parser.add_argument("--model", choices=tuple(MODELS), default="124M")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise UserError("there is no GPU of compute capability 9.0, the one that has all tiles")
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    config = MODELS[args.model]
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
    lines = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}; µs and TFLOP/s of the product.", ""]
    cases = [case[:5] for case in products(config, args.tokens, lm_head_rows(config, args.tokens, "cuda"))]
    for what, layout, m, n, k in [("odd", "nt", 200, 330, 700), *cases, ("square", "nt", 8192, 8192, 8192)]:
        lines.append(f"- {what} {layout} {m}×{n}×{k}: {'; '.join(measure(library, layout, m, n, k, args.rounds))}")
    write(lines, args.out)


if __name__ == "__main__":
    exit_on_user_error(main)
