"""Tokens per second of our whole prepare_text beside llm.c's way, on documents like FineWeb's; and where the rest of the time goes.

    python -m benchmarks.tokenize --megabytes 60 --rounds 5 --threads 2
    | side | tokens/s | ratio |

llm.c's way is a multiprocessing pool over tiktoken's encode_ordinary (dev/data/fineweb.py): documents in memory, tokens returned as
uint16, nothing read, checked or written. Ours is the stage, in this process: a parquet file read, its shards encoded, written, hashed
and recorded. Both with the same processes and vocabulary, whose loading is in neither; rounds interleaved, the ratio is the median of
the pairs. Seconds of the processors, of all processes together, say on a busy machine what the clock cannot.

--start measures the start of training on a sparse data set of 10^10 tokens instead.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import header, write
from pipeline.base.files import write_json
from pipeline.data.blocks import Ready
from pipeline.data.documents import blocks_of
from pipeline.data.encode import Encoded, encode
from pipeline.data.fetch import vocabulary
from pipeline.data.shard_stream import ShardStream
from pipeline.data.shards import HEADER_WORDS
from pipeline.data.shards import header as shard_header
from pipeline.data.tokenizers import Gpt2Tokenizer
from pipeline.recipe.paths import GPT2_BPE

EACH = 10**8  # tokens of a shard


def pages(text: str, megabytes: int) -> list[str]:
    """Documents of web pages' lengths out of a text, cut at other places each time it is begun again."""
    rng = np.random.default_rng(1)
    found: list[str] = []
    size = at = 0
    while size < megabytes * 10**6:
        length = int(rng.lognormal(7.4, 1.0)) + 100  # median 1.7 kB, mean 2.8 kB
        if at + length > len(text):
            at = int(rng.integers(0, 1000))
        found.append(text[at : at + length])
        at, size = at + length, size + length
    return found


_encoding: Any


def _start(encoding: Any) -> None:
    global _encoding
    _encoding = encoding


def _tokenize(page: str) -> NDArray[np.uint16]:
    return np.array([50256, *_encoding.encode_ordinary(page)], dtype=np.uint16)


def their_way(documents: list[str], tokenizer: Gpt2Tokenizer, threads: int) -> int:
    """llm.c's pool; returns the number of tokens."""
    with multiprocessing.get_context("fork").Pool(threads, _start, (tokenizer._encoding,)) as pool:
        return sum(len(tokens) for tokens in pool.imap(_tokenize, documents, chunksize=16))


