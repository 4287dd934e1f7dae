"""Every tile that a product could run in, for the products of a training step, on a GPU: what matmul_tile_for should pick.

    python -m benchmarks.tiles --models 124M,1558M --out docs/evidence/tiles.md

Medians of interleaved rounds, timed by events over a graph of calls (benchmarks/gpu.py). Tiles are those of matmul.cu and
others (benchmarks/tiles.cu); the bits are the same. Needs nvcc, or `--library` of a machine that has it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu import measure_limits, timer
from benchmarks.gpu_cases import MODELS, lm_head_rows, models_of, products
from benchmarks.table import write
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.toolkit import find_nvcc
from pipeline.base.files import write_json
from pipeline.evidence.gpu_machine import shared_library

LAYOUTS = ("nt", "nn", "tn")


def compiled(folder: Path) -> Path:
    """The library of tiles.cu for the GPU present."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise UserError(
            "tiles are compiled with nvcc, which is not installed; install the CUDA toolkit or give --library"
        )
    major, minor = torch.cuda.get_device_capability()
    library = folder / "tiles.so"
    subprocess.run(
        [*shared_library(nvcc, f"sm_{major}{minor}", Path(__file__).with_suffix(".cu"), library), "-std=c++17"],
        check=True,
    )
    return library


def launcher(library: ctypes.CDLL, tile: int, layout: str, m: int, n: int, k: int) -> Callable[[], object]:
    """A product in one tile, on tensors of its own; d weight is added to."""
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = torch.randn((n, k) if layout == "nt" else (k, n))
    out, accumulate = torch.zeros(m, n), int(layout == "tn")
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (out, a, b)]
    sizes = [ctypes.c_longlong(x) for x in (m, n, k)]

    def call() -> object:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if library.tile_launch(tile, *pointers, *sizes, LAYOUTS.index(layout), accumulate, stream):
            raise UserError(f"tile {tile} cannot be launched")
        return a, b, out  # kept alive by the closure

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="Every tile for the products of a training step, on a GPU.")
    parser.add_argument("--models", default="124M,1558M", help=f"of {', '.join(MODELS)}, with commas")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--library", type=Path, help="tiles.cu, compiled for this GPU")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--json", type=Path, help="write shares of the FMA peak to this file")
    args = parser.parse_args()
    models = models_of(args.models)
    if not torch.cuda.is_available():
        raise UserError("there is no GPU")
    torch.set_default_device("cuda")
    torch.cuda.set_stream(torch.cuda.Stream())
    limits = measure_limits("cuda")
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(args.library or compiled(Path(folder))))
    library.tile_name.restype = ctypes.c_char_p
    names: list[str] = []
    while name := library.tile_name(len(names)):
        names.append(name.decode())
    lines = [
        f"{torch.cuda.get_device_name()}, share of the FMA peak of this run ({limits.operations / 1e12:.1f} TFLOP/s); "
        f"**bold**: what matmul picks; {args.tokens} tokens, {args.rounds} interleaved rounds, medians.",
        "",
        f"| product | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    found: list[dict[str, object]] = []
    for model in models:
        config = MODELS[model]
        for what, layout, m, n, k, _ in products(config, args.tokens, lm_head_rows(config, args.tokens, "cuda")):
            picked = library.tile_picked(ctypes.c_longlong(m), ctypes.c_longlong(n), LAYOUTS.index(layout))
            # Of two sets of tensors, so that the second cache has forgotten the one that comes again.
            timers = [timer([launcher(library, tile, layout, m, n, k) for _ in range(2)]) for tile in range(len(names))]
            times = [
                statistics.median(t)
                for t in zip(*[[each() for each in timers] for _ in range(args.rounds)], strict=True)
            ]
            shares = [2.0 * m * n * k / limits.operations / t for t in times]
            found.append(
                {"model": model, "op": what, "shape": [m, n, k], "layout": layout, "picked": picked, "shares": shares}
            )
            cells = [f"**{s:.2f}**" if tile == picked else f"{s:.2f}" for tile, s in enumerate(shares)]
            lines.append(f"| {model} {what}, {layout} {m}×{n}×{k} | {' | '.join(cells)} |")
            torch.cuda.empty_cache()
            if args.json:
                write_json(args.json, {"tiles": names, "peak": limits.operations, "products": found})
    write(lines, args.out)


if __name__ == "__main__":
    exit_on_user_error(main)
