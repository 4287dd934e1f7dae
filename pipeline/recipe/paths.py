"""Where things lie and what they are called: by the recipe or fixed, never by the machine.

A folder is named by all that shapes its content and by nothing else, so recipes over one corpus share it. What becomes
of each file (by which stage, with which digest) is the catalogue's matter: pipeline/records/catalogue.py.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

from pipeline.recipe.data import ImageData
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.strict import digest_of

RESULTS = Path("results")
BUILD = RESULTS / "build"
GPT2_BPE = RESULTS / "data" / "gpt2_bpe"
VOCABULARY = ("encoder.json", "vocab.bpe")  # of GPT2_BPE
OVERVIEW = RESULTS / "overview.html"

# Of a corpus.
DOCUMENTS, QUESTIONS, IMAGES, SOURCE = "documents.jsonl", "choices.jsonl", "images.bin", "source.json"
RAW, SEEN = "raw", "seen.lock.yaml"  # files as they came; what the hub listed of a selection
# Of a prepared corpus. SUMMARY is written last and holds the digests of the rest.
SUMMARY, TOKENIZER, CHOICES, VALIDATION = "tokens.json", "tokenizer.json", "choices.json", "val_000000.bin"
TRAIN_STARTS, VALIDATION_STARTS = "train_documents.npy", "val_documents.npy"
# Of a run.
SAMPLES, SPIKES, REPORT, VERIFICATION = "samples.json", "spikes.json", "report.html", "verification.txt"
DIGESTS, SUMS, PROVENANCE, RECEIPTS = "digests.json", "SHA256SUMS", "provenance.json", "receipts"
METRICS = "metrics.jsonl"  # of a run under way, beside its checkpoints


def data_dir(recipe: Recipe) -> Path:
    """The corpus, shared by the recipes that name it."""
    data = recipe.bits.data
    return RESULTS / "data" / f"{data.name}-{digest_of(data.source)[:8]}"


def tokens_dir(recipe: Recipe) -> Path:
    """What training reads: one folder per corpus and preparation, which of a text is tokenizer, split and shards."""
    data = recipe.bits.data
    if isinstance(data, ImageData):
        return data_dir(recipe) / "packed"
    name = data.tokenizer.kind + str(getattr(data.tokenizer, "vocab_size", ""))
    shape = hashlib.sha256(f"{digest_of(data.tokenizer)} {digest_of(data.split)}".encode()).hexdigest()
    shards = "" if data.split.by == "shards" else f"-{data.train_shards}"
    return data_dir(recipe) / f"{name}-{shape[:8]}{shards}"


def run_dir(recipe: Recipe) -> Path:
    """Everything a run leaves."""
    return RESULTS / "runs" / recipe.name


def weights_file(recipe: Recipe) -> Path | None:
    """The file of weights that bits.init pins at a URL, shared by the recipes that begin from it."""
    init = recipe.bits.init
    if init.kind != "weights" or not init.url:
        return None
    return RESULTS / "weights" / init.sha256[:8] / (Path(urlparse(init.url).path).name or "weights")


def choices_name(stem: str) -> str:
    """Tokenised questions; CHOICES are those of the corpus."""
    return f"{stem}.json"


def record_name(stem: str) -> str:
    """The record beside questions that are not the corpus' own."""
    return f"{stem}.source.json"


def shard_names(count: int) -> list[str]:
    """File names of so many training shards."""
    return [f"train_{i:06d}.bin" for i in range(count)]


def train_shards(recipe: Recipe) -> list[str]:
    """File names of the training shards; images are packed into one."""
    data = recipe.bits.data
    return shard_names(1 if isinstance(data, ImageData) else data.train_shards)


def _number(step: int | str) -> str:
    """A step in a file name, at least six digits; a string (of a rule's wildcard) as it is."""
    return step if isinstance(step, str) else f"{step:06d}"


def checkpoint_name(step: int | str) -> str:
    return f"step_{_number(step)}.safetensors"


def sidecar_name(step: int | str) -> str:
    """The SHA-256 of a checkpoint's file, in sha256sum's form."""
    return f"{checkpoint_name(step)}.sha256"


def chain_name(step: int | str) -> str:
    return f"chain_{_number(step)}.tsv"


def eval_name(step: int | str) -> str:
    return f"eval_{_number(step)}.json"


def receipt_name(stage: str, step: int | str | None = None) -> str:
    """A file of RECEIPTS."""
    return f"{stage}.json" if step is None else f"{stage}_{_number(step)}.json"


def log_name(stage: str, step: int | str) -> str:
    """The log of a stage at a step."""
    return f"{stage}_{_number(step)}.log"


def step_of(name: str) -> int | None:
    """The step in the name of a checkpoint, chain or evaluation, if there is one."""
    match = re.fullmatch(r"(?:step|chain|eval)_(\d+)\.\w+", name)
    return int(match[1]) if match else None
