"""The time that arithmetic predicts for one training step and one decoded token of GPT-2 124M on an H100. Nothing is measured.

    python -m benchmarks.predict                   both tables and their sums; 8 sequences of 1024 tokens
    python -m benchmarks.predict --batch 64
    python -m benchmarks.predict --write           into docs/kernels.md

Products and attention: the instructions of the kernels' machine code (machine_code.py) over the issue slots of the card, in rounds of
tiles. The rest: bytes over a share of the bandwidth. Every constant that is no count is in `Card` and in the table's notes. Needs
nvcc and cuobjdump, no GPU.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine_code import KERNELS, Kernel, compiled
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.models.gpt import LOGITS_ROWS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "kernels.md"
BEGIN, END = "<!-- predicted: written by python -m benchmarks.predict --write -->\n", "<!-- end of predicted -->"


@dataclass(frozen=True)
class Card:
    """An H100 SXM. Shares: of the issue slots or of the bandwidth that a kernel gets, the rest being waits."""

    processors: int = 132
    clock: float = 1.755e9
    issues: int = 4  # instructions per clock and multiprocessor
    bandwidth: float = 3.0e12
    registers: int = 65536  # of a multiprocessor
    products: float = 0.9
    attention: float = 0.85
    alone: float = 0.8  # a block without another on its multiprocessor
    latency: float = 0.6e-6  # from a kernel's start to its first bytes
    gap: float = 1.5e-6  # from one kernel of a graph to the next

    def seconds(self, instructions: float, share: float) -> float:
        """Of instructions of one multiprocessor, counted per warp."""
        return instructions / self.issues / self.clock / share


@dataclass(frozen=True)
class Model:
    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50304
    context: int = 1024
    parameters: int = 124_475_904


@dataclass(frozen=True)
class Row:
    """what: kernels and calls; seconds of all calls; kernels: nodes of the graph; why: what limits, with the count."""

    what: str
    seconds: float
    kernels: int
    why: str


CARD, GPT = Card(), Model()
LAYOUTS = ("nt", "nn", "tn")
# Threads' outputs and blocks per multiprocessor are those of matmul.cu; the last number is matmul_tile_for's factor.
TILES = {
    "Tile<128, 128, 8, 8, 16, 8, 2>": 110,
    "Tile<128, 64, 16, 8, 8, 4, 3>": 116,
    "Tile<64, 64, 16, 4, 8, 4, 3>": 125,
}


@dataclass(frozen=True)
class Tile:
    """A tile of matmul.cu for one layout, as it is compiled."""

    name: str
    kernel: Kernel

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Rows, columns, k per stage, blocks per multiprocessor."""
        m, n, k, *_, blocks = (int(number) for number in re.findall(r"\d+", self.name))
        return m, n, k, blocks

    def instructions(self, k: int) -> float:
        """Of one warp for one tile: the main loop, and everything outside it once."""
        loop = self.kernel.main_loop().instructions.total()
        return loop * (k / self.sizes[2]) + self.kernel.instructions - loop

    def count(self, m: int, n: int) -> int:
        return -(-m // self.sizes[0]) * -(-n // self.sizes[1])

    def cost(self, m: int, n: int) -> int:
        """matmul_tile_for's: quarters of rounds, a block that ends alone one more."""
        rows, columns, _, blocks = self.sizes
        rounds = -(-self.count(m, n) // CARD.processors)
        return (4 * rounds + (rounds % blocks == 1)) * rows * columns * TILES[self.name]


def tile_for(layout: str, m: int, n: int) -> Tile:
    """The tile that matmul.cu takes; equal to matmul_tile_for (tests/ops/test_matmul_cuda.py)."""
    kernels = compiled(KERNELS / "matmul.cu")
    tiles = [Tile(name, kernels[f"matmul_tile<{LAYOUTS.index(layout)}, {name}, true>"]) for name in TILES]
    return min(tiles, key=lambda tile: tile.cost(m, n))


def blocks_held(kernel: Kernel, threads: int) -> int:
    """Blocks of one multiprocessor by its registers, which are given to warps in eights per thread."""
    return CARD.registers // (threads * -(-kernel.registers // 8) * 8)


def product(layout: str, m: int, n: int, k: int) -> tuple[float, str]:
    """Seconds of one product, and why."""
    tile = tile_for(layout, m, n)
    blocks = tile.sizes[3]
    if blocks_held(tile.kernel, 128) < blocks:
        raise UserError(f"{tile.name}: {tile.kernel.registers} registers leave no room for {blocks} blocks")
    count = tile.count(m, n)
    rounds = -(-count // CARD.processors)
    alone = 1 / CARD.alone - 1 if rounds % blocks == 1 else 0.0
    seconds = CARD.seconds((rounds + alone) * 4 * tile.instructions(k), CARD.products)
    peak = 2.0 * m * n * k / (CARD.processors * 256 * CARD.clock)
    share = tile.kernel.main_loop().ffma_share
    why = f"{layout} {m}×{n}×{k}: {count} tiles {tile.sizes[0]}×{tile.sizes[1]}, {rounds} rounds{', last alone' if alone else ''}"
    return seconds, f"{why}, FFMA {share:.2f}, {peak / seconds:.2f} of the peak"


def products_beside(first: tuple[str, int, int, int], second: tuple[str, int, int, int]) -> tuple[float, str]:
    """Seconds of two products that share the card: all tiles over all multiprocessors, and half of a last one."""
    work, peak = 0.0, 0.0
    for layout, m, n, k in (first, second):
        tile = tile_for(layout, m, n)
        work += tile.count(m, n) * 4 * tile.instructions(k)
        peak += 2.0 * m * n * k / (CARD.processors * 256 * CARD.clock)
    last = 4 * tile.instructions(k) / 2
    seconds = CARD.seconds(work / CARD.processors + last, CARD.products)
    alone = max(product(*first)[0], product(*second)[0])
    return max(seconds, alone), f"tiles of both over all multiprocessors, {peak / max(seconds, alone):.2f} of the peak"


def attention_instructions(kernel: Kernel, size: int = 64, stream: int = 64, rows: int = 4, columns: int = 8) -> float:
    """Of one warp for one tile of queries by keys: inner loops times their trips, and what lies between them once.

    A loop of products does 8 steps of d, one of sums 4 streamed rows; of two loops of sums the masked one is for diagonal tiles.
    """
    total = 0.0
    per_product, per_sum = 8 * rows * columns, 4 * rows * 4 * (size // 32)
    for outer in kernel.loops:
        inner = [loop for loop in kernel.loops if outer.holds(loop)]
        if not any(loop.instructions["FFMA"] >= per_sum for loop in inner):
            continue
        total += outer.instructions.total() - sum(loop.instructions.total() for loop in inner)
        sums = [loop.instructions.total() for loop in inner if loop.instructions["FFMA"] == per_sum]
        total += sum(sorted(sums)[: len(sums) // 2]) * (stream // 4)
        total += sum(loop.instructions.total() for loop in inner if loop.instructions["FFMA"] == per_product) * (
            size // 8
        )
    return total


def attention(batch: int) -> list[Row]:
    tiles = GPT.context // 64
    visits = tiles * (tiles + 1) // 2 * batch * GPT.heads * GPT.layers
    forward = compiled(KERNELS / "attention.cu")["attention_queries<Shape<64, 4, 8, 3> >"]
    backward = compiled(KERNELS / "attention_backward.cu")
    rows = []
    for what, kernels in (
        ("attention, output", [forward]),
        ("attention, gradients", [k for n, k in backward.items() if re.match(r"attention_backward_\w+<Shape<64,", n)]),
    ):
        counts = [attention_instructions(kernel) for kernel in kernels]
        seconds = CARD.seconds(visits / CARD.processors * 4 * sum(counts), CARD.attention)
        why = f"issue: {' + '.join(f'{count:,.0f}' for count in counts)} instructions of a warp per tile of 64×64"
        rows.append(Row(what, seconds, len(kernels) * GPT.layers, why))
    return rows


def moved(what: str, calls: int, size: float, share: float, kernels: int = 1, note: str = "") -> Row:
    """A row of kernels that move `size` bytes per call at a share of the bandwidth."""
    seconds = calls * (size / (CARD.bandwidth * share) + CARD.latency)
    return Row(what, seconds, calls * kernels, f"memory: {size / 1e6:,.0f} MB a call at {share:.2f}{note}")


def step(batch: int) -> list[Row]:
    """A step of one lane of `batch` sequences in one micro-batch."""
    c, v, layers, n = GPT.width, GPT.vocabulary, GPT.layers, batch * GPT.context
    row = 4.0 * n * c
    linear = {"qkv": (3 * c, c), "proj": (c, c), "fc": (4 * c, c), "mlp": (c, 4 * c)}
    rows = []
    for name, (out, into) in linear.items():
        seconds, why = product("nt", n, out, into)
        rows.append(Row(f"{name}, output", seconds * layers, layers, why))
    for name, (out, into) in linear.items():
        weight, inp = ("tn", out, into, n), ("nn", n, into, out)
        if name == "mlp":  # its d input overwrites what its d weight reads
            for what, shape in (("d weight", weight), ("d input", inp)):
                seconds, why = product(*shape)
                rows.append(Row(f"{name}, {what}", seconds * layers, layers, why))
        else:
            seconds, why = products_beside(weight, inp)
            rows.append(Row(f"{name}, d weight beside d input", seconds * layers, 2 * layers, why))
    piece = min(n, LOGITS_ROWS["cuda"])
    for what, shape in (
        ("logits", ("nt", piece, v, c)),
        ("d input", ("nn", piece, c, v)),
        ("d weight", ("tn", v, c, piece)),
    ):
        seconds, why = product(*shape)
        rows.append(Row(f"lm head, {what}", seconds * n / piece, n // piece, why))
    rows += attention(batch)
    rows += [
        moved("attention, delta", layers, 2 * row, 0.8),
        moved("LayerNorm, output", 4 * layers + 1, 2 * row, 0.8, note=", 24 of them again in the backward pass"),
        moved("LayerNorm, gradients", 2 * layers + 1, 6 * row, 0.8, 3),
        moved("GELU, output", 2 * layers, 8 * row, 0.9),
        moved("GELU, gradient", layers, 12 * row, 0.9),
        moved("residual", 2 * layers, 3 * row, 0.9),
        moved("bias gradients", 4 * layers, 9 * row / 4, 0.8, 2, ", on the average of four layers"),
        moved("cross-entropy and its gradient", n // piece, 16.0 * piece * v, 0.9),
        moved("gradients zeroed", 1, 4.0 * GPT.parameters, 0.9),
        moved("embedding, output", 1, 2 * row, 0.8),
        embedding_gradient(n, row),
        moved("AdamW in 98 ranges", 1, 28.0 * GPT.parameters, 0.9, 98),
        moved("norm, fingerprint", 2, 4.0 * GPT.parameters, 0.8, 2),
    ]
    kernels = sum(r.kernels for r in rows) + 12
    rows.append(
        Row(
            "gaps between kernels", kernels * CARD.gap, 0, f"{kernels} nodes of the graph, {CARD.gap * 1e6:.1f} µs each"
        )
    )
    return rows


def embedding_gradient(n: int, row: float) -> Row:
    """N x N comparisons to put the tokens in order, then rows moved: zeroed, read twice, written, added to the lm head's."""
    loop = next(iter(compiled(KERNELS / "embedding.cu")["embedding_order_kernel"].loops))
    loop = max(
        compiled(KERNELS / "embedding.cu")["embedding_order_kernel"].loops, key=lambda x: x.instructions["ISETP"]
    )
    compares = 2.5 * n * n / 32 / CARD.processors  # instructions of a warp: two per comparison, a quad's limit and load
    seconds = CARD.seconds(compares, 0.7) + 8 * row / (CARD.bandwidth * 0.8)
    return Row(
        "embedding, gradient",
        seconds,
        6,
        f"{n}² comparisons at {loop.instructions.total() and 2.5} instructions, then memory",
    )


def token(batch: int = 1, position: int = 1023, greedy: bool = True) -> list[Row]:
    """One decoded token of each of `batch` sequences."""
    c, v, layers, heads, keys = GPT.width, GPT.vocabulary, GPT.layers, GPT.heads, position + 1
    rows = []
    for name, n, k, calls in (
        ("qkv", 3 * c, c, layers),
        ("proj", c, c, layers),
        ("fc", 4 * c, c, layers),
        ("mlp", c, 4 * c, layers),
        ("lm head", v, c, 1),
    ):
        blocks = -(-n // 32)
        chain = k * 4.5 / CARD.clock  # an fma every four clocks, and the loop around it
        held = min(CARD.processors, blocks)
        weights = 4.0 * n * k / (CARD.bandwidth * min(0.9, held / CARD.processors * 1.2))
        seconds = calls * (max(chain * max(1.0, blocks / CARD.processors / 3), weights) + CARD.latency)
        limit = "chain of fma" if chain >= weights else "memory"
        rows.append(Row(f"{name}", seconds, calls, f"{limit}: {blocks} blocks, K = {k}, {4e-6 * n * k:.0f} MB"))
    scores = CARD.latency + 64 * 4 / CARD.clock + max(0.4e-6, 4.0 * batch * heads * keys * 64 / (CARD.bandwidth * 0.6))
    sums = 2 * CARD.latency + keys * 5 / CARD.clock + 4.0 * batch * heads * keys * 64 / (CARD.bandwidth * 0.6)
    rows.append(
        Row(
            "attention",
            layers * (scores + sums + CARD.latency),
            3 * layers,
            f"latency and a chain of {keys} keys, three kernels a layer",
        )
    )
    rows.append(
        Row(
            "LayerNorm",
            (2 * layers + 1) * 5 * CARD.latency,
            2 * layers + 1,
            "latency: one row, read in six loads, three passes",
        )
    )
    rows.append(Row("GELU, residual, embedding", (3 * layers + 1) * CARD.latency * 1.2, 3 * layers + 1, "latency"))
    passes = 1 if greedy else 6
    draws = CARD.latency * passes + passes * v * 12 / 128 / CARD.clock
    rows.append(
        Row(
            "arg max" if greedy else "radix select and draw of 50",
            draws,
            1,
            f"issue of one multiprocessor, {passes} pass{'es' if passes > 1 else ''} over {v} logits",
        )
    )
    kernels = sum(r.kernels for r in rows)
    rows.append(
        Row("gaps between kernels", kernels * CARD.gap * 0.7, 0, f"{kernels} kernels, {CARD.gap * 0.7e6:.1f} µs each")
    )
    return rows


def table(rows: list[Row], unit: float = 1e6) -> list[str]:
    total = sum(row.seconds for row in rows)
    return [
        "| what, all calls | µs | share | limiter |",
        "|---|---|---|---|",
        *(f"| {r.what} | {r.seconds * unit:,.0f} | {r.seconds / total:.3f} | {r.why} |" for r in rows),
        f"| **sum** | **{total * unit:,.0f}** | | |",
    ]


def total(rows: list[Row]) -> float:
    return sum(row.seconds for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted times on an H100; nothing is measured.")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument("--write", action="store_true", help="into docs/kernels.md")
    args = parser.parse_args()
    rows = step(args.batch)
    print("\n".join(table(rows)))
    print(f"{args.batch * GPT.context / total(rows):,.0f} tokens/s")
    rows = token()
    print("\n".join(table(rows)))


if __name__ == "__main__":
    exit_on_user_error(main)
