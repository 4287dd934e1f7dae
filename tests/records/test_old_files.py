"""pytest tests/records/test_old_files.py

Old files beside new ones: a run whose artifacts.checkpoints were others before. What is current goes by digests.json and
the recipe; what belongs to no current artefact is named once, and read by nobody.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline.base.chain import START
from pipeline.base.files import sha256_of, write_json
from pipeline.evidence.rerun import checkpoints_of, lines_of
from pipeline.evidence.sides import Side
from pipeline.recipe import Recipe, load_recipe, recipe_id
from pipeline.recipe.paths import RECEIPTS, receipt_name
from pipeline.records.catalogue import STAGES, by_name, catalogue, digested, run_files
from pipeline.records.digests import digest_file
from pipeline.records.present import NAMED, present
from pipeline.records.provenance import statement
from tests.conftest import ROOT, run

OLD = ["chain_000002.tsv", "eval_000002.json", "step_000002.safetensors"]


def train(recipe: Path, tokens: Path, out: Path, steps: tuple[int, ...]) -> None:
    """Segments up to each of the steps; evaluations are stand-ins, only hashed here."""
    previous = "none"
    for step in steps:
        checkpoint = out / f"step_{step:06d}.safetensors"
        run(
            "-m", "pipeline.train", "--recipe", str(recipe), "--tokens", str(tokens), "--steps-to", str(step),
            "--previous", previous, "--out", str(checkpoint), "--chain", str(out / f"chain_{step:06d}.tsv"),
            "--state", str(out.parent / f"state-{out.name}"), env={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        previous = str(checkpoint)
        (out / f"eval_{step:06d}.json").write_text("{}\n")
    (out / "samples.json").write_text("[]\n")


def record(recipe: Recipe, out: Path) -> None:
    """digests.json and SHA256SUMS, as the stage digest writes them, of what lies in the run's folder."""
    digests, link = {"recipe/bits": recipe_id(recipe)}, START
    for item in digested(recipe):
        if item.folder == "run":
            digests[item.key], link = digest_file(item, out / item.name, link)
    write_json(out / "digests.json", digests)
    names = [*run_files(recipe), "digests.json"]
    (out / "SHA256SUMS").write_text("".join(f"{sha256_of(out / name)}  {name}\n" for name in names))


def remade(tiny: dict[str, Path], folder: Path, edit: tuple[str, str]) -> Path:
    """A run with a checkpoint after step 2 of a recipe that `edit` makes of tiny, then tiny's own (3 and 6) over it."""
    text = tiny["recipe"].read_text()
    former = folder / "former" / "tiny.yaml"
    former.parent.mkdir()
    assert edit[0] in text
    former.write_text(text.replace(*edit).replace("checkpoints: [3]", "checkpoints: [2]"))
    out = folder / "run"
    train(former, tiny["tokens"], out, (2, 6))
    for name in ("step_000006.safetensors", "step_000006.safetensors.sha256", "chain_000006.tsv", "eval_000006.json"):
        (out / name).unlink()  # as a rerun of this segment replaces them
    train(tiny["recipe"], tiny["tokens"], out, (3, 6))
    record(load_recipe(tiny["recipe"]), out)
    return out


