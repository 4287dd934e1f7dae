"""Where results come from, as an in-toto Statement v1 with a SLSA Provenance v1 predicate (in-toto.io, slsa.dev).

Subjects are the files of the run by SHA-256. What defines them stands in externalParameters (the recipe) and
resolvedDependencies (data pins, what preparation wrote, sources of the ops, flags, code of the trainer); the toolchain and the
machine stand in runDetails and may not matter. Times and hosts differ, so the statement is in neither digests.json nor
SHA256SUMS. It is not signed: sign it with a tool of your own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of
from pipeline.recipe import Recipe, as_written, digest_of, recipe_id
from pipeline.recipe.paths import DIGESTS, RECEIPTS, SUMS
from pipeline.records.catalogue import PREPARING, run_files
from pipeline.records.contents import Digests
from pipeline.records.receipt import made_by, read_receipts

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:samebits:run:v1"  # docs/verify.md describes its parameters


def dependencies(recipe: Recipe, found: Digests) -> list[dict[str, Any]]:
    """What the bits were made from; found: the run's digests.json."""
    made = made_by(recipe)
    named = {
        "sources of the ops": made["sources"],
        "flags of the ops": made["flags"],
        "code of the trainer": made["code"],
    }
    items = [
        {"name": name, "uri": f"urn:samebits:{name.replace(' ', '-')}", "digest": {"sha256": digest}}
        for name, digest in named.items()
    ]
    source = recipe.bits.data.source
    pin = getattr(source, "sha256", None)
    if pin:
        uri = getattr(source, "url", None) or f"urn:sha256:{pin}"
        items.append({"name": "pinned data", "uri": uri, "digest": {"sha256": pin}})
    else:
        items.append(
            {"name": "source of the data", "uri": "urn:samebits:source", "digest": {"sha256": digest_of(source)}}
        )
    for key, digest in found.items():
        if key.split("/")[0] in PREPARING:
            items.append({"name": key, "uri": f"urn:samebits:{key}", "digest": {"sha256": digest}})
    return items


def without_paths(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe as written, without the paths of its corpus and weights: the digests beside them name the content."""
    for part in (content["bits"]["data"].get("source", {}), content["bits"].get("init", {})):
        part.pop("path", None)
    return content


def compiler() -> str:
    """The first line of the compiler's version, if there is one at hand."""
    from cuda_ops.build import find_compiler

    try:
        done = subprocess.run([find_compiler(None), "--version"], capture_output=True, text=True, check=False)
    except UserError:
        return "unknown"
    return done.stdout.splitlines()[0] if done.stdout else "unknown"


def statement(recipe: Recipe, run: Path) -> dict[str, Any]:
    """The statement of a run whose digests.json and SHA256SUMS are written."""
    found: Digests = json.loads((run / DIGESTS).read_text(encoding="utf-8"))
    receipts = read_receipts(run / RECEIPTS, recipe)
    trained = [item for item in receipts if item["stage"].startswith("train")]
    content = without_paths(as_written(recipe))
    names = [*run_files(recipe), DIGESTS]
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256_of(run / name)}} for name in names],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": content, "recipe_id": recipe_id(recipe)},
                "internalParameters": {"execution": [item.get("execution", {}) for item in trained]},
                "resolvedDependencies": dependencies(recipe, found),
            },
            "runDetails": {
                "builder": {
                    "id": "urn:samebits:snakemake",
                    "version": dict(receipts[-1]["machine"]["versions"], compiler=compiler()) if receipts else {},
                },
                "metadata": {
                    "invocationId": f"{recipe.name}-{receipts[0]['began'] if receipts else 'unknown'}",
                    "startedOn": receipts[0]["began"] if receipts else None,
                },
                "byproducts": [{"name": SUMS, "digest": {"sha256": sha256_of(run / SUMS)}}],
            },
        },
    }
