"""The time that arithmetic predicts for one training step and one decoded token of GPT-2 124M on an H100. Nothing is measured.

    python -m benchmarks.predict                   both tables and their sums; 8 sequences of 1024 tokens
    python -m benchmarks.predict --batch 64
    python -m benchmarks.predict --write           into docs/kernels.md, and what the GPU proof asks of an op into
                                                   pipeline/evidence/predicted.json

Products and attention: the instructions of the kernels' machine code (machine_code.py) over the issue slots of the card, in waves of
tiles. The rest: bytes over a share of the bandwidth. Every constant that is no count is in `Card` and in the table's notes. Needs
nvcc and cuobjdump, no GPU.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu_cases import MODELS, products
from benchmarks.machine_code import KERNELS, Kernel, compiled
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.toolkit import find_nvcc, nvcc_version
from pipeline.base.files import write_json
from pipeline.evidence.speed_targets import MATMUL_RATIO, PREDICTED, STEP_RATIO, TRAFFIC, Predicted
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
    hidden: float = 0.5  # what stays of the time of a memory-bound kernel that runs beside a product
    packed: bool = True  # two products side by side fill the card as one would; else each has waves of its own
    latency: float = 0.6e-6  # from a kernel's start to its first bytes
    memory_clocks: float = 900.0  # from asking for a byte to having it
    gap: float = 1.0e-6  # from one kernel to the next

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


@contextmanager
def assuming(**changes: float | bool) -> Iterator[None]:
    """Other constants of the card for a while."""
    global CARD
    before, CARD = CARD, replace(CARD, **changes)  # type: ignore[arg-type]
    try:
        yield
    finally:
        CARD = before


# Threads' outputs and blocks per multiprocessor are those of matmul.cu; the numbers are matmul_tile_for's percentages for
# nt, nn and tn, none where a tile is not taken. In the order of the enumeration.
LARGE = "Tile<128, 128, 8, 8, 16, 8, 2>"
TILES: dict[str, tuple[int | None, int | None, int | None]] = {
    LARGE: (100, 100, 100),
    "Tile<128, 128, 16, 8, 8, 4, 2>": (100, None, None),
    "Tile<64, 128, 16, 8, 8, 4, 3>": (103, 101, 102),
    "Tile<64, 64, 16, 4, 8, 4, 3>": (113, 112, 107),
}


def sizes_of(tile: str) -> tuple[int, int, int, int]:
    """Rows, columns, k per stage, blocks per multiprocessor."""
    m, n, k, *_, blocks = (int(number) for number in re.findall(r"\d+", tile))
    return m, n, k, blocks


def tiles_of(tile: str, m: int, n: int) -> int:
    rows, columns, _, _ = sizes_of(tile)
    return -(-m // rows) * -(-n // columns)


def rounds_of(tile: str, m: int, n: int) -> int:
    """Tiles over multiprocessors; those of large tiles come in whole waves once there is more than one."""
    rounds, blocks = -(-tiles_of(tile, m, n) // CARD.processors), sizes_of(tile)[3]
    return -(-rounds // blocks) * blocks if tile == LARGE and rounds > blocks else rounds


def tile_name(layout: str, m: int, n: int) -> str:
    """The tile of matmul_tile_for: least work in rounds, a single round a twentieth more; of equals the square one."""

    def cost(tile: str) -> tuple[int, bool]:
        rows, columns, _, _ = sizes_of(tile)
        percent, rounds = TILES[tile][LAYOUTS.index(layout)] or 0, rounds_of(tile, m, n)
        return rounds * rows * columns * percent * (20 + (rounds == 1)), tile == LARGE

    return min((tile for tile in TILES if TILES[tile][LAYOUTS.index(layout)]), key=cost)


@dataclass(frozen=True)
class Tile:
    """A tile of matmul.cu for one layout, as it is compiled."""

    name: str
    kernel: Kernel

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return sizes_of(self.name)

    @property
    def warps(self) -> int:
        m, n, _, thread_m, thread_n, lane_rows, _ = (int(number) for number in re.findall(r"\d+", self.name))
        return m // (lane_rows * thread_m) * (n // (32 // lane_rows * thread_n))

    def instructions(self, k: int) -> float:
        """Of all warps for one tile: the main loop, and everything outside it once."""
        loop = self.kernel.main_loop().instructions.total()
        return self.warps * (loop * (k / self.sizes[2]) + self.kernel.instructions - loop)

    def count(self, m: int, n: int) -> int:
        return tiles_of(self.name, m, n)


def tile_for(layout: str, m: int, n: int) -> Tile:
    """The tile that matmul.cu takes, from its machine code."""
    name = tile_name(layout, m, n)
    return Tile(name, compiled(KERNELS / "matmul.cu")[f"matmul_tile<{LAYOUTS.index(layout)}, {name}, true>"])


def blocks_held(kernel: Kernel, threads: int) -> int:
    """Blocks of one multiprocessor by its registers, which are given to warps in eights per thread."""
    return CARD.registers // (threads * -(-kernel.registers // 8) * 8)


def peak_seconds(operations: float) -> float:
    """At two operations per fma, 128 fma per clock and multiprocessor."""
    return operations / (CARD.processors * 256 * CARD.clock)


def product(layout: str, m: int, n: int, k: int) -> tuple[float, str]:
    """Seconds of one product, and why."""
    tile = tile_for(layout, m, n)
    blocks = tile.sizes[3]
    if blocks_held(tile.kernel, 32 * tile.warps) < blocks:
        raise UserError(f"{tile.name}: {tile.kernel.registers} registers leave no room for {blocks} blocks")
    count, rounds = tile.count(m, n), rounds_of(tile.name, m, n)
    seconds = CARD.seconds(rounds * tile.instructions(k), CARD.products)
    peak = peak_seconds(2.0 * m * n * k)
    share = tile.kernel.main_loop().ffma_share
    why = f"{layout} {m}×{n}×{k}: {count} tiles {tile.sizes[0]}×{tile.sizes[1]}, {rounds} rounds"
    return seconds, f"{why}, FFMA {share:.2f}, {peak / seconds:.2f} of the peak"


def products_beside(shapes: list[tuple[str, int, int, int]]) -> tuple[float, str]:
    """Seconds of products that share the card: all tiles over all multiprocessors, and half of a last one."""
    if not CARD.packed:
        return sum(product(*shape)[0] for shape in shapes), "one after another"
    work, peak = 0.0, 0.0
    for layout, m, n, k in shapes:
        tile = tile_for(layout, m, n)
        work += tile.count(m, n) * tile.instructions(k)
        peak += peak_seconds(2.0 * m * n * k)
    last = tile.instructions(k) / 2
    seconds = CARD.seconds(work / CARD.processors + last, CARD.products)
    names = (f"{layout} {'×'.join(map(str, tile_for(layout, m, n).sizes[:2]))}" for layout, m, n, _ in shapes)
    why = f"FFMA: tiles {', '.join(names)} over all multiprocessors, {peak / seconds:.2f} of the peak"
    return seconds, why


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
    gradients = [backward[f"attention_backward_{name}<Shape<64, 4, 8, 2> >"] for name in ("keys", "queries")]
    rows = []
    for what, kernels in (("attention, output", [forward]), ("attention, gradients", gradients)):
        counts = [attention_instructions(kernel) for kernel in kernels]
        seconds = CARD.seconds(visits / CARD.processors * 4 * sum(counts), CARD.attention)
        why = f"issue: {' + '.join(f'{count:,.0f}' for count in counts)} instructions of a warp per tile of 64×64"
        rows.append(Row(what, seconds, len(kernels) * GPT.layers, why))
    return rows


def moved(what: str, calls: int, size: float, share: float, kernels: int = 1, beside: bool = False) -> Row:
    """A row of kernels that move `size` bytes per call at a share of the bandwidth, beside a product or not."""
    seconds = calls * (size / (CARD.bandwidth * share) + CARD.latency)
    why = f"memory: {size / 1e6:,.0f} MB a call at {share:.2f}{', half of it beside products' if beside else ''}"
    return Row(what, seconds * (CARD.hidden if beside else 1.0), calls * kernels, why)


def share(op: str) -> float:
    """Of the bandwidth, as the GPU proof is asked for it."""
    return TRAFFIC[op].share


def step(batch: int) -> list[Row]:
    """A step of one lane of `batch` sequences in one micro-batch."""
    c, v, layers, n = GPT.width, GPT.vocabulary, GPT.layers, batch * GPT.context
    row = 4.0 * n * c
    linear = {"qkv": (3 * c, c), "proj": (c, c), "fc": (4 * c, c), "mlp": (c, 4 * c)}
    rows = []
    for name, (out, into) in linear.items():
        seconds, why = product("nt", n, out, into)
        rows.append(Row(f"{name}, output", seconds * layers, layers, why))
    for names in (["mlp"], ["fc", "proj"], ["qkv"]):
        sizes = [linear[name] for name in names]
        shapes = [shape for out, into in sizes for shape in (("tn", out, into, n), ("nn", n, into, out))]
        seconds, why = products_beside(shapes)
        rows.append(Row(f"{' and '.join(names)}, d weight and d input", seconds * layers, len(shapes) * layers, why))
    piece = min(n, LOGITS_ROWS["cuda"])
    seconds, why = product("nt", piece, v, c)
    rows.append(Row("lm head, logits", seconds * n / piece, n // piece, why))
    seconds, why = products_beside([("nn", piece, c, v), ("tn", v, c, piece)])
    rows.append(Row("lm head, d input and d weight", seconds * n / piece, 2 * n // piece, why))
    rows += attention(batch)
    rows += [
        delta(n),
        moved("LayerNorm, output", 2 * layers + 1, 2 * row, share("layernorm forward")),
        moved("LayerNorm, output again", 2 * layers, 2 * row, share("layernorm forward"), beside=True),
        moved("LayerNorm, gradients", 2 * layers, 6 * row, share("layernorm backward"), 3, beside=True),
        moved("LayerNorm, gradients of the last", 1, 6 * row, share("layernorm backward"), 3),
        moved("GELU, output", layers, 8 * row, share("gelu forward")),
        moved("GELU, output again", layers, 8 * row, share("gelu forward"), beside=True),
        moved("GELU, gradient", layers, 12 * row, share("gelu backward"), beside=True),
        moved("residual", 2 * layers, 3 * row, share("add")),
        moved(
            "bias gradients, four layers on the average",
            4 * layers,
            9 * row / 4,
            share("bias backward"),
            2,
            beside=True,
        ),
        moved("cross-entropy and its gradient", n // piece, 16.0 * piece * v, share("cross entropy + gradient")),
        moved("gradients zeroed", 1, 4.0 * GPT.parameters, 0.9),
        moved("embedding, output", 1, 2 * row, share("embedding")),
        embedding_gradient(n, row),
        moved("AdamW in 98 ranges", 1, 28.0 * GPT.parameters, share("adamw"), 98),
        moved("norm, fingerprint", 2, 4.0 * GPT.parameters, share("gradient norm"), 2),
    ]
    return with_gaps(rows, 12)


def with_gaps(rows: list[Row], more: int = 0) -> list[Row]:
    """The rows and the time between their kernels, and `more` of a few numbers each."""
    kernels = sum(row.kernels for row in rows) + more
    return [
        *rows,
        Row("gaps between kernels", kernels * CARD.gap, 0, f"{kernels} kernels, {CARD.gap * 1e6:.1f} µs each"),
    ]


def embedding_gradient(n: int, row: float) -> Row:
    """n x n comparisons put the tokens in order; then rows are zeroed, read twice, written, added to the lm head's."""
    per_comparison = 2.5  # instructions of a warp: compare, add, and a quarter of a load and of a limit
    order = CARD.seconds(per_comparison * n * n / 32 / CARD.processors, 0.7)
    seconds = order + 8 * row / (CARD.bandwidth * 0.8)
    return Row("embedding, gradient", seconds, 6, f"issue: {n}² comparisons, {order * 1e6:,.0f} µs; then memory")