def our_way(path: Path, tokenizer: Gpt2Tokenizer, threads: int) -> int:
    """The stream of prepare_text over a file: the digest of what is read is checked, shards are written and hashed."""
    from pipeline.base.files import sha256_of

    sha256_of(path)  # as the corpus checks its files when they have changed
    with tempfile.TemporaryDirectory() as folder, ShardStream(Path(folder), np.dtype("<u2"), EACH // 10, "") as stream:
        for encoded in encode(blocks_of(path, "parquet", "text"), tokenizer, threads):
            stream.append(encoded)
        count = -(-stream.tokens // stream.each)
        stream.finish([f"{i}.bin" for i in range(count)], ("val.npy", "train.npy"))
        return stream.tokens


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spent() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def both_seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """By the clock, and of the processors."""
    before = spent()
    clock = seconds(call)
    return clock, spent() - before


def where_it_goes(path: Path, tokenizer: Gpt2Tokenizer) -> dict[str, float]:
    """Seconds of the process that reads and writes, alone, by what it does."""
    reading = seconds(lambda: [block.weight for block in blocks_of(path, "parquet", "text")])
    made = list(encode(blocks_of(path, "parquet", "text"), tokenizer, 1))
    ready: Iterator[Encoded] = iter(made)
    with tempfile.TemporaryDirectory() as folder, ShardStream(Path(folder), np.dtype("<u2"), EACH // 10, "") as stream:

        def writing() -> None:
            for encoded in ready:
                stream.append(encoded)
            stream.finish([f"{i}.bin" for i in range(-(-stream.tokens // stream.each))], ("val.npy", "train.npy"))

        wrote = seconds(writing)
    passing = seconds(lambda: list(encode((Ready(encoded.tokens) for encoded in made), tokenizer, 2)))
    return {"reading": reading, "writing and hashing": wrote, "tokens to a process and back": passing}


def compare(megabytes: int, rounds: int, threads: int, text: Path) -> list[str]:
    """Rows of the table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    tokenizer = Gpt2Tokenizer(vocabulary(GPT2_BPE))
    documents = pages(text.read_text(encoding="utf-8"), megabytes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.parquet"
        parquet.write_table(pa.table({"text": documents}), path, row_group_size=1000, compression="zstd")
        times: dict[str, list[tuple[float, float]]] = {"llm.c's way": [], "samebits": []}
        tokens = their_way(documents, tokenizer, threads)
        if our_way(path, tokenizer, threads) != tokens:
            raise AssertionError("the two sides make different numbers of tokens")
        for _ in range(rounds):
            times["llm.c's way"].append(both_seconds(lambda: their_way(documents, tokenizer, threads)))
            times["samebits"].append(both_seconds(lambda: our_way(path, tokenizer, threads)))
        parts = where_it_goes(path, tokenizer)
    lines = [
        f"{len(documents):,} documents, {megabytes} MB, {tokens:,} tokens",
        "",
        "| side | M tokens/s | M tokens per processor second |",
        "|---|---|---|",
    ]
    for side, found in times.items():
        rates = [tokens / statistics.median(column) / 1e6 for column in zip(*found, strict=True)]
        lines.append(f"| {side} | {rates[0]:.2f} | {rates[1]:.2f} |")
    cells = []
    for i in range(2):
        ratios = [a[i] / b[i] for a, b in zip(*times.values(), strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    lines.append(f"| ratio, median of pairs | {' | '.join(cells)} |")
    lines += ["", "| the process that reads and writes, alone | seconds |", "|---|---|"]
    return lines + [f"| {part} | {time:.2f} |" for part, time in parts.items()]


# ---------------------------------------------------------------- the start of training

CHILD = """
import sys, time, resource
from pathlib import Path
from pipeline.data.samples import samples_of
from pipeline.recipe import load_recipe
recipe = load_recipe(sys.argv[1])
def peak():
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024
before, began, cpu = peak(), time.perf_counter(), time.process_time()
samples = samples_of(recipe, Path(sys.argv[2]))
opened = time.perf_counter() - began
samples.get(1, 0, recipe.bits.batch.sequences)
print(opened, time.perf_counter() - began, time.process_time() - cpu, peak() - before)
"""


def sparse(folder: Path, shards: int) -> None:
    """So many shards of 10^8 tokens, which take no disk, and the record that a preparation leaves; digests as if checked."""
    from pipeline.base.checked import remember

    names = [f"train_{i:06d}.bin" for i in range(shards)]
    for name in names:
        with open(folder / name, "wb") as file:
            file.write(shard_header(folder / name, EACH, np.dtype("<u2")))
            file.truncate(4 * HEADER_WORDS + 2 * EACH)
        remember(folder / name, "0" * 64)
    record = {"vocab_size": 50257, "sha256": dict.fromkeys(names, "0" * 64), "largest": dict.fromkeys(names, 0)}
    write_json(folder / "tokens.json", record)


def start(shards: int) -> list[str]:
    """Seconds to open the samples and to read the first step, and MiB that it takes, by order."""
    base = (Path(__file__).parents[1] / "tests" / "recipes" / "tiny_shards.yaml").read_text(encoding="utf-8")
    base = base.replace("context: 32", "context: 1024").replace("sequences: 8, lanes: 4", "sequences: 512, lanes: 64")
    base = base.replace("train_shards: 3", f"train_shards: {shards}")
    lines = [
        "| order | shards open, s | first step read, s | of the processor, s | memory, MiB |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        sparse(Path(name), shards)
        for order in ("sequential", "permutation", "random", "llmc"):
            recipe = Path(name) / f"{order}.yaml"
            recipe.write_text(base.replace("order: llmc", f"order: {order}"), encoding="utf-8")
            command = [sys.executable, "-c", CHILD, str(recipe), name]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."}
            )
            opened, read, cpu, memory = map(float, done.stdout.split())
            lines.append(f"| {order} | {opened:.2f} | {read:.2f} | {cpu:.2f} | {memory:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Our prepare_text beside llm.c's way; or the start of training.")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--text", type=Path, help="UTF-8 text that the documents are cut from", required=False)
    parser.add_argument("--start", action="store_true", help="measure the start of training on 10^10 sparse tokens")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.start:
        lines = start(100)
    elif args.text is None:
        raise SystemExit("--text FILE: name a text that the documents are cut from, a megabyte or more")
    else:
        lines = compare(args.megabytes, args.rounds, args.threads, args.text)
    load = json.dumps(os.getloadavg())
    write([header(args.threads, f"load of the machine {load}"), "", *lines], args.out)


if __name__ == "__main__":
    main()
