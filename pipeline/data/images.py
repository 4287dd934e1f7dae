"""Images: written by a seeded generator, packed into shards, read by number.

A record is one byte of label and the pixels of the image, row by row, as in CIFAR-10's binary files. images.bin is records alone,
training then validation. A shard is 256 int32 of header, little-endian (magic 20251125, version 1, number of images, height,
width, classes, zeros), then records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.base.checked import remember
from pipeline.base.files import atomic_write
from pipeline.base.philox import Philox, Stream
from pipeline.data.order import Order
from pipeline.data.prepared import Prepared
from pipeline.data.shards import HEADER_WORDS, Written, write_blocks
from pipeline.recipe import GeneratedImages, ImageData, Recipe
from pipeline.recipe.paths import train_shards

if TYPE_CHECKING:
    from pipeline.data.contents import Where

MAGIC, VERSION = 20251125, 1
BLOCK = 256  # images at a time
REMEDY = "python -m pipeline.prepare_images --recipe … makes it again"


def patterns(source: GeneratedImages) -> NDArray[np.uint16]:
    """The pattern of each class [classes, pixels]: bytes of the stream PATTERNS, four of each word, low byte first."""
    pixels = source.height * source.width
    words = Philox(source.seed, Stream.PATTERNS).words(0, -(-source.classes * pixels // 4))
    content = words.astype("<u4").view(np.uint8)[: source.classes * pixels]
    return content.reshape(source.classes, pixels).astype(np.uint16)


def generate(source: GeneratedImages) -> Iterator[NDArray[np.uint8]]:
    """Records [n, 1 + pixels], a block at a time, training then validation.

    Image i has the words i w .. (i + 1) w - 1 of the stream IMAGES, w = 1 + ceil(pixels / 4): the first draws its label by
    multiply-high, the bytes of the others are its noise. A pixel is (pattern (256 - noise) + byte noise) >> 8, in integers.
    """
    pixels = source.height * source.width
    known, philox = patterns(source), Philox(source.seed, Stream.IMAGES)
    each, total = 1 + -(-pixels // 4), source.training + source.validation
    for begin in range(0, total, BLOCK):
        count = min(BLOCK, total - begin)
        words = philox.words(begin * each, count * each).reshape(count, each)
        labels = words[:, 0] * np.uint64(source.classes) >> np.uint64(32)
        noise = np.ascontiguousarray(words[:, 1:]).astype("<u4").view(np.uint8)[:, :pixels].astype(np.uint16)
        mixed = known[labels] * np.uint16(256 - source.noise) + noise * np.uint16(source.noise)
        records = np.empty((count, 1 + pixels), dtype=np.uint8)
        records[:, 0], records[:, 1:] = labels, mixed >> 8
        yield records


def write_records(path: Path, blocks: Iterator[NDArray[np.uint8]]) -> tuple[int, int, str]:
    """Records as a file; returns images, bytes and the SHA-256."""
    digest, count, size = hashlib.sha256(), 0, 0
    with atomic_write(path) as file:
        for block in blocks:
            content = block.tobytes()
            digest.update(content)
            file.write(content)
            count, size = count + len(block), size + len(content)
    remember(path, digest.hexdigest())
    return count, size, digest.hexdigest()


def write_shard(path: Path, records: NDArray[np.uint8], source: GeneratedImages) -> Written:
    """Records [n, 1 + pixels] as one shard; `largest` of what it returns is of labels and pixels alike."""
    words = np.zeros(HEADER_WORDS, dtype="<i4")
    words[:6] = MAGIC, VERSION, len(records), source.height, source.width, source.classes
    return write_blocks(path, words.tobytes(), (records[i : i + BLOCK] for i in range(0, len(records), BLOCK)))


def read_shard(path: Path, source: GeneratedImages) -> NDArray[np.uint8]:
    """The records of a shard [n, 1 + pixels], memory-mapped. A UserError says what is wrong with its shape."""
    size = path.stat().st_size if path.exists() else 0
    if size < 4 * HEADER_WORDS:
        raise UserError(f"{path}: {size} bytes are less than a shard's header of 1024; {REMEDY}")
    found = [int(word) for word in np.fromfile(path, dtype="<i4", count=6)]
    wanted = [MAGIC, VERSION, found[2], source.height, source.width, source.classes]
    if found != wanted:
        raise UserError(f"{path}: its header is {found}, the recipe's data give {wanted}; {REMEDY}")
    record = 1 + source.height * source.width
    if size != 4 * HEADER_WORDS + found[2] * record:
        raise UserError(f"{path}: {size} bytes, its header says {4 * HEADER_WORDS + found[2] * record}; {REMEDY}")
    return np.memmap(path, dtype=np.uint8, mode="r", offset=4 * HEADER_WORDS, shape=(found[2], record))


class ImageSamples:
    """Images of the training split of one recipe."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        data = recipe.bits.data
        assert isinstance(data, ImageData)
        self.sequences = recipe.bits.batch.sequences
        (shard,) = train_shards(recipe)
        self.records = read_shard(Prepared(folder, "prepare_images").file(shard), data.source)
        self._order = Order(len(self.records), data.order == "permutation", recipe.bits.seed)

    def offset(self, sample: int) -> int:
        """Which image of the training split a sample of the run is."""
        return self._order.item(sample)

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """pixels, uint8 [count, pixels], and labels, int32 [count], of samples first .. of a step (from 1)."""
        begin = (step - 1) * self.sequences + first
        records = np.asarray(self.records[[self.offset(sample) for sample in range(begin, begin + count)]])
        return {"pixels": np.ascontiguousarray(records[:, 1:]), "labels": records[:, 0].astype(np.int32)}

    def about(self, step: int, index: int) -> Where:
        """Which image of the training split a sample of a step is, and its label."""
        item = self.offset((step - 1) * self.sequences + index)
        return {"offset": item, "label": int(self.records[item, 0])}
