"""Compare the results of a run with the published digests.

    python -m pipeline.verify --recipe config/recipes/fables.yaml
    stage         artefact                  digest        expected
    train         step_001000.safetensors   aa05f265817f  aa05f265817f  equal
    …
    fables: all 15 digests equal the published ones

Everything is hashed again from the files. Exit code 0 only if all are equal; a run that nobody has published (your own text)
is shown as such and is no failure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from cuda_ops.errors import exit_on_user_error
from pipeline.base.files import write_bytes
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import run_dir
from pipeline.records.digests import EXPECTED, Entry, entries, published


def compare(found: list[Entry], expected: dict[str, str]) -> list[tuple[str, str, str, str, str]]:
    """Rows stage, artefact, digest, expected, verdict; published results that are missing count too."""
    rows = []
    for entry in found:
        want = expected.get(f"{entry.stage}/{entry.artefact}", "")
        verdict = "equal" if want == entry.digest else "DIFFERS" if want else "unpublished"
        rows.append((entry.stage, entry.artefact, entry.digest[:12], want[:12], verdict))
    have = {f"{entry.stage}/{entry.artefact}" for entry in found}
    for key in sorted(set(expected) - have):
        stage, artefact = key.split("/", 1)
        rows.append((stage, artefact, "", expected[key][:12], "MISSING"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the results of a run with the published digests.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="folder of the published digests")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--brief", action="store_true", help="print the last line only, unless something differs")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    expected = published(recipe.name, args.expected)
    rows = compare(entries(recipe, args.run or run_dir(recipe)), expected)
    equal = sum(row[-1] == "equal" for row in rows)
    if not expected:
        verdict = f"{recipe.name}: {len(rows)} digests, none published yet (config/expected/{recipe.name}.json)"
    elif equal == len(rows):
        verdict = f"{recipe.name}: all {equal} digests equal the published ones"
    else:
        first = next(row for row in rows if row[-1] != "equal")
        verdict = (
            f"{recipe.name}: {len(rows) - equal} of {len(rows)} digests do not equal the published ones; "
            f"the first is {first[0]}/{first[1]} ({first[-1]})"
        )
    table = tabulate(
        rows, headers=("stage", "artefact", "digest", "expected", ""), tablefmt="plain", disable_numparse=True
    )
    failed = bool(expected) and equal < len(rows)
    print(verdict if args.brief and not failed else f"{table}\n{verdict}")
    if args.out and not failed:
        write_bytes(args.out, f"{table}\n{verdict}\n".encode())
    return 1 if failed else 0


if __name__ == "__main__":
    exit_on_user_error(main)