def few_rows(what: str, n: int, k: int, calls: int) -> Row:
    """A product of decoding: blocks of 32 columns, each with five of six stages of 64 k on the way."""
    blocks = -(-n // 32)
    chain = (
        1.1 * 4 * k / CARD.clock * max(1.0, blocks / (2 * CARD.processors))
    )  # an fma every four clocks, two blocks at a time
    drawn = min(blocks, 2 * CARD.processors) * 5 * 64 * 32 * 4 / CARD.memory_clocks * CARD.clock
    memory = 4.0 * n * k / min(0.9 * CARD.bandwidth, drawn)
    limit = "chain of fma" if chain > memory else "memory"
    why = f"{limit}: {blocks} blocks, K = {k}, {4e-6 * n * k:.0f} MB"
    return Row(what, calls * (max(chain, memory) + CARD.latency), calls, why)


def token(position: int, top_k: int) -> list[Row]:
    """One decoded token of one sequence after `position` others; top_k 0: the arg max. The host's launches are not in it."""
    c, v, layers, keys = GPT.width, GPT.vocabulary, GPT.layers, position + 1
    linear = {"qkv": (3 * c, c), "proj": (c, c), "fc": (4 * c, c), "mlp": (c, 4 * c)}
    rows = [few_rows(name, out, into, layers) for name, (out, into) in linear.items()]
    rows.append(few_rows("lm head", v, c, 1))
    cache = 4.0 * keys * c / (CARD.bandwidth * 0.6)  # keys or values of a layer, at a share that few blocks can draw
    scores = CARD.latency + 1.1 * 4 * 64 / CARD.clock + cache
    sums = 2 * CARD.latency + max(1.25 * 4 * keys / CARD.clock, cache)
    rows.append(
        Row(
            "attention",
            layers * (scores + sums),
            2 * layers,
            f"chain of {keys} keys, two reads after another",
        )
    )
    rows.append(
        Row("LayerNorm", (2 * layers + 1) * 2.0e-6, 2 * layers + 1, "latency: one row in eight lanes, three passes")
    )
    rows.append(Row("GELU, residual, embedding", (3 * layers + 1) * 1.2 * CARD.latency, 3 * layers + 1, "latency"))
    passes, per_logit = (1, 12) if top_k == 0 else (6, 15)
    draw = CARD.latency + passes * v * per_logit / (32 * CARD.issues) / CARD.clock + 1.25 * 4 * top_k / CARD.clock
    what = "arg max" if top_k == 0 else f"select and draw of {top_k}"
    rows.append(Row(what, draw, 1, f"issue of one multiprocessor: {v:,} logits × {passes} × {per_logit} instructions"))
    return with_gaps(rows)


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


def delta(n: int) -> Row:
    """The pass of attention's backward op over outputs and their gradients, for n tokens."""
    return moved("attention, delta", GPT.layers, 2 * 4.0 * n * GPT.width, 0.8)


def attention_shares(batch: int) -> dict[str, float]:
    """Of the FMA peak, of the operations that are counted: two products forward, five backward, half of T x T."""
    operations = batch * GPT.layers * GPT.heads * GPT.context * (GPT.context + 1) * (GPT.width // GPT.heads)
    forward, backward = (row.seconds for row in attention(batch))
    return {
        "attention forward": peak_seconds(2.0 * operations) / forward,
        "attention backward": peak_seconds(5.0 * operations) / (backward + delta(batch * GPT.context).seconds),
    }


def asked() -> Predicted:
    """What predicted.json holds: the shares of the FMA peak of the cases of benchmarks/gpu.py, each op alone, and of all
    products of a step together; tokens/s of a step.
    """
    tokens, shares, together = 8 * GPT.context, {}, {}
    for model in ("124M", "1558M"):
        times = []
        for what, layout, m, n, k, calls in products(MODELS[model], tokens, min(tokens, LOGITS_ROWS["cuda"])):
            seconds, _ = product(layout, m, n, k)
            least = peak_seconds(2.0 * m * n * k)
            shares[f"{model} {what}"] = round(least / seconds, 3)
            times.append((calls * least, calls * seconds))
        shares |= {f"{model} {name}": round(value, 3) for name, value in attention_shares(8).items()}
        together[model] = round(sum(least for least, _ in times) / sum(seconds for _, seconds in times), 3)
    nvcc = find_nvcc()
    return {
        "nvcc": nvcc_version(nvcc) if nvcc else None, "shares": shares, "products": together,
        "tokens_per_second": round(tokens / total(step(8))),
    }  # fmt: skip


SENSITIVITY: tuple[tuple[str, dict[str, float | bool]], ...] = (
    ("nothing hidden beside products", {"hidden": 1.0}),
    ("all hidden beside products", {"hidden": 0.0}),
    ("products side by side in waves of their own", {"packed": False}),
    ("both: no gain by branches at all", {"hidden": 1.0, "packed": False}),
    ("products at 0.85 of the issue slots", {"products": 0.85}),
    ("products at 0.95", {"products": 0.95}),
    ("attention at 0.75 of the issue slots", {"attention": 0.75}),
    ("2.7 TB/s", {"bandwidth": 2.7e12}),
)


def sensitivity(batch: int) -> list[str]:
    """The step's sum under other constants."""
    lines = ["| instead | ms | tokens/s |", "|---|---|---|"]
    for words, changes in SENSITIVITY:
        with assuming(**changes):
            seconds = total(step(batch))
        lines.append(f"| {words} | {seconds * 1e3:,.1f} | {batch * GPT.context / seconds:,.0f} |")
    return lines


def beside_pytorch(batch: int) -> str:
    """Up to which speed of PyTorch's products the two ratios of the GPU proof hold, since PyTorch's is not predicted."""
    rows, ours = step(batch), asked()["products"]["124M"]
    tokens = batch * GPT.context
    piece = min(tokens, LOGITS_ROWS["cuda"])
    least = sum(
        calls * peak_seconds(2.0 * m * n * k) for _, _, m, n, k, calls in products(MODELS["124M"], tokens, piece)
    )
    theirs = total(rows) / STEP_RATIO - sum(row.seconds for row in rows if not product_row(row))
    return (
        f"Alone, one after another, all products reach {ours:.2f} of the peak: {MATMUL_RATIO} of PyTorch's speed holds where its "
        f"products stay under {ours / MATMUL_RATIO:.2f}. A step as fast as PyTorch's compiled one ({STEP_RATIO}) holds, if all else "
        f"takes the same time, where its products stay under {least / theirs:.2f}."
    )


def product_row(row: Row) -> bool:
    return "of the peak" in row.why


def page(batch: int) -> str:
    """Both tables as docs/kernels.md has them."""
    training, decoding = step(batch), token(1023, 0)
    nvcc = find_nvcc()
    selected = total(token(1023, 50))
    return "\n".join(
        [
            f"*Predicted, not measured*; nvcc {nvcc_version(nvcc) if nvcc else None}. One training step of 124M, {batch} × {GPT.context} tokens, one H100:",
            "",
            *table(training),
            "",
            f"{batch * GPT.context / total(training):,.0f} tokens/s. What the sum owes to constants that nobody has measured:",
            "",
            *sensitivity(batch),
            "",
            *wrapped(beside_pytorch(batch)),
            "",
            "One decoded token of 124M after 1,023, one sequence, greedy:",
            "",
            *table(decoding),
            "",
            f"With top_k 50: {selected * 1e6:,.0f} µs. The host's launches, which eager decoding waits for, are not in it.",
            "",
        ]
    )


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted times on an H100; nothing is measured.")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument("--write", action="store_true", help="into docs/kernels.md")
    args = parser.parse_args()
    text = page(args.batch)
    print(text)
    if args.write:
        old = PAGE.read_text()
        PAGE.write_text(old[: old.index(BEGIN) + len(BEGIN)] + text + old[old.index(END) :])
        write_json(PREDICTED, asked())


if __name__ == "__main__":
    exit_on_user_error(main)
