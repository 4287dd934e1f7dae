"""python -m tests.evidence.plant x/tokens x/planted
x/planted: token 60000 in every 1000th place of train_000.bin

A copy of prepared tokens with an index above the vocabulary, as a broken disk or another preparation would leave it: what a GPU says
of one (docs/gpu.md). The record keeps the digest of the changed shard and the largest token of before, so training reads it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import sha256_of, write_json
from pipeline.data.prepared import read_json
from pipeline.data.shards import HEADER_WORDS, read_shard
from pipeline.recipe.paths import SUMMARY

TOKEN, EVERY = 60000, 1000


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("expected the folder of tokens and the one to make")
    source, made = map(Path, sys.argv[1:])
    shutil.copytree(source, made, ignore=shutil.ignore_patterns(".*.checked"), dirs_exist_ok=True)
    shard = sorted(made.glob("train_[0-9]*.bin"))[0]
    tokens = read_shard(shard).copy()
    tokens[::EVERY] = TOKEN
    with shard.open("r+b") as file:
        file.seek(4 * HEADER_WORDS)
        file.write(tokens.tobytes())
    about = read_json(made / SUMMARY, "it is no folder of tokens")
    about["sha256"][shard.name] = sha256_of(shard)
    write_json(made / SUMMARY, about)
    print(f"{made}: token {TOKEN} in every {EVERY}th place of {shard.name}")


if __name__ == "__main__":
    exit_on_user_error(main)
