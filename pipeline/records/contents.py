"""What the JSON files of a run hold, key by key; tests/records/test_contents.py holds the files of two runs to it.

What evaluate.py writes and pages/run.py reads is typed by these forms; they check nothing at run time. Digests are 64 lower-case hex digits, times are
seconds, sums of losses are hex floats, so that no bit is lost on the way through decimal.
"""

from __future__ import annotations

import math
from typing import Any, NotRequired, final

from typing_extensions import TypedDict  # pydantic, which holds files to these forms, wants its own before 3.12


class Source(TypedDict):
    """source.json of a text: where it came from. `sha256` is that of documents.jsonl, `bytes` those of its texts."""

    source: dict[str, Any]  # bits.data.source of the recipe, without a local path
    documents: int
    bytes: int
    sha256: str
    files: dict[str, str]  # SHA-256 by file name


class RawFile(TypedDict):
    """A file of a pinned source, as it came."""

    name: str
    sha256: str
    bytes: int
    kind: str
    documents: int


class PinnedSource(TypedDict):
    """source.json of the files of a pin file. `sha256` is that of the list, as the recipe pins it, `bytes` those of the files."""

    source: dict[str, Any]
    documents: int
    bytes: int
    sha256: str
    files: dict[str, str]
    raw: list[RawFile]


class ImageSource(TypedDict):
    """source.json of images. `sha256` and `bytes` are those of images.bin."""

    source: dict[str, Any]
    images: int
    bytes: int
    sha256: str
    files: dict[str, str]


class TrainingSplit(TypedDict):
    tokens: int
    documents: int


class ValidationSplit(TypedDict):
    tokens: int
    documents: int
    bytes: int
    choices: dict[str, int]  # options -> how often among so many equally likely ones was chosen


class Tokens(TypedDict):
    """tokens.json: the shards beside it, by file name in `sha256`."""

    tokenizer: str
    vocab_size: int
    train: TrainingSplit
    validation: ValidationSplit
    questions: int
    sha256: dict[str, str]
    largest: dict[str, int]  # token of each shard


class ImageSplit(TypedDict):
    images: int


class ImageTokens(TypedDict):
    """tokens.json of images: what training reads has one name for every kind of data."""

    train: ImageSplit
    validation: ImageSplit
    height: int
    width: int
    classes: int
    sha256: dict[str, str]


@final  # so that "images" in a loss tells the two apart
class Loss(TypedDict):
    tokens: int
    nats: str  # hex float: the exact sum over all tokens, rounded once
    nats_per_token: float
    nats_per_byte: NotRequired[float]  # of the whole split only


@final
class ImageLoss(TypedDict):
    images: int
    nats: str  # as above, over all images
    nats_per_image: float


class Choices(TypedDict):
    questions: int
    acc: float
    acc_norm: float
    nats: list[list[str]]  # question, ending


class Protocol(TypedDict):
    """HellaSwag by one protocol; nats: of all endings together, hex float."""

    acc: float
    acc_norm: float
    nats: str


class HellaSwag(TypedDict):
    examples: int
    llmc: Protocol
    lm_eval: Protocol


class Lambada(TypedDict):
    texts: int
    acc: float
    perplexity: float
    nats: str


class WikiText(TypedDict):
    pages: int
    tokens: int
    words: int
    word_perplexity: float
    nats_per_byte: float
    nats: str


class Accuracy(TypedDict):
    images: int
    right: int
    share: float


class Evaluation(TypedDict):
    """eval_<step>.json; questions and benchmarks are at the last checkpoint, and where `at` says."""

    step: int
    validation: Loss | ImageLoss
    choices: NotRequired[Choices]
    hellaswag: NotRequired[HellaSwag]
    lambada: NotRequired[Lambada]
    wikitext: NotRequired[WikiText]
    accuracy: NotRequired[Accuracy]


def in_words(result: Evaluation) -> str:
    """The scores of a checkpoint in one line."""
    loss = result["validation"]
    if "images" in loss:
        words = f"{loss['nats_per_image']:.4f} nats/image"
    else:
        words = f"{loss['nats_per_token']:.4f} nats/token"
        if "nats_per_byte" in loss:
            words += f", {loss['nats_per_byte'] / math.log(2):.4f} bits/byte"
    if "choices" in result:
        words += f", acc {result['choices']['acc']:.3f}, acc_norm {result['choices']['acc_norm']:.3f}"
    if "hellaswag" in result:
        llmc, lm_eval = result["hellaswag"]["llmc"], result["hellaswag"]["lm_eval"]
        words += f", HellaSwag acc_norm {llmc['acc_norm']:.4f} (llm.c) {lm_eval['acc_norm']:.4f} (lm-eval)"
    if "lambada" in result:
        words += f", LAMBADA acc {result['lambada']['acc']:.4f} perplexity {result['lambada']['perplexity']:.2f}"
    if "wikitext" in result:
        words += f", WikiText word perplexity {result['wikitext']['word_perplexity']:.2f}"
    if "accuracy" in result:
        words += f", accuracy {result['accuracy']['share']:.4f}"
    return words


class Sample(TypedDict):
    """An element of samples.json."""

    prompt: str
    tokens: list[int]
    text: str


Digests = dict[str, str]  # digests.json, and config/expected/<recipe>.json: stage/artefact -> SHA-256


class Grown(TypedDict):
    name: str
    before: float  # norm of its gradient in the step before
    norm: float


class SpikeSample(TypedDict):
    lane: int
    offset: int  # in the training split
    tokens: list[int]  # the first of its window
    text: str
    loss: NotRequired[float]


class Spike(TypedDict):
    """A step whose loss or norm is an outlier; what replaying it told, where that was done."""

    step: int
    loss: float
    norm: float
    z: dict[str, float]  # "loss", "norm": those above the limit
    samples: list[SpikeSample]
    parameters: NotRequired[list[Grown]]
    lanes: NotRequired[list[float]]
    replay: NotRequired[str]  # why there is nothing to tell


class Spikes(TypedDict):
    """spikes.json, whole."""

    z: float
    window: int
    spikes: list[Spike]


class Machine(TypedDict):
    system: str
    cpu: str
    cpus: int | None
    versions: dict[str, str]


class Receipt(TypedDict):
    """receipts/<stage>.json, what every stage writes; training adds its speed, execution and made_by()."""

    stage: str
    command: str
    began: str
    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    machine: Machine
