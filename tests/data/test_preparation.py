"""pytest tests/data/test_preparation.py

Text to tokens: pieces and processes change no token, merges are those of the definition, what changed on the disk is refused,
what cannot work is said before training, and memory does not grow with the text.
"""

from __future__ import annotations

import errno
import json
import random
import re
import resource
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops.errors import REFUSALS, UserError, refusal
from pipeline.base import checked as checks
from pipeline.base.checked import checked, remember
from pipeline.base.files import sha256_of
from pipeline.data import blocks, bpe, encode, progress
from pipeline.data.documents import tasks
from pipeline.data.prompts import check_endings, check_prompts
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer
from pipeline.prepare_text import prepare
from pipeline.recipe import load_recipe
from tests.conftest import ROOT, run
from tests.data import fineweb
from tests.data.test_data import NASTY, gpt2

__all__ = ["gpt2"]  # the fixture

# ---------------------------------------------------------------- BPE


def merges_by_definition(texts: list[str], count: int) -> list[tuple[int, int]]:
    """Sennrich's algorithm 1 as it reads: count all pairs anew, merge the first of the most frequent everywhere."""
    words = Counter(word for text in texts for word in bpe.WORDS.findall(text.encode()))
    rows = {word: list(word) for word in words}
    strings = [bytes([i]) for i in range(256)] + [b""]
    found: list[tuple[int, int]] = []
    while len(found) < count:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, row in rows.items():
            for pair in pairwise(row):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], strings[p[0]], strings[p[1]], p))
        found.append(best)
        strings.append(strings[best[0]] + strings[best[1]])
        for word, row in rows.items():
            out: list[int] = []
            for token in row:
                if out and (out[-1], token) == best:
                    out[-1] = len(strings) - 1
                else:
                    out.append(token)
            rows[word] = out
    return found


def word_by_definition(word: bytes, ranks: dict[tuple[int, int], int]) -> list[int]:
    row = list(word)
    while known := [(ranks[pair], pair) for pair in pairwise(row) if pair in ranks]:
        rank, best = min(known)
        out: list[int] = []
        for token in row:
            if out and (out[-1], token) == best:
                out[-1] = rank
            else:
                out.append(token)
        row = out
    return row


@given(
    st.lists(st.text(st.sampled_from("aab 的一\n1."), min_size=1, max_size=60), min_size=1, max_size=4),
    st.integers(1, 14),
)
def test_merges_are_those_of_the_definition(texts: list[str], count: int) -> None:
    expected = merges_by_definition(texts, count)
    if len(expected) < count:
        with pytest.raises(UserError, match=f"gives only {257 + len(expected)} tokens"):
            BpeTokenizer.train(texts, 257 + count)
        return
    merges = BpeTokenizer.train(texts, 257 + count).merges
    assert merges == expected
    ranks = {pair: 257 + i for i, pair in enumerate(merges)}
    for text in texts:
        for word in bpe.WORDS.findall(text.encode()):
            assert bpe._merge_short(word, ranks) == bpe._merge_long(word, ranks) == word_by_definition(word, ranks)


