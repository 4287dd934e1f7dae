"""Published benchmarks as token ids, each by the protocol that its scores are compared in.

HellaSwag (Zellers et al. 2019): hellaswag_val.jsonl of rowanz/hellaswag. LAMBADA (Paperno et al. 2016): OpenAI's
lambada_test.jsonl. WikiText (Merity et al. 2016): the text of wiki.test.raw, cut into pages. The protocols are those of
llm.c (dev/data/hellaswag.py at f1e2ace) and lm-evaluation-harness (4e7e0d47), whose texts are encoded as it does: context and
continuation together, split where the context alone ends. Neither puts <|endoftext|> before a context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.data.blocks import text_of
from pipeline.data.documents import json_lines
from pipeline.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    from pipeline.data.contents import Endings, HellaSwagRow, LambadaRow, WikiTextRow

Row = Mapping[str, object]


def encode_pair(context: str, continuation: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what follows it, as lm-evaluation-harness cuts them."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    head = tokenizer.encode(context)
    return head, tokenizer.encode(context + continuation)[len(head) :]


# ---------------------------------------------------------------- HellaSwag


def cleaned(text: str) -> str:
    """lm-evaluation-harness' text of HellaSwag: the brackets that WikiHow's part came with are taken out."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(row: Any, where: str, tokenizer: Tokenizer) -> HellaSwagRow:
    """A question in both protocols."""
    texts = {key: text_of(row, key, where) for key in ("activity_label", "ctx_a", "ctx_b", "ctx")}
    endings, label = row.get("endings"), row.get("label")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(e, str) and e for e in endings):
        raise UserError(f"{where}: endings {endings!r}, expected a list of at least 2 texts")
    try:
        number = int(label)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < len(endings):
        raise UserError(f"{where}: label {label!r}, expected a number from 0 to {len(endings) - 1}")
    plain: Endings = {
        "context": tokenizer.encode(texts["ctx"]),
        "endings": [tokenizer.encode(" " + e) for e in endings],
    }
    query = cleaned(f"{texts['activity_label']}: {texts['ctx_a']} {texts['ctx_b'].capitalize()}")
    choices = [cleaned(ending) for ending in endings]
    pairs = [encode_pair(query, " " + choice, tokenizer) for choice in choices]
    clean: Endings = {"context": pairs[0][0], "endings": [ending for _, ending in pairs]}
    lengths = [len(choice) for choice in choices]
    return {"label": number, "llmc": plain, "lm_eval": clean, "characters": lengths}


# ---------------------------------------------------------------- LAMBADA


def lambada(row: Any, where: str, tokenizer: Tokenizer) -> LambadaRow:
    """A text whose last word is asked for."""
    text = text_of(row, "text", where)
    context, _, word = text.rpartition(" ")
    if not context or not word:
        raise UserError(f"{where}: {text[-40:]!r} has no last word behind a space")
    head, tail = encode_pair(context, " " + word, tokenizer)
    return {"context": head, "word": tail}


# ---------------------------------------------------------------- WikiText


def pages(text: str) -> Iterator[str]:
    """The pages of wiki.*.raw: each begins with a heading of the first level, `= Title =`."""
    lines: list[str] = []
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            page = "\n".join(lines)
            if page.strip():
                yield page
            lines = []
        lines.append(line)
    yield "\n".join(lines)


REPLACED = (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), *((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
INSIDE = (r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"), (r"{\s*([^}]*?)\s*}", r"{\1}"), \
         (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'")  # fmt: skip
LAST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"), (" \n", "\n"),
    ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def detokenised(page: str) -> str:
    """A page without WikiText's spaces around marks, in the order of lm-evaluation-harness' replacements."""
    page = page.replace("s '", "s'")
    page = re.sub(r"/' [0-9]/", r"/'[0-9]/", page)  # as it is there: it matches only between slashes
    for old, new in REPLACED:
        page = page.replace(old, new)
    for pattern, new in INSIDE:
        page = re.sub(pattern, new, page)
    for old, new in LAST:
        page = page.replace(old, new)
    return page


def wikitext(page: str, tokenizer: Tokenizer) -> WikiTextRow:
    """A page, of wiki.*.raw."""
    return {
        "tokens": tokenizer.encode(detokenised(page)),
        "words": len(re.split(r"\s+", page)),
        "bytes": len(page.encode()),
    }


# ---------------------------------------------------------------- by kind of score


def _lines(make: Callable[[Any, str, Tokenizer], Row]) -> Callable[[Path, Tokenizer], Iterator[Row]]:
    def rows(path: Path, tokenizer: Tokenizer) -> Iterator[Row]:
        for where, row in json_lines(path):
            if not isinstance(row, dict):
                raise UserError(f"{where}: {type(row).__name__}, expected the keys of a row")
            yield make(row, where, tokenizer)

    return rows


def _pages(path: Path, tokenizer: Tokenizer) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; give wiki.test.raw, not its zip") from None
    for page in pages(text):
        yield wikitext(page, tokenizer)


BENCHMARKS: dict[str, Callable[[Path, Tokenizer], Iterator[Row]]] = {
    "hellaswag": _lines(hellaswag),
    "lambada": _lines(lambada),
    "wikitext": _pages,
}
