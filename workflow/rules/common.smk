# What every rule needs: the recipe, its paths, and digests of bits and code. No rules here; see workflow/common.py.
import sys
from pathlib import Path

from snakemake.utils import validate

sys.path[:0] = [
    str(Path(workflow.current_basedir).parent),
    str(Path(workflow.current_basedir).parent.parent),
]

from common import ROOT, Run, prepare_environment

prepare_environment()
validate(config, str(ROOT / "workflow" / "schemas" / "config.schema.json"))
RUN = Run(config)

from cuda_ops.build import source_digest
from pipeline.records.code_digest import code_digest
from pipeline.recipe import digest_of, recipe_id

BITS = RUN.recipe.bits


container: "docker://python:3.11-slim"


wildcard_constraints:
    step=r"\d{6}",
