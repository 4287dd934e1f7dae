"""pytest tests/data/test_data.py

Corpus, downloads and tokenizers: known answers, round trips, bad input, and the same bytes in any environment.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of
from pipeline.base.philox import Philox, Stream, philox4x32
from pipeline.data import fables
from pipeline.data.documents import documents_of
from pipeline.data.fetch import fetch
from pipeline.data.sources import hub_rows, local_rows
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer, Gpt2Tokenizer
from pipeline.recipe import HuggingFaceSource, load_recipe
from pipeline.recipe.values import values
from tests.conftest import ROOT, run

NASTY = "naïve Straße\r\n\t \u0130\u0131 e\u0301 日本語 🙂👩‍👩‍👧 don't  1234,5 __x__\x00 <|endoftext|> end "


# ---------------------------------------------------------------- random numbers


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)  # fmt: skip
def test_philox_known_answers(counter: list[int], key: tuple[int, int], expected: str) -> None:
    """The vectors of Random123's kat_vectors, philox4x32 with 10 rounds."""
    words = philox4x32(np.array([counter], dtype=np.uint64), key)[0]
    assert " ".join(f"{int(w):08x}" for w in words) == expected


def test_philox_in_python_and_in_the_kernels_is_one() -> None:
    import torch

    from cuda_ops import ops

    uniform = torch.empty(1001)
    ops.fill_uniform(uniform, 2**40 + 7, int(Stream.ORDER), 5)
    words = Philox(2**40 + 7, Stream.ORDER).words(5, 1001)
    assert uniform.tolist() == [(int(w) >> 8) / 2**24 for w in words]


# ---------------------------------------------------------------- the corpus


def test_stories_are_unambiguous_and_their_choices_uniform() -> None:
    teller = fables.Teller(9, Stream.CORPUS)
    stories = [teller.story(i) for i in range(4000)]
    assert len({story.text for story in stories}) == len(stories)
    assert teller.story(1234) == stories[1234]
    names = Counter(story.name for story in stories)
    assert set(names) == set(fables.NAMES)
    expected = len(stories) / len(fables.NAMES)
    chi2 = sum((n - expected) ** 2 / expected for n in names.values())
    assert chi2 < 52  # 23 degrees of freedom, p about 0.0005
    for story in stories[:200]:
        fitting = fables.OBSTACLES[story.obstacle][1]
        assert story.solved == (f"tried the {fitting}" in story.beginning)
        assert ("sad" in story.ending) != story.solved


def test_questions_are_fresh_and_have_one_right_ending() -> None:
    teller = fables.Teller(9, Stream.CORPUS)
    known = {teller.story(i).text for i in range(500)}
    asked = fables.questions(9, 200, known)
    assert not {q.context + q.endings[q.label] for q in asked} & known
    assert {q.label for q in asked} == {0, 1, 2, 3}
    assert all(len(set(q.endings)) == 4 for q in asked)


def test_documents_and_shards_are_the_same_bytes_anywhere(tiny: dict[str, Path], tmp_path: Path) -> None:
    environments = [
        {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "77", "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONUTF8": "0"},
    ]
    for number, env in enumerate(environments):
        out = tmp_path / str(number)
        out.mkdir()
        flags = ["--recipe", str(tiny["recipe"])]
        run("-m", "pipeline.download", *flags, "--out", str(out / "data"), env=env, cwd=out)
        run(
            "-m", "pipeline.prepare_text", *flags, "--data", str(out / "data"), "--out", str(out / "tokens"), "--threads",
            str(number + 1), env=env, cwd=out,
        )  # fmt: skip
        for folder in ("data", "tokens"):
            for path in sorted(tiny[folder].iterdir()):
                assert sha256_of(out / folder / path.name) == sha256_of(path), path.name


# ---------------------------------------------------------------- tokenizers


@given(st.text(max_size=200))
def test_bpe_round_trip(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    tokenizer = BpeTokenizer([(116, 104), (257, 101), (32, 258)])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < 260 and i != 256 for i in ids)


def test_bpe_training_by_hand() -> None:
    """ "ab" and "bc" are equally frequent: the first by bytes wins; then what is left."""
    tokenizer = BpeTokenizer.train(["abc abc"], 260)
    assert tokenizer.merges == [(97, 98), (257, 99), (32, 258)]
    assert tokenizer.encode("abc abc") == [258, 259]
    with pytest.raises(UserError, match="gives only 260 tokens; vocab_size 400 is too large"):
        BpeTokenizer.train(["abc abc"], 400)


