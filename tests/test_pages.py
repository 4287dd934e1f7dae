"""pytest tests/test_pages.py

What the pages say is so: the README's tree and tables, links, commands, variables of the environment, widths of lines.

    python -m tests.test_pages     write the README's two tables from config/expected
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tabulate import tabulate

from pipeline.base import chain
from pipeline.evidence.gpu_parts import PARTS
from pipeline.follow import picture
from pipeline.machine.execution import Execution
from pipeline.recipe import GeneratedImages, load_recipe
from pipeline.recipe.paths import data_dir, run_dir, tokens_dir
from pipeline.records.catalogue import digested
from pipeline.spikes import marks
from pipeline.training.outliers import WINDOW

ROOT = Path(__file__).resolve().parent.parent

BEGIN, END = "<!-- {}: written by tests/test_pages.py from config/expected -->\n", "<!-- end of {} -->"
FABLES = ROOT / "config" / "expected" / "fables.json"


def digest_table() -> str:
    rows = ["| recipe | recipe_id | last checkpoint | chain | samples |", "|---|---|---|---|---|"]
    published = (
        ROOT / "config" / "expected" / f"{p.stem}.json" for p in sorted((ROOT / "config" / "recipes").glob("*"))
    )
    for path in filter(Path.exists, published):
        expected = json.loads(path.read_text())
        last = f"{load_recipe(ROOT / 'config' / 'recipes' / f'{path.stem}.yaml').bits.steps:06d}"
        keys = ["recipe/bits", f"train/step_{last}.safetensors", f"train/chain_{last}.tsv", "sample/samples.json"]
        # A recipe without samples leaves its column empty.
        rows.append(
            f"| {path.stem} | "
            + " | ".join(f"`{expected[key][:12]}`" if key in expected else "" for key in keys)
            + " |"
        )
    return "\n".join(rows) + "\n"


def reproduction_table() -> str:
    """What make reproduction prints for fables where every digest equals, in a block of the page."""
    expected: dict[str, str] = json.loads(FABLES.read_text())
    recipe = load_recipe(ROOT / "config" / "recipes" / "fables.yaml")
    keys = ["recipe/bits", *(item.key for item in digested(recipe))]
    assert set(keys) == set(expected)
    rows = [(*key.split("/", 1), expected[key][:12], expected[key][:12], "equal") for key in keys]
    table = tabulate(
        rows, headers=("stage", "artefact", "digest", "expected", ""), tablefmt="plain", disable_numparse=True
    )
    return f"```\n{table}\nfables: all {len(rows)} digests equal the published ones\n```\n"


TABLES = {"digests": digest_table, "reproduction": reproduction_table}


def test_the_readme_shows_the_published_digests() -> None:
    text = (ROOT / "README.md").read_text()
    for name, table in TABLES.items():
        begin = BEGIN.format(name)
        assert text[text.index(begin) + len(begin) : text.index(END.format(name))] == table(), (
            "run python -m tests.test_pages"
        )


def test_the_tree_in_the_readme_is_true() -> None:
    tree = (ROOT / "README.md").read_text().split("## Reading order")[1].split("```")[1]
    paths = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]
    rooms = {f"pipeline/{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert not rooms - set(paths), "rooms that the tree does not show"


def pages() -> list[Path]:
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    return [ROOT / name for name in tracked if (ROOT / name).exists()] or sorted((ROOT / "docs").rglob("*.md"))


def test_lines_of_the_pages_are_short() -> None:
    """120 columns; a row of a table cannot be broken, nor can a link. A receipt is what a program wrote."""
    written = [path for path in pages() if not (path.parent.name == "evidence" and path.with_suffix(".json").exists())]
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in written
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120 and not line.lstrip().startswith("|") and "](http" not in line
    ]
    assert not wide


def test_links_between_pages_lead_somewhere() -> None:
    dead = []
    for path in pages():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                dead.append(f"{path.relative_to(ROOT)}: {target}")
    assert not dead


def test_every_page_of_docs_is_in_its_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    found = [
        path.name
        for path in (ROOT / "docs").iterdir()
        if path.suffix in (".md", ".svg", ".py") and path.name != "README.md"
    ]
    assert not [name for name in found if f"({name})" not in index]


def test_commands_of_the_pages_exist() -> None:
    """Each line of a block that runs a command names one that is there, with flags that it knows."""
    execution = " ".join(f'"{flag}"' for flag in Execution.flags())
    wrong = []
    for path in pages():
        for name, rest in re.findall(r"^python -m ([\w.]+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            if name in ("pip", "pytest"):
                continue
            file = ROOT / Path(*name.split("."))
            found = next((f for f in (file.with_suffix(".py"), file / "__main__.py") if f.exists()), None)
            if found is None:
                wrong.append(f"{path.relative_to(ROOT)}: python -m {name}")
                continue
            text = found.read_text(encoding="utf-8") + execution
            wrong += [
                f"{path.relative_to(ROOT)}: {name} {flag}"
                for flag in re.findall(r"--(?!help)[a-z-]+", rest)
                if f'"{flag}"' not in text
            ]
    assert not wrong


def test_outputs_shown_in_docstrings_are_true() -> None:
    """What a run of fables prints, from its recipe, its published digests and its published chain."""
    recipe = load_recipe(ROOT / "config" / "recipes" / "fables.yaml")
    expected: dict[str, str] = json.loads(FABLES.read_text())
    lines = {line.step: line for line in chain.read(ROOT / "config" / "expected" / "chains" / "fables.tsv")}

    def shown(step: int) -> str:
        line = lines[step]
        return f"step {step}/1000  loss {line.loss:.4f}  norm {line.norm:.2f}  lr {line.lr:.1e}  "

    before = list(lines.values())[:812]
    found = marks(list(lines.values()), 6.0)
    spike = next(mark for mark in found if mark["step"] == 469)
    samples, images = (
        recipe.artifacts.samples,
        load_recipe(ROOT / "tests" / "recipes" / "patterns.yaml").bits.data.source,
    )
    assert samples
    assert isinstance(images, GeneratedImages)
    columns = lines[251].content().split("\t")
    assert recipe.bits.model.kind == "gpt"
    true = {
        "download": f"{data_dir(recipe)}: 24,000 documents, 7,992,529 bytes, sha256 {expected['download/documents.jsonl'][:8]}…",
        "prepare_text": f"{tokens_dir(recipe)}: 2,222,265 + 56,388 tokens, vocabulary {recipe.bits.model.vocab_size}",
        "train": shown(200),
        "replay": f"loss {columns[1]}  lr …  norm …  fingerprint {columns[4]}  link {lines[251].link[:12]}: equal",
        "verify": f"step_001000.safetensors   {expected['train/step_001000.safetensors'][:12]}",
        "digest": f"{run_dir(recipe) / 'digests.json'}: {len(expected)} digests",
        "bless": f"config/expected/fables.json: {len(expected)} digests, 3 changed: train/step_{recipe.checkpoints[0]:06d}",
        "spikes": f"step 469: norm {spike['norm']:.4f}, z {spike['z']['norm']:.1f} above the {WINDOW} steps before\n"
        f"    {run_dir(recipe) / 'spikes.json'}: {len(found)} spikes\n",
        "follow": f"step 812 of 1000  loss {before[-1].loss:.4f}  norm {before[-1].norm:.2f}  lr {before[-1].lr:.1e}  "
        f"21,000 tokens/s  eta 18 s  {len(found)} spikes, the last at {found[-1]['step']}\n    "
        + "\n    ".join(picture([line.loss for line in before], 30, 4)),
        "sample": f"{run_dir(recipe) / 'samples.json'}: {samples.draws} samples of up to {samples.length} tokens",
        "prepare_images": f"{images.training:,} + {images.validation:,} images of {images.height} x {images.width} in "
        f"{images.classes} classes",
        "gpu_proof": f"[1/{len(PARTS)}] build ",
        "unary_digest": f"all {len(json.loads((ROOT / 'config' / 'expected' / 'unary.json').read_text()))} functions equal",
        "recipe/__main__": f"fables  recipe_id {expected['recipe/bits'][:4]}…  {recipe.bits.model.parameters:,} parameters, "
        f"{recipe.bits.steps} steps of {recipe.bits.batch.sequences} x {recipe.bits.model.context} tokens in "
        f"{recipe.bits.batch.lanes} lanes\n    tokens trained on        {recipe.bits.steps * recipe.bits.units:,}\n",
    }
    stale = [
        name
        for name, text in true.items()
        if text not in (ROOT / "pipeline" / f"{name}.py").read_text(encoding="utf-8")
    ]
    assert not stale
    assert f"link of the last step {lines[250].link[:12]}" in (ROOT / "pipeline" / "train.py").read_text()


def test_every_variable_of_the_environment_is_described() -> None:
    """SAMEBITS_ names that a program reads or a macro has, against docs/environment.md."""
    table = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(SAMEBITS_\w+)`", table, re.MULTILINE))
    used: set[str] = set()
    for folder in ("cuda_ops", "pipeline", "workflow", "benchmarks", "tests", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if (
                path.is_file()
                and path.suffix in (".py", ".cpp", ".h", ".cu", ".inc", ".smk", "")
                and path != Path(__file__)
            ):
                used |= set(
                    re.findall(r"\bSAMEBITS_[A-Z_0-9]*[A-Z0-9]\b", path.read_text(encoding="utf-8", errors="replace"))
                )
    assert used == described


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(re.findall(r"^([a-z][a-z-]*):[^#\n]*## \S", text, re.MULTILINE))


def test_make_quotes_its_own_folder(tmp_path: Path) -> None:
    """What installs the environment, in a checkout whose path has spaces: an assignment and a command, not two commands."""
    there = tmp_path / "my own" / "checkout"
    there.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "requirements-uv.lock"):
        shutil.copy(ROOT / name, there)
    done = subprocess.run(["make", "-n", ".venv/ready"], cwd=there, capture_output=True, text=True, check=True)
    words = next(shlex.split(line) for line in done.stdout.splitlines() if "uv pip sync" in line)
    assert words[:2] == [f"VIRTUAL_ENV={there}/.venv", ".venv/bin/uv"]


if __name__ == "__main__":
    page = ROOT / "README.md"
    for name, table in TABLES.items():
        text = page.read_text()
        begin = text.index(BEGIN.format(name)) + len(BEGIN.format(name))
        page.write_text(text[:begin] + table() + text[text.index(END.format(name)) :])
