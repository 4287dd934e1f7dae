"""A folder of training tokens, for measurements that need no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.files import write_json
from pipeline.data.prepared import SUMMARY
from pipeline.data.shards import write_shard


def write_tokens(folder: Path, tokens: NDArray[np.integer], vocab_size: int) -> None:
    """One shard of these tokens, and what preparation records of it."""
    name = "train_000000.bin"
    made = write_shard(folder / name, tokens, vocab_size)
    record = {"vocab_size": vocab_size, "sha256": {name: made.sha256}, "largest": {name: made.largest}}
    write_json(folder / SUMMARY, record)
