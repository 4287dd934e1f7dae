"""YAML in, plain values out, and nothing that two readers could read differently.

Numbers are those of JSON, true and false and null are the only words; what YAML 1.1 and 1.2 read differently (010, 1:30, yes,
2024-01-01) is refused unless it is quoted. So are a key given twice, a value inside itself, infinities and tags.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from cuda_ops.errors import UserError

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
HALF = re.compile("[\ud800-\udfff]")
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "Null": None, "~": None, "": None}
MOST = {"digits": 40, "values": 100_000, "depth": 50}
PLAIN = "tag:yaml.org,2002:"


def values(text: str, origin: str) -> Any:
    """The values of a YAML document; a UserError names the file, the key, the value and what is allowed."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{origin}: values inside values deeper than any recipe needs") from None
    return None if node is None else _Reader(origin).value(node, (), ())


class _Reader:
    def __init__(self, origin: str) -> None:
        self.origin, self.read = origin, 0

    def refuse(self, node: yaml.Node, path: tuple[str, ...], problem: str) -> UserError:
        key = ".".join(path) or "(whole recipe)"
        return UserError(f"{self.origin}: {key}: {problem} (line {node.start_mark.line + 1})")

    def value(self, node: yaml.Node, path: tuple[str, ...], inside: tuple[int, ...]) -> Any:
        """A node's value; path: the keys that lead to it, inside: the nodes that hold it."""
        self.read += 1
        if id(node) in inside:
            raise self.refuse(node, path, "a value that contains itself; write it out")
        if self.read > MOST["values"] or len(inside) > MOST["depth"]:
            raise self.refuse(node, path, f"more than any recipe holds ({MOST['values']} values, {MOST['depth']} deep)")
        inside = (*inside, id(node))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if node.tag not in (PLAIN + "seq", PLAIN + "map"):
            raise self.refuse(node, path, f"tag {node.tag}: a recipe holds plain lists and keys")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, str(i)), inside) for i, item in enumerate(node.value)]
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.refuse(key, path, "a list or map as a key; a key is a word")
            if key.value in found:
                raise self.refuse(key, (*path, key.value), "given twice; keep one")
            found[key.value] = self.value(item, (*path, key.value), inside)
        return found

    def scalar(self, node: yaml.ScalarNode, path: tuple[str, ...]) -> Any:
        text: str = node.value
        half = HALF.search(text)
        if half:
            raise self.refuse(
                node, path, f"half a surrogate pair, {half[0]!r}, at character {half.start()}: no text has it"
            )
        if node.style is not None:  # quoted, or a block of text
            return text
        kind = node.tag.removeprefix(PLAIN)
        if kind not in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value"):
            raise self.refuse(node, path, f"tag {node.tag}: a recipe holds plain values")
        if text in WORDS:
            return WORDS[text]
        if INTEGER.fullmatch(text):
            if len(text) > MOST["digits"]:
                raise self.refuse(node, path, f"a number of {len(text)} digits; at most {MOST['digits']} are read")
            return int(text)
        # 09 and 1e5 are words to YAML 1.1 and numbers to 1.2; only a point or an exponent makes what has no other reading.
        if FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit() and kind in ("float", "str"):
            number = float(text)
            if math.isfinite(number):
                return number
            raise self.refuse(node, path, f"{text}: too large; a number is finite")
        if kind == "float" and text.lower().lstrip("+-") in (".inf", ".nan"):
            raise self.refuse(node, path, f"{text}: a number is finite")
        if kind == "str" and not text.lstrip("+-").isdigit():
            return text
        meant = {"timestamp": "a date", "bool": "true or false"}.get(kind, "a number")
        raise self.refuse(
            node,
            path,
            f"{text}: YAML 1.1 and 1.2 read it differently ({meant} or text); write a plain decimal number, true or "
            f'false, or quote a text: "{text}"',
        )