@pytest.fixture(scope="module")
def same_bits(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remade(tiny, tmp_path_factory.mktemp("same"), ("checkpoints: [3]", "checkpoints: [2]"))


@pytest.fixture(scope="module")
def other_bits(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old files are of another peak: a chain and a checkpoint that nothing here may go on from."""
    return remade(tiny, tmp_path_factory.mktemp("other"), ("peak: 3.0e-3", "peak: 2.0e-3"))


@pytest.fixture(params=["same bits", "other bits"])
def stale(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param.replace(" ", "_")))


def named_once(output: str) -> bool:
    return all(output.count(name) == 1 for name in OLD)


def test_the_standalone_verifier(stale: Path) -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "docs" / "verify_standalone.py"), str(stale)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "chain: 6 links from step 1, each follows" in done.stdout
    assert "7 artefacts checked, all equal" in done.stdout
    assert named_once(done.stdout)


def test_replay_goes_on_from_a_current_checkpoint(tiny: dict[str, Path], stale: Path) -> None:
    base = ["-m", "pipeline.replay", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--check"]
    for step, start in ((3, "the recipe's initial weights"), (5, "step_000003.safetensors")):
        output = run(*base, "--run", str(stale), "--step", str(step))
        assert start in output
        assert output.count("step_000002.safetensors") == 1
        assert named_once(output)
        assert "equal to the chain" in output


def test_compare_calls_it_equal_to_a_run_without_them(tiny: dict[str, Path], stale: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    shutil.copytree(stale, clean)
    for path in [*clean.glob("*_000002*"), clean / RECEIPTS / receipt_name("train", 2)]:
        path.unlink()
    output = run("-m", "pipeline.compare", str(stale), str(clean), "--recipe", str(tiny["recipe"]))
    assert "equal: everything that both sides have" in output
    assert "not of this run" in output
    assert named_once(output)
    assert "not of this run" not in run(
        "-m", "pipeline.compare", str(clean), str(clean), "--recipe", str(tiny["recipe"])
    )
    one, other = Side("A", stale).read(), Side("B", clean).read()
    assert one.artefacts() == other.artefacts()
    assert one.lines == other.lines
    assert sorted(one.checkpoints) == [3, 6]


def test_a_damaged_current_chain_is_still_seen(tiny: dict[str, Path], stale: Path, tmp_path: Path) -> None:
    """The control: old files excuse nothing."""
    altered = tmp_path / "altered"
    shutil.copytree(stale, altered)
    path = altered / "chain_000003.tsv"
    text = path.read_text()
    path.write_text(text.replace("\n2\t0x1.", "\n2\t0x1.f", 1))
    assert path.read_text() != text
    command = [sys.executable, "-I", "-S", str(ROOT / "docs" / "verify_standalone.py"), str(altered)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "chain_000003.tsv: step 2 does not follow from the line before" in done.stdout


def test_no_statement_holds_a_receipt_of_a_former_segment(tiny: dict[str, Path], stale: Path) -> None:
    assert (stale / RECEIPTS / receipt_name("train", 2)).exists()
    content = statement(load_recipe(tiny["recipe"]), stale)
    assert len(content["predicate"]["buildDefinition"]["internalParameters"]["execution"]) == 2
    assert not [subject for subject in content["subject"] if subject["name"] in OLD]


def test_a_run_under_way_goes_by_the_recipe(tiny: dict[str, Path], stale: Path, tmp_path: Path) -> None:
    """digests.json is still that of other bits, or there is none yet."""
    recipe = load_recipe(tiny["recipe"])
    copied = tmp_path / "run"
    shutil.copytree(stale, copied)
    digests = {"recipe/bits": "0" * 64, "train/step_000002.safetensors": "1" * 64}
    (copied / "digests.json").write_text(json.dumps(digests))
    assert sorted(checkpoints_of(copied, recipe)) == [3, 6]
    assert sorted(checkpoints_of(copied)) == [2]
    (copied / "digests.json").unlink()
    assert sorted(checkpoints_of(copied)) == [2, 3, 6], "a folder of rolling checkpoints has no list"
    assert not present(copied).note()
    (copied / "digests.json").write_text("[]")
    with pytest.raises(UserError, match=r"digests\.json: expected an object"):
        present(copied)


def test_order_is_by_step_and_many_are_counted(tmp_path: Path) -> None:
    for step in (1_000_000, 999_999, *range(1, 10)):
        (tmp_path / f"step_{step:06d}.safetensors").touch()
        (tmp_path / f"step_{step:06d}.safetensors.sha256").touch()
    assert list(checkpoints_of(tmp_path)) == [*range(1, 10), 999_999, 1_000_000]
    (tmp_path / "digests.json").write_text(json.dumps({"train/step_000003.safetensors": "0" * 64}))
    found = present(tmp_path)
    assert [item.step for item in found.current] == [3]
    assert len(found.old) == 10
    assert found.note().endswith(f" and {10 - NAMED} more")
    assert lines_of(tmp_path) == {}
    assert present(tmp_path / "nothing").current == []


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_is_known_by_its_name_alone(path: Path) -> None:
    recipe = load_recipe(path)
    for item in catalogue(recipe):
        assert by_name(item.name) == (item if item.folder == "run" and item.published else None)
    stages = [STAGES.index(item.stage) for item in catalogue(recipe)]
    assert stages == sorted(stages)
    for name in ("step_3.safetensors", "chain.tsv", "eval_000003.tsv", "state", "step_000003.safetensors.sha256"):
        assert by_name(name) is None
