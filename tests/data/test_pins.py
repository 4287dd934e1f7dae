"""pytest tests/data/test_pins.py

Pin files: what they are, how their files come (mirror, folder, URL, a hub on this machine), and each fault as one message with its remedy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cuda_ops.errors import UserError
from pipeline import download, pin
from pipeline.base.files import sha256_of
from pipeline.data import fetch
from pipeline.data.pinned import bring
from pipeline.recipe import PinnedSource
from pipeline.recipe.pins import FOLDER, PinnedFile, Pins, format_of, load_pins, lock_path
from tests.conftest import ROOT, run
from tests.data import fineweb

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_the_pin_files_of_the_project_are_what_they_say() -> None:
    """Counts and bytes as the sources of the pins state them."""
    expected = {"fineweb_sample10BT": (15, 30_639_384_917), "fineweb_edu_sample10BT": (14, 28_518_193_415),
                "kjj0_fineweb10B_gpt2": (104, 20_710_754_582), "wikitext103_raw": (2, 314_076_578)}  # fmt: skip
    for name, (files, size) in expected.items():
        path = FOLDER / f"{name}.yaml"
        pins = load_pins(path)
        assert (len(pins.files), sum(file.bytes for file in pins.files)) == (files, size)
        assert len({file.sha256 for file in pins.files}) == files
        assert pins.reported
        assert "not read again here" in path.read_text()
        assert f"pins: {name}, sha256: {pins.identity}" in pin.source_line(path)
    for path in FOLDER.glob("*.yaml"):
        pins = load_pins(path, listed=False)
        if pins.select:
            with pytest.raises(
                UserError, match=r"not known here; python -m pipeline.pin --hub .* asks the hub for them"
            ):
                load_pins(path)
    shards = load_pins(FOLDER / "kjj0_fineweb10B_gpt2.yaml")
    assert [file.bytes for file in shards.files] == [200_001_024] * 103 + [110_649_110]
    assert sum((file.bytes - 1024) // 2 for file in shards.files[1:]) == 10_255_324_043


def test_formats_are_known_by_their_suffix() -> None:
    names = {"a.parquet": "parquet", "a.b.jsonl.gz": "jsonl", "a.json": "jsonl", "x/a.txt.zst": "text", "a.bin": "shard",
             "a.parquet.gz": None, "a.tar": None, "a": None, "a.gz": None}  # fmt: skip
    assert {name: format_of(name) for name in names} == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files: []", "files: none; list them, or give a repo, a revision and patterns"),
        ("repo: a/b\nselect: ['*']", "revision: a/b must be pinned to a commit"),
        ("folder: x\nfiles: [{name: ../a, bytes: 1, sha256: SHA}]", "give a path below the folder"),
        ("folder: x\nfiles: [{name: a, bytes: 1, sha256: SHA}, {name: a, bytes: 1, sha256: SHA}]", "listed twice: a"),
        ("files: [{name: a, bytes: 1, sha256: SHA}]", "a has no url, and there is no repo and no folder"),
        ("folder: x\nfiles: [{name: a, bytes: 1, sha256: abc}]", "files.0.sha256: String should match pattern"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_pin_file_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pins.yaml"
    path.write_text(text.replace("SHA", "a" * 64))
    with pytest.raises(UserError) as error:
        load_pins(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    with pytest.raises(UserError, match="No such file or directory; pin files are in config/data"):
        load_pins(tmp_path / "none.yaml")


# ---------------------------------------------------------------- a hub on this machine


@pytest.fixture(scope="module")
def hub() -> Iterator[dict[str, bytes]]:
    """The hub's two answers (files of a revision, a file) for a/b at REVISION; the files are the test's to change."""
    files: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self) -> None:
            if REVISION not in self.path:
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            elif self.path.startswith("/api/datasets/a/b"):
                siblings = [
                    {"rfilename": name, "size": len(content),
                     "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
                    for name, content in files.items()
                ]  # fmt: skip
                body = {
                    "id": "a/b",
                    "_id": "0" * 24,
                    "sha": REVISION,
                    "private": False,
                    "disabled": False,
                    "gated": False,
                }
                self.answer(200, json.dumps(body | {"siblings": siblings, "tags": []}).encode())
            elif (name := self.path.partition(f"/resolve/{REVISION}/")[2].partition("?")[0]) in files:
                digest = hashlib.sha256(files[name]).hexdigest()
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                head = {"X_Repo_Commit": REVISION, "ETag": f'"{digest}"', "X_Linked_Size": str(len(files[name]))}
                self.answer(206 if begin else 200, files[name][begin:], **head)
            else:
                self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield files
    server.shutdown()


def pins_of(files: dict[str, bytes], **more: object) -> dict[str, object]:
    listed = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    ]
    return {"repo": "a/b", "revision": REVISION, "files": listed} | more


def test_files_come_from_the_hub_and_what_is_wrong_is_named(
    hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub |= {"sample/0.jsonl": b'{"text": "a"}\n' * 9, "sample/1.jsonl": b'{"text": "b"}\n', "other.txt": b"x"}
    monkeypatch.delenv("SAMEBITS_MIRROR", raising=False)
    raw, path = tmp_path / "raw", tmp_path / "pins.yaml"

    def bring_all(pins: dict[str, object]) -> None:
        path.write_text(json.dumps(pins))
        download.fetch_pins(path, raw, None)

    def refused(pins: dict[str, object]) -> str:
        with pytest.raises(UserError) as error:
            bring_all(pins)
        return str(error.value)

    good = pins_of({name: hub[name] for name in ("sample/0.jsonl", "sample/1.jsonl")})
    bring_all(good)
    assert (raw / "sample" / "0.jsonl").read_bytes() == hub["sample/0.jsonl"]
    (raw / "sample" / "1.jsonl").write_bytes(b"damaged")  # comes again, the other stays
    bring_all(good)
    assert (raw / "sample" / "1.jsonl").read_bytes() == hub["sample/1.jsonl"]
    assert not list(raw.rglob("*.rejected"))

    words = refused(pins_of({"other.txt": b"y"}, reported="a page"))
    assert "other.txt of a/b" in words
    assert "pinned is" in words
    assert "the pin was reported elsewhere (a page)" in words
    assert (raw / "other.txt.rejected").read_bytes() == b"x"
    assert not (raw / "other.txt").exists()
    gone = refused(pins_of({"new.txt": b"y"}, revision="f" * 40))
    assert "the hub has this revision no more; give a folder of copies by SAMEBITS_MIRROR" in gone
    assert "the revision has no such file" in refused(pins_of({"new.txt": b"y"}))
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "new.txt").write_bytes(b"z")
    monkeypatch.setenv("SAMEBITS_MIRROR", str(mirror))
    words = refused(pins_of({"new.txt": b"y"}))
    assert f"{mirror / 'new.txt'} has the name, but not the SHA-256 that is pinned" in words
    assert f"{mirror / 'new.txt'}: not the file that is pinned as new.txt" in capsys.readouterr().err

    chosen = tmp_path / "chosen.yaml"
    chosen.write_text(json.dumps({"repo": "a/b", "revision": REVISION, "select": ["sample/*.jsonl"]}))
    identity = load_pins(chosen, listed=False).identity
    asked = PinnedSource(kind="pinned", pins=str(chosen), sha256=identity)
    about = download.download_pinned(asked, tmp_path / "seen")
    assert "seen.lock.yaml: what the hub listed; publish it as" in capsys.readouterr().err
    assert [file["name"] for file in about["raw"]] == ["sample/0.jsonl", "sample/1.jsonl"]
    content = hub["sample/1.jsonl"]
    hub["sample/1.jsonl"] = b"moved"  # what was seen stays the pin
    (tmp_path / "seen" / "raw" / "sample" / "1.jsonl").unlink()
    with pytest.raises(UserError, match=r"sample/1\.jsonl of a/b .*pinned is"):
        download.download_pinned(asked, tmp_path / "seen")
    hub["sample/1.jsonl"] = content
    assert pin.lock(chosen) == f"{lock_path(chosen)}: 2 files, 140 bytes"
    locked = load_pins(chosen)
    assert [file.model_dump(exclude_none=True) for file in locked.files] == good["files"]
    assert locked.identity == identity  # what a recipe pins does not move when the list is known
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text(json.dumps({"repo": "a/b", "revision": REVISION, "select": ["*.parquet"]}))
    with pytest.raises(UserError, match=r"none of its 3 files is selected by \*\.parquet"):
        pin.lock(nothing)
    with pytest.raises(UserError, match="lists its files; --hub is for one that selects them"):
        pin.lock(path)
    chosen.write_text(chosen.read_text().replace("jsonl", "txt"))
    with pytest.raises(UserError, match="of another repository, revision or selection"):
        load_pins(chosen)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    with pytest.raises(UserError, match="the hub is out of reach"):
        pin.lock(nothing)
    assert "the hub is out of reach" in refused(pins_of({"new.txt": b"y"}))


def test_a_mirror_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror" / "deep"
    mirror.mkdir(parents=True)
    (mirror / "another name").write_bytes(b"content")
    monkeypatch.setenv("SAMEBITS_MIRROR", str(tmp_path / "mirror"))
    pins = Pins.model_validate_json(json.dumps(pins_of({"x/0.txt": b"content"})))
    target = bring(pins, pins.files[0], tmp_path / "raw" / "x" / "0.txt")
    assert target.read_bytes() == b"content"
    read: list[str] = []
    monkeypatch.setattr(fetch, "sha256_of", lambda path: (read.append(path.name), sha256_of(path))[1])  # type: ignore[func-returns-value]
    for name in ("0.txt", "1.txt"):
        (mirror / name).write_bytes(b"content" if name == "1.txt" else b"contenT")
    assert fetch.from_mirror(pins.files[0].sha256, 7, "x/1.txt") == mirror / "1.txt"
    assert read == ["1.txt"]  # of many files of one size the one that is called so


# ---------------------------------------------------------------- a folder of one's own


def pinned(folder: Path, column: str = "text") -> PinnedSource:
    pins = folder.with_suffix(".yaml")
    line = pin.pin_folder(folder, pins)
    return PinnedSource(kind="pinned", pins=str(pins), sha256=line.partition("sha256: ")[2].rstrip("}"), column=column)


def test_a_folder_is_a_corpus_and_is_not_copied(tmp_path: Path) -> None:
    fineweb.write_parquet(tmp_path / "pages", fineweb.texts(20, mean=9), 3, 4)
    (tmp_path / "pages" / "README").write_text("no text of the corpus")
    about = download.download_pinned(pinned(tmp_path / "pages"), tmp_path / "data")
    assert about["documents"] == 20
    assert [file["documents"] for file in about["raw"]] == [7, 7, 6]
    assert (tmp_path / "data" / "raw" / "000_00000.parquet").is_symlink()


def test_each_fault_of_a_file_is_one_message(tmp_path: Path) -> None:
    pages = tmp_path / "pages"

    def refused(column: str = "text") -> str:
        with pytest.raises(UserError) as error:
            download.download_pinned(pinned(pages, column), tmp_path / "data")
        return str(error.value)

    fineweb.write_parquet(pages, fineweb.texts(20, mean=9), 2, 4)
    assert "column 'language_score' holds double, expected string; name another by column" in refused("language_score")
    assert "no column 'body'; it has ['text', 'id'" in refused("body")
    path = pages / "001_00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert f"{tmp_path}/data/raw/001_00000.parquet: not a readable parquet file" in refused()
    path.write_bytes(whole)
    source = pinned(pages)
    path.write_bytes(whole + b" ")
    with pytest.raises(UserError, match=r"001_00000.parquet: not the file that is pinned .*python -m pipeline.pin"):
        download.download_pinned(source, tmp_path / "other")
    path.unlink()
    with pytest.raises(UserError, match=r"001_00000.parquet: no such file; the pin file names its folder"):
        download.download_pinned(source, tmp_path / "other")
    moved = source.model_copy(update={"sha256": "a" * 64})
    with pytest.raises(UserError, match=r"bits.data.source.sha256: .*lists other files: .*the recipe pins aaa"):
        download.download_pinned(moved, tmp_path / "other")
    odd = tmp_path / "odd.yaml"
    odd.write_text(json.dumps({"folder": str(pages), "files": [{"name": "x.tar", "bytes": 1, "sha256": "a" * 64}]}))
    with pytest.raises(UserError, match=r"x\.tar: neither text, jsonl, parquet nor a shard by its suffix; known are"):
        download.download_pinned(
            PinnedSource(kind="pinned", pins=str(odd), sha256=load_pins(odd).identity), tmp_path / "other"
        )


def test_a_null_and_a_cut_file_are_named_when_they_are_read(tmp_path: Path) -> None:
    """Within a worker: the footer is sound, so nothing is seen before the rows are."""
    from pipeline.data.corpus import Corpus
    from pipeline.data.documents import blocks_of
    from pipeline.data.encode import encode
    from pipeline.data.tokenizers import CharTokenizer

    pages: list[str | None] = ["page " * 2000] * 300
    pages[217] = None
    folder = tmp_path / "pages"
    folder.mkdir()
    path = folder / "x.parquet"
    parquet.write_table(pa.table({"text": pages}), path, row_group_size=50)
    with pytest.raises(UserError, match=r"x.parquet: row 217: column 'text' holds null, expected text"):
        list(encode(blocks_of(path, "parquet", "text"), CharTokenizer("page "), 2))
    parquet.write_table(pa.table({"text": [f"{i} page" * 2000 for i in range(300)]}), path, row_group_size=50)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"x.parquet: (damaged after row \d+|not a readable parquet file): .*bring it again"
    ):
        list(encode(blocks_of(path, "parquet", "text"), CharTokenizer("page 0123456789"), 2))
    (folder / "x.parquet").unlink()
    fineweb.write_lines(folder, ["a page"] * 900, ".gz")
    packed = folder / "pages.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"pages.jsonl.gz: damaged after line \d+: .*bring it again"):
        download.download_pinned(pinned(folder), tmp_path / "data")
    packed.unlink()
    fineweb.write_lines(folder, ["a page"] * 9, "")
    about = download.download_pinned(pinned(folder), tmp_path / "data")
    (tmp_path / "data" / "source.json").write_text(json.dumps(about | {"source": {"column": "text"}}))
    corpus = Corpus(tmp_path / "data")
    assert [document["text"] for document in corpus.documents(7)] == ["a page"] * 2
    (folder / "pages.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(UserError, match=r"pages.jsonl: changed since it was written: .*pipeline.download"):
        list(corpus.documents())


def test_pinned_files_are_any_sources_of_documents(tmp_path: Path) -> None:
    """The other splits and tokenizers take them too."""
    fineweb.write_lines(tmp_path / "pages", ["the fox and the dog. " * 9] * 40, ".zst")
    text = (
        (ROOT / "tests" / "recipes" / "tiny.yaml")
        .read_text()
        .replace("[{kind: loss}, {kind: choices}]", "[{kind: loss}]")
    )
    text = text.replace("vocab_size: 300}\n    split", "vocab_size: 265}\n    split")
    text = text.replace("vocab_size: 300, padded_vocab_size: 304", "vocab_size: 265, padded_vocab_size: 272")
    recipe = fineweb.recipe_over(tmp_path / "pages", tmp_path / "r.yaml", 1, 1, text)
    run("-m", "pipeline.download", "--recipe", str(recipe), "--out", str(tmp_path / "data"))
    said = run(
        "-m",
        "pipeline.prepare_text",
        "--recipe",
        str(recipe),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "t"),
    )
    assert "vocabulary 265" in said
    assert sha256_of(tmp_path / "t" / "val_000000.bin")


def test_single_files_of_a_pin_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "pins.yaml"
    (tmp_path / "f").mkdir()
    for name in "ab":
        (tmp_path / "f" / f"{name}.txt").write_text(name)
    pin.pin_folder(tmp_path / "f", pins)
    assert download.fetch_pins(pins, tmp_path / "out", "b.txt").endswith(f"1 files of {pins}")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]
    with pytest.raises(UserError, match=r"--file c.txt: .*does not list it"):
        download.fetch_pins(pins, tmp_path / "out", "c.txt")
    assert PinnedFile(name="a", sha256="a" * 64, bytes=1).url is None
