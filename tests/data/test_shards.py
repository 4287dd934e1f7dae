"""pytest tests/data/test_shards.py

llm.c's shards of a pinned corpus: byte for byte what its own script writes, for any number of processes and any cut of the corpus into
files and row groups; after a kill the rest only; compared with shards of others; each fault one message with its remedy.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from cuda_ops.errors import UserError
from pipeline import download, prepare_text
from pipeline.base.files import sha256_of
from pipeline.data import blocks, contents, corpus, shard_stream
from pipeline.data.prepared import Prepared
from pipeline.data.tokenizers import Gpt2Tokenizer
from pipeline.recipe import load_recipe, parse_recipe, recipe_id
from pipeline.recipe.pins import PinnedFile, Pins
from tests.conftest import ROOT, run
from tests.data import fineweb
from tests.data.test_data import gpt2

__all__ = ["gpt2"]  # the fixture

EACH = 5000  # tokens of a shard
PAGES = fineweb.texts(40, mean=60)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2_bpe")
    download.fetch_pins(ROOT / "config" / "data" / "gpt2_bpe.yaml", folder, None)
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks of a small corpus."""
    monkeypatch.setattr(blocks, "TASK", 2000)


def by_llm_c(pages: list[str], tokenizer: Gpt2Tokenizer) -> tuple[list[bytes], list[int], list[int]]:
    """What fineweb.py writes: the bytes of each shard; all tokens; where documents start."""
    tokens: list[int] = []
    starts = []
    for page in pages:
        starts.append(len(tokens))
        tokens += [50256, *tokenizer._encoding.encode_ordinary(page)]
    shards = []
    for begin in range(0, len(tokens), EACH):
        part = tokens[begin : begin + EACH]
        head = np.zeros(256, dtype=np.int32)
        head[:3] = 20240520, 1, len(part)
        shards.append(head.tobytes() + np.array(part, dtype=np.uint16).tobytes())
    return shards, tokens, starts


def prepare(recipe: Path, folder: Path, vocabulary: Path, threads: int = 1) -> str:
    """Both stages."""
    if not (folder / "data" / "source.json").exists():
        download.download(recipe, folder / "data", None)
    return prepare_text.prepare(recipe, folder / "data", folder / "tokens", threads, vocabulary)


