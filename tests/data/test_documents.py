"""pytest tests/data/test_documents.py

Text as users have it: each kind of fault is one message with file and true row, and what is valid is read as it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of
from pipeline.data.documents import documents_of
from pipeline.data.sources import local_rows, pinned_file
from pipeline.recipe import FileSource, HuggingFaceSource, load_recipe, recipe_id
from tests.conftest import ROOT, run

CASES = ROOT.parent / "shared" / "cases"
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"  # line ends to str.splitlines, not to JSON lines


def read(path: Path, kind: str = "") -> list[str]:
    kinds = {".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}
    return list(documents_of(path, kind or kinds[path.suffix], "text"))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_line_of_json_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    texts = [f"a{SEPARATORS.replace(chr(13), '')}b", "second", ""]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path = tmp_path / "x.jsonl"
    path.write_bytes(re.sub(r"[\x0b\x0c\x1c-\x1e]", lambda m: f"\\u{ord(m[0]):04x}", "\r\n".join(rows)).encode())
    assert read(path) == texts  # Windows' line ends are white space of JSON
    path.write_bytes(b'{"text": "a"}\n\n  \n{"text": "b"}\r{"text": "c"}\n')
    assert "line 4 is not JSON" in refused(path)  # a lone carriage return ends no line
    path.write_bytes(b'{"text": "a"}\n\n{"text": 7}\n')
    assert "line 3: column 'text' holds int, expected text" in refused(path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name, content in (("x.txt", b"hello\r\n"), ("x.jsonl", b'{"text": "hello\\r\\n"}\n')):
        path = tmp_path / name
        path.write_bytes(mark + content)
        assert read(path) == ["hello\r\n"]
    path = tmp_path / "y.txt"
    path.write_bytes(b"a" + mark)  # elsewhere it is a character
    assert read(path) == ["a\ufeff"]
    path.write_bytes("hello".encode("utf-16"))
    assert "byte order mark of UTF-16; convert it: iconv" in refused(path)
    path.write_bytes(mark + b"ab\xff")
    assert "byte 0xff at offset 5 is not UTF-8" in refused(path)
    lines = tmp_path / "y.jsonl"
    lines.write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    assert "line 2: byte 0xe9 at offset 24 is not UTF-8" in refused(lines)


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "\\ud83d\\ude42"}\n{"text": "xy\\udc00"}\n')
    assert "line 2: column 'text' holds half a surrogate pair, '\\udc00', at character 2" in refused(path)
    path.write_text('{"text": "\\ud83d\\ude42"}\n')
    assert read(path) == ["🙂"]


def test_rows_of_a_table_have_their_true_number(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    texts: list[str | None] = [f"row {i}" for i in range(140_000)]
    texts[131_075] = None
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=50_000)
    assert "row 131075: column 'text' holds null, expected text" in refused(path)
    content = pa.array([b"good", b"caf\xe9", b"good"], pa.binary())
    parquet.write_table(pa.table({"text": content.view(pa.string())}), path)
    assert "row 1: column 'text' is not UTF-8" in refused(path)
    parquet.write_table(pa.table({"text": content}), path)
    assert "column 'text' holds binary, expected string" in refused(path)


def test_a_damaged_page_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(
        pa.table({"text": [f"{i} {i * i}" for i in range(3000)]}), path, row_group_size=1000, compression="snappy",
        use_dictionary=False,
    )  # fmt: skip
    content = bytearray(path.read_bytes())
    group = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    begin = group.data_page_offset
    content[begin : begin + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(content)
    assert re.search(r"x.parquet: (damaged after row \d+|not a readable parquet file): ", refused(path))
    path.write_bytes(content[:200])
    assert "x.parquet: not a readable parquet file" in refused(path)


@pytest.mark.skipif(not CASES.is_dir(), reason="inputs beside the checkout")
def test_the_inputs_that_failed() -> None:
    good = read(CASES / "good.txt")
    assert not read(CASES / "bom.txt")[0].startswith("\ufeff")
    assert good[0].startswith("crow king fox")
    assert "\u2028" in read(CASES / "u2028.jsonl")[0]
    assert len(read(CASES / "bom.jsonl")) == 80
    assert read(CASES / "last_empty.jsonl")[-1] == ""
    assert "lone_surrogate.jsonl: line 1: column 'text' holds half a surrogate pair" in refused(
        CASES / "lone_surrogate.jsonl"
    )
    assert "bad_utf8.parquet: row 1: column 'text' is not UTF-8" in refused(CASES / "bad_utf8.parquet")
    assert "null_late.parquet: row 80000: column 'text' holds null" in refused(CASES / "null_late.parquet")


def test_an_empty_last_document_counts_as_one_without_text(tiny: dict[str, Path], tmp_path: Path) -> None:
    corpus, recipe = tmp_path / "x.jsonl", tmp_path / "r.yaml"
    corpus.write_text('{"text": "the fox and the crow"}\n{"text": ""}\n')
    source = f"{{kind: file, path: {corpus}, sha256: {sha256_of(corpus)}, format: jsonl}}"
    text = re.sub(r"source: \{.*\}", f"source: {source}", tiny["recipe"].read_text())
    recipe.write_text(text.replace(", {kind: choices}", ""))
    flags = ["--recipe", str(recipe)]
    run("-m", "pipeline.download", *flags, "--out", str(tmp_path / "d"))
    output = run(
        "-m", "pipeline.prepare_text", *flags, "--data", str(tmp_path / "d"), "--out", str(tmp_path / "t"), code=2
    )
    assert "the validation split has 1 documents and no text" in output


# ---------------------------------------------------------------- pins


def test_local_files_are_pinned_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        (folder / name).write_text(json.dumps({"text": name}) + "\n")
    for given in ([str(folder)], [str(folder / "*.jsonl"), str(folder / "deep")], [str(folder / "**" / "*.jsonl")]):
        lines = run("-m", "pipeline.pin", *given).splitlines()
        assert lines[0] == "files:"
        paths = [folder / "a.jsonl", folder / "b.jsonl", folder / "deep" / "c.jsonl"]
        assert lines[1:] == [f'  - {{path: "{path}", sha256: {sha256_of(path)}}}' for path in paths]
    assert "no such file" in run("-m", "pipeline.pin", str(folder / "*.txt"), code=2)
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text().replace(", {kind: choices}", "")
    block = "source:\n      kind: huggingface\n      repo: json\n      files:\n" + "".join(
        f"      {line}\n" for line in lines[1:]
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text(re.sub(r"source: \{.*\}\n", block, text))
    source = load_recipe(recipe).bits.data.source
    assert source.kind == "huggingface"
    assert list(local_rows(source)) == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    (folder / "b.jsonl").write_text('{"text": "b.jsonL"}\n')
    with pytest.raises(
        UserError, match=r"b.jsonl: not the file that the recipe pins .*python -m pipeline.pin .*b.jsonl"
    ):
        next(local_rows(source))
    output = run("-m", "pipeline.download", "--recipe", str(recipe), "--out", str(tmp_path / "d"), code=2)
    assert "b.jsonl: not the file" in output
    assert not (tmp_path / "d" / "documents.jsonl").exists()
    before = recipe_id(load_recipe(recipe))
    recipe.write_text(recipe.read_text().replace(str(folder), "/elsewhere"))
    assert recipe_id(load_recipe(recipe)) == before  # where they lie is no bit
    elsewhere = load_recipe(recipe).bits.data.source
    assert elsewhere.kind == "huggingface"
    with pytest.raises(UserError, match=r"no such file; bits.data.source.files\[0\].path names it"):
        next(local_rows(elsewhere))
    with pytest.raises(UserError, match=r"no such file; bits.data.source.path names it"):
        pinned_file(FileSource(kind="file", sha256="0" * 64), "bits.data.source", tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repo": "owner/set"}, "revision: the hub's data set owner/set must be pinned"),
        ({"repo": "owner/set", "data_files": ["a.jsonl"]}, "revision: the hub's data set"),
        ({"repo": "owner/set", "sha256": "0" * 64}, "revision: the hub's data set"),
        ({"repo": "owner/set", "revision": "main"}, "should match pattern"),
        ({"repo": "owner/set", "revision": "a" * 40, "data_files": ["/etc/hosts"]}, "'/etc/hosts' lies outside"),
        ({"repo": "owner/set", "revision": "a" * 40, "data_files": ["x/../../y"]}, "lies outside"),
        ({"repo": "owner/set", "revision": "a" * 40, "data_files": ["file://y"]}, "lies outside"),
        (
            {"repo": "owner/set", "files": [{"path": "a", "sha256": "0" * 64}]},
            "local files are for repo parquet or json",
        ),
        ({"repo": "./folder", "revision": "a" * 40}, "should match pattern"),
        ({"repo": "json"}, "each pinned: files:"),
        ({"repo": "parquet", "data_files": ["x.parquet"]}, "each pinned: files:"),
        ({"repo": "json", "files": [{"path": "a"}]}, "Field required"),
    ],
)
def test_a_data_set_without_a_pin_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) if "[" not in message else message):
        HuggingFaceSource.model_validate_json(json.dumps({"kind": "huggingface"} | given))


@pytest.mark.skipif(not CASES.is_dir(), reason="inputs beside the checkout")
def test_the_data_sets_that_were_not_pinned() -> None:
    for name, message in (("hf", "repo json reads local files, each pinned"), ("hfhub", "must be pinned to a commit")):
        with pytest.raises(UserError, match=message):
            load_recipe(CASES / f"{name}.yaml")
