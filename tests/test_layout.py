"""pytest tests/test_layout.py

The project's own promises about itself: the README's tree and digests, the schemas, one direction of imports, forbidden names.

    python -m tests.test_layout     write the README's digest table from config/expected
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from pipeline.recipe import load_recipe, schema
from pipeline.records.code_digest import modules_of

ROOT = Path(__file__).resolve().parent.parent
STAGES = [
    "download",
    "prepare_text",
    "compile",
    "train",
    "sample",
    "evaluate",
    "report",
    "overview",
    "digest",
    "verify",
    "bless",
    "own_text",
    "unary_digest",
    "gpu_proof",
    "replay",
    "compare",
    "spikes",
]
BEGIN, END = "<!-- digests: written by tests/test_layout.py from config/expected -->\n", "<!-- end of digests -->"


def digest_table() -> str:
    rows = ["| recipe | recipe_id | last checkpoint | chain | samples |", "|---|---|---|---|---|"]
    for path in (
        ROOT / "config" / "expected" / f"{p.stem}.json" for p in sorted((ROOT / "config" / "recipes").glob("*"))
    ):
        expected = json.loads(path.read_text())
        last = f"{load_recipe(ROOT / 'config' / 'recipes' / f'{path.stem}.yaml').bits.steps:06d}"
        keys = ["recipe/bits", f"train/step_{last}.safetensors", f"train/chain_{last}.tsv", "sample/samples.json"]
        rows.append(f"| {path.stem} | " + " | ".join(f"`{expected[key][:12]}`" for key in keys) + " |")
    return "\n".join(rows) + "\n"


def test_the_readme_shows_the_published_digests() -> None:
    text = (ROOT / "README.md").read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == digest_table()


def test_every_recipe_is_valid_and_published() -> None:
    for path in sorted((ROOT / "config" / "recipes").glob("*.yaml")):
        assert load_recipe(path).name == path.stem
        assert (ROOT / "config" / "expected" / f"{path.stem}.json").exists()
        assert (ROOT / "docs" / "recipes" / f"{path.stem}.md").exists()


def test_the_tree_in_the_readme_is_true() -> None:
    tree = (ROOT / "README.md").read_text().split("## Reading order")[1].split("```")[1]
    paths = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_schema_is_current() -> None:
    assert (ROOT / "workflow" / "schemas" / "recipe.schema.json").read_text() == schema()


def test_stages_never_import_stages_and_ops_know_nothing_of_the_pipeline() -> None:
    for stage in STAGES:
        imported = set(modules_of(f"pipeline.{stage}")) - {f"pipeline.{stage}"}
        assert not imported & {f"pipeline.{other}" for other in STAGES}, stage
    for path in (ROOT / "cuda_ops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
                assert node.module == "cuda_ops.errors", path


def test_forbidden_names() -> None:
    def found(pattern: str, *globs: str) -> list[str]:
        files = [path for g in globs for path in sorted(ROOT.glob(g))]
        assert files
        code = re.compile(pattern)
        return [
            f"{path.relative_to(ROOT)}: {line.strip()}"
            for path in files
            for line in path.read_text().splitlines()
            if code.search(line.split("//")[0]) and not line.lstrip().startswith("#  ")
        ]

    kernels = ("cuda_ops/cpu/*.cpp", "cuda_ops/cpu/*.h", "cuda_ops/numerics/*.h")
    assert not found(r"\b(expf|tanhf|logf|powf|sinf|cosf|rsqrtf|std::|reduction\()", *kernels)
    assert not found(r"#include <c?math", *kernels)
    device = ("cuda_ops/kernels/*.cu", "cuda_ops/kernels/*.h")
    assert not found(
        r"\b(expf|tanhf|logf|powf|sinf|cosf|rsqrtf|__\w+f)\(|multiProcessorCount|#include <c?math", *device
    )
    launches = found(r"<<<|atomic[A-Z]\w+\(", *device)
    assert {line.split(":")[0].split("/")[-1] for line in launches} == {"launch.h", "fingerprint.cu"}
    assert [line.split(":")[0] for line in found(r"#pragma omp", *kernels)] == ["cuda_ops/cpu/parallel.h"] * 3
    assert not found(r"^\s*(run|script):|ancient\(", "workflow/rules/*.smk", "workflow/Snakefile")
    assert not found(r"torch\.distributed|Execution|torch\.rand", "pipeline/models/*.py")
    assert not found(r"Ofast|use_fast_math|march=native|-ffast-math", "cuda_ops/*.py", "Makefile")
    assert not found(r"ReduceOp|all_reduce|reduce_scatter", "pipeline/**/*.py")
    assert not found(
        r"math\.(cos|sin|exp|pow)\b|np\.(exp|cos|sin|log)\b",
        "pipeline/training/schedule.py",
        "pipeline/training/trainer.py",
    )


def test_files_can_be_read_in_one_sitting() -> None:
    long = [p for g in ("cuda_ops/**/*.cpp", "cuda_ops/**/*.h", "cuda_ops/**/*.cu", "pipeline/**/*.py") for p in ROOT.glob(g)
            if len(p.read_text().splitlines()) > 420]  # fmt: skip
    assert not long


if __name__ == "__main__":
    page = ROOT / "README.md"
    text = page.read_text()
    page.write_text(text[: text.index(BEGIN) + len(BEGIN)] + digest_table() + text[text.index(END) :])