def shards_in(folder: Path) -> list[bytes]:
    return [(folder / "val_000000.bin").read_bytes(), *(p.read_bytes() for p in sorted(folder.glob("train_*.bin")))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> dict[str, Any]:
    """The corpus in 3 files, prepared."""
    folder = tmp_path_factory.mktemp("made")
    fineweb.write_parquet(folder / "pages", PAGES, 3, 5)
    shards = by_llm_c(PAGES, Gpt2Tokenizer(vocabulary))[0]
    recipe = fineweb.recipe_over(folder / "pages", folder / "recipe.yaml", EACH, len(shards) - 1)
    prepare(recipe, folder, vocabulary)
    return {"recipe": recipe, "folder": folder, "tokens": folder / "tokens", "shards": len(shards)}


def test_shards_are_those_of_llm_c(made: dict[str, Any], gpt2: Gpt2Tokenizer) -> None:
    shards, tokens, starts = by_llm_c(PAGES, gpt2)
    assert len(shards) > 4
    assert shards_in(made["tokens"]) == shards
    assert made["tokens"].joinpath("val_documents.npy").exists()
    assert np.load(made["tokens"] / "val_documents.npy").tolist() == [s for s in starts if s < EACH]
    assert np.load(made["tokens"] / "train_documents.npy").tolist() == [s - EACH for s in starts if s >= EACH]
    about = Prepared(made["tokens"]).text
    assert about["train"] == {"tokens": len(tokens) - EACH, "documents": sum(s >= EACH for s in starts)}
    validation = gpt2._encoding.decode_bytes([t for t in tokens[:EACH] if t != 50256])
    assert about["validation"]["bytes"] == len(validation)
    assert about["largest"]["val_000000.bin"] == 50256
    assert not (made["tokens"] / "unfinished").exists()
    TypeAdapter(contents.Tokens).validate_python(about, strict=True)
    source = json.loads((made["folder"] / "data" / "source.json").read_text())
    TypeAdapter(contents.PinnedSource).validate_python(source, strict=True)


@pytest.mark.parametrize(
    ("form", "threads"), [((1, 40), 1), ((1, 40), 2), ((3, 5), 3), ((7, 1), 2), (".gz", 2), (".zst", 1), ("", 3)]
)
def test_processes_files_and_row_groups_change_no_byte(
    form: Any, threads: int, made: dict[str, Any], tmp_path: Path, vocabulary: Path
) -> None:
    if isinstance(form, str):
        fineweb.write_lines(tmp_path / "pages", PAGES, form)
    else:
        fineweb.write_parquet(tmp_path / "pages", PAGES, *form)
    recipe = fineweb.recipe_over(tmp_path / "pages", tmp_path / "recipe.yaml", EACH, made["shards"] - 1)
    prepare(recipe, tmp_path, vocabulary, threads)
    assert shards_in(tmp_path / "tokens") == shards_in(made["tokens"])
    for name in ("val_documents.npy", "train_documents.npy"):
        assert (tmp_path / "tokens" / name).read_bytes() == (made["tokens"] / name).read_bytes()


def test_text_files_and_ready_shards_are_a_corpus_too(made: dict[str, Any], tmp_path: Path, vocabulary: Path) -> None:
    (tmp_path / "pages").mkdir()
    for i, page in enumerate(PAGES):
        (tmp_path / "pages" / f"{i:03d}.txt").write_text(page or "\ufeff", encoding="utf-8")  # an empty file has no pin
    recipe = fineweb.recipe_over(tmp_path / "pages", tmp_path / "recipe.yaml", EACH, made["shards"] - 1)
    prepare(recipe, tmp_path, vocabulary, 2)
    assert shards_in(tmp_path / "tokens") == shards_in(made["tokens"])
    ready = tmp_path / "ready"
    ready.mkdir()
    for i, content in enumerate(shards_in(made["tokens"])):
        (ready / f"{i:06d}.bin").write_bytes(content)
    recipe = fineweb.recipe_over(ready, tmp_path / "recipe.yaml", EACH, made["shards"] - 1)
    prepare(recipe, tmp_path / "again", vocabulary, 2)
    assert shards_in(tmp_path / "again" / "tokens") == shards_in(made["tokens"])
    name = "train_documents.npy"
    assert (tmp_path / "again" / "tokens" / name).read_bytes() == (made["tokens"] / name).read_bytes()


# ---------------------------------------------------------------- kills, disks


def copy_of(made: dict[str, Any], folder: Path) -> Path:
    """The corpus without its tokens; returns the recipe."""
    download.download(made["recipe"], folder / "data", None)
    return Path(made["recipe"])


@pytest.mark.parametrize("file", [1, 2, 3])
def test_a_killed_preparation_goes_on_at_its_file(
    file: int, made: dict[str, Any], tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within a file, or, of the last, when the shards are being put in their place."""
    recipe = copy_of(made, tmp_path)
    child = os.fork()
    if child == 0:
        add = shard_stream.ShardStream.append

        def dying(stream: shard_stream.ShardStream, encoded: Any) -> None:
            add(stream, encoded)
            if stream.files == file - 1 and stream.tokens % 7 < 3:
                os.kill(os.getpid(), signal.SIGKILL)

        if file < 3:
            monkeypatch.setattr(shard_stream.ShardStream, "append", dying)
        else:
            replace, calls = os.replace, []

            def third(a: Any, b: Any) -> None:
                calls.append(str(b))
                if sum("train_" in call for call in calls) == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(a, b)

            monkeypatch.setattr(os, "replace", third)
        prepare(recipe, tmp_path, vocabulary)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "tokens" / "tokens.json").exists()
    read: list[str] = []
    blocks_of = corpus.blocks_of

    def noting(path: Path, kind: str, column: str) -> Iterator[blocks.Block]:
        read.append(path.name)
        return blocks_of(path, kind, column)

    monkeypatch.setattr(corpus, "blocks_of", noting)
    prepare(recipe, tmp_path, vocabulary, 2)
    assert read == [f"{i:03d}_00000.parquet" for i in range(file - 1 if file < 3 else 3, 3)]
    assert shards_in(tmp_path / "tokens") == shards_in(made["tokens"])
    name = "train_documents.npy"
    assert (tmp_path / "tokens" / name).read_bytes() == (made["tokens"] / name).read_bytes()


def test_a_journal_of_something_else_is_not_taken_up(made: dict[str, Any], tmp_path: Path, vocabulary: Path) -> None:
    """Other tokens a shard, then a journal whose shard was cut: both begin anew."""
    recipe = copy_of(made, tmp_path)
    text = recipe.read_text()
    other = tmp_path / "other.yaml"
    other.write_text(
        text.replace(f"tokens: {EACH}", f"tokens: {EACH - 1}").replace("train_shards: ", "train_shards: 9")
    )
    with pytest.raises(UserError, match=r"makes \d+ training shards, not 9\d+: set bits.data.train_shards to \d+"):
        prepare(other, tmp_path, vocabulary)
    unfinished = tmp_path / "tokens" / "unfinished"
    assert json.loads((unfinished / "journal.json").read_text())["files"] == 3
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("train_shards: ", "train_shards: 9"))
    with pytest.raises(
        UserError, match=f"set bits.data.train_shards to {made['shards'] - 1}; what is tokenised is kept"
    ):
        prepare(wrong, tmp_path, vocabulary)
    shutil.copytree(tmp_path / "tokens", tmp_path / "kept" / "tokens")
    shutil.copytree(tmp_path / "data", tmp_path / "kept" / "data", symlinks=True)
    prepare(recipe, tmp_path / "kept", vocabulary)  # every file is in: only the last shard is to be closed
    assert shards_in(tmp_path / "kept" / "tokens") == shards_in(made["tokens"])
    os.truncate(unfinished / "000001.bin", 3000)
    prepare(recipe, tmp_path, vocabulary)
    assert shards_in(tmp_path / "tokens") == shards_in(made["tokens"])


def test_two_preparations_at_once_are_refused(made: dict[str, Any], tmp_path: Path, vocabulary: Path) -> None:
    recipe = copy_of(made, tmp_path)
    with (
        shard_stream.ShardStream(tmp_path / "tokens", np.dtype("<u2"), EACH, "x"),
        pytest.raises(UserError, match="another process prepares these shards; wait for it or end it"),
    ):
        prepare(recipe, tmp_path, vocabulary)


def test_a_full_disk_is_one_message_and_the_rest_is_kept(
    made: dict[str, Any], tmp_path: Path, vocabulary: Path
) -> None:
    recipe = copy_of(made, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = recipe.read_text().replace(f"tokens: {EACH}", "tokens: 20000")
    small = tmp_path / "small.yaml"
    small.write_text(full.replace(f"train_shards: {made['shards'] - 1}", "train_shards: 1"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, limits[1]))
        with pytest.raises(UserError, match=r"no space left: .*the same command goes on after them"):
            prepare(small, tmp_path, vocabulary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "tokens" / "tokens.json").exists()
    prepare(small, tmp_path, vocabulary)
    assert b"".join(c[1024:] for c in shards_in(tmp_path / "tokens")) == b"".join(
        c[1024:] for c in shards_in(made["tokens"])
    )


# ---------------------------------------------------------------- comparison


def pins_over(shards: list[bytes], folder: Path) -> Path:
    """Somebody else's shards and a pin file of them."""
    folder.mkdir()
    lines = []
    for i, content in enumerate(shards):
        path = folder / f"fineweb_{'train' if i else 'val'}_{i:06d}.bin"
        path.write_bytes(content)
        lines.append(f"  - {{name: {path.name}, bytes: {len(content)}, sha256: {sha256_of(path)}}}")
    pins = folder / "pins.yaml"
    pins.write_text("\n".join([f"folder: {folder}", "files:", *lines]) + "\n")
    return pins


def test_shards_are_compared_to_the_token(
    made: dict[str, Any], tmp_path: Path, gpt2: Gpt2Tokenizer, vocabulary: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.data.tokenizers.GPT2_BPE", vocabulary)
    monkeypatch.delenv("SAMEBITS_MIRROR", raising=False)
    shards, tokens, starts = by_llm_c(PAGES, gpt2)

    def compared(pins: Path, against: Path | None = None) -> tuple[int, str]:
        code = prepare_text.compare(pins, made["recipe"], made["tokens"], against)
        return code, capsys.readouterr().out

    code, words = compared(pins_over(shards, tmp_path / "same"))
    assert code == 0
    assert words.startswith(f"equal: {len(shards)} shards of ")
    code, words = compared(pins_over(shards[:-1], tmp_path / "fewer"))
    assert code == 1
    assert f"the first {len(shards) - 1} shards are equal" in words
    for shard, at in ((0, 17), (2, 0), (2, EACH - 1)):
        content = np.frombuffer(shards[shard], dtype="<u2").copy()
        content[512 + at] ^= 1
        others = [*shards[:shard], content.tobytes(), *shards[shard + 1 :]]
        pins = pins_over(others, tmp_path / f"{shard}-{at}")
        code, words = compared(pins)
        assert code == 1
        assert "To see the token, bring that file" in words
        code, words = compared(pins, pins.parent)
        place = shard * EACH + at
        document = max(i for i, start in enumerate(starts) if start <= place)
        assert code == 1
        assert (
            f"token {at} of the shard, token {place - starts[document]} of document {document} of the corpus (both from 0): "
            f"{tokens[place]} here, {tokens[place] ^ 1} there"
        ) in words
    with pytest.raises(UserError, match=r"has no fineweb_val_000000\.bin; give the folder of the other shards"):
        compared(tmp_path / "0-17" / "pins.yaml", tmp_path)
    output = run("-m", "pipeline.prepare_text", "--compare", str(tmp_path / "same" / "pins.yaml"), code=2)
    assert "names no recipe whose shards these are; give --recipe or --out" in output


# ---------------------------------------------------------------- recipes


def test_a_recipe_is_its_list_of_hashes(made: dict[str, Any], tmp_path: Path) -> None:
    recipe = load_recipe(made["recipe"])
    text = made["recipe"].read_text()
    moved = tmp_path / "r.yaml"
    moved.write_text(re.sub(r"pins: [^,]*", "pins: elsewhere.yaml", text).replace("train_shards: ", "train_shards: 1"))
    assert recipe_id(load_recipe(moved)) == recipe_id(recipe)
    moved.write_text(re.sub(r"(column|sha256): 0?", r"\1: 1", text, count=1))
    moved.write_text(text.replace(f"tokens: {EACH}", "tokens: 5001"))
    assert recipe_id(load_recipe(moved)) != recipe_id(recipe)
    a, b = (PinnedFile(name=f"{n}.parquet", sha256=n * 64, bytes=1, url="http://x") for n in "ab")
    assert Pins(files=(a, b)).identity != Pins(files=(b, a)).identity
    assert Pins(files=(a,)).identity != Pins(files=(a.model_copy(update={"name": "a.jsonl"}),)).identity
    content = json.loads(json.dumps(recipe.model_dump(exclude_none=True)))
    for change, message in (
        ({"tokenizer": {"kind": "bpe", "vocab_size": 300}}, "use tokenizer.kind gpt2"),
        ({"split": {"by": "documents", "validation_permille": 5}}, "order llmc shuffles shards .*use split.by shards"),
        ({"split": {"by": "tokens"}}, "bits.data.split"),
    ):
        bad = json.loads(json.dumps(content))
        bad["bits"]["data"] |= change
        with pytest.raises(UserError, match=message):
            parse_recipe(bad, "recipe")
