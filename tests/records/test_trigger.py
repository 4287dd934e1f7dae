"""pytest tests/records/test_trigger.py

What must run again: each file of the project is edited in a copy, and the triggers of the stages move or stand.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cuda_ops.build
from pipeline.recipe import Recipe, load_recipe, parse_recipe
from pipeline.recipe.training import WeightsInit
from pipeline.records import code_digest, modules
from pipeline.records.code_digest import BEARING, bearing_modules, parts, trigger
from tests.conftest import ROOT, run
from tests.workflow.running import edited

STAGES = (
    "download",
    "prepare_text",
    "prepare_questions",
    "train",
    "evaluate",
    "sample",
    "spikes",
    "digest",
    "verify",
    "report",
)
FABLES = ROOT / "config" / "recipes" / "fables.yaml"
# What trains fables, by what the modules are for; the test beside it adds what Python imports when it trains.
TRAINING = {
    "train",
    "base.chain",
    "base.checkpoint",
    "data.windows",
    "models.gpt",
    "training.trainer",
    "training.schedule",
}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that the digests are taken from."""
    for folder in ("pipeline", "cuda_ops"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    if (kept := ROOT / modules.KEPT).exists():
        shutil.copytree(kept, tmp_path / modules.KEPT)
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_ops.build, "ROOT", tmp_path / "cuda_ops")
    return tmp_path


@pytest.fixture(scope="module")
def fables() -> Recipe:
    return load_recipe(FABLES)


