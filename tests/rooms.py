"""Draw which room imports which, from the imports of the code.

    python -m tests.rooms
    docs/rooms.svg: 12 rooms, 51 imports, none of them upward

A room is a folder of pipeline/ whose first lines say whether a bit may change there; cuda_ops is the ground floor, and the commands,
the files directly in pipeline/, are the roof. The picture is a staircase: a room may only stand on what is drawn below it, and
tests/test_layout.py holds the code to that.
"""

from __future__ import annotations

import argparse
import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# From the ground up. Rooms of one floor do not import each other.
FLOORS = (
    ("cuda_ops",),
    ("base", "recipe"),
    ("records", "machine", "data"),
    ("models",),
    ("training",),
    ("scoring",),
    ("evidence",),
    ("pages",),
    ("commands",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = tuple(room for rooms in FLOORS for room in rooms)

HOLDS = {
    "commands": "every file directly in pipeline/",
    "pages": "what a reader opens",
    "evidence": "steps again, traces, comparisons",
    "scoring": "losses, scores, draws",
    "training": "a step and its parts",
    "models": "forward and backward",
    "data": "from a source to samples",
    "machine": "ranks, devices, graphs, memory",
    "records": "digests, receipts, provenance",
    "recipe": "the schema of what a user writes",
    "base": "chain, checkpoint, files, Philox",
    "cuda_ops": "the arithmetic, for CPUs and GPUs",
}


def room_of(module: str) -> str | None:
    """The room of a module by its dotted name; None outside the project."""
    top, *rest = module.split(".")
    if top == "cuda_ops":
        return "cuda_ops"
    if top != "pipeline" or not rest:
        return None
    return rest[0] if rest[-1] != "__main__" and (ROOT / "pipeline" / rest[0]).is_dir() else "commands"


@cache
def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    """Every module of pipeline/ and cuda_ops/ by its dotted name."""
    paths = sorted(path for top in ("cuda_ops", "pipeline") for path in (ROOT / top).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def edges() -> set[tuple[str, str]]:
    """(importer, imported) of different rooms, measured."""
    found = set()
    for module, path in modules().items():
        for name in imports_of(path):
            pair = (room_of(module), room_of(name))
            if pair[0] and pair[1] and pair[0] != pair[1]:
                found.add((pair[0], pair[1]))
    return found


def bears_bits(room: str) -> bool:
    """Whether the first lines of a room say that a bit may change there."""
    if room == "commands":
        return False  # each is the trigger of its own stage only
    folder = ROOT / room if room == "cuda_ops" else ROOT / "pipeline" / room
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    answer = re.search(r"May a bit change here\? (Yes|Never|Only through)\b", text)
    if not answer:
        raise ValueError(
            f'{folder}/__init__.py: does not answer "May a bit change here?" by Yes, Never or Only through'
        )
    return answer[1] == "Yes"


INK, FAINT, WIRE, UP = "#1f2933", "#6b7785", "#7b8794", "#d62828"
BITS, NEVER, COMMAND = "#f4a259", "#8fb8de", "#c3ccd5"
WIDE, HIGH, STEP_X, STEP_Y, LEFT, TOP = 236, 46, 68, 64, 24, 98


def picture(pairs: set[tuple[str, str]]) -> str:
    """The staircase as SVG text: under every room a wire that goes down, and left into each room it imports."""
    order = list(reversed(ROOMS))  # row 0 is the roof
    place = {room: (LEFT + (len(order) - 1 - row) * STEP_X, TOP + row * STEP_Y) for row, room in enumerate(order)}
    width, height = LEFT + (len(order) - 1) * STEP_X + WIDE + 24, TOP + len(order) * STEP_Y - 9
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.8 L8 4 L0 7.2 z" fill="{WIRE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, rooms in enumerate(FLOORS):
        top = min(place[room][1] for room in rooms)
        shade = "#f5f7fa" if number % 2 == 0 else "#ffffff"
        out.append(f'<rect x="0" y="{top - 9}" width="{width}" height="{len(rooms) * STEP_Y}" fill="{shade}"/>')
    out += _legend()
    # The wires of a room leave its lower edge side by side, the longest outermost: none crosses another.
    for room in order:
        below = sorted((to for source, to in pairs if source == room), key=lambda to: -place[to][1])
        x, y = place[room]
        for k, to in enumerate(below):
            to_x, to_y = place[to]
            down = x + WIDE - 12 - k * 4
            level = to_y + HIGH / 2
            colour = WIRE if FLOOR[to] < FLOOR[room] else UP
            out.append(
                f'<path id="{room}-{to}" d="M{down} {y + HIGH} V{level - 9:g} Q{down} {level:g} {down - 9} {level:g} '
                f'H{to_x + WIDE + 2}" fill="none" stroke="{colour}" stroke-width="1.2" marker-end="url(#head)"/>'
            )
    for room in order:
        x, y = place[room]
        fill = COMMAND if room == "commands" else BITS if bears_bits(room) else NEVER
        out += [
            f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7" fill="#ffffff" stroke="{fill}" stroke-width="1.6"/>',
            f'<path d="M{x + 7} {y} h5 v{HIGH} h-5 a7 7 0 0 1 -7 -7 v-{HIGH - 14} a7 7 0 0 1 7 -7 z" fill="{fill}"/>',
            f'<text x="{x + 24}" y="{y + 19}" font-size="15" font-weight="600" fill="{INK}">{room}</text>',
            f'<text x="{x + 24}" y="{y + 35}" font-size="11.5" fill="{FAINT}">{HOLDS[room]}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"


def _legend() -> list[str]:
    """Title and the two colours, left of the roof, where the staircase leaves room."""
    rows = [
        (BITS, "a bit may change here: its edit reruns what imports it"),
        (NEVER, "never: its edit reruns nothing"),
        (COMMAND, "a command: its edit reruns its own stage"),
    ]
    out = [
        f'<text x="{LEFT}" y="44" font-size="21" font-weight="600" fill="{INK}">Rooms</text>',
        f'<text x="{LEFT}" y="66" font-size="13" fill="{FAINT}">An arrow goes from a room to one that it imports: down, always.</text>',
    ]
    for k, (colour, words) in enumerate(rows):
        y = TOP + HIGH // 2 + STEP_Y * k
        out += [
            f'<rect x="{LEFT}" y="{y - 8}" width="16" height="16" rx="4" fill="{colour}"/>',
            f'<text x="{LEFT + 26}" y="{y + 5}" font-size="13" fill="{INK}">{words}</text>',
        ]
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw which room imports which.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "rooms.svg")
    out = parser.parse_args().out
    found = edges()
    upward = sorted(pair for pair in found if FLOOR[pair[1]] >= FLOOR[pair[0]])
    out.write_text(picture(found), encoding="utf-8")
    said = "none of them upward" if not upward else "upward: " + ", ".join(f"{a} imports {b}" for a, b in upward)
    print(f"{out}: {len(ROOMS)} rooms, {len(found)} imports, {said}")
    return 1 if upward else 0


if __name__ == "__main__":
    raise SystemExit(main())
