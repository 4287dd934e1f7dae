"""Bring weights of other programs here: a Hugging Face GPT-2 (safetensors), or llm.c's .bin.

    python -m pipeline.import_weights gpt2/ --recipe shakespeare_gpt2 --name mine
    results/recipes/mine.yaml: a recipe of no steps; results/runs/mine/step_000000.safetensors: 124,439,808 parameters
    python -m pipeline.sample --recipe results/recipes/mine.yaml --checkpoint results/runs/mine/step_000000.safetensors
    python -m pipeline.import_weights --recipe config/recipes/openai_gpt2.yaml --fetch
    python -m pipeline.import_weights log124M/model_00005000.bin --state --recipe gpt2_124m --name taken_up
    results/recipes/taken_up.yaml: goes on after step 5000 of 18865; results/weights/taken_up/step_005000.safetensors: …

The recipe is that of --recipe with the weights' own model and initial weights, and no steps: `snakemake --config
recipe=results/recipes/mine.yaml` scores it, and another recipe may begin from it by init: {kind: checkpoint} or, from the file
itself, {kind: weights}. --state takes a run of llm.c up: its weights, AdamW's moments and the step, by the state_*.bin beside
the model; the recipe goes on after it, with the data, schedule and steps of --recipe. --fetch only brings the file that a
recipe's bits.init pins. Pickle (.pt, PyTorch's .bin) is not read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base import chain
from pipeline.base.checkpoint import Checkpoint, Rolling, save
from pipeline.base.files import sha256_of, write_bytes
from pipeline.base.tensors import checked_finite, write_tensors
from pipeline.data.fetch import fetch, from_mirror
from pipeline.models.llmc import FromLlmc
from pipeline.models.llmc_state import FromLlmcState
from pipeline.models.weights import file_of, open_weights
from pipeline.recipe import Gpt, Recipe, as_written, load_recipe, parse_recipe, recipe_id
from pipeline.recipe.load import recipe_file
from pipeline.recipe.paths import RESULTS, chain_name, checkpoint_name, run_dir, weights_file
from pipeline.training.stored import about_of, specs_of


def recipe_of(base: Recipe, config: Gpt, file: Path, name: str) -> Recipe:
    """The base recipe with the model of a file of weights, which it begins with and ends with."""
    content = as_written(base)
    bits = content["bits"]
    bits |= {"model": config.model_dump(), "init": {"kind": "weights", "path": str(file), "sha256": sha256_of(file)}}
    bits |= {"steps": 0, "batch": {"sequences": 1, "lanes": 1}}
    bits.pop("skip", None)
    content["artifacts"]["checkpoints"] = []
    content |= {"name": name, "description": f"the weights of {file.name}, scored as {base.name}"}
    return parse_recipe(content, f"recipe for {file}")


def bring(source: Path, base: Path, name: str) -> str:
    """Import a file of weights; returns the line that says what was written."""
    weights, config = open_weights(source)
    recipe = recipe_of(load_recipe(base), config, file_of(source), name)
    path, out = RESULTS / "recipes" / f"{name}.yaml", run_dir(recipe) / checkpoint_name(0)
    if any(Rolling(out.parent).steps()):
        raise UserError(f"--name {name}: {out.parent} holds the checkpoints of another run; choose another name")
    write_bytes(path, (json.dumps(as_written(recipe), indent=2, ensure_ascii=False) + "\n").encode())

    class Checked(dict[str, object]):
        """Each tensor as it is asked for, without a NaN."""

        def __missing__(self, key: str) -> object:
            return checked_finite(weights[key], weights.path, key)

    found = Checkpoint(0, recipe_id(recipe), chain.START, Checked(), about_of(recipe), specs_of(recipe))  # type: ignore[arg-type]
    save(out, found)
    chain.write(run_dir(recipe) / chain_name(0), [])
    return f"{path}: a recipe of no steps; {out}: {config.parameters:,} parameters"


def take_up(source: Path, base: Path, name: str) -> str:
    """Import a run of llm.c under way; returns the line that says what was written."""
    model, config = open_weights(source)
    if not isinstance(model, FromLlmc):
        raise UserError(f"{source}: --state is for llm.c's model_<step>.bin, with state_<step>_<rank>.bin beside it")
    found = FromLlmcState(model)
    out = RESULTS / "weights" / name / checkpoint_name(found.step)
    content = as_written(load_recipe(base))
    bits, artifacts = content["bits"], content["artifacts"]
    if bits["steps"] <= found.step:
        raise UserError(f"{source}: of step {found.step}, recipe {base} ends at step {bits['steps']}: none is left")
    artifacts["checkpoints"] = [step for step in artifacts["checkpoints"] if step > found.step]
    init = {"kind": "weights", "path": str(out), "sha256": "0" * 64, "steps_done": found.step}
    bits |= {"model": config.model_dump(), "init": init}
    content |= {"name": name, "description": f"{content['name']} after step {found.step} of a run of llm.c"}
    parse_recipe(content, f"recipe for {source}")  # before what may be many bytes
    init["sha256"] = write_tensors(out, found.specs, found, {"step": found.step, "model": config.model_dump()})
    path = RESULTS / "recipes" / f"{name}.yaml"
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return f"{path}: goes on after step {found.step} of {bits['steps']}; {out}: {config.parameters:,} parameters and their moments"


def fetch_pinned(base: Path, out: Path | None) -> str:
    """Bring the file that bits.init pins; returns the line that says where it is."""
    recipe = load_recipe(base)
    init, place = recipe.bits.init, weights_file(recipe)
    if init.kind != "weights" or place is None:
        raise UserError(f"{base}: bits.init pins no file at a URL, so there is nothing to fetch")
    target = out or place
    whole = target.exists() and sha256_of(target) == init.sha256
    if init.url.startswith("hf://") and not whole:
        copy = from_mirror(init.sha256, init.bytes) or from_hub(init.url)
        return f"{fetch(init.url, init.sha256, init.bytes, target, copy)}: sha256 {init.sha256}"
    return f"{fetch(init.url, init.sha256, init.bytes, target)}: sha256 {init.sha256}"


def from_hub(url: str) -> Path:
    """A file of the Hugging Face hub, hf://<repo>@<revision>/<file>, in its own cache: it resumes and knows mirrors."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, rest = url.removeprefix("hf://").partition("@")
    revision, _, name = rest.partition("/")
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{url}: {reason}. Or give a copy of the file in a folder named by SAMEBITS_MIRROR") from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring weights of other programs here.")
    parser.add_argument(
        "weights", type=Path, nargs="?", help="a Hugging Face folder or its safetensors, or llm.c's .bin"
    )
    parser.add_argument(
        "--recipe", required=True, help="whose data and scores they get, or whose weights --fetch brings"
    )
    parser.add_argument("--name", help="of the new recipe and of its run")
    parser.add_argument("--state", action="store_true", help="take up llm.c's run: its moments and step too")
    parser.add_argument("--fetch", action="store_true", help="only bring the file that the recipe's bits.init pins")
    parser.add_argument("--out", type=Path, help="where --fetch puts it (default: results/weights)")
    args = parser.parse_args()
    base = recipe_file(args.recipe)
    if args.fetch:
        print(fetch_pinned(base, args.out))
        return 0
    if args.weights is None or args.name is None:
        raise UserError("name a file of weights and, by --name, the recipe to make of it; or --fetch")
    print((take_up if args.state else bring)(args.weights, base, args.name))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
