"""pytest tests/test_layout.py

The project's own promises about its code: the rules of its rooms (docs/rooms.md), schemas, forbidden names. Pages: test_pages.py.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from pipeline.recipe import load_recipe, schema
from pipeline.records import code_digest
from tests.rooms import FLOOR, ROOMS, bears_bits, edges, imports_of, modules, picture, room_of
from tests.slow import SLOW, is_slow

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = "pipeline/records/catalogue.py"
COMMANDS = sorted(path.stem for path in (ROOT / "pipeline").glob("*.py") if path.name != "__init__.py")

# What does not keep a rule yet, as "rule: finding", * for anything. One that is no longer found fails too: take it out.
PENDING: set[str] = set()

# Rule 5: a rolling checkpoint is read by the code that wrote it alone, and base stands beside recipe, not on it.
NAMES_ITS_OWN = {"pipeline/base/checkpoint.py"}

# Rule 6: files beside the ops that are no op.
NO_STEM = {"dispatch", "check", "library", "cuda", "__init__", "_registry"}
LAYERS = (
    "cuda_ops/cpu/{}.cpp",
    "cuda_ops/kernels/{}.cu",
    "cuda_ops/bindings/{}.cpp",
    "cuda_ops/ops/{}.py",
    "tests/ops/test_{}.py",
)

FILE_OF_A_RUN = re.compile(
    r"(step|chain|eval|train|val)_[{*0-9]|(train|val)_documents\.npy|documents\.jsonl|choices\.jsonl|SHA256SUMS"
    r"|images\.bin|overview\.html|encoder\.json|vocab\.bpe|\b(tokens|tokenizer|choices|source|samples|digests|provenance|spikes)\.json\b|\breport\.html$|verification\.txt"
)


def holds(rule: int, findings: Iterable[str]) -> None:
    """No finding but those pending, and nothing pending that is not found."""
    found = {f"{rule}: {finding}" for finding in findings}
    pending = {item for item in PENDING if item.startswith(f"{rule}:")}
    assert not {item for item in found if not any(fnmatch(item, pattern) for pattern in pending)}
    assert not {pattern for pattern in pending if not any(fnmatch(item, pattern) for item in found)}, "no longer found"


def python_files(*folders: str) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path


# ---------------------------------------------------------------- rooms


def test_rule_1_a_file_directly_in_pipeline_is_a_command() -> None:
    findings = []
    for name in COMMANDS:
        tree = ast.parse((ROOT / "pipeline" / f"{name}.py").read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            findings.append(f"pipeline/{name}.py has no main()")
        if f"python -m pipeline.{name}" not in (ast.get_docstring(tree) or ""):
            findings.append(f"pipeline/{name}.py does not show its command")
    for shown, path in python_files("pipeline", "cuda_ops", "workflow", "benchmarks"):
        # A test may import a command to look at one of its functions.
        reached = {
            f"pipeline.{name}" for name in COMMANDS if any(_within(i, f"pipeline.{name}") for i in imports_of(path))
        }
        findings += [f"{shown} imports {command}" for command in sorted(reached)]
    holds(1, findings)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_rule_2_imports_go_down_only() -> None:
    assert {room for module in modules() if (room := room_of(module))} == set(ROOMS)
    measured = edges()
    assert len(measured) > len(ROOMS)
    holds(2, [f"{a} imports {b}" for a, b in measured if FLOOR[b] >= FLOOR[a]])


def test_the_picture_of_the_rooms_is_current() -> None:
    assert (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8") == picture(edges()), "run python -m tests.rooms"


def test_a_picture_shows_an_import_upward() -> None:
    assert "#d62828" not in picture(edges())
    assert '<path id="base-models"' in picture({("base", "models")})
    assert "#d62828" in picture({("base", "models")})


def test_rule_3_torch_and_the_terminal_have_their_places() -> None:
    findings = []
    for shown, path in python_files("pipeline"):
        imported = imports_of(path)
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room == "recipe" and any(_within(name, "torch") for name in imported):
            findings.append(f"{shown} imports torch")
        if room != "machine" and any(_within(name, "torch.distributed") for name in imported):
            findings.append(f"{shown} imports torch.distributed")
        if room == "commands":
            continue
        if "argparse" in imported:
            findings.append(f"{shown} parses arguments")
        if _prints(path):
            findings.append(f"{shown} prints")
    free = ["pipeline.recipe", "pipeline.recipe.paths", CATALOGUE.removesuffix(".py").replace("/", ".")]
    code = f"import sys, {', '.join(free)}; raise SystemExit('torch' in sys.modules)"
    if subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode:
        findings.append(f"importing {' '.join(free)} imports torch")
    holds(3, findings)


def _prints(path: Path) -> bool:
    """Whether a file prints results; a warning of what goes on, to stderr, may come from anywhere."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    return any("sys.stderr" not in {ast.unparse(word.value) for word in call.keywords} for call in calls)


