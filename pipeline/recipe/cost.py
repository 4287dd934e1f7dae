"""What a recipe takes, as arithmetic: operations, bytes, hours, dollars. A machine enters as numbers that the caller states.

Two counts of operations, because both are in use: 6ND (Kaplan et al. 2020: N without the padding of the vocabulary), and
that of llm.c (train_gpt2.cu, gpt2_estimate_mfu), 6N with the padding + 6 L C T per token, which counts the causal half of
attention. An MFU here is by llm.c's count; by nanoGPT's and PaLM's, 12 L C T, it would be larger.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.recipe.data import PinnedSource
from pipeline.recipe.models import Gpt
from pipeline.recipe.pins import load_pins, pins_path
from pipeline.recipe.recipe import Bits, Recipe
from pipeline.recipe.training import AdamW

# Dense peak of an H100 SXM in TFLOP/s, without sparsity, by bits.numerics: 66.9 of fp32 (CUDA cores, 1.98 GHz); of int8 its data
# sheet has 3,958 tera operations with sparsity, so 1,979 dense, of which int8x3 takes three for a product of one.
PEAK = {"fp32": 66.9, "int8x1": 1979.0, "int8x3": 1979.0 / 3}
STATES = {AdamW: 2}  # tensors that an optimizer keeps for each parameter


def units(bits: Bits) -> int:
    """Tokens, or images, that a run trains on."""
    return (bits.steps - bits.start) * bits.units


def padded_parameters(bits: Bits) -> int:
    """Trainable scalars with the padding of the vocabulary, as they lie in memory and in files."""
    model = bits.model
    padding = (model.padded_vocab_size - model.vocab_size) * model.channels if isinstance(model, Gpt) else 0
    return model.parameters + padding


def flops_6nd(bits: Bits) -> int:
    """Of the whole run."""
    return 6 * bits.model.parameters * units(bits)


def flops_per_unit(bits: Bits) -> int:
    """Of a token, or an image, forward and backward, as llm.c counts."""
    model = bits.model
    attention = 6 * model.layers * model.channels * model.context if isinstance(model, Gpt) else 0
    return 6 * padded_parameters(bits) + attention


def mfu(bits: Bits, units_per_second: float, peak: float, devices: int = 1) -> float:
    """Model FLOPs utilisation by llm.c's count; peak: TFLOP/s of one device."""
    return units_per_second * flops_per_unit(bits) / (peak * 1e12 * devices)


def checkpoint_bytes(bits: Bits) -> int:
    """Of a checkpoint's tensors, fp32; its header takes some kilobytes more."""
    return 4 * padded_parameters(bits) * (1 + (STATES[type(bits.optimizer)] if bits.steps else 0))


def disk_bytes(recipe: Recipe, rolling: int = 2) -> int:
    """Of the checkpoints that a run leaves, with as many rolling ones beside them while it runs, one of them half written."""
    under_way = rolling + 1 if recipe.bits.steps else 0
    return checkpoint_bytes(recipe.bits) * (len(recipe.checkpoints) + under_way)


def download_bytes(bits: Bits) -> int | None:
    """What the corpus's files take, and those of the initial weights; None where the recipe does not say."""
    weights = getattr(bits.init, "bytes", None) or 0
    source = bits.data.source
    size = 0 if source.kind == "generated" else getattr(source, "bytes", None)
    if isinstance(source, PinnedSource):
        size = sum(file.bytes for file in load_pins(pins_path(source.pins), listed=False).files) or None
    return None if size is None else int(size) + int(weights)


@dataclass(frozen=True)
class Price:
    """Devices and what they do; price: dollars per hour of one device."""

    devices: int
    mfu: float
    peak: float
    price: float

    def hours(self, bits: Bits) -> float:
        return units(bits) * flops_per_unit(bits) / (self.mfu * self.peak * 1e12 * self.devices) / 3600

    def dollars(self, bits: Bits) -> float:
        return self.hours(bits) * self.devices * self.price
