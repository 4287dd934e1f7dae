"""pytest tests/data/test_samples.py

What a step reads: shards by offset, orders, images. Orders are compared with their definition, shards with plain arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.tokens import write_tokens
from cuda_ops.errors import UserError
from pipeline.base.philox import Philox, Stream
from pipeline.data import images, order
from pipeline.data.samples import samples_of
from pipeline.data.shards import Shards, Spool, cut, dtype_of, read_shard, write_shard
from pipeline.data.windows import TextSamples
from pipeline.recipe import GeneratedImages, load_recipe
from tests.conftest import ROOT, run

# ---------------------------------------------------------------- shards


def test_shards_have_llm_c_headers_and_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    made = write_shard(path, np.array([1, 2, 65535]))
    content = path.read_bytes()
    assert made.largest == 65535
    assert np.frombuffer(content[:12], dtype="<i4").tolist() == [20240520, 1, 3]
    assert len(content) == 1024 + 6
    assert read_shard(path).tolist() == [1, 2, 65535]
    cases = [
        (content[:-1], r"1029 bytes, its header says 1030 \(3 tokens\): truncated"),
        (content[:100], "100 bytes are less than a shard's header"),
        (b"\0" * 4 + content[4:], "magic 0 version 1, expected magic 20240520 version 1 or magic 20240801 version 7"),
    ]
    for bad, message in cases:
        path.write_bytes(bad)
        with pytest.raises(UserError, match=message):
            read_shard(path)
    with pytest.raises(ValueError, match=r"outside \[0, 300\)"):
        write_shard(path, np.array([1, 300]), 300)


def test_a_vocabulary_beyond_16_bits_has_shards_of_32(tmp_path: Path) -> None:
    path, tokens = tmp_path / "x.bin", [70_000, 3, 2**31]
    write_shard(path, np.array(tokens), 2**32)
    content = path.read_bytes()
    assert np.frombuffer(content[:12], dtype="<i4").tolist() == [20240801, 7, 3]
    assert len(content) == 1024 + 12
    assert read_shard(path).tolist() == tokens
    assert (dtype_of(65_536).itemsize, dtype_of(65_537).itemsize) == (2, 4)


@given(st.integers(0, 400), st.integers(1, 7), st.lists(st.integers(0, 90), max_size=9))
def test_a_spool_is_cut_as_numpy_splits_and_read_across_shards(total: int, pieces: int, lengths: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokens = np.arange(total) * 37 % 60_000
        spool = Spool(Path(folder), "<u2")
        begin = 0
        for length in [*lengths, total]:
            spool.append(tokens[begin : begin + length])
            begin += len(tokens[begin : begin + length])
        paths = [Path(folder) / f"{i}.bin" for i in range(pieces)]
        cut(spool, paths)
        spool.close()
        expected = [piece.tolist() for piece in np.array_split(tokens, pieces)]
        assert [read_shard(path).tolist() for path in paths] == expected
        row = Shards(paths)
        assert len(row) == total
        for offset in range(0, total, 13):
            for count in (1, 2, 61, total):
                part = tokens[offset : offset + count]
                assert row.read(offset, len(part)).tolist() == part.tolist()


def test_a_thousand_shards_hold_no_file_open(tmp_path: Path) -> None:
    """FineWeb's 100 billion tokens are 1,030 shards; a process may have 1,024 files, here 64."""
    import resource

    paths = [tmp_path / f"{i:03}.bin" for i in range(100)]
    for i, path in enumerate(paths):
        write_shard(path, np.arange(10 * i, 10 * i + 10))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        row = Shards(paths)
        assert row.read(395, 210).tolist() == list(range(395, 605))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    write_shard(paths[50], np.arange(10))
    paths[51].unlink()
    for offset in (500, 510):
        with pytest.raises(
            UserError, match=r"05[01]\.bin: changed while it was in use; .*prepare_text .* makes it again"
        ):
            row.read(offset, 1)
    assert row.read(490, 10).tolist() == list(range(490, 500))


# ---------------------------------------------------------------- orders


def test_a_permutation_is_the_one_of_all_keys_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition: every item's 64-bit key, sorted with ties by item; blocks of keys may not change it."""
    monkeypatch.setattr(order, "BLOCK", 10)
    philox = Philox(77, Stream.ORDER)
    for count, epoch in ((1, 0), (7, 3), (1003, 2)):
        words = philox.words(2 * epoch * count, 2 * count)
        keys = words[0::2] | words[1::2] << np.uint64(32)
        assert order.permutation(count, epoch, philox).tolist() == np.argsort(keys, kind="stable").tolist()