def test_char_tokenizer_names_an_unknown_character() -> None:
    tokenizer = CharTokenizer.train(["hello", "wörld"])
    assert tokenizer.decode(tokenizer.encode("höre")) == "höre"
    assert tokenizer.characters == "".join(sorted(set("hellowörld")))
    with pytest.raises(UserError, match="character 'X' is not in the corpus"):
        tokenizer.encode("X")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Gpt2Tokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    import os

    if not os.environ.get("SAMEBITS_MIRROR"):
        pytest.skip("GPT-2's vocabulary needs a network, or copies named by SAMEBITS_MIRROR")
    run("-m", "pipeline.download", "--pins", "config/data/gpt2_bpe.yaml", "--out", str(folder))
    return Gpt2Tokenizer(folder)


def test_gpt2_encoding(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.decode(gpt2.encode(NASTY)) == NASTY
    assert len(gpt2._encoding._mergeable_ranks) == 50256


# ---------------------------------------------------------------- own texts


def test_text_that_cannot_be_used(tiny: dict[str, Path], tmp_path: Path) -> None:
    def attempt(content: bytes, name: str = "my.txt") -> str:
        (tmp_path / name).write_bytes(content)
        output = run(
            "-m",
            "pipeline.own_text",
            "--recipe",
            str(tiny["recipe"]),
            "--data",
            str(tmp_path / name),
            code=None,
            cwd=tmp_path,
        )
        path = output.strip().splitlines()[-1]
        if path.startswith("error"):
            return path
        output = run("-m", "pipeline.download", "--recipe", path, code=None, cwd=tmp_path)
        if "error" not in output:
            output = run("-m", "pipeline.prepare_text", "--recipe", path, code=None, cwd=tmp_path)
        assert "Traceback" not in output
        return output.strip().splitlines()[-1]

    assert "there is no text in it" in attempt(b"")
    assert "byte 0xff at offset 3 is not UTF-8" in attempt(b"abc\xff")
    assert "suffix '.pdf', allowed are" in attempt(b"abc", "my.pdf")
    assert "line 2 is not JSON" in attempt(b'{"text": "a"}\n{', "my.jsonl")
    assert "no column 'text'; it has ['body']" in attempt(b'{"body": "a"}\n', "my.jsonl")
    assert "vocab_size 300 is too large for it" in attempt(b"tiny")
    assert "the validation split has" in attempt(
        b"All work and no play makes Jack a dull boy. " * 5 + bytes(range(32, 127))
    )


def test_the_text_of_the_page_by_hand(tmp_path: Path) -> None:
    """The block of docs/data.md as a recipe, down to its shards; and a vocabulary of another size says the right one."""
    page = (ROOT / "docs" / "data.md").read_text()
    block = re.search(r"```yaml\nbits:\n(.*?)```", page, re.DOTALL)
    assert block
    text = tmp_path / "corpora" / "letters.txt"
    text.parent.mkdir()
    text.write_text("".join(f"{fables.NAMES[n % len(fables.NAMES)]} wrote letter {n * 7919}.\n" for n in range(900)))
    content = values((ROOT / "tests" / "recipes" / "tiny.yaml").read_text(), "tiny")
    content["artifacts"]["scores"] = [{"kind": "loss"}]
    content["bits"] |= values("a:\n" + block[1].replace("sha256: ...", f"sha256: {sha256_of(text)}"), "page")["a"]
    recipe = tmp_path / "letters.yaml"
    recipe.write_text(json.dumps(content))
    run("-m", "pipeline.download", "--recipe", str(recipe), cwd=tmp_path)
    run("-m", "pipeline.prepare_text", "--recipe", str(recipe), cwd=tmp_path)
    assert len(list(tmp_path.rglob("train_000000.bin"))) == 1
    content["bits"]["data"]["tokenizer"] = {"kind": "char"}
    recipe.write_text(json.dumps(content))
    size = len(set(text.read_text()))
    said = run("-m", "pipeline.prepare_text", "--recipe", str(recipe), cwd=tmp_path, code=2)
    assert f"512, the tokenizer of this corpus has {size}: set bits.model.vocab_size: {size}, and padded_" in said


# ---------------------------------------------------------------- sources


class Server(BaseHTTPRequestHandler):
    """Serves `content`, honours Range, and breaks off the first answers midway."""

    content = b""
    breaks = 0
    ranges: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        start = 0
        wanted = self.headers.get("Range")
        if wanted:
            type(self).ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).breaks > 0:
            type(self).breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.delenv("SAMEBITS_MIRROR", raising=False)
    Server.content, Server.breaks, Server.ranges = bytes(range(256)) * 3000, 2, []
    pin = hashlib.sha256(Server.content).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/corpus.txt"
    try:
        path = fetch(url, pin, len(Server.content), tmp_path / "corpus.txt")
        assert path.read_bytes() == Server.content
        assert len(Server.ranges) == 2
        assert all(int(r.removeprefix("bytes=").rstrip("-")) > 0 for r in Server.ranges)
        Server.content = b"something else"
        path.unlink()
        with pytest.raises(UserError, match=r"the recipe pins .* is kept as .*corpus.txt.rejected"):
            fetch(url, pin, None, tmp_path / "corpus.txt")
        assert (tmp_path / "corpus.txt.rejected").read_bytes() == Server.content
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError, match="or give a copy by --local"):
        fetch(url, pin, None, tmp_path / "corpus.txt")


