"""pytest tests/records/test_provenance.py

The in-toto statement of a run, and the verifier that uses the standard library alone: both on a real run, and on damaged ones.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.chain import START
from pipeline.base.files import sha256_of, write_json
from pipeline.recipe import as_written, load_recipe, parse_recipe, recipe_id
from pipeline.records.catalogue import digested, run_files
from pipeline.records.digests import digest_file
from pipeline.records.provenance import dependencies, statement
from tests.conftest import ROOT, run

VERIFIER = ROOT / "docs" / "verify_standalone.py"


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything that the digest stage hashes; evaluations and samples are stand-ins, only hashed here."""
    out = tmp_path_factory.mktemp("finished")
    previous = "none"
    for step in (3, 6):
        checkpoint = out / f"step_{step:06d}.safetensors"
        run(
            "-m", "pipeline.train", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--steps-to", str(step),
            "--previous", previous, "--out", str(checkpoint), "--chain", str(out / f"chain_{step:06d}.tsv"),
            "--state", str(out / "state"), env={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        previous = str(checkpoint)
        (out / f"eval_{step:06d}.json").write_text("{}\n")
    (out / "samples.json").write_text("[]\n")
    recipe = load_recipe(tiny["recipe"])
    digests = {
        "recipe/bits": recipe_id(recipe),
        "prepare_text/train_000000.bin": sha256_of(tiny["tokens"] / "train_000000.bin"),
    }
    link = START
    for item in digested(recipe):
        if item.folder == "run":
            digests[item.key], link = digest_file(item, out / item.name, link)
    write_json(out / "digests.json", digests)
    names = [*run_files(recipe), "digests.json"]
    (out / "SHA256SUMS").write_text("".join(f"{sha256_of(out / name)}  {name}\n" for name in names))
    return out


def test_the_statement(tiny: dict[str, Path], finished: Path) -> None:
    recipe = load_recipe(tiny["recipe"])
    content = statement(recipe, finished)
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in content["subject"]:
        assert subject["digest"] == {"sha256": sha256_of(finished / subject["name"])}
    assert {"step_000003.safetensors", "chain_000006.tsv", "digests.json"} <= {s["name"] for s in content["subject"]}
    definition, details = content["predicate"]["buildDefinition"], content["predicate"]["runDetails"]
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    again = parse_recipe(definition["externalParameters"]["recipe"], "statement")
    assert recipe_id(again) == recipe_id(recipe) == definition["externalParameters"]["recipe_id"]
    found = {item["name"]: item["digest"]["sha256"] for item in definition["resolvedDependencies"]}
    assert found["prepare_text/train_000000.bin"] == sha256_of(tiny["tokens"] / "train_000000.bin")
    assert {"sources of the ops", "flags of the ops", "code of the trainer", "source of the data"} <= set(found)
    assert all(len(digest) == 64 for digest in found.values())
    assert details["builder"]["id"]
    assert details["metadata"]["startedOn"].endswith("Z")
    assert "torch" in details["builder"]["version"]
    # Deterministic but for what the machine did.
    other = statement(recipe, finished)
    assert other["subject"] == content["subject"]
    assert other["predicate"]["buildDefinition"] == definition


def test_everything_that_preparation_wrote_is_a_dependency() -> None:
    """Of texts and images alike: whatever of the catalogue has a digest before training begins, and nothing after."""
    for name in ("tiny", "patterns"):
        recipe = load_recipe(ROOT / "tests" / "recipes" / f"{name}.yaml")
        keys = [item.key for item in digested(recipe)]
        named = {item["name"] for item in dependencies(recipe, dict.fromkeys(keys, "0" * 64))}
        assert named & set(keys) == {key for key in keys if not key.startswith(("train/", "evaluate/", "sample/"))}
        assert f"prepare_{'text' if name == 'tiny' else 'images'}/train_000000.bin" in named


def test_no_local_path_is_in_it_and_compare_reads_it_back(
    tiny: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    """Where a text or weights lie on this machine is nobody's matter; the recipe without it is the same recipe."""
    from pipeline.evidence.sides import Side

    content = as_written(load_recipe(tiny["recipe"]))
    content["bits"]["data"]["source"] = {"kind": "file", "path": "/home/someone/secret.txt", "sha256": "0" * 64}
    content["bits"]["init"] = {"kind": "weights", "path": "/home/someone/weights", "sha256": "1" * 64}
    content["artifacts"]["scores"] = [{"kind": "loss"}]
    recipe = parse_recipe(content, "own text")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    text = json.dumps(statement(recipe, folder))
    assert "someone" not in text
    (folder / "provenance.json").write_text(text)
    side = Side("A", folder).read()
    assert side.recipe is not None
    assert recipe_id(side.recipe) == recipe_id(recipe)


def verify(folder: Path, *expected: str) -> tuple[int, str]:
    """The verifier, copied elsewhere, without this project and its packages."""
    copied = folder.parent / "verifier.py"
    shutil.copy(VERIFIER, copied)
    command = [sys.executable, "-I", "-S", str(copied), str(folder), *expected]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return done.returncode, done.stdout + done.stderr


def test_the_verifier_names_what_is_missing_once(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, lacks in (
        ([finished / "nosuch"], finished / "nosuch"),
        ([finished / "nosuch", finished / "digests.json"], finished / "nosuch"),
        ([tmp_path / "empty"], tmp_path / "empty" / "digests.json"),
        ([finished, tmp_path / "none.json"], tmp_path / "none.json"),
    ):
        command = [sys.executable, "-I", "-S", str(VERIFIER), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{lacks}: missing; name the folder of a finished run (make reproduction makes")
        assert done.stderr.count(str(lacks)) == 1


def test_the_verifier_is_short_and_of_the_standard_library() -> None:
    text = VERIFIER.read_text()
    assert len(text.splitlines()) <= 100
    imported = {name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


def test_the_verifier_agrees_and_sees_every_kind_of_damage(finished: Path, tmp_path: Path) -> None:
    code, output = verify(finished)
    assert code == 0, output
    assert "chain: 6 links from step 1, each follows" in output
    assert "7 artefacts checked, all equal" in output

    def damaged(name: str, edit: object) -> str:
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        edit(folder)  # type: ignore[operator]
        code, output = verify(folder)
        assert code == 1, output
        return output

    def flip(folder: Path) -> None:
        path = folder / "step_000003.safetensors"
        content = bytearray(path.read_bytes())
        content[-7] ^= 4
        path.write_bytes(content)

    assert "train/step_000003.safetensors: differs" in damaged("flip", flip)

    def loss(folder: Path) -> None:
        path = folder / "chain_000006.tsv"
        rows = path.read_text().splitlines()
        cells = rows[2].split("\t")
        cells[1] = (float.fromhex(cells[1]) + 1e-6).hex()
        path.write_text("\n".join([*rows[:2], "\t".join(cells), *rows[3:]]) + "\n")

    assert "step 5 does not follow from the line before" in damaged("loss", loss)
    assert "evaluate/eval_000003.json: missing" in damaged(
        "gone", lambda folder: (folder / "eval_000003.json").unlink()
    )

    def expected(folder: Path) -> None:
        digests = json.loads((folder / "digests.json").read_text())
        digests["sample/samples.json"] = "0" * 64
        (folder / "digests.json").write_text(json.dumps(digests))

    output = damaged("list", expected)
    assert "sample/samples.json: differs" in output
    assert "SHA256SUMS: digests.json differs" in output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stripped", "train/step_000003.safetensors: its metadata has not the chain's link at step None"),
        ("another link", "train/step_000003.safetensors: its metadata has not the chain's link at step 3"),
        ("truncated", "train/step_000003.safetensors: not a whole checkpoint: wte.weight ends at byte"),
        ("cut in its header", "train/step_000003.safetensors: not a whole checkpoint"),
        ("dtype", "train/step_000003.safetensors: not a whole checkpoint: wte.weight has the unknown dtype F99"),
        ("no sums", "SHA256SUMS: missing"),
        ("key", "samples.json: not of the form stage/file"),
        ("no list", "digests.json: not a list of digests"),
        ("nothing", "so nothing was checked"),
        ("chain", "chain_000003.tsv: "),
    ],
)
def test_the_verifier_names_what_is_not_whole(finished: Path, tmp_path: Path, name: str, said: str) -> None:
    """Exit code 1 and a sentence; the listed digests of what was altered are made right where the damage allows it."""
    import safetensors.torch

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path, digests = folder / "step_000003.safetensors", json.loads((folder / "digests.json").read_text())
    content = path.read_bytes()
    tensors = safetensors.torch.load_file(path)
    if name == "stripped":
        path.write_bytes(safetensors.torch.save(tensors))
    elif name == "another link":
        path.write_bytes(safetensors.torch.save(tensors, {"samebits": json.dumps({"step": 3, "link": "0" * 64})}))
    elif name == "truncated":
        path.write_bytes(content[:-8])
    elif name == "cut in its header":
        path.write_bytes(content[:5])
    elif name == "dtype":
        at = content.index(b'"wte.weight":{"dtype":"F32",')
        path.write_bytes(content[:at] + content[at:].replace(b'"F32"', b'"F99"', 1))
    elif name == "no sums":
        (folder / "SHA256SUMS").unlink()
    elif name == "key":
        digests["samples.json"] = digests.pop("sample/samples.json")
    elif name == "no list":
        digests = [1]
    elif name == "nothing":
        digests = {"recipe/bits": digests["recipe/bits"]}
    else:
        (folder / "chain_000003.tsv").write_text("step\tloss\nwrong\n")
    (folder / "digests.json").write_text(json.dumps(digests))
    if name != "no sums":
        (folder / "SHA256SUMS").write_text("")
    code, output = verify(folder)
    assert code == 1, output
    assert said in output
    assert "Traceback" not in output


def test_the_container_does_not_matter_but_the_tensors_do(finished: Path, tmp_path: Path) -> None:
    """The same tensors in another safetensors file have one digest: what the verifier hashes is content."""
    import safetensors
    import safetensors.torch

    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    path = folder / "step_000006.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save(tensors, about | {"note": "another container"}))
    (folder / "SHA256SUMS").write_text("")
    assert verify(folder)[0] == 0
