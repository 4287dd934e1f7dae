"""`bits.data`: what a model is trained on, and in which order. A union by `kind`: text, images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.recipe.strict import Name, NotBits, Positive, Seed, Sha256, Strict

Format = Literal["text", "jsonl", "parquet"]
Folder = Annotated[Name, NotBits(), Field(description="folder of the corpus under results/data")]


class GeneratedSource(Strict):
    """A corpus written by this project's own seeded generator."""

    kind: Literal["generated"]
    generator: Literal["fables"] = "fables"
    stories: Positive = Field(description="training and validation stories together")
    questions: Positive = Field(description="multiple-choice questions")
    seed: Seed


class UrlSource(Strict):
    """One file at a URL, pinned by SHA-256."""

    kind: Literal["url"]
    url: Annotated[str, NotBits()] = Field(pattern=r"^(https?|file)://")
    sha256: Sha256
    bytes: Annotated[Positive, NotBits()]
    format: Format = "text"
    column: str = "text"
    licence: Annotated[str, NotBits()] = ""


class FileSource(Strict):
    """A local file: UTF-8 text, jsonl or parquet. Its SHA-256 is part of the recipe, its path is not."""

    kind: Literal["file"]
    path: Annotated[str, NotBits()] = ""
    sha256: Sha256
    format: Format = "text"
    column: str = "text"


class DataFile(Strict):
    """A local file of a data set: its SHA-256 is part of the recipe, its path is not (python -m pipeline.pin writes it)."""

    path: Annotated[str, NotBits()] = Field(min_length=1)
    sha256: Sha256


class HuggingFaceSource(Strict):
    """A data set in the layout of Hugging Face `datasets`, rows in the order of its files.

    From the hub at a fixed revision, or, with repo `parquet` or `json`, from local files that are pinned one by one.
    """

    kind: Literal["huggingface"]
    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$", description="hub id, or parquet or json with files")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    config: str | None = None
    split: str = "train"
    column: str = "text"
    data_files: tuple[str, ...] = Field(default=(), description="of the hub's repository, by path or pattern")
    files: tuple[DataFile, ...] = Field(default=(), description="local files of repo parquet or json")
    rows: Positive | None = Field(default=None, description="take the first rows only")
    sha256: Sha256 | None = Field(default=None, description="of the canonical documents")

    @property
    def local(self) -> bool:
        """Whether the rows come from files of this machine."""
        return self.repo in ("parquet", "json")

    @model_validator(mode="after")
    def pinned(self) -> HuggingFaceSource:
        if self.local:
            if not self.files:
                raise ValueError(
                    f"files: repo {self.repo} reads local files, each pinned: files: [{{path: ..., sha256: ...}}]; "
                    "python -m pipeline.pin FILES writes the list"
                )
            if self.data_files or self.revision:
                raise ValueError(f"data_files, revision: for a data set of the hub; repo {self.repo} takes files")
            return self
        if self.files:
            raise ValueError("files: local files are for repo parquet or json")
        if self.revision is None:
            raise ValueError(f"revision: the hub's data set {self.repo} must be pinned to a commit of 40 hex digits")
        outside = [name for name in self.data_files if "://" in name or name[:1] in "/~" or ".." in name.split("/")]
        if outside:
            raise ValueError(
                f"data_files: {outside[0]!r} lies outside the hub's repository, so its revision pins nothing"
            )
        return self


class PinnedSource(Strict):
    """The files of a pin file, in its order: parquet, jsonl(.gz, .zst), text(.gz, .zst) or ready shards of tokens.

    They are read where they lie; there is no documents.jsonl. `sha256` pins the list: python -m pipeline.pin --list PINS says it.
    """

    kind: Literal["pinned"]
    pins: Annotated[str, NotBits()] = Field(
        min_length=1, description="a name of config/data, or the path of a pin file"
    )
    sha256: Sha256
    column: str = "text"


Source = Annotated[
    GeneratedSource | UrlSource | FileSource | HuggingFaceSource | PinnedSource, Field(discriminator="kind")
]


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


class ShardSplit(Strict):
    """llm.c's: all tokens in shards of so many, documents cut where a shard ends; the first shard is for validation."""

    by: Literal["shards"]
    tokens: Positive = Field(lt=2**31, description="of a shard; llm.c's scripts take 100000000")


AnySplit = Annotated[Split | ShardSplit, Field(discriminator="by")]


class TextData(Strict):
    """Documents, cut into windows of tokens."""

    kind: Literal["text"] = "text"
    name: Folder
    source: Source
    tokenizer: Tokenizer
    split: AnySplit
    order: Literal["sequential", "permutation", "random", "documents", "llmc"] = Field(
        description=(
            "sequential: consecutive windows; permutation: all windows once per epoch, shuffled; "
            "random: independent offsets, as nanoGPT; documents: windows start at documents, shuffled; "
            "llmc: shards shuffled, then the batches of each, as llm.c, a lane in place of a process"
        )
    )
    train_shards: Annotated[Positive, NotBits()] = Field(
        default=1, description="how many; under split.by shards the number that the corpus makes"
    )

    @model_validator(mode="after")
    def known(self) -> TextData:
        if isinstance(self.split, ShardSplit) and self.tokenizer.kind != "gpt2":
            raise ValueError(
                f"split.by shards: the shards of a tokenizer that is learnt from the training split "
                f"(tokenizer.kind {self.tokenizer.kind}) would depend on themselves; use tokenizer.kind gpt2"
            )
        if self.order == "llmc" and not isinstance(self.split, ShardSplit):
            raise ValueError("order llmc shuffles shards of a fixed number of tokens; use split.by shards")
        return self


class GeneratedImages(Strict):
    """Grey images written by a seeded generator: a fixed random pattern per class under noise of Philox."""

    kind: Literal["generated"]
    generator: Literal["patterns"] = "patterns"
    training: Positive = Field(description="images of the training split")
    validation: Positive = Field(description="images of the validation split")
    classes: int = Field(ge=2, le=256)
    height: Positive
    width: Positive
    noise: int = Field(ge=0, le=255, description="of 256 parts of a pixel, how many are noise")
    seed: Seed


class ImageData(Strict):
    """Images with labels, one sample each."""

    kind: Literal["images"]
    name: Folder
    source: GeneratedImages
    order: Literal["sequential", "permutation"] = Field(
        description="sequential: as they lie; permutation: all once per epoch, shuffled"
    )


def _kind(value: Any) -> str:
    """`kind` of a data block; text where it is left out."""
    return str(value.get("kind", "text") if isinstance(value, dict) else getattr(value, "kind", "text"))


Data = Annotated[Annotated[TextData, Tag("text")] | Annotated[ImageData, Tag("images")], Discriminator(_kind)]
