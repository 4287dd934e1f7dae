"""Compare the results of a run with the published digests.

    python -m pipeline.verify --recipe config/recipes/fables.yaml
    stage         artefact                  digest        expected
    train         step_001000.safetensors   aa05f265817f  aa05f265817f  equal
    …
    fables: all 15 digests equal the published ones

Everything is hashed again from the files. A run that nobody has published (your own text) is compared with its own
digests.json, so that what was altered since is seen; if nothing was, the last line is all that is printed. Exit code 0:
all are equal. 1: something differs, or, with --require-published, nobody published it. 2: a file is missing or damaged,
or there is no such folder of digests.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_bytes, write_json
from pipeline.machine.room import check_outputs, check_run
from pipeline.recipe import Recipe, load_recipe, recipe_id
from pipeline.recipe.paths import DIGESTS, run_dir
from pipeline.records.digests import EXPECTED, Entry, digests_in, entries, published

Row = tuple[str, str, str, str, str]  # stage, artefact, digest, expected, verdict


def compare(found: list[Entry], expected: dict[str, str]) -> list[Row]:
    """A row per artefact; expected results that are missing count too."""
    rows = []
    for entry in found:
        want = expected.get(entry.key, "")
        verdict = "equal" if want == entry.digest else "DIFFERS" if want else "unpublished"
        rows.append((entry.stage, entry.artefact, entry.digest, want, verdict))
    have = {entry.key for entry in found}
    for key in sorted(set(expected) - have):
        stage, artefact = key.split("/", 1)
        rows.append((stage, artefact, "", expected[key], "MISSING"))
    return rows


@dataclass(frozen=True)
class Verdict:
    """known: whether the run is published; equal, failed: whether all digests are those expected, or one is not."""

    rows: list[Row]
    text: str
    known: bool
    equal: bool
    failed: bool


def verify(recipe: Recipe, run: Path, expected_in: Path) -> Verdict:
    """Hash a run again and hold it against the published digests, or those it recorded itself."""
    expected = published(recipe.name, expected_in)
    own = {} if expected else digests_in(run / DIGESTS)
    rows = compare(entries(recipe, run), expected or own)
    wrong = [row for row in rows if row[-1] != "equal"]
    which = "the published ones" if expected else f"the run's own {DIGESTS}"
    known = f"{recipe.name}: " + (
        "" if expected else f"{len(rows)} digests, none published yet ({expected_in / recipe.name}.json); "
    )
    if not expected and not own:
        return Verdict(rows, known.removesuffix("; "), False, False, False)
    if wrong:
        first = wrong[0]
        text = f"{len(wrong)} of {len(rows)} digests do not equal {which}; "
        text += f"the first is {first[0]}/{first[1]} ({first[-1]})"
    else:
        text = f"all {len(rows)} digests equal {which}"
    return Verdict(rows, known + text, bool(expected), not wrong, bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the results of a run with the published digests.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="folder of the published digests")
    parser.add_argument("--require-published", action="store_true", help="exit code 1 if nobody published this recipe")
    parser.add_argument("--out", type=Path, help="also write the table to this file, unless something differs")
    parser.add_argument("--json", type=Path, help="also write all of it, whatever the verdict, as JSON")
    parser.add_argument("--brief", action="store_true", help="print the last line only, unless something differs")
    args = parser.parse_args()
    if not args.expected.is_dir():
        raise UserError(
            f"--expected {args.expected}: no such folder; expected one with <recipe>.json, as config/expected"
        )
    recipe = load_recipe(args.recipe)
    check_run(args.run)
    check_outputs([args.out, args.json])
    found = verify(recipe, args.run or run_dir(recipe), args.expected)
    short = [(*row[:2], row[2][:12], row[3][:12], row[4]) for row in found.rows]
    table = tabulate(
        short, headers=("stage", "artefact", "digest", "expected", ""), tablefmt="plain", disable_numparse=True
    )
    brief = args.brief or not found.known  # a table of one's own digests beside themselves tells nothing
    print(found.text if brief and not found.failed else f"{table}\n{found.text}")
    if args.out and not found.failed:
        write_bytes(args.out, f"{table}\n{found.text}\n".encode())
    if args.json:
        names = ("stage", "artefact", "digest", "expected", "verdict")
        content = {
            "recipe": recipe.name,
            "recipe_id": recipe_id(recipe),
            "published": found.known,
            "equal": found.equal,
            "artefacts": [dict(zip(names, row, strict=True)) for row in found.rows],
        }
        write_json(args.json, content)
    return 1 if found.failed or (args.require_published and not found.known) else 0


if __name__ == "__main__":
    exit_on_user_error(main)
