"""pytest tests/pages/test_report.py

The pages of a run and of many runs: whole, loading nothing from anywhere, with a section for each thing that there is
and none for what there is not: a text without questions or samples, images with an accuracy; commands that exist; no
empty axes.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.base import chain
from pipeline.base.files import sha256_of, write_json
from pipeline.data.contents import ImageTokens
from pipeline.data.images import write_shard
from pipeline.evidence.comparison import Result
from pipeline.evidence.differences import Difference
from pipeline.pages import charts, compare_page
from pipeline.pages.overview_page import LINES, looks, overview_page
from pipeline.pages.run import Run, load_run
from pipeline.pages.run_page import run_page
from pipeline.pages.sections import SCORES
from pipeline.recipe import ImageData, Recipe, artifacts, load_recipe, parse_recipe
from pipeline.recipe.load import as_written
from pipeline.recipe.paths import SUMMARY, VALIDATION
from pipeline.records import contents
from pipeline.scoring.table import SCORES as SCORED
from pipeline.scoring.table import Subject, scores
from tests.conftest import run
from tests.scoring.test_scores import Means


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the tiny recipe in one segment, with all its artefacts."""
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "my tiny.yaml"
    recipe.write_text(tiny["recipe"].read_text().replace("checkpoints: [3]", "checkpoints: []"))
    shared = ["--recipe", str(recipe), "--tokens", str(tiny["tokens"])]
    checkpoint, name = folder / "step_000006.safetensors", folder / "chain_000006.tsv"
    train = ["--steps-to", "6", "--out", str(checkpoint), "--chain", str(name), "--state", str(folder / "s")]
    run("-m", "pipeline.train", *shared, *train)
    run("-m", "pipeline.evaluate", *shared, "--checkpoint", str(checkpoint), "--out", str(folder / "eval_000006.json"))
    run("-m", "pipeline.sample", *shared, "--checkpoint", str(checkpoint), "--out", str(folder / "samples.json"))
    digests = {"train/step_000006.safetensors": "ab" * 32, "train/chain_000006.tsv": sha256_of(name)}
    (folder / "digests.json").write_text(json.dumps(digests))
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in (checkpoint, name)]
    (folder / "SHA256SUMS").write_text("".join(sums))
    (folder / "spikes.json").write_text(json.dumps({"spikes": [], "z": 6.0}))
    run("-m", "pipeline.report", *shared, "--run", str(folder))
    return load_run(load_recipe(recipe), recipe, folder, tiny["tokens"])


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def check_self_contained(page: str) -> None:
    loads = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert not [target for target in loads if not target.startswith("#")]
    assert "<script" not in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    for target in loads:
        assert target[1:] in ids