def test_rule_4_only_rooms_that_bear_bits_enter_a_trigger() -> None:
    assert {room for room in ROOMS if bears_bits(room)} == {"cuda_ops", *code_digest.BEARING}
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    stages = sorted(set(re.findall(r"python -m (pipeline\.\w+)", rules)))
    assert "pipeline.train" in stages
    recipe = load_recipe(ROOT / "config" / "recipes" / "fables.yaml")
    findings = set()
    for stage in stages:
        for module in code_digest.bearing_modules(stage, recipe):
            room = room_of(module)
            if module not in (stage, "pipeline") and room and not bears_bits(room):
                findings.add(f"{stage} is triggered by {module} of {room}")
    holds(4, findings)


def test_rule_5_the_files_of_a_run_are_named_in_one_place() -> None:
    naming = {shown for shown, path in python_files("pipeline") if any(map(_names_a_file, _literals(path)))}
    assert naming >= NAMES_ITS_OWN
    findings = naming - NAMES_ITS_OWN - {"pipeline/recipe/paths.py", CATALOGUE}
    for path in [
        *(ROOT / "workflow" / "rules").glob("*.smk"),
        ROOT / "workflow" / "Snakefile",
        *(ROOT / "workflow").glob("*.py"),
    ]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        lines = [line for line in lines if ".log" not in line]  # a log is no artefact
        if any(FILE_OF_A_RUN.search(line) for line in lines):
            findings.add(path.relative_to(ROOT).as_posix())
    holds(5, findings)


def _names_a_file(text: str) -> bool:
    return " " not in text and FILE_OF_A_RUN.search(text) is not None


def _literals(path: Path) -> Iterator[str]:
    """The text literals of a file, {} where an f-string has a value; docstrings are no literals, but sentences."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_rule_6_an_op_has_one_stem_in_every_layer() -> None:
    def stems(layer: str) -> set[str]:
        return {path.stem for path in ROOT.glob(layer.format("*"))} - NO_STEM

    ops = set().union(*(stems(layer) for layer in LAYERS if layer.startswith("cuda_ops")))
    assert {"matmul", "gelu", "adamw"} <= ops
    missing = [
        layer.format(stem) for stem in sorted(ops) for layer in LAYERS if not (ROOT / layer.format(stem)).exists()
    ]
    holds(6, [f"no {path}" for path in missing])


def test_controls_a_breach_and_an_exception_without_a_breach_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PENDING", {"2: a imports *"})
    holds(2, ["a imports b"])
    for findings in ([], ["a imports b", "b imports a"]):
        with pytest.raises(AssertionError):
            holds(2, findings)
    assert room_of("pipeline.recipe.schema") == "recipe"
    assert room_of("pipeline.train") == room_of("pipeline.recipe.__main__") == "commands"
    assert room_of("torch") is None
    module = tmp_path / "module.py"
    module.write_text("import sys\ndef f():\n    from pipeline import train\n    print('a', file=sys.stderr)\n")
    assert imports_of(module) == {"sys", "pipeline.train"}
    assert not _prints(module)
    other = tmp_path / "other.py"
    other.write_text("def f(step):\n    print(f'step_{step:06d}.safetensors')\n")
    assert _prints(other)
    assert any(map(_names_a_file, _literals(other)))
    assert not any(map(_names_a_file, ("a sentence about tokens.json", "step_shapes", "evaluate")))


def test_the_files_that_adding_names_are_there() -> None:
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if not name.startswith("results")}
    assert len(named) > 30
    holds(7, [f"no {name}" for name in sorted(named) if not (ROOT / name).exists()])


# ---------------------------------------------------------------- recipes, schema, tests, hooks


def test_every_recipe_is_valid_and_published() -> None:
    """Its digests are published, or docs/recipes/gpt2.md says that it was not run here; it has a page, or a section there."""
    shared = (ROOT / "docs" / "recipes" / "gpt2.md").read_text(encoding="utf-8")
    not_run = set(re.findall(r"`(\w+)`", shared.split("Not run here:")[1].split(".")[0]))
    found = sorted((ROOT / "config" / "recipes").glob("*.yaml"))
    for path in found:
        assert load_recipe(path).name == path.stem
        assert (ROOT / "config" / "expected" / f"{path.stem}.json").exists() != (path.stem in not_run)
        assert (ROOT / "docs" / "recipes" / f"{path.stem}.md").exists() or f"`{path.stem}`" in shared
    assert not_run <= {path.stem for path in found}


def test_the_schema_is_current() -> None:
    assert (ROOT / "workflow" / "schemas" / "recipe.schema.json").read_text() == schema()


def test_slow_tests_and_those_that_stand_for_them_exist() -> None:
    defined = set()
    for _, path in python_files("tests"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined |= {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
    assert {name.split("[")[0] for pair in SLOW.items() for name in pair} <= defined
    assert not [name for name in SLOW.values() if is_slow(name)]


def test_hooks_run_the_locked_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all((Path(sys.executable).parent / Path(hook["entry"].split()[0]).name).exists() for hook in hooks)
    assert {hook["entry"].split()[0].rpartition("/")[0] for hook in hooks} == {".venv/bin"}


# ---------------------------------------------------------------- names


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
    launches = found(r"<<<|atomic[A-Z]\w+\(", *device)  # atomics of integers only: counts, minima, sums mod 2^64
    assert {line.split(":")[0].split("/")[-1] for line in launches} <= {
        "launch.h", "fingerprint.cu", "nonfinite.cu", "sample.cu", "check.cu",
    }  # fmt: skip
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