def moved(recipe: Recipe, path: Path, edit: Callable[[str], str], stages: tuple[str, ...] = STAGES) -> set[str]:
    """The stages whose trigger an edit of a file moves."""
    text = path.read_text(encoding="utf-8")
    before = {stage: trigger(f"pipeline.{stage}", recipe) for stage in stages}
    path.write_text(edit(text), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text, path
    after = {stage: trigger(f"pipeline.{stage}", recipe) for stage in stages}
    path.write_text(text, encoding="utf-8")
    return {stage for stage in stages if before[stage] != after[stage]}


def test_each_file_moves_training_or_not(copy: Path, fables: Recipe) -> None:
    bearing = set(bearing_modules("pipeline.train", fables).values())
    assert {name.removeprefix("pipeline.") for name in bearing_modules("pipeline.train", fables)} >= TRAINING
    before = trigger("pipeline.train", fables)
    for path in sorted((copy / "pipeline").rglob("*.py")):
        room = path.relative_to(copy / "pipeline").parts[0]
        with edited(path, "\nADDED = 1\n"):
            assert (trigger("pipeline.train", fables) != before) == (path in bearing), path
        if path in bearing:
            assert room in (*BEARING, "train.py"), path
    assert trigger("pipeline.train", fables) == before


def test_what_is_kept_of_a_file_is_that_files(copy: Path, fables: Recipe) -> None:
    """Digests are the same from files that are parsed, from what was kept of them, and where that is damaged or another's."""
    first, kept = parts("pipeline.train", fables), copy / modules.KEPT
    files = [path for path in sorted(kept.iterdir()) if path.name.startswith("pipeline.training.")]
    assert len(files) > 5
    for spoilt in ("", "{", '{"key": 1}', files[0].read_text()):
        for path in files[1:] if spoilt else ():
            path.write_text(spoilt)
        modules._version.cache_clear()
        assert parts("pipeline.train", fables) == first
        assert all(json.loads(path.read_text())["code"] for path in files), "it is kept anew"


def test_what_python_imports_to_train_is_in_the_trigger(fables: Recipe) -> None:
    """Read from the interpreter, not from the text: no bearing module that is loaded is forgotten."""
    loaded = run("-c", "import sys, pipeline.train, pipeline.training.trainer; print('\\n'.join(sys.modules))")
    rooms = tuple(f"pipeline.{room}." for room in BEARING)
    found = {name for name in loaded.split() if name.startswith(rooms)}
    own = code_digest._own_kinds(fables)
    assert "pipeline.training.trainer" in found
    assert {name for name in found if not code_digest._another_recipes(name, own)} <= set(
        bearing_modules("pipeline.train", fables)
    )


def test_stems_are_those_that_the_code_names(fables: Recipe) -> None:
    for stage in ("train", "evaluate", "sample"):
        found = {name.removeprefix("ops.") for name in parts(f"pipeline.{stage}", fables) if name.startswith("ops.")}
        for path in bearing_modules(f"pipeline.{stage}", fables).values():
            for name in re.findall(r"\bops\.([a-z_]+)\(", path.read_text()):
                stem = code_digest._stem_of()[name]
                assert stem == "" or stem in found, f"{stage}: ops.{name} of {path}"


def test_a_kernel_moves_the_stages_that_use_it(copy: Path, fables: Recipe) -> None:
    users = {
        stem: {stage for stage in STAGES if f"ops.{stem}" in parts(f"pipeline.{stage}", fables)}
        for stem in ("sample", "adamw", "matmul", "unary")
    }
    assert "sample" in users["sample"]
    assert not {"train", "evaluate", "spikes"} & users["sample"]
    assert "train" in users["adamw"]
    assert "sample" not in users["adamw"]
    assert users["matmul"] == {"train", "evaluate", "sample", "spikes"}
    assert users["unary"] == set()
    for stem, stages in users.items():
        source = copy / "cuda_ops" / "cpu" / f"{stem}.cpp"
        assert moved(fables, source, lambda text: text + "\nstatic int added;\n") == stages
        assert moved(fables, source, lambda text: "// words\n" + text) == set()
        assert moved(fables, copy / "cuda_ops" / "ops" / f"{stem}.py", lambda text: text + "\nADDED = 1\n") == stages


def test_a_tokenizer_moves_no_training(copy: Path, fables: Recipe) -> None:
    """Training reads token ids; text of them is for pages."""
    for name in ("tokenizers", "bpe"):
        source = copy / "pipeline" / "data" / f"{name}.py"
        assert {"prepare_text", "sample"} <= moved(fables, source, lambda text: text + "\nADDED = 1\n") <= {
            "prepare_text", "prepare_questions", "sample", "evaluate", "spikes"
        }  # fmt: skip


def test_a_tier_is_triggered_by_its_own_products(copy: Path, fables: Recipe) -> None:
    digits = load_recipe(ROOT / "config" / "recipes" / "fables_int8x3.yaml")
    for path, recipe, other in (
        (copy / "pipeline" / "models" / "digits.py", digits, fables),
        (copy / "pipeline" / "models" / "fp32.py", fables, digits),
    ):
        assert moved(recipe, path, lambda text: text + "\nADDED = 1\n", ("train",)) == {"train"}
        assert moved(other, path, lambda text: text + "\nADDED = 1\n", ("train",)) == set()
    for stem, recipe, other in (("matmul_digits", digits, fables), ("matmul", fables, digits)):
        source = copy / "cuda_ops" / "cpu" / f"{stem}.cpp"
        assert moved(recipe, source, lambda text: text + "\nstatic int added;\n", ("train",)) == {"train"}
        assert moved(other, source, lambda text: text + "\nstatic int added;\n", ("train",)) == set()


class Reworded(ast.NodeTransformer):
    """Other words wherever a user reads them: docstrings, exceptions, print."""

    def _in(self, node: ast.AST) -> ast.AST:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = f"{part.value} in other words"
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return self._in(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            for arg in node.args:
                for part in [arg, *(arg.values if isinstance(arg, ast.JoinedStr) else [])]:
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        part.value = f"{part.value} in other words"
        return self.generic_visit(node)


def reworded(text: str) -> str:
    """Also without a comment, since unparse has none, and with another docstring."""
    tree = Reworded().visit(ast.parse(text))
    if ast.get_docstring(tree):
        tree.body[0] = ast.Expr(ast.Constant("Another docstring."))
    return ast.unparse(tree)


def test_words_move_nothing(copy: Path, fables: Recipe) -> None:
    stage_of = {path: stage for stage in STAGES for path in bearing_modules(f"pipeline.{stage}", fables).values()}
    assert len(stage_of) > 20
    for path, stage in sorted(stage_of.items()):
        assert not moved(fables, path, reworded, (stage,)), path


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ('raise ValueError(f"{x} is wrong")', 'raise ValueError(f"wrong: {x!r} of {y}")', True),
        ('raise ValueError("a")', 'raise TypeError("a")', False),
        ('why = "a"\n    raise ValueError(why)', 'why = "b"\n    raise ValueError(why)', True),
        ('why = "a"\n    raise ValueError(why)', 'raise ValueError("b")', True),
        ('why = "a"\n    x = why', 'why = "b"\n    x = why', False),
        ('why = f(x)\n    raise ValueError(why)', 'why = g(x)\n    raise ValueError(why)', False),
        ('print("a", x)', 'print("b", y)', True),
        ('print(f(x))', 'print(g(x))', False),
        ('assert x, "a"', 'assert x, "b"', True),
        ('assert x, "a"', 'assert y, "a"', False),
        ('parser.add_argument("--x", help="a")', 'parser.add_argument("--x", help="b")', True),
        ('parser.add_argument("--x", default=1)', 'parser.add_argument("--x", default=2)', False),
        ("x = 1  # a", "x = 1", True),
        ("x = 1", "x = 2", False),
        ('x = "a"', 'x = "b"', False),
    ],
)  # fmt: skip
def test_what_counts_as_words(before: str, after: str, same: bool) -> None:
    from pipeline.records.bare import bare, written

    texts = [written(bare(ast.parse(f"def f(x, y):\n    {body}\n    return x\n"))[0]) for body in (before, after)]
    assert (texts[0] == texts[1]) == same


