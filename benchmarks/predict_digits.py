"""The time that arithmetic predicts for products and attention in digits on an H100. Nothing is measured.

    python -m benchmarks.predict_digits            the table; 8192 tokens of GPT-2 124M
    python -m benchmarks.predict_digits --write    into docs/kernels.md

Products run on wgmma, four warps at a time: a block of 128 of K takes the longest of what the matrix unit needs (the data
sheet's rate), what shared memory gives (both operands once for each group of four warps and product, and their arrival)
and what a multiprocessor's quarter issues, one instruction a clock, counted in the machine code (machine_code.py). In
waves of tiles, or what all tiles read from the second cache if that takes longer; then the outputs, which nothing hides.
Attention runs on mma.sync and is limited by issue. Both over a share for waits; then the cut of what is not kept, at 0.8 of the
bandwidth. Needs nvcc and cuobjdump, no GPU.
"""

from __future__ import annotations

import argparse

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
CACHE = 7e12  # bytes a second from the second cache to all multiprocessors: 6.8 were seen on an H100
PRODUCTS, SHARE = 0.9, 0.8  # of the longest limit, the rest being waits: products, attention
ROWS, GROUP_ROWS, WARPS = 128, 64, 2  # of a tile, of four warps; warps of a quarter: matmul_digits_wgmma.h
# Columns of a tile and the time of a block beside that of 128, as wgmma_tile_for of matmul_digits.cu has it.
TILES = {2: {128: 100, 64: 60}, 1: {128: 100, 64: 63, 192: 143}}


def with_most(kernel: Kernel, unit: str) -> Loop:
    """The loop over blocks of K: the innermost with all of the matrix unit's instructions."""
    return max(kernel.loops, key=lambda loop: (loop.instructions[unit], -loop.instructions.total()))


def cut_seconds(values: int, digits: int) -> float:
    return values * (4 + digits) / (0.8 * CARD.bandwidth) + CARD.latency


def waves_of(m: int, n: int, columns: int) -> int:
    return -(-(-(-m // ROWS) * -(-n // columns)) // CARD.processors)


def product(layout: str, m: int, n: int, k: int, digits: int) -> tuple[float, str]:
    """Seconds of one product with the cuts that it needs, and its tile."""
    columns = min(TILES[digits], key=lambda width: waves_of(m, n, width) * TILES[digits][width])
    waves, products = waves_of(m, n, columns), {1: 1, 2: 3}[digits]
    kernel = compiled(KERNELS / "matmul_digits.cu")[f"matmul_digits_wgmma<WgmmaTile<{digits}, {columns}> >"]
    unit = products * ROWS * columns * BLOCK * 2 / (PEAK / CARD.processors / CARD.clock)
    shared = products * (ROWS // GROUP_ROWS) * (GROUP_ROWS + columns) + digits * (ROWS + columns)  # 128 bytes a clock
    issue = WARPS * with_most(kernel, "IGMMA").instructions.total()
    block = max(unit, float(shared), float(issue))
    read = -(-m // ROWS) * -(-n // columns) * (ROWS + columns) * k * digits
    written = m * n * (8 if layout == "tn" else 4)  # what is added to is read first
    seconds = max(waves * -(-k // BLOCK) * block / CARD.clock, read / CACHE) + written / CARD.bandwidth
    cuts = cut_seconds(m * k, digits) + (cut_seconds(n * k, digits) if layout == "tn" else 0.0)
    return seconds / PRODUCTS + cuts, f"{columns}, {waves}"


def turn(kernel: Kernel, panels: int) -> float:
    """Instructions of a warp for a block of 128 tokens, its inner loops over 8 panels taken `panels` times each."""
    outer = with_most(kernel, "IMMA")
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
            f"GPT-2 124M. Limits: {PEAK / 1e12:,.0f} and {PEAK / 3e12:,.0f} TFLOP/s."
        ),
        "",
        "| product | columns of a tile, waves | int8x3 µs | TFLOP/s | of the limit | int8x1 µs | TFLOP/s | of the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, layout, m, n, k, _ in products(MODELS["124M"], TOKENS, min(TOKENS, LOGITS_ROWS["cuda"])):
        row, tiles = [], []
        for digits, limit in ((2, PEAK / 3), (1, PEAK)):
            seconds, tile = product(layout, m, n, k, digits)
            rate = 2.0 * m * n * k / seconds
            tiles.append(tile)
            row.append(f"{seconds * 1e6:,.0f} | {rate / 1e12:,.0f} | {rate / limit:.2f}")
        lines.append(f"| {what} {layout} {m}×{n}×{k} | {'; '.join(tiles)} | {' | '.join(row)} |")
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
