"""A recipe: what defines the bits of a run, and which artefacts the run leaves.

    python -m pipeline.recipe config/recipes/fables.yaml
    fables  recipe_id 1ade…  875,264 parameters, 1000 steps of 16 x 128 tokens in 4 lanes

`bits:` defines every bit of the result; `artifacts:` says which results exist. How a machine runs it (ranks,
micro-batch, threads, device) is not in this file and may never change a bit. The schema is strict: an unknown
key, a wrong type or an impossible combination is an error that names the key, the value and what is allowed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cuda_ops.errors import UserError, exit_on_user_error

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 lower-case hex digits")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+-]*$")]
Positive = Annotated[int, Field(gt=0)]


def _is_none(value: Any) -> bool:
    """For exclude_if of keys that are younger than published digests: unset, they are not in the canonical form."""
    return value is None


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GeneratedSource(Strict):
    """A corpus written by this project's own seeded generator."""

    kind: Literal["generated"]
    generator: Literal["fables"] = "fables"
    stories: Positive = Field(description="training and validation stories together")
    questions: Positive = Field(description="multiple-choice questions")
    seed: int = Field(ge=0, lt=2**64)


class UrlSource(Strict):
    """One file at a URL, pinned by SHA-256."""

    kind: Literal["url"]
    url: str = Field(pattern=r"^(https?|file)://")
    sha256: Sha256
    bytes: Positive
    format: Literal["text", "jsonl", "parquet"] = "text"
    column: str = "text"
    licence: str = ""


class FileSource(Strict):
    """A local file: UTF-8 text, jsonl or parquet. Its SHA-256 is part of the recipe, its path is not."""

    kind: Literal["file"]
    path: str
    sha256: Sha256
    format: Literal["text", "jsonl", "parquet"] = "text"
    column: str = "text"


class HuggingFaceSource(Strict):
    """A data set read through Hugging Face `datasets` at a fixed revision, rows in the order of its files."""

    kind: Literal["huggingface"]
    repo: str = Field(description="hub id, or the packaged builder 'parquet' or 'json' with data_files")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    config: str | None = None
    split: str = "train"
    column: str = "text"
    data_files: tuple[str, ...] = ()
    rows: Positive | None = Field(default=None, description="take the first rows only")
    sha256: Sha256 | None = Field(default=None, description="of the canonical documents")

    @model_validator(mode="after")
    def pinned(self) -> HuggingFaceSource:
        if self.revision is None and not self.data_files:
            raise ValueError("revision: a hub data set must be pinned to a 40-hex commit")
        return self


Source = Annotated[GeneratedSource | UrlSource | FileSource | HuggingFaceSource, Field(discriminator="kind")]


class CharTokenizer(Strict):
    """One token per Unicode code point of the training text, in code point order."""

    kind: Literal["char"]


class BpeTokenizer(Strict):
    """Byte-level BPE trained here on the training split; ties broken by bytes."""

    kind: Literal["bpe"]
    vocab_size: int = Field(ge=257, le=65536, description="256 bytes + <|endoftext|> + merges")


class Gpt2Tokenizer(Strict):
    """GPT-2's byte-pair encoding from pinned vocabulary files (config/data/gpt2_bpe.yaml)."""

    kind: Literal["gpt2"]


Tokenizer = Annotated[CharTokenizer | BpeTokenizer | Gpt2Tokenizer, Field(discriminator="kind")]


class Split(Strict):
    """The last validation_permille / 1000 of the characters, or of the documents, are for validation."""

    by: Literal["characters", "documents"]
    validation_permille: int = Field(gt=0, lt=1000)


class Data(Strict):
    name: Name = Field(description="folder of the corpus under results/data")
    source: Source
    tokenizer: Tokenizer
    split: Split
    order: Literal["sequential", "permutation", "random", "documents"] = Field(
        description=(
            "sequential: consecutive windows; permutation: all windows once per epoch, shuffled; "
            "random: independent offsets, as nanoGPT; documents: windows start at documents, shuffled"
        )
    )
    train_shards: Positive = 1


class Gpt(Strict):
    """GPT-2's architecture (Radford et al. 2019, section 2.3): pre-LayerNorm, tied lm head, tanh GELU."""

    kind: Literal["gpt"]
    layers: Positive
    heads: Positive
    channels: Positive
    context: Positive = Field(description="tokens per sequence, T")
    vocab_size: Positive
    padded_vocab_size: Positive

    @model_validator(mode="after")
    def divisible(self) -> Gpt:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} is not a multiple of heads {self.heads}")
        if self.padded_vocab_size < self.vocab_size:
            raise ValueError(f"padded_vocab_size {self.padded_vocab_size} is below vocab_size {self.vocab_size}")
        return self

    @property
    def parameters(self) -> int:
        """Trainable scalars, without the padding of the vocabulary (124,439,808 for GPT-2 small)."""
        c = self.channels
        block = 12 * c * c + 13 * c
        return self.vocab_size * c + self.context * c + self.layers * block + 2 * c


class Init(Strict):
    """Normal(0, std) for matrices, std / sqrt(2 layers) for the projections into the residual stream."""

    kind: Literal["gpt2"] = "gpt2"
    std: float = Field(default=0.02, gt=0)