def test_a_text_counts_as_soon_as_another_module_reads_it(copy: Path, fables: Recipe) -> None:
    chain, schedule = copy / "pipeline" / "base" / "chain.py", copy / "pipeline" / "training" / "schedule.py"
    chain.write_text(chain.read_text() + '\nHINT = "a"\n\n\ndef refuse():\n    raise ValueError(HINT)\n')

    def other(text: str) -> str:
        return text.replace('HINT = "a"', 'HINT = "b"')

    assert moved(fables, chain, other) == set()
    schedule.write_text(schedule.read_text() + "\nfrom pipeline.base.chain import HINT\n")
    assert "train" in moved(fables, chain, other)


def test_another_kind_is_no_part_of_it(copy: Path, fables: Recipe) -> None:
    """A model, a kind of data or a score that the recipe has not, even where a bearing module imports it or its whole
    room by name.
    """
    models = copy / "pipeline" / "models"
    (models / "twolayer.py").write_text("X = 1\n")
    (models / "chosen.py").write_text(
        "from importlib import import_module\nimport pipeline.models.twolayer\n\n\n"
        'def model_of(kind):\n    return import_module(f"pipeline.models.{kind}")\n'
    )
    trainer = copy / "pipeline" / "training" / "trainer.py"
    trainer.write_text(trainer.read_text() + "\nfrom pipeline.models.chosen import model_of\n")
    images = parse_recipe(IMAGES, "images")
    assert "models.twolayer" not in parts("pipeline.train", fables)
    assert {"models.twolayer", "models.chosen"} <= set(parts("pipeline.train", images))
    assert "models.gpt" in parts("pipeline.train", fables)
    assert not {"models.gpt", "data.windows", "data.tokenizers"} & set(parts("pipeline.train", images))
    assert moved(fables, models / "twolayer.py", lambda text: text + "Y = 1\n") == set()
    assert "train" in moved(images, models / "twolayer.py", lambda text: text + "Y = 1\n", ("train",))


def test_other_programs_weights_are_read_by_recipes_that_begin_from_a_file(fables: Recipe) -> None:
    """What reads Hugging Face's and llm.c's files: an edit of it trains no other recipe again."""
    foreign = {"models.weights", "models.hugging_face", "models.llmc"}
    assert not foreign & set(parts("pipeline.train", fables))
    begun = fables.bits.model_copy(update={"init": WeightsInit(kind="weights", sha256="0" * 64)})
    assert foreign <= set(parts("pipeline.train", fables.model_copy(update={"bits": begun})))


def test_modules_that_read_one_kind_of_data_only(copy: Path) -> None:
    """Each is there, and no stage of a recipe over images is triggered by one; what both kinds read is in it."""
    names = set(code_digest.READS)
    assert names < {path.stem for path in (copy / "pipeline" / "data").glob("*.py")}
    images = parse_recipe(IMAGES, "images")
    for stage in ("download", "prepare_images", "train", "evaluate"):
        assert not {f"data.{name}" for name in names} & set(parts(f"pipeline.{stage}", images)), stage
    assert {"data.corpus", "data.images", "data.shards"} <= set(parts("pipeline.prepare_images", images))


IMAGES = {
    "name": "dots",
    "description": "images",
    "bits": {
        "seed": 1,
        "data": {
            "kind": "images",
            "name": "dots",
            "source": {
                "kind": "generated", "training": 64, "validation": 16, "classes": 4, "height": 4, "width": 4,
                "noise": 64, "seed": 1,
            },
            "order": "permutation",
        },
        "model": {"kind": "twolayer", "inputs": 16, "hidden": 8, "classes": 4},
        "init": {"kind": "normal", "std": 0.1},
        "schedule": {"kind": "constant", "peak": 0.01, "warmup_steps": 0},
        "batch": {"sequences": 8, "lanes": 2},
        "steps": 4,
    },
    "artifacts": {"scores": [{"kind": "loss"}, {"kind": "accuracy"}]},
}  # fmt: skip


def test_a_new_optional_key_moves_nothing(copy: Path, fables: Recipe) -> None:
    path = copy / "pipeline" / "recipe" / "recipe.py"
    assert (
        moved(
            fables,
            path,
            lambda text: text.replace(
                "    steps: int = Field(", "    note: str | None = None\n    steps: int = Field("
            ),
        )
        == set()
    )


def test_a_name_that_is_no_op_is_refused(copy: Path, fables: Recipe) -> None:
    path = copy / "pipeline" / "training" / "trainer.py"
    path.write_text(path.read_text() + "\nops.no_such_op()\n")
    with pytest.raises(code_digest.UserError, match=r"ops\.no_such_op is not a name of"):
        trigger("pipeline.train", fables)