def test_equal_words_keep_the_order_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that agree in all high bits, and in all bits."""

    class Few(Philox):
        def words(self, first: int, count: int) -> NDArray[np.uint64]:
            found = super().words(first, count) & np.uint64(0x1FF)
            found[np.arange(first, first + count) % 2 == 1] = 0
            return found

    monkeypatch.setattr(order, "BLOCK", 10)
    philox = Few(3, Stream.ORDER)
    keys = philox.words(0, 2 * 1003)[0::2]
    assert len(set(keys.tolist())) < 512
    assert order.permutation(1003, 0, philox).tolist() == np.argsort(keys, kind="stable").tolist()


class LlmC:
    """llmc/rand.h and llmc/dataloader.h as they read: one process, its shards and batches shuffled, two state machines in C."""

    def __init__(self, rank: int, counts: list[int], seed: int = 42) -> None:
        self.words = self._twister(seed + rank)
        self.counts, self.shards = counts, list(range(len(counts)))
        self._reset()

    @staticmethod
    def _twister(seed: int) -> Iterator[int]:
        state = [seed & 0xFFFFFFFF]
        for j in range(1, 624):
            state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + j) & 0xFFFFFFFF)
        while True:
            for j in range(624):
                y = (state[j] & 0x80000000) | (state[(j + 1) % 624] & 0x7FFFFFFF)
                state[j] = state[(j + 397) % 624] ^ y >> 1 ^ (0x9908B0DF if y & 1 else 0)
            for y in state[:]:
                y ^= y >> 11
                y ^= y << 7 & 0x9D2C5680
                y ^= y << 15 & 0xEFC60000
                yield y ^ y >> 18

    def _permute(self, data: list[int]) -> None:
        for i in range(len(data) - 1, 0, -1):
            j = next(self.words) % (i + 1)
            data[i], data[j] = data[j], data[i]

    def _reset(self) -> None:
        self.shard, self.sample = 0, -1
        self._permute(self.shards)
        self._load()

    def _load(self) -> None:
        self.within = list(range(self.counts[self.shards[self.shard]]))
        self._permute(self.within)

    def next_batch(self) -> tuple[int, int]:
        self.sample += 1
        if self.sample >= self.counts[self.shards[self.shard]]:
            if self.shard == len(self.counts) - 1:
                self._reset()
            else:
                self.shard, self.sample = self.shard + 1, -1
                self._load()
            self.sample = 0
        return self.shards[self.shard], self.within[self.sample]


def test_llm_c_order_is_that_of_its_loader() -> None:
    words = LlmC._twister(137)
    assert [next(words) for _ in range(4)] == [4053805790, 2173880614, 380293709, 1237255315]  # as rand.h says
    counts = [5, 3, 4, 1, 700]
    for lane in range(3):
        loader, ours = LlmC(lane, counts), order.ShardOrder(counts, 42 + lane)
        expected = [loader.next_batch() for _ in range(3 * sum(counts) + 9)]
        assert len(set(expected[: sum(counts)])) == sum(counts)
        assert [ours.batch(step) for step in range(len(expected))] == expected
        for step in (1500, 3, 2000, 1999, 0, 720, 713, 712, len(expected) - 1):  # jumps, back too
            assert ours.batch(step) == expected[step]
            assert order.ShardOrder(counts, 42 + lane).batch(step) == expected[step]


def test_lanes_read_the_parts_of_llm_c_batches(tmp_path: Path) -> None:
    """Rank r of llm.c reads part r of a batch that its own shuffle chose; here a lane does."""
    recipe = load_recipe(ROOT / "tests" / "recipes" / "tiny_shards.yaml")
    each, batch = 1000, 8 * 32
    tokens = np.random.default_rng(5).integers(0, 50257, 3 * each - 300)
    record: dict[str, dict[str, object]] = {"sha256": {}, "largest": {}}
    for i, begin in enumerate(range(0, len(tokens), each)):
        name = f"train_{i:06d}.bin"
        made = write_shard(tmp_path / name, tokens[begin : begin + each])
        record["sha256"][name], record["largest"][name] = made.sha256, made.largest
    (tmp_path / "tokens.json").write_text(json.dumps({"vocab_size": 50257, **record}))
    samples = TextSamples(recipe, tmp_path)
    loaders = [LlmC(lane, [3, 3, 2]) for lane in range(4)]
    assert samples.windows == 8 * 8
    for step in range(1, 20):
        rows = samples.get(step, 0, 8)
        for lane, loader in enumerate(loaders):
            shard, index = loader.next_batch()
            begin = shard * each + index * batch + lane * 2 * 32  # B of a process is 2 here
            expected = tokens[begin : begin + 65]
            assert rows["tokens"][2 * lane : 2 * lane + 2].reshape(-1).tolist() == expected[:-1].tolist()
            assert rows["targets"][2 * lane : 2 * lane + 2].reshape(-1).tolist() == expected[1:].tolist()
    again = TextSamples(recipe, tmp_path).get(17, 5, 1)["tokens"]
    assert (again == samples.get(17, 5, 1)["tokens"]).all()
    large = recipe.model_copy(
        update={
            "bits": recipe.bits.model_copy(update={"batch": recipe.bits.batch.model_copy(update={"sequences": 64})})
        }
    )
    with pytest.raises(UserError, match="a shard of 700 tokens holds no batch of 64 x 32 tokens and a target"):
        TextSamples(large, tmp_path)


@pytest.mark.parametrize("way", ["sequential", "permutation", "random", "documents"])
def test_windows_are_pure_and_orders_are_what_they_say(tiny: dict[str, Path], tmp_path: Path, way: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny["recipe"].read_text().replace("order: documents", f"order: {way}"))
    recipe = load_recipe(path)
    one, two = TextSamples(recipe, tiny["tokens"]), TextSamples(recipe, tiny["tokens"])
    found = one.get(7, 0, 32)
    tokens, targets = found["tokens"], found["targets"]
    assert tokens.dtype == np.int32
    assert tokens.shape == targets.shape == (32, 48)
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    whole = read_shard(tiny["tokens"] / "train_000000.bin")
    for first in (31, 5, 0):  # out of order, one at a time, after other steps
        two.get(1, 0, 1)
        assert (two.get(7, first, 1)["tokens"] == tokens[first]).all()
        about = one.about(7, first)
        assert about["offset"] == one.offset(6 * 32 + first)
        assert about["tokens"] == whole[about["offset"] :][:48].tolist()
    if way == "random":
        return
    epoch = [one.offset(i) for i in range(one.windows)]
    if way == "documents":
        starts = np.load(tiny["tokens"] / "train_documents.npy")
        assert sorted(epoch) == starts[starts <= len(whole) - 49].tolist()
        assert all(whole[offset] == 256 for offset in epoch)
    else:
        assert sorted(epoch) == list(range(0, len(whole) - 48, 48))
    again = [one.offset(i) for i in range(one.windows, 2 * one.windows)]
    assert sorted(again) == sorted(epoch)
    assert (again == epoch) == (way == "sequential")


def test_the_number_of_shards_changes_no_sample(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Windows span the ends of shards; 150 shards of a short text have some within nearly every window."""
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny["recipe"].read_text().replace("order: documents", "order: documents\n    train_shards: 150"))
    run(
        "-m", "pipeline.prepare_text", "--recipe", str(path), "--data", str(tiny["data"]), "--out", str(tmp_path / "t")
    )  # fmt: skip
    one, two = TextSamples(load_recipe(tiny["recipe"]), tiny["tokens"]), TextSamples(load_recipe(path), tmp_path / "t")
    for step in (1, 4):
        for name, values in one.get(step, 0, 32).items():
            assert (values == two.get(step, 0, 32)[name]).all()


