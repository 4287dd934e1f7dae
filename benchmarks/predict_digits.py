"""The time that arithmetic predicts for products and attention in digits on an H100. Nothing is measured.

    python -m benchmarks.predict_digits            the table; 8192 tokens of GPT-2 124M
    python -m benchmarks.predict_digits --write    into docs/kernels.md

From the machine code (machine_code.py): a multiprocessor's quarter issues one instruction a clock, and its matrix unit
takes `unit` clocks for one mma.sync of 16 x 8 x 32. The data sheet's 1979 TOP/s are 4 clocks, which wgmma reaches; for
mma.sync 0.63 of that is assumed, as others have measured for 16-bit floats. The longer of the two in waves of tiles, or
what all tiles read from the second cache if that takes longer, over SHARE; then the cut of what is not kept, at 0.8 of
the bandwidth. Needs nvcc and cuobjdump, no GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from benchmarks.gpu_cases import MODELS, products
from benchmarks.machine_code import KERNELS, Kernel, Loop, compiled
from benchmarks.predict import CARD, GPT, PAGE, wrapped
from cuda_ops.errors import exit_on_user_error
from cuda_ops.toolkit import find_nvcc, nvcc_version
from pipeline.models.gpt import LOGITS_ROWS

BEGIN = "<!-- predicted in digits: written by python -m benchmarks.predict_digits --write -->\n"
END = "<!-- end of predicted in digits -->"
TOKENS, BLOCK = 8192, 128
PEAK = 1979e12  # int8, dense, by the data sheet
UNIT = 4 / 0.63  # clocks of mma.sync
CACHE = 5.5e12  # bytes a second from the second cache to all multiprocessors
LARGE_TILES = 132  # kLargeTiles of matmul_digits.cu
SHARE = 0.8  # of the longest limit, the rest being waits


@dataclass(frozen=True)
class Tile:
    """Rows and columns of outputs, warps, blocks on a multiprocessor: those of matmul_digits.cu."""

    name: str
    rows: int
    warps: int
    blocks: int


TILES = {"large": Tile("4, 2, 2, 4, 1", 128, 8, 1), "small": Tile("2, 2, 2, 2, 3", 64, 4, 3)}


def with_most(kernel: Kernel) -> Loop:
    """The loop over blocks of K: the outermost with the most of the matrix unit's instructions."""
    return max(kernel.loops, key=lambda loop: (loop.instructions["IMMA"], -loop.instructions.total()))


def clocks(loop: Loop, warps: int) -> float:
    """Of one turn of some warps of a quarter."""
    return warps * max(float(loop.instructions.total()), UNIT * loop.instructions["IMMA"])


def cut_seconds(values: int, digits: int) -> float:
    return values * (4 + digits) / (0.8 * CARD.bandwidth) + CARD.latency