class AdamW(Strict):
    """Loshchilov and Hutter 2019, decoupled weight decay on matrices only."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0, description="maximum global gradient norm")
    skip_loss_z: float | None = Field(
        default=None, gt=0, exclude_if=_is_none, description="skip the update of a step whose loss is such an outlier"
    )
    skip_norm_z: float | None = Field(
        default=None, gt=0, exclude_if=_is_none, description="skip the update of a step whose norm is such an outlier"
    )

    @property
    def skips(self) -> bool:
        return self.skip_loss_z is not None or self.skip_norm_z is not None


class Schedule(Strict):
    """Learning rate as a pure function of the step; names and formulas as in llm.c's schedulers.h."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    peak: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    final_fraction: float = Field(default=0.1, ge=0, le=1, description="of the peak, at the last step")


class Batch(Strict):
    """Sequences of one step and the lanes they are dealt to, in contiguous blocks."""

    sequences: Positive
    lanes: Positive

    @model_validator(mode="after")
    def dealt(self) -> Batch:
        if self.lanes & (self.lanes - 1):
            raise ValueError(f"lanes {self.lanes} is not a power of two (1, 2, 4, 8, ...)")
        if self.sequences % self.lanes:
            raise ValueError(f"lanes {self.lanes} does not divide sequences {self.sequences}")
        return self


class Bits(Strict):
    """Everything that may change a bit of the result."""

    seed: int = Field(ge=0, lt=2**64)
    numerics: Literal["fp32"] = "fp32"
    data: Data
    model: Gpt
    init: Init = Init()
    optimizer: AdamW = AdamW()
    schedule: Schedule
    batch: Batch
    steps: Positive

    @model_validator(mode="after")
    def consistent(self) -> Bits:
        tokenizer = self.data.tokenizer
        expected = {"bpe": getattr(tokenizer, "vocab_size", None), "gpt2": 50257}.get(tokenizer.kind)
        if expected is not None and self.model.vocab_size != expected:
            raise ValueError(f"model.vocab_size {self.model.vocab_size} differs from the tokenizer's {expected}")
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(f"schedule.warmup_steps {self.schedule.warmup_steps} exceeds steps {self.steps}")
        return self


class Samples(Strict):
    """Texts drawn from the last checkpoint, one per prompt and draw."""

    prompts: tuple[str, ...] = ("\n",)
    draws: Positive = 1
    length: Positive = Field(default=200, description="new tokens per sample")
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0, description="0: no limit")
    seed: int = Field(default=0, ge=0, lt=2**64)


class Artifacts(Strict):
    """Which results exist; never changes their bits."""

    checkpoints: tuple[Positive, ...] = Field(default=(), description="steps; the last step always has one")
    samples: Samples = Samples()
    choices: bool = Field(default=False, description="score the multiple-choice questions")


class Recipe(Strict):
    name: Name
    description: str
    bits: Bits
    artifacts: Artifacts = Artifacts()

    @model_validator(mode="after")
    def within(self) -> Recipe:
        late = [step for step in self.artifacts.checkpoints if step > self.bits.steps]
        if late:
            raise ValueError(f"artifacts.checkpoints {late} lie after the last step {self.bits.steps}")
        if self.artifacts.choices and self.bits.data.source.kind != "generated":
            raise ValueError("artifacts.choices needs a generated source: no other has questions")
        return self

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending; the last step is always one."""
        return tuple(sorted({*self.artifacts.checkpoints, self.bits.steps}))


def canonical(value: BaseModel) -> str:
    """Canonical JSON of a model: sorted keys, no spaces, floats in shortest round-trip form, no local path."""
    content = value.model_dump(mode="json")

    def without_paths(node: Any) -> Any:
        if isinstance(node, dict):
            is_file = node.get("kind") == "file"
            return {k: without_paths(v) for k, v in node.items() if not (is_file and k == "path")}
        if isinstance(node, list):
            return [without_paths(item) for item in node]
        return node

    return json.dumps(without_paths(content), sort_keys=True, separators=(",", ":"))


def digest_of(value: BaseModel) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def recipe_id(recipe: Recipe) -> str:
    """What names the bits of a run: SHA-256 of the canonical form of `bits:`."""
    return digest_of(recipe.bits)


def parse_recipe(content: Any, origin: str) -> Recipe:
    """Validate a parsed YAML document; a UserError names each offending key, its value and what is allowed."""
    try:
        # Through JSON, so that YAML lists become tuples while strings never become numbers.
        return Recipe.model_validate_json(json.dumps(content))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole recipe)"
            given = item.get("input")
            shown = "" if isinstance(given, dict) else f", given {given!r}"
            lines.append(f"{origin}: {key}: {item['msg']}{shown}")
        raise UserError("\n       ".join(lines)) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-8 is a number, as in YAML 1.2 and JSON; PyYAML alone wants 1.0e-8."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; see config/recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return parse_recipe(content, str(path))


def schema() -> str:
    """The JSON schema of a recipe, as workflow/schemas/recipe.schema.json holds it."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipe", type=Path, nargs="?")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a recipe instead")
    args = parser.parse_args()
    if args.schema:
        print(schema(), end="")
        return 0
    if args.recipe is None:
        raise UserError("name a recipe file; see config/recipes/")
    recipe = load_recipe(args.recipe)
    bits = recipe.bits
    print(
        f"{recipe.name}  recipe_id {recipe_id(recipe)}  {bits.model.parameters:,} parameters, {bits.steps} steps "
        f"of {bits.batch.sequences} x {bits.model.context} tokens in {bits.batch.lanes} lanes"
    )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
