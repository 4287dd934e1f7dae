"""What the JSON files of a run hold, key by key; tests/records/test_contents.py holds the files of two runs to it.

Both who writes and who reads them is typed by these forms; they check nothing at run time. Digests are 64 lower-case hex digits,
times are seconds, sums of losses are hex floats, so that no bit is lost on the way through decimal. The files of a corpus and of
what was prepared of it: pipeline/data/contents.py.
"""

from __future__ import annotations

import math
from typing import Any, NotRequired, final

from typing_extensions import TypedDict  # pydantic, which holds files to these forms, wants its own before 3.12


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


class Compared(TypedDict):
    """A row of verify."""

    stage: str
    artefact: str
    digest: str  # "" of a file that is missing or damaged
    expected: str  # "" where none is known
    verdict: str  # equal, DIFFERS, MISSING, unpublished
    why: str  # what is wrong with the file itself, or ""


class Verification(TypedDict):
    """What verify --json writes."""

    recipe: str
    recipe_id: str
    published: bool  # whether the digests expected are published ones, not the run's own
    equal: bool  # whether all are those expected
    required: bool  # whether --require-published asked for published ones
    passed: bool  # the verdict: whether the exit code is 0
    artefacts: list[Compared]


class Grown(TypedDict):
    name: str
    before: float  # norm of its gradient in the step before
    norm: float


class SpikeSample(TypedDict):
    lane: int
    offset: int  # in the training split
    tokens: NotRequired[list[int]]  # of text: the first of its window
    text: NotRequired[str]
    label: NotRequired[int]  # of an image
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


class Cost(TypedDict):
    """What a stretch of training took; None is what was not measured."""

    tokens: NotRequired[int]
    images: NotRequired[int]
    flops: float
    seconds: float
    device: str
    devices: int
    peak_tflops: float | None
    mfu: float | None
    gpu_joules: float | None
    cpu_joules: float | None
    gflops_per_watt: float | None
    dollars: float | None


class Outliers(TypedDict):
    """Blocks of the products' operands, and the share of them with an outlier: of each operand and of all."""

    blocks: int
    outliers: float
    of: dict[str, float]


class Facts(TypedDict, total=False):
    """What a stage says beside its time and machine: training all but `digits`, an evaluation in digits that alone."""

    digits: Outliers
    cost: Cost
    steps: int
    resumed_from: int
    tokens_per_second: float
    images_per_second: float
    execution: dict[str, Any]
    recipe_id: str  # from here on what defines the bits of a training run, and may not be a machine's
    numerics: str
    sources: str
    flags: str
    ops: str
    code: str
    isa: str


class Receipt(Facts):
    """receipts/<stage>.json, what every stage writes."""

    stage: str
    command: str
    began: str
    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    machine: Machine
