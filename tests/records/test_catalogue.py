"""pytest tests/records/test_catalogue.py

The one catalogue of a run's artefacts, against what is published and against every place that could name a file of its
own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.recipe import load_recipe, parse_recipe, paths
from pipeline.records.catalogue import catalogue, digested, files, folders, of_stage, run_files
from tests.conftest import ROOT, run
from tests.records.test_trigger import IMAGES

EXPECTED = ROOT / "config" / "expected"
RECIPES = [p for p in sorted((ROOT / "config" / "recipes").glob("*.yaml")) if (EXPECTED / f"{p.stem}.json").exists()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_names_what_is_published(path: Path) -> None:
    recipe = load_recipe(path)
    expected = json.loads((EXPECTED / path.name).with_suffix(".json").read_text())
    assert {item.key for item in digested(recipe)} == set(expected) - {"recipe/bits"}
    assert len({(item.folder, item.name) for item in catalogue(recipe)}) == len(catalogue(recipe))


def test_images_have_no_text() -> None:
    recipe = parse_recipe(IMAGES, "images")
    keys = {item.key for item in catalogue(recipe)}
    assert {"download/images.bin", "prepare_images/train_000000.bin", "prepare_images/val_000000.bin"} <= keys
    assert {"train/step_000004.safetensors", "evaluate/eval_000004.json"} <= keys
    assert not [key for key in keys if "documents" in key or "tokenizer" in key or "samples" in key or "choices" in key]
    assert paths.tokens_dir(recipe).parent == paths.data_dir(recipe)


def test_steps_beyond_six_digits_stay_in_order() -> None:
    content = json.loads(json.dumps(IMAGES))
    content["bits"]["steps"] = 2_000_000
    content["artifacts"]["checkpoints"] = [999_999, 1_000_000]
    recipe = parse_recipe(content, "long")
    names = [item.name for item in of_stage(recipe, "train") if item.digest == "tensors"]
    assert names == ["step_999999.safetensors", "step_1000000.safetensors", "step_2000000.safetensors"]
    assert [paths.step_of(name) for name in names] == [999_999, 1_000_000, 2_000_000]
    assert [item.step for item in of_stage(recipe, "train", 1_000_000)] == [1_000_000] * 3
    assert paths.step_of("samples.json") is None


def test_folders_may_be_given() -> None:
    recipe = load_recipe(RECIPES[0])
    where = folders(recipe, run=Path("elsewhere"), data=None)
    assert files(of_stage(recipe, "sample"), where) == [Path("elsewhere/samples.json")]
    assert where["data"] == paths.data_dir(recipe)
    assert run_files(recipe)[0] == "step_000250.safetensors"


def test_folders_hold_all_that_shapes_them_and_nothing_else() -> None:
    def place(**changes: object) -> tuple[Path, Path]:
        content = json.loads(json.dumps(TEXT))
        for key, value in changes.items():
            content["bits"]["data"] |= {key: value} if key != "seed" else {}
            content["bits"] |= {key: value} if key == "seed" else {}
        recipe = parse_recipe(content, "text")
        return paths.data_dir(recipe), paths.tokens_dir(recipe)

    own = place()
    assert place(order="random") == place(seed=8) == own
    for key, value in (
        ("tokenizer", {"kind": "char"}),
        ("split", {"by": "documents", "validation_permille": 50}),
        ("train_shards", 2),
    ):
        assert place(**{key: value})[0] == own[0]
        assert place(**{key: value})[1] != own[1], key
    other = place(source={"kind": "generated", "stories": 10, "questions": 1, "seed": 4})
    assert other[0] != own[0]


TEXT = {
    "name": "text",
    "description": "text",
    "bits": {
        "seed": 1,
        "data": {
            "name": "text",
            "source": {"kind": "generated", "stories": 10, "questions": 1, "seed": 3},
            "tokenizer": {"kind": "bpe", "vocab_size": 301},
            "split": {"by": "documents", "validation_permille": 100},
            "order": "documents",
        },
        "model": {
            "kind": "gpt", "layers": 1, "heads": 1, "channels": 4, "context": 4, "vocab_size": 301,
            "padded_vocab_size": 304,
        },
        "schedule": {"kind": "constant", "peak": 0.01, "warmup_steps": 0},
        "batch": {"sequences": 2, "lanes": 1},
        "steps": 1,
    },
}  # fmt: skip


def test_it_is_free_of_torch() -> None:
    output = run(
        "-c", "import sys, pipeline.records.catalogue, pipeline.records.code_digest; print('torch' in sys.modules)"
    )
    assert output.strip() == "False"
