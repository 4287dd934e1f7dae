"""What the evidence costs: the fingerprint of every step, the chain and the receipts, as shares of training.

    python -m benchmarks.evidence --configs 4x128,6x384 --out docs/evidence/cost.md
    | model | parameters | step, ms | fingerprint | chain | receipt |

Our trainer in one process, medians over steps. The fingerprint is that of each step, taken once more after it. The
chain is one link per step and its file, the receipt one file; both files are written once a segment, and the share is
of a segment of SEGMENT steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.step import CONFIGS, gpt_of, recipe_of
from benchmarks.table import header, write
from cuda_ops import ops
from pipeline.base import chain
from pipeline.base.files import write_json
from pipeline.data.shards import write_shard
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.records.receipt import receipt
from pipeline.training.trainer import Trainer

SEGMENT = 200
LIMITS = {"fingerprint": 2.0, "chain": 0.5, "receipt": 0.5}  # percent


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(name: str, threads: int, steps: int) -> dict[str, float]:
    """Median seconds of a step and of each part of the evidence, per step."""
    recipe = recipe_of(name)
    bits = recipe.bits
    ops.set_threads(threads)
    times: list[float] = []
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = gpt_of(recipe).vocab_size
        tokens = np.random.default_rng(1).integers(0, vocabulary, (steps + 2) * bits.units + 1)
        write_shard(Path(folder) / "train_000000.bin", tokens)
        write_json(Path(folder) / "tokens.json", {"vocab_size": vocabulary})
        trainer = Trainer(recipe, Execution(micro_batch=bits.batch.sequences), Ranks(), Path(folder))
        trainer.initialise()
        weights = trainer.model.parameters[: trainer.model.flat.used]
        trainer.train_step()
        for _ in range(steps):
            times.append(seconds(trainer.train_step))
            marks.append(seconds(lambda: ops.fingerprint_into(trainer.results[1:], weights, 0)))
        line, _ = trainer.train_step()
        lines = [line.linked(chain.START)] * SEGMENT
        link = statistics.median(seconds(lambda: line.linked(chain.START)) for _ in range(100))
        file = statistics.median(seconds(lambda: chain.write(Path(folder) / "chain.tsv", lines)) for _ in range(5))

        def one_receipt() -> None:
            with receipt(Path(folder) / "receipt.json", "train"):
                pass

        paper = statistics.median(seconds(one_receipt) for _ in range(5))
    return {
        "parameters": bits.model.parameters, "step": statistics.median(times), "fingerprint": statistics.median(marks),
        "chain": link + file / SEGMENT, "receipt": paper / SEGMENT,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="What the evidence costs.")
    parser.add_argument("--configs", default="4x128,6x384", help=f"of {','.join(CONFIGS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    method = f"medians of {args.steps} steps, one lane, segments of {SEGMENT} steps"
    lines = [
        header(args.threads, method),
        "",
        "| model | parameters | step, ms | fingerprint | chain | receipt |",
        "|---|---|---|---|---|---|",
    ]
    over = []
    for name in args.configs.split(","):
        found = measure(name, args.threads, args.steps)
        shares = {part: 100 * found[part] / found["step"] for part in LIMITS}
        over += [f"{name}: {part} {share:.2f}%" for part, share in shares.items() if share > LIMITS[part]]
        cells = [f"{shares[part]:.3f}%" for part in LIMITS]
        lines.append(
            f"| {name} | {found['parameters']:,.0f} | {1000 * found['step']:.1f} | " + " | ".join(cells) + " |"
        )
    write(lines, args.out)
    if over:
        raise SystemExit("over the limits of 2%, 0.5%, 0.5%: " + "; ".join(over))


if __name__ == "__main__":
    main()