def test_parquet_jsonl_and_datasets_give_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `datasets` by its own code, offline."""
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = ["one", NASTY, "", "three\nlines\n"]
    table, lines = tmp_path / "x.parquet", tmp_path / "x.jsonl"
    parquet.write_table(pa.table({"text": texts, "n": [1, 2, 3, 4]}), table, row_group_size=2)
    lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    assert list(documents_of(table, "parquet", "text")) == texts
    assert list(documents_of(lines, "jsonl", "text")) == texts
    for repo, path in (("parquet", table), ("json", lines)):
        rows = datasets.load_dataset(repo, data_files=[str(path)] * 2, split="train", streaming=True)
        assert [row["text"] for row in rows] == texts * 2
        file = {"path": str(path), "sha256": sha256_of(path)}
        source = HuggingFaceSource.model_validate_json(
            json.dumps({"kind": "huggingface", "repo": repo, "files": [file] * 2})
        )
        assert list(local_rows(source)) == texts * 2
    with pytest.raises(UserError, match="holds int64, expected string"):
        list(documents_of(table, "parquet", "n"))
    with pytest.raises(UserError, match="no column 'body'"):
        list(documents_of(table, "parquet", "body"))


def test_rows_of_the_hub_come_from_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by a function; what it is asked for, and what a row or a network may do, is real."""
    import datasets

    asked: dict[str, object] = {}

    def hub(repo: str, **given: object) -> list[dict[str, object]]:
        asked.update(given, repo=repo)
        return [{"text": "one"}, {"text": None}]

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.chdir(tmp_path)
    source = HuggingFaceSource(kind="huggingface", repo="someone/texts", revision="a1" * 20, data_files=("d/*.json",))
    rows = hub_rows(source)
    assert next(rows) == "one"
    assert (asked["repo"], asked["revision"]) == ("someone/texts", "a1" * 20)
    assert asked["data_files"] == {"train": ["d/*.json"]}
    with pytest.raises(UserError, match="row 1: column 'text' holds null"):
        next(rows)

    def gone(repo: str, **given: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", gone)
    with pytest.raises(UserError, match="after 0 rows: no route"):
        next(hub_rows(source))
    (tmp_path / "someone" / "texts").mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder here, and its revision would pin nothing"):
        next(hub_rows(source))


def test_the_floor_is_the_information_of_the_validation_split(tiny: dict[str, Path]) -> None:
    recipe = load_recipe(tiny["recipe"])
    source = recipe.bits.data.source
    assert source.kind == "generated"
    teller = fables.Teller(source.seed, Stream.CORPUS)
    nats = math.fsum(math.log(n) for i in range(270, 300) for n in teller.story(i).choices)
    counts = json.loads((tiny["tokens"] / "tokens.json").read_text())["validation"]["choices"]
    assert math.fsum(n * math.log(int(k)) for k, n in counts.items()) == pytest.approx(nats, rel=1e-12)