def product(layout: str, m: int, n: int, k: int, digits: int) -> tuple[float, str]:
    """Seconds of one product with the cuts that it needs, and its tile."""
    name = "large" if -(-m // 128) * -(-n // 128) >= LARGE_TILES else "small"
    tile = TILES[name]
    kernel = compiled(KERNELS / "matmul_digits.cu")[
        f"matmul_digits_tile<DigitTile<IntegerUnit, {digits}, {tile.name}> >"
    ]
    count = -(-m // tile.rows) * -(-n // tile.rows)
    waves = -(-count // CARD.processors)
    loop = with_most(kernel)
    once = kernel.instructions / 2 * tile.warps / 4  # before and after the loop, either of two ways
    turns = -(-k // BLOCK) * clocks(loop, tile.warps // 4)
    read = count * 2 * tile.rows * k * digits
    seconds = max(waves * (turns + once) / CARD.clock, read / CACHE) / SHARE
    cuts = cut_seconds(m * k, digits) + (cut_seconds(n * k, digits) if layout == "tn" else 0.0)
    return seconds + cuts, f"{name}, {waves} wave{'s' * (waves > 1)}"


def turn(kernel: Kernel, panels: int) -> float:
    """Instructions of a warp for a block of 128 tokens, its inner loops over 8 panels taken `panels` times each."""
    outer = with_most(kernel)
    inner = [loop for loop in kernel.loops if outer.holds(loop) and loop.instructions["IMMA"]]
    inner = [loop for loop in inner if not any(other.holds(loop) for other in inner)]
    small = [loop for loop in inner if loop.instructions.total() < outer.instructions.total() / 2]
    return outer.instructions.total() + (panels - 1) * sum(loop.instructions.total() for loop in small)


def attention(digits: int) -> tuple[float, float]:
    """Seconds of a layer's attention forward and backward, its cuts included: issue alone, which is what limits."""
    batch, t = TOKENS // GPT.context, GPT.context
    warps = batch * GPT.heads * t // 16
    blocks = warps * (t / BLOCK + 1) / 2
    forward = compiled(KERNELS / "attention_digits.cu")[f"attention_digits_kernel<{digits}, 2>"]
    backward = compiled(KERNELS / "attention_digits_backward.cu")
    first = min(
        (loop for loop in forward.loops if loop.instructions["IMMA"]), key=lambda loop: loop.instructions.total()
    )
    counts = [turn(forward, 8) + 8 * first.instructions.total()]
    counts.append(sum(turn(backward[f"attention_digits_{name}<{digits}, 2>"], 8) for name in ("keys", "queries")))
    tensor = TOKENS * GPT.width
    cuts = [(3, 1), (4, 3)]  # tensors; of them along tokens as well
    return tuple(  # type: ignore[return-value]
        CARD.seconds(blocks / CARD.processors * count, SHARE)
        + sum(cut_seconds(tensor, digits) for _ in range(whole)) + along * tensor * digits / CARD.bandwidth
        for count, (whole, along) in zip(counts, cuts, strict=True)
    )  # fmt: skip


def table() -> list[str]:
    nvcc = find_nvcc()
    lines = [
        *wrapped(
            f"*Predicted, not measured*; nvcc {nvcc_version(nvcc) if nvcc else None}. One H100, {TOKENS} tokens of "
            f"GPT-2 124M. Limits: {PEAK / 1e12:,.0f} and {PEAK / 3e12:,.0f} TFLOP/s; mma.sync alone "
            f"{PEAK * 0.63 / 1e12:,.0f} and {PEAK * 0.21 / 1e12:,.0f}."
        ),
        "",
        "| product | tile | int8x3 µs | TFLOP/s | of the limit | int8x1 µs | TFLOP/s | of the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, layout, m, n, k, _ in products(MODELS["124M"], TOKENS, min(TOKENS, LOGITS_ROWS["cuda"])):
        row = []
        for digits, limit in ((2, PEAK / 3), (1, PEAK)):
            seconds, tile = product(layout, m, n, k, digits)
            rate = 2.0 * m * n * k / seconds
            row.append(f"{seconds * 1e6:,.0f} | {rate / 1e12:,.0f} | {rate / limit:.2f}")
        lines.append(f"| {what} {layout} {m}×{n}×{k} | {tile} | {' | '.join(row)} |")
    three, one = attention(2), attention(1)
    for i, what in enumerate(("output", "gradients")):
        lines.append(
            f"| attention, {what}, a layer | 16 rows a warp | {three[i] * 1e6:,.0f} | | | {one[i] * 1e6:,.0f} | | |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted times in digits on an H100; nothing is measured.")
    parser.add_argument("--write", action="store_true", help="into docs/kernels.md")
    args = parser.parse_args()
    text = "\n".join(table()) + "\n"
    print(text)
    if args.write:
        old = PAGE.read_text()
        PAGE.write_text(old[: old.index(BEGIN) + len(BEGIN)] + text + old[old.index(END) :])


if __name__ == "__main__":
    exit_on_user_error(main)
