# What every rule needs: the recipe, its paths, and digests of bits and code. No rules here.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

ROOT = Path(workflow.current_basedir).parent.parent
sys.path.insert(0, str(ROOT))
# The stages run in this environment, from any working folder.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
)
os.environ.setdefault("SAMEBITS_BUILD", "results/build")

from cuda_ops.build import source_digest
from pipeline import own_text, paths
from pipeline.code_digest import code_digest
from pipeline.errors import UserError
from pipeline.recipe import digest_of, load_recipe, recipe_id

validate(config, str(ROOT / "workflow" / "schemas" / "config.schema.json"))


container: "docker://python:3.11-slim"


try:
    RECIPE_PATH = os.path.relpath(
        ROOT / "config" / "recipes" / f"{config['recipe']}.yaml"
    )
    if os.path.exists(config["recipe"]):
        RECIPE_PATH = config["recipe"]
    RECIPE = load_recipe(RECIPE_PATH)
    if config["data"]:
        RECIPE = own_text.derive(RECIPE, Path(config["data"]))
        RECIPE_PATH = str(own_text.write(RECIPE))
except UserError as error:
    raise WorkflowError(str(error))

DATA = str(paths.data_dir(RECIPE))
TOKENS = str(paths.tokens_dir(RECIPE))
RUN = str(paths.run_dir(RECIPE))
LOGS = f"results/logs/{RECIPE.name}"
STEPS = [f"{step:06d}" for step in RECIPE.checkpoints]


wildcard_constraints:
    step=r"\d{6}",


def previous(wildcards):
    """The checkpoint before a step, or none."""
    at = STEPS.index(wildcards.step)
    return f"{RUN}/step_{STEPS[at - 1]}.safetensors" if at else "none"


def previous_sha256(wildcards):
    """Its digest file: small, so compared by content; an equal checkpoint retrains nothing."""
    return [] if previous(wildcards) == "none" else previous(wildcards) + ".sha256"
