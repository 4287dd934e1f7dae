"""Compare the results of a run with the published digests.

    python -m pipeline.verify --recipe config/recipes/fables.yaml
    stage         artefact                  digest        expected
    train         step_001000.safetensors   aa05f265817f  aa05f265817f  equal
    …
    fables: all 15 digests equal the published ones

Everything is hashed again from the files. A run that nobody has published (your own text) is compared with its own
digests.json, so that what was altered since is seen; if nothing was, the last line is all that is printed. A file that
is missing or damaged is a row, MISSING or DIFFERS, and the others are compared all the same. Exit code 0: all are equal.
1: something is not, or, with --require-published, nobody published it. 2: there is no such run or folder of digests.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from cuda_ops.errors import UserError, exit_on_user_error, named
from pipeline.base.files import write_bytes, write_json
from pipeline.machine.room import check_outputs, check_run
from pipeline.recipe import Recipe, load_recipe, recipe_id
from pipeline.recipe.paths import DIGESTS, run_dir
from pipeline.records.contents import Compared, Verification
from pipeline.records.digests import EXPECTED, Entry, digests_in, looked_at, published


def compare(found: list[Entry], expected: dict[str, str]) -> list[Compared]:
    """A row per artefact; expected results that are missing count too."""
    rows = []
    for entry in found:
        want = expected.get(entry.key, "")
        if entry.missing:
            verdict = "MISSING"
        elif want == entry.digest and want:
            verdict = "equal"
        else:
            verdict = "DIFFERS" if want or entry.problem else "unpublished"
        rows.append(Compared(
            stage=entry.stage, artefact=entry.artefact, digest=entry.digest, expected=want, verdict=verdict,
            why=entry.problem,
        ))  # fmt: skip
    have = {entry.key for entry in found}
    for key in sorted(set(expected) - have):
        stage, artefact = key.split("/", 1)
        why = f"{key}: no artefact of this recipe"
        rows.append(Compared(
            stage=stage, artefact=artefact, digest="", expected=expected[key], verdict="MISSING", why=why
        ))  # fmt: skip
    return rows


def reasons(rows: list[Compared]) -> list[str]:
    """What is wrong with the damaged files, and with the first of the missing: what makes that goes on from there."""
    damaged = [row["why"] for row in rows if row["why"] and row["verdict"] != "MISSING"]
    return damaged + [row["why"] for row in rows if row["verdict"] == "MISSING"][:1]


@dataclass(frozen=True)
class Verdict:
    """known: whether the run is published; equal, failed: whether all digests are those expected, or one is not."""

    rows: list[Compared]
    text: str
    known: bool
    equal: bool
    failed: bool


def verify(recipe: Recipe, run: Path, expected_in: Path) -> Verdict:
    """Hash a run again and hold it against the published digests, or those it recorded itself."""
    expected = published(recipe.name, expected_in)
    own = {} if expected else digests_in(run / DIGESTS)
    rows = compare(list(looked_at(recipe, run)), expected or own)
    wrong = [row for row in rows if row["verdict"] != "equal"]
    which = "the published ones" if expected else f"the run's own {DIGESTS}"
    known = f"{recipe.name}: " + (
        "" if expected else f"{len(rows)} digests, none published yet ({expected_in / recipe.name}.json); "
    )
    if not expected and not own:
        bad = [row for row in wrong if row["why"]]
        known += f"{len(bad)} of their files are missing or damaged" if bad else ""
        return Verdict(rows, known.removesuffix("; "), False, False, bool(bad))
    if wrong:
        first = wrong[0]
        text = f"{len(wrong)} of {len(rows)} digests do not equal {which}; "
        text += f"the first is {first['stage']}/{first['artefact']} ({first['verdict']})"
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
    short = [
        (row["stage"], row["artefact"], row["digest"][:12], row["expected"][:12], row["verdict"]) for row in found.rows
    ]
    table = tabulate(
        short, headers=("stage", "artefact", "digest", "expected", ""), tablefmt="plain", disable_numparse=True
    )
    brief = args.brief or not found.known  # a table of one's own digests beside themselves tells nothing
    print(found.text if brief and not found.failed else f"{table}\n{found.text}")
    for why in reasons(found.rows):
        print(named(why, sys.argv))
    if args.require_published and not found.known:
        print(
            f"--require-published asks for {args.expected / recipe.name}.json, and nobody published it: "
            + named("python -m pipeline.bless --recipe …", sys.argv)
            + " publishes a run in config/expected, by hand; without the flag the run's own digests do"
        )
    passed = not found.failed and (found.known or not args.require_published)
    if args.out and not found.failed:
        write_bytes(args.out, f"{table}\n{found.text}\n".encode())
    if args.json:
        content: Verification = {
            "recipe": recipe.name,
            "recipe_id": recipe_id(recipe),
            "published": found.known,
            "equal": found.equal,
            "required": args.require_published,
            "passed": passed,
            "artefacts": found.rows,
        }
        write_json(args.json, content)
    return 0 if passed else 1


if __name__ == "__main__":
    exit_on_user_error(main)