def test_who_waits_for_merges_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Under snakemake too, where no bar is drawn: a line whenever ten seconds are over."""
    now = [0.0]

    def clock() -> float:
        now[0] += 4.0
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", clock)
    BpeTokenizer.train(["the fox and the crow and the hen"], 257 + 6)
    assert capsys.readouterr().err == "merges: 3 of 6\nmerges: 6 of 6\n"


def test_words_are_the_same_however_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [NASTY * 3, "的" * 500 + "  \n\n 12ab", " " * 90 + "x" * 90, "a"]
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(bpe, "CHUNK", size)
        for text in texts:
            found = [word for words in bpe.words_of(text.encode()) for word in words]
            assert found == bpe.WORDS.findall(text.encode())


def test_a_text_without_spaces_is_learnt_place_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """One word of 60 kB: what merges visit, all together, is a few times the text, not its length per merge."""
    rng = random.Random(4)
    text = "".join(rng.choice("บรรยากาศดีมากที่นี่อาหารอร่อยและราคาไม่แพง") for _ in range(20_000))
    visited = 0
    learn_places = bpe.Learner._add

    def counting(self: bpe.Learner, places: np.ndarray, keys: np.ndarray) -> None:
        nonlocal visited
        visited += len(places)
        learn_places(self, places, keys)

    monkeypatch.setattr(bpe.Learner, "_add", counting)
    merges = BpeTokenizer.train([text], 257 + 400).merges
    assert len(merges) == 400
    assert visited < 4 * len(text.encode())  # today's 400 passes over the word would be 400 times
    tokenizer = BpeTokenizer(merges)
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ---------------------------------------------------------------- pieces and processes


def tokens_of(texts: list[str], tokenizer: Tokenizer, threads: int) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    starts: list[int] = []
    for part in encode.encode(tasks(blocks.marked(blocks.pieces(text) for text in texts)), tokenizer, threads):
        starts += (part.starts + len(ids)).tolist()
        ids += part.tokens.tolist()
    return ids, starts


def whole(texts: list[str], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    head = [] if tokenizer.separator is None else [tokenizer.separator]
    rows = [head + tokenizer.encode(text) for text in texts]
    return [token for row in rows for token in row], [sum(map(len, rows[:i])) for i in range(len(rows))]


TEXTS = [
    NASTY * 40,
    "",
    " \n \n",
    "的一是 " * 300,
    "it's  we'll\u3000 x\x85 y\x1c z   end",
    "a" * 700 + "   b\n\n\nc" * 200,
]


@pytest.mark.parametrize("size", [1, 50, 1 << 16])
def test_pieces_and_processes_change_no_token(size: int, monkeypatch: pytest.MonkeyPatch, gpt2: Gpt2Tokenizer) -> None:
    monkeypatch.setattr(blocks, "PIECE", size)
    monkeypatch.setattr(blocks, "TASK", 3 * size)
    for tokenizer in (gpt2, BpeTokenizer.train(TEXTS, 300), CharTokenizer.train(TEXTS)):
        expected = whole(TEXTS, tokenizer)
        for threads in (1, 3):
            assert tokens_of(TEXTS, tokenizer, threads) == expected


@given(st.lists(st.text(st.sampled_from("ab1.' \n\t\u3000é"), max_size=80), max_size=4), st.integers(1, 9))
def test_pieces_of_any_text_give_its_tokens(texts: list[str], size: int) -> None:
    tokenizer = BpeTokenizer([(97, 98), (32, 257), (10, 10), (257, 97)])
    before, blocks.PIECE = blocks.PIECE, size
    try:
        assert ["".join(blocks.pieces(text)) for text in texts] == texts
        assert tokens_of(texts, tokenizer, 1) == whole(texts, tokenizer)
    finally:
        blocks.PIECE = before


def test_a_worker_that_is_killed_is_one_message() -> None:
    class Deadly(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            import os

            os._exit(9)

    with pytest.raises(UserError, match=r"a process that encodes was killed.*fewer --threads"):
        tokens_of(["a" * 200_000 + " b"] * 9, Deadly("ab "), 2)


MEASURED = (
    "import sys, resource\nfrom pipeline.prepare_text import main\nsys.argv[0] = 'prepare_text'\nmain()\n"
    "lines = open('/proc/self/status').read().splitlines()\n"  # ru_maxrss is inherited through exec
    "own = next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
    "print([own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss])"
)


def peaks_of(recipe: Path, data: Path, out: Path, *flags: str) -> list[int]:
    """KiB of the process that prepares, and of the largest of its workers."""
    command = ["--recipe", str(recipe), "--data", str(data), "--out", str(out), "--threads", "2", *flags]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """Eight times the documents: the peak of the process and of its workers stays, by a margin far below the added text."""
    peaks = []
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()
    row = json.dumps({"text": " ".join(f"word{i}" for i in range(3000))})  # 25 kB
    for rows in (150, 1200):
        corpus = tmp_path / f"{rows}.jsonl"
        corpus.write_text((row + "\n") * rows)
        recipe = tmp_path / f"{rows}.yaml"
        source = f"{{kind: file, path: {corpus}, sha256: {sha256_of(corpus)}, format: jsonl}}"
        content = re.sub(r"source: \{.*\}", f"source: {source}", text).replace(
            "[{kind: loss}, {kind: choices}]", "[{kind: loss}]"
        )
        recipe.write_text(content)
        run("-m", "pipeline.download", "--recipe", str(recipe), "--out", str(tmp_path / f"d{rows}"))
        peaks.append(peaks_of(recipe, tmp_path / f"d{rows}", tmp_path / f"t{rows}"))
    for small, large in zip(*peaks, strict=True):
        assert large - small < 12 * 1024, peaks  # KiB; the text grew by 26 MB, its tokens in memory were 34 bytes each


def test_memory_does_not_grow_with_a_pinned_corpus(tmp_path: Path, gpt2: Gpt2Tokenizer) -> None:
    """One row group of all rows, which is never held whole: 4 and 40 MB of text into shards."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    run("-m", "pipeline.download", "--pins", "config/data/gpt2_bpe.yaml", "--out", str(tmp_path / "bpe"))
    peaks = []
    rng = random.Random(2)
    page = " ".join(rng.choice(["the", "fox", "and", "1234", "dog,"]) for _ in range(1000))  # 4 kB
    for rows in (1000, 10_000):
        folder = tmp_path / f"pages{rows}"
        folder.mkdir()
        parquet.write_table(pa.table({"text": [page] * rows}), folder / "x.parquet", use_dictionary=False)
        shards = -(-rows * (len(gpt2.encode(page)) + 1) // 500_000) - 1
        recipe = fineweb.recipe_over(folder, tmp_path / f"{rows}.yaml", 500_000, shards)
        run("-m", "pipeline.download", "--recipe", str(recipe), "--out", str(tmp_path / f"d{rows}"))
        flags = "--gpt2", str(tmp_path / "bpe")
        peaks.append(peaks_of(recipe, tmp_path / f"d{rows}", tmp_path / f"t{rows}", *flags))
    for small, large in zip(*peaks, strict=True):
        assert large - small < 16 * 1024, peaks
        assert large < 600 * 1024, peaks


# ---------------------------------------------------------------- what changed on the disk


def test_a_large_file_is_read_once_per_change_and_always_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(checks, "LARGE", 10)
    monkeypatch.setattr(checks, "sha256_of", lambda path: (read.append(path), sha256_of(path))[1])  # type: ignore[func-returns-value]
    path = tmp_path / "x.bin"
    path.write_bytes(b"content of a file")
    digest = sha256_of(path)
    for _ in range(3):
        assert checked(path, digest, "mend it") == path
    assert len(read) == 1
    checked(path, digest, "mend it", always=True)
    assert len(read) == 2
    stat = path.stat()
    path.write_bytes(b"content of a fiLe")
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time: the change still shows
    for _ in range(2):  # a refused file is not remembered
        with pytest.raises(UserError, match=f"x.bin: changed since it was written: .*{digest}; mend it"):
            checked(path, digest, "mend it")
    path.write_bytes(b"content of a file")
    remember(path, digest)
    seen = len(read)
    checked(path, digest, "mend it")
    assert len(read) == seen
    sidecar = path.with_name(f".{path.name}.checked")
    sidecar.unlink()
    sidecar.mkdir()  # one that cannot be written, as on a full or read-only disk, costs a reading and nothing else
    assert checked(path, digest, "mend it") == path
    assert len(read) == seen + 1
    path.unlink()
    with pytest.raises(UserError, match="no such file; mend it"):
        checked(path, digest, "mend it")


DAMAGES = ["data/documents.jsonl", "data/choices.jsonl"] + [
    f"tokens/{name}"
    for name in ("train_000000.bin", "val_000000.bin", "train_documents.npy", "val_documents.npy", "tokenizer.json",
                 "choices.json", "tokens.json")
]  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_a_stage_reads_is_checked(name: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    """One byte in the middle of each prepared file is another digit, so that it reads as well as before; then the file is gone."""
    from pipeline.data.corpus import Corpus
    from pipeline.data.prepared import Prepared
    from pipeline.data.tokenizers import load_tokenizer
    from pipeline.data.windows import TextSamples

    for folder in ("data", "tokens"):
        (tmp_path / folder).mkdir()
        for path in tiny[folder].iterdir():
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    tokens = tmp_path / "tokens"

    def read_all() -> None:
        TextSamples(load_recipe(tiny["recipe"]), tokens)
        load_tokenizer(tokens)
        for file in ("val_000000.bin", "val_documents.npy", "choices.json"):
            Prepared(tokens).file(file)
        corpus = Corpus(tmp_path / "data")
        list(corpus.documents())
        list(corpus.questions())

    read_all()
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if name == "tokens/tokens.json":
        content = bytearray(re.sub(rb'"tokenizer.json": "\w', b'"tokenizer.json": "x', bytes(content)))
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"changed since it was written: .*python -m pipeline\.(download|prepare_text)"):
        read_all()
    path.unlink()
    with pytest.raises(UserError, match=r"no such file; .*python -m pipeline\.(download|prepare_text)"):
        read_all()


def test_a_full_disk_is_named(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a file's size stands for it: where tokens are put by until they are cut, and in a build's folder."""
    from pipeline import compile as compiling

    monkeypatch.setattr(sys, "argv", ["compile", "--archs", "none", "--out", str(tmp_path / "build")])
    works = {
        "tokens": lambda: prepare(tiny["recipe"], tiny["data"], tmp_path / "tokens", 1, Path()),
        "build": compiling.main,
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, work in works.items():
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(OSError, match="File too large") as error:
                work()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert refusal(error.value) == f"{tmp_path / name}: {REFUSALS[errno.EFBIG]}"
    assert not (tmp_path / "tokens" / "tokens.json").exists()


def test_a_changed_vocabulary_is_refused(gpt2: Gpt2Tokenizer, tmp_path: Path) -> None:
    from pipeline.data.fetch import vocabulary
    from pipeline.recipe.pins import load_pins

    with pytest.raises(
        UserError, match=r"encoder.json: no such file; python -m pipeline.download --pins .*gpt2_bpe.yaml"
    ):
        vocabulary(tmp_path)
    run("-m", "pipeline.download", "--pins", "config/data/gpt2_bpe.yaml", "--out", str(tmp_path))
    assert {pin.name for pin in load_pins(ROOT / "config" / "data" / "gpt2_bpe.yaml").files} == set(gpt2.files)
    assert vocabulary(tmp_path) == tmp_path
    merges = tmp_path / "vocab.bpe"
    merges.write_text(merges.read_text().replace("\nh e\n", "\nh o\n"))
    with pytest.raises(UserError, match=r"vocab.bpe: changed since it was written"):
        vocabulary(tmp_path)


def test_prepare_refuses_documents_that_changed(tiny: dict[str, Path], tmp_path: Path) -> None:
    for path in tiny["data"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(documents.read_text().splitlines(keepends=True)[:100]))
    flags = ["--recipe", str(tiny["recipe"]), "--data", str(tmp_path), "--out", str(tmp_path / "t")]
    output = run("-m", "pipeline.prepare_text", *flags, code=2)
    assert "documents.jsonl: changed since it was written" in output
    assert "Traceback" not in output


# ---------------------------------------------------------------- late errors come early


def test_prompts_and_endings_are_checked_before_training(tiny: dict[str, Path], tmp_path: Path) -> None:
    text = tiny["recipe"].read_text()

    def recipe_with(prompt: str, context: int = 48) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(
            text.replace('["Once"]', json.dumps(["Once", prompt])).replace("context: 48", f"context: {context}")
        )
        return path

    letters, merged = CharTokenizer("Once "), BpeTokenizer([])
    assert check_prompts(load_recipe(recipe_with("Once n")), letters) == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 1]]
    cases: list[tuple[str, int, Tokenizer, str]] = [
        ("Onceß", 48, letters, r"artifacts.samples.prompts\[1\] 'Onceß' cannot be written: character 'ß' is not in"),
        ("", 48, letters, r"prompts\[1\] is empty and the tokenizer has no separator"),
        ("ten tokens", 10, merged, r"prompts\[1\] has 11 tokens, bits.model.context is 10: give a shorter prompt"),
        ("a", 1, merged, "bits.model.context 1 is too short to draw samples"),
    ]
    for prompt, context, tokenizer, message in cases:
        with pytest.raises(UserError, match=message):
            check_prompts(load_recipe(recipe_with(prompt, context)), tokenizer)
    flags = ["--data", str(tiny["data"]), "--out", str(tmp_path / "t")]
    output = run("-m", "pipeline.prepare_text", "--recipe", str(recipe_with("the fox " * 40)), *flags, code=2)
    assert "bits.model.context is 48" in output
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([{"endings": [[1], [2]]}, {"endings": [[1], [1] * 9]}]))
    check_endings(asked, 9)
    with pytest.raises(UserError, match=r"ending 1 of question 1 has 9 tokens; bits.model.context 8"):
        check_endings(asked, 8)