def test_opening_reads_no_shard_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard large enough to be remembered: its writer knows the digest and the largest token, so nobody reads it for them."""
    from pipeline.base import checked

    content = load_recipe(ROOT / "tests" / "recipes" / "tiny.yaml")
    recipe = content.model_copy(
        update={
            "bits": content.bits.model_copy(update={"data": content.bits.data.model_copy(update={"order": "random"})})
        }
    )
    monkeypatch.setattr(checked, "LARGE", 1000)
    write_tokens(tmp_path, np.arange(5000) % 300, 300)
    monkeypatch.setattr(checked, "sha256_of", lambda path: pytest.fail(f"{path} is read through"))
    samples = TextSamples(recipe, tmp_path)
    assert samples.get(1, 0, 2)["tokens"].shape == (2, 48)
    about = json.loads((tmp_path / "tokens.json").read_text())
    about["largest"]["train_000000.bin"] = 300
    (tmp_path / "tokens.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="token 300 is outside the vocabulary of 300"):
        TextSamples(recipe, tmp_path)


# ---------------------------------------------------------------- images

PATTERNS = ROOT / "tests" / "recipes" / "patterns.yaml"


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    run("-m", "pipeline.download", "--recipe", str(PATTERNS), "--out", str(folder / "data"))
    run(
        "-m", "pipeline.prepare_images", "--recipe", str(PATTERNS), "--data", str(folder / "data"), "--out",
        str(folder / "packed"),
    )  # fmt: skip
    return folder


def test_images_are_their_definition_one_by_one() -> None:
    """Each label and pixel by hand from Philox words; a shape whose pixels do not fill words."""
    source = GeneratedImages(
        kind="generated", training=300, validation=7, classes=3, height=3, width=5, noise=91, seed=2**40 + 1
    )
    records = np.concatenate(list(images.generate(source)))
    assert records.shape == (307, 16)

    def byte(words: Philox, first: int, at: int) -> int:
        return int(words.words(first + at // 4, 1)[0]) >> 8 * (at % 4) & 0xFF

    classes, drawn = Philox(source.seed, Stream.PATTERNS), Philox(source.seed, Stream.IMAGES)
    for i in (0, 1, 255, 256, 306):
        label = int(drawn.words(5 * i, 1)[0]) * 3 >> 32
        assert records[i, 0] == label
        for at in range(15):
            pattern, noise = byte(classes, 0, label * 15 + at), byte(drawn, 5 * i + 1, at)
            assert records[i, 1 + at] == (pattern * (256 - 91) + noise * 91) >> 8
    assert set(records[:, 0]) == {0, 1, 2}


def test_packed_images_are_read_by_number(patterns: Path) -> None:
    recipe = load_recipe(PATTERNS)
    source = recipe.bits.data.source
    assert isinstance(source, GeneratedImages)
    records = np.concatenate(list(images.generate(source)))
    assert (patterns / "data" / "images.bin").read_bytes() == records.tobytes()
    assert (images.read_shard(patterns / "packed" / "train_000000.bin", source) == records[:3000]).all()
    assert (images.read_shard(patterns / "packed" / "val_000000.bin", source) == records[3000:]).all()
    samples = samples_of(recipe, patterns / "packed")
    items = [samples.offset(i) for i in range(3000)]
    assert sorted(items) == list(range(3000))
    assert items != sorted(items)
    found = samples.get(3, 5, 20)
    assert found["pixels"].dtype == np.uint8
    assert found["labels"].dtype == np.int32
    wanted = records[items[2 * 32 + 5 : 2 * 32 + 25]]
    assert (found["pixels"] == wanted[:, 1:]).all()
    assert (found["labels"] == wanted[:, 0]).all()
    assert samples.about(3, 5) == {"offset": items[69], "label": int(wanted[0, 0])}


def test_a_few_images_show_what_their_class_is(patterns: Path) -> None:
    """The nearest class mean of the training images finds nearly all others: the patterns show through the noise."""
    source = load_recipe(PATTERNS).bits.data.source
    assert isinstance(source, GeneratedImages)
    train = images.read_shard(patterns / "packed" / "train_000000.bin", source).astype(np.int64)
    test = images.read_shard(patterns / "packed" / "val_000000.bin", source).astype(np.int64)
    means = np.stack([train[train[:, 0] == k, 1:].mean(axis=0) for k in range(source.classes)])
    nearest = ((test[:, None, 1:] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test[:, 0]).mean() > 0.95


def test_images_of_another_recipe_or_with_a_changed_byte_are_refused(patterns: Path, tmp_path: Path) -> None:
    recipe = load_recipe(PATTERNS)
    text = PATTERNS.read_text().replace("classes: 8", "classes: 9")
    other = tmp_path / "other.yaml"
    other.write_text(text)
    with pytest.raises(UserError, match=r"its header is .* 16, 16, 8\], the recipe's data give .* 16, 16, 9\]"):
        samples_of(load_recipe(other), patterns / "packed")
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in (patterns / "packed").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / "train_000000.bin"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"train_000000.bin: changed since it was written: .*prepare_images"):
        samples_of(recipe, folder)
