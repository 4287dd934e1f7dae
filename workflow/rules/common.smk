# The recipes, and functions of wildcards that give bits, code and paths; no rules. See workflow/common.py.
import sys
from pathlib import Path

from snakemake.utils import validate

sys.path[:0] = [
    str(Path(workflow.current_basedir).parent),
    str(Path(workflow.current_basedir).parent.parent),
]

from checks import check_execution, check_files, check_folder, check_keys, check_profile
from common import (
    CORES,
    ROOT,
    evaluated_bits,
    one_of,
    pinned_of,
    pins,
    pins_of,
    prepare_environment,
    prepared_bits,
    runs_of,
    stale_library,
)
from stops import pass_stops_on
from pipeline.recipe import digest_of
from pipeline.recipe import paths as at
from pipeline.recipe.pins import pins_path

prepare_environment(workflow)
check_folder()
check_keys(config)
check_profile(sys.argv)
validate(config, str(ROOT / "workflow" / "schemas" / "config.schema.json"))
RUNS = runs_of(config)
check_files(RUNS)
PINNED = pinned_of(RUNS)
ALL_CORES = workflow.resource_settings.cores or CORES

# Outputs are marked update(): Snakemake leaves the old file until the rule has ended well, and puts it back if it
# fails.
RUN = f"{at.RESULTS}/runs/{{recipe}}"
CORPUS = f"{at.RESULTS}/data/{{corpus}}"
TOKENS = f"{CORPUS}/{{prepared}}"
LOGS = f"{at.RESULTS}/logs"


def run_of(wildcards):
    return RUNS[wildcards.recipe]


def recipe_of(wildcards, input):
    """The recipe's file; a function of `input` too, so that its path is not compared."""
    return run_of(wildcards).path


def tokens_of(wildcards, input):
    return run_of(wildcards).tokens


def init_flags(recipe, step):
    """The flag that names the other recipe's checkpoint a segment begins from, if any."""
    return [text for path in RUNS.start(recipe, step) for text in ("--init", path)]


def code(stage):
    """What of a stage's Python must make it run again."""
    return lambda wildcards: run_of(wildcards).trigger(stage, kernels=False)


def kernels(stage):
    """The kernels that it uses."""
    return lambda wildcards: run_of(wildcards).trigger(stage, kernels=True)


def of_corpus(wildcards):
    return RUNS.of_corpus(wildcards.corpus, wildcards.get("prepared", ""))


def of_questions(wildcards):
    return RUNS.of_questions(wildcards.corpus, wildcards.prepared, wildcards.questions)


def corpus_recipe(wildcards, input):
    return of_corpus(wildcards).path


def folder(wildcards, output):
    """Where a rule writes."""
    return str(Path(output[0]).parent)


def corpus_code(stage):
    return lambda wildcards: of_corpus(wildcards).trigger(stage, kernels=False)


def source_bits(wildcards):
    return digest_of(of_corpus(wildcards).recipe.bits.data.source)


def pinned_sha256(wildcards):
    """What a pin file says of a file."""
    files = pins_of(of_corpus(wildcards).recipe).files
    return next(file.sha256 for file in files if file.name == wildcards.file)


def documents_of_corpus(wildcards):
    """The one file of documents; a pinned corpus has none: its files are described by the source record, an input too."""
    if wildcards.corpus not in PINNED:
        return [f"{at.RESULTS}/data/{wildcards.corpus}/{at.DOCUMENTS}"]
    return []


def preparation_bits(wildcards):
    return prepared_bits(of_corpus(wildcards))


def vocabulary_of(wildcards):
    """The files of GPT-2's vocabulary, for the recipes that read them."""
    kind = of_corpus(wildcards).recipe.bits.data.tokenizer.kind
    return rules.vocabulary.output if kind == "gpt2" else []


def cluster(wildcards, resources):
    """More than one machine: how many, and where they meet."""
    if int(resources.nodes) == 1:
        return ""
    return f"--nodes {resources.nodes} --rendezvous {resources.rendezvous}"


wildcard_constraints:
    recipe=one_of(RUNS),
    corpus=r"[^/]+",
    prepared=r"[^/]+",
    step=r"\d{5}\d+",  # six digits or more