def test_the_page_is_whole_and_self_contained(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text()
    check_self_contained(page)
    whole = [
        "Curves",
        "Validation loss",
        "Multiple choice",
        "Samples",
        "Spikes",
        "Digests",
        "Cost",
        "Receipts",
        "Recipe",
    ]
    assert headings(page) == whole
    assert page.count("<svg") == 2  # for a wide and for a narrow window
    assert "entropy floor" in page
    assert "tokens/s" in page
    assert "train 6" in page
    assert "Nobody has published any for this recipe" in page


def test_a_checkpoint_shows_the_digest_of_its_tensors_and_of_its_file(finished: Run) -> None:
    page = run_page(finished)
    assert "ab" * 32 in page
    assert page.count(sha256_of(finished.folder / "step_000006.safetensors")) == 1
    assert page.count(sha256_of(finished.folder / "chain_000006.tsv")) == 1  # one digest, not two equal ones
    assert "digest is over its tensors" in page


def test_the_commands_of_the_page_exist_and_name_the_real_recipe(finished: Run) -> None:
    lines = [line(step, loss=9.0 if step == 80 else 1.0) for step in range(1, 101)]
    spike: contents.Spike = {"step": 80, "loss": 9.0, "norm": 1.0, "z": {"loss": 9.0}, "samples": []}
    page = run_page(dataclasses.replace(finished, lines=lines, spikes={"spikes": [spike], "z": 6.0, "window": 64}))
    found = [shlex.split(html.unescape(text)) for text in re.findall(r"python -m [^<\n]+", page)]
    assert [words[2] for words in found] == ["pipeline.spikes", "pipeline.report", "pipeline.verify"]
    for words in found:
        assert words[words.index("--recipe") + 1] == str(finished.path)
        assert words[words.index("--run") + 1] == str(finished.folder)  # not where the recipe would put it
    run(*found[0][1:], "--out", str(finished.folder / "again.json"))
    run(*found[1][1:])
    shown = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "1 step whose loss or gradient norm lies more than 6 standard deviations above" in shown
    assert "The first 64 steps are not judged" in shown


def test_a_short_run_has_no_judged_step(finished: Run) -> None:
    assert "of these 6 steps none was judged" in run_page(finished)


def test_a_text_without_samples_and_questions(finished: Run) -> None:
    content = as_written(finished.recipe)
    content["artifacts"] = {"checkpoints": [], "scores": [{"kind": "loss"}]}
    (finished.folder / "samples.json").rename(finished.folder / "hidden.json")
    try:
        recipe = parse_recipe(content, "tiny")
        plain = load_run(recipe, finished.path, finished.folder, finished.tokens)
    finally:
        (finished.folder / "hidden.json").rename(finished.folder / "samples.json")
    plain = dataclasses.replace(plain, evals=[{"step": 6, "validation": plain.evals[0]["validation"]}], spikes=None)
    page = run_page(plain)
    assert headings(page) == ["Curves", "Validation loss", "Digests", "Cost", "Receipts", "Recipe"]
    tokens = plain.recipe.bits.steps * plain.recipe.bits.units
    assert re.search(rf"tokens trained on.*?>\s*{tokens:,}\s*<", page, re.DOTALL), "a number of them is whole"
    check_self_contained(page)


def test_a_page_of_images_with_an_accuracy(tmp_path: Path) -> None:
    page = run_page(images(tmp_path))
    assert headings(page) == ["Curves", "Validation loss", "Accuracy", "Recipe"]
    assert "nats per image" in page
    assert "token" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "87.5%" in page
    assert "2.5000" in page  # the loss of Means is the label and a half
    assert "The line marks chance, 25.0%." in page
    assert "twolayer: 64 inputs, 16 hidden, 4 classes" in page
    check_self_contained(page)


def test_every_score_has_a_section() -> None:
    kinds = {model.model_fields["kind"].annotation.__args__[0] for model in get_args(get_args(artifacts.Score)[0])}
    assert kinds == set(SCORES) == {kind for scores_of_data in SCORED.values() for kind in scores_of_data}


def test_what_is_missing_is_named(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "eval_000006.json").unlink()
    flags = ["--recipe", str(finished.path), "--tokens", str(finished.tokens), "--run", str(tmp_path / "run")]
    output = run("-m", "pipeline.report", *flags, code=2)
    assert f"error: {tmp_path}/run/eval_000006.json: missing; run snakemake" in output


def test_old_files_are_named_once_and_read_by_nobody(finished: Run, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(finished.folder, run_folder)
    (run_folder / "chain_000002.tsv").write_text("no chain at all\n")
    flags = ["--recipe", str(finished.path), "--tokens", str(finished.tokens), "--run", str(run_folder)]
    output = run("-m", "pipeline.report", *flags)
    assert output.count("chain_000002.tsv") == 1
    assert "chain_000002.tsv" not in (run_folder / "report.html").read_text()


# ---------------------------------------------------------------------- overview


def line(step: int, loss: float = 1.0) -> chain.Line:
    return chain.Line(step, loss, 1e-3, 1.0, step, "0" * 64)


def scored(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What evaluation finds on 80 images of class 2, whose own pixel is the brightest in all but ten."""
    records = np.zeros((80, 1 + 64), dtype=np.uint8)
    records[:, 0], records[10:, 1 + 2] = 2, 9
    assert isinstance(recipe.bits.data, ImageData)
    written = write_shard(folder / VALIDATION, records, recipe.bits.data.source)
    write_json(folder / SUMMARY, {"sha256": {VALIDATION: written.sha256}})
    return scores(Subject(recipe, Means(), folder, 16, step=recipe.bits.steps))


def images(folder: Path, steps: int = 40) -> Run:
    """A run of a net over images as its stages will leave it."""
    source = {
        "kind": "generated",
        "training": 100,
        "validation": 80,
        "classes": 4,
        "height": 8,
        "width": 8,
        "noise": 9,
        "seed": 1,
    }
    bits = {
        "seed": 1, "data": {"kind": "images", "name": "patterns", "source": source, "order": "permutation"},
        "model": {"kind": "twolayer", "inputs": 64, "hidden": 16, "classes": 4}, "init": {"kind": "normal", "std": 0.1},
        "schedule": {"kind": "constant", "peak": 1e-3, "warmup_steps": 0}, "batch": {"sequences": 8, "lanes": 2}, "steps": steps,
    }  # fmt: skip
    content = {
        "name": "net",
        "description": "a net",
        "bits": bits,
        "artifacts": {"scores": [{"kind": "loss"}, {"kind": "accuracy"}]},
    }
    recipe = parse_recipe(content, "net")
    evaluation: Any = {"step": steps} | scored(recipe, folder)
    about: ImageTokens = {
        "train": {"images": 100}, "validation": {"images": 10}, "height": 1, "width": 1, "classes": 2, "sha256": {}
    }  # fmt: skip
    return Run(
        recipe, Path("net.yaml"), folder, folder, about,
        [line(step, 2.0 / step) for step in range(1, steps + 1)], [evaluation], None, [], [], [],
    )  # fmt: skip


def test_one_page_over_many_runs(finished: Run, tmp_path: Path) -> None:
    page = overview_page([finished, images(tmp_path)], ["big"], finished.folder.parent / "overview.html")
    assert headings(page) == ["Runs", "Loss"]
    text = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split())
    assert "36,608 6" in text
    assert "2 unpublished" in text
    assert "accuracy 87.5%" in text
    assert "Not run here: big." in text
    (link,) = re.findall(r'<a href="([^#"][^"]*)"', page)
    assert (finished.folder.parent / link).samefile(finished.folder / "report.html")
    assert all(name in page for name in ("tiny", "net"))


@pytest.mark.parametrize("count", [1, 12])
def test_a_legend_of_many_long_names_is_not_cut_off(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    names = (f"shakespeare_char_int8x3_seed{1337 + i}" for i in range(count))
    recipes = [finished.recipe.model_copy(update={"name": name}) for name in names]
    runs = [dataclasses.replace(finished, recipe=recipe) for recipe in recipes]
    drawn, svg = [], charts.svg

    def checked(figure: Any) -> str:
        figure.canvas.draw()
        (axes,) = figure.axes
        shown = axes.get_legend().get_texts()
        assert len(shown) == count
        for box in (text.get_window_extent() for text in shown):
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        drawn.append(axes.get_window_extent().height / figure.dpi)
        return svg(figure)

    monkeypatch.setattr(charts, "svg", checked)
    overview_page(runs, [], tmp_path / "overview.html")
    assert len(drawn) == 2
    assert min(drawn) > 2.5  # inches of the curves


def test_runs_that_differ_in_their_numerics_alone_share_a_colour(finished: Run) -> None:
    def other(**changes: object) -> Run:
        bits = finished.recipe.bits.model_copy(update=changes)
        return dataclasses.replace(finished, recipe=finished.recipe.model_copy(update={"bits": bits}))

    (fp32, digits, seed), lines = zip(*looks([finished, other(numerics="int8x3"), other(seed=1)]), strict=True)
    assert fp32 == digits != seed
    assert lines == ("-", "--", "-")
    assert set(LINES) == set(get_args(type(finished.recipe.bits).model_fields["numerics"].annotation))


def test_the_overview_is_a_command(finished: Run, tmp_path: Path) -> None:
    from pipeline.recipe.paths import run_dir, tokens_dir

    recipe = str(finished.path)
    output = run("-m", "pipeline.overview", recipe, cwd=tmp_path, code=2)
    assert "error: no finished run of tiny: run snakemake" in output
    shutil.copytree(finished.folder, tmp_path / run_dir(finished.recipe))
    shutil.copytree(finished.tokens, tmp_path / tokens_dir(finished.recipe))
    output = run("-m", "pipeline.overview", "--out", "all.html", recipe, recipe, cwd=tmp_path)
    assert output.strip() == "all.html: 1 run"
    assert "tiny" in (tmp_path / "all.html").read_text()


# ---------------------------------------------------------------------- charts and comparison


def test_thinning_keeps_every_peak() -> None:
    steps = list(range(100_000))
    values = [1.0] * len(steps)
    values[54_321] = 9.0
    x, y = charts.thin(steps, values)
    assert len(x) <= charts.MOST_POINTS
    assert (54_321, 9.0) in zip(x, y, strict=True)
    assert x == sorted(x)


def result(**changes: Any) -> Result:
    found = Result(equal=False, artefact="train/step_000003.safetensors", **changes)
    return found


def test_a_comparison_of_checkpoints_has_no_empty_axes() -> None:
    difference = Difference.__new__(Difference)
    for name, value in {"name": "step_000003/h.1.ln_1.weight", "relative": 0.5}.items():
        object.__setattr__(difference, name, value)
    order = ["step_000003/h.0.ln_1.weight", "step_000003/h.1.ln_1.weight", "step_000003/wte.weight"]
    found = result(network=[difference], order=order)
    section = compare_page.network(found)
    assert section is not None
    assert compare_page.growth(found) is None  # no steps were compared
    assert compare_page.network(result(growth=[{"step": 1, "loss": 0.5}])) is None
    assert compare_page.growth(result(growth=[{"step": 1, "loss": 0.5}])) is not None
    assert compare_page.growth(result(growth=[{"step": 1, "loss": 0.0}])) is None
    assert compare_page.heads(order) == [(0, "h.0"), (1, "h.1"), (2, "wte")]
    assert compare_page.spaced([(0, "a"), (1, "b"), (5, "c")], 9, 3.0) == [(1, "b"), (5, "c")]  # no label over another
    assert compare_page.spaced([(0, "a"), (1, "b"), (2, "c")], 3, 2.0) == [(0, "a"), (2, "c")]
    assert compare_page.heads(["before/wte", "lane.0/x", "lane.0/y"]) == [(0, "before"), (1, "lane.0")]


def test_benchmarks_are_shown_with_their_protocols(finished: Run) -> None:
    content = as_written(finished.recipe)
    source = {"kind": "file", "path": "x", "sha256": "0" * 64}
    kinds = ("hellaswag", "lambada", "wikitext")
    content["artifacts"]["scores"] = [{"kind": "loss"}, *({"kind": kind, "source": source} for kind in kinds)]
    protocol = {"acc": 0.2859, "acc_norm": 0.2945, "nats": "0x1p3"}
    evaluation: Any = finished.evals[0] | {
        "hellaswag": {"examples": 10042, "llmc": protocol, "lm_eval": protocol | {"acc_norm": 0.3114}},
        "lambada": {"texts": 5153, "acc": 0.3256, "perplexity": 40.0554, "nats": "0x1p3"},
        "wikitext": {
            "pages": 62,
            "tokens": 9,
            "words": 9,
            "word_perplexity": 37.37,
            "nats_per_byte": 1.0,
            "nats": "0x1p3",
        },
    }
    page = run_page(dataclasses.replace(finished, recipe=parse_recipe(content, "tiny"), evals=[evaluation]))
    assert [html.unescape(text) for text in headings(page)][2:5] == ["HellaSwag", "LAMBADA (OpenAI's text)", "WikiText"]
    rows = re.findall(r"<tr><td>([^<]*)</td><td class=\"n\">([^<]*)</td></tr>", page)
    assert ("llm.c, acc_norm", "0.2945") in rows
    assert ("lm-evaluation-harness, acc_norm", "0.3114") in rows
    assert ("perplexity of the last word", "40.06") in rows
    assert ("word perplexity (lm-evaluation-harness)", "37.37") in rows
    assert ("joules of the GPUs", "not measurable here") in rows
    assert any(name == "FLOPs" and float(value) > 0 for name, value in rows)
    earlier = evaluation | {
        "step": 3,
        "hellaswag": {"examples": 10042, "llmc": protocol | {"acc": 0.25}, "lm_eval": protocol},
    }
    page = run_page(
        dataclasses.replace(finished, recipe=parse_recipe(content, "tiny"), evals=[earlier, evaluation | {"step": 6}])
    )
    assert '<th>protocol</th><th class="n">step 3</th><th class="n">step 6</th>' in page
    assert '<td>llm.c, acc</td><td class="n">0.2500</td><td class="n">0.2859</td>' in page
