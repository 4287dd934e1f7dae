"""What a recorded state says about the step that made it, held against the step as it should have been.

A run whose own code does not reproduce its chain was altered: in memory, in a file, or by code that is not at hand.
Two checks can still name the place. The fingerprint is a sum over words, so if a single word of the weights is wrong,
the difference of two fingerprints gives its position and its value. And a recorded update can be computed again from
the recorded moments: where it does not follow from the weights before, those weights, or the update, were altered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.recipe import Recipe
from pipeline.training.schedule import learning_rate

if TYPE_CHECKING:
    from pipeline.base.checkpoint import Checkpoint
    from pipeline.models.flat import Flat

GOLDEN = 0x9E3779B97F4A7C15
CHUNK = 1 << 20


def changed_word(weights: Tensor, sound: int, recorded: int) -> list[tuple[int, int]]:
    """Positions and new bits of the single words of weights [n] fp32 that turn fingerprint `sound` into `recorded`.

    Word w at i adds (w xor h) k', k' odd: a difference D belongs to (new xor h) - (old xor h) = D / k' mod 2^64, which
    is a word's difference, below 2^32 in size, for one position in 2^31 by chance, and for the few positions whose
    number plus one divides the true one's: their words would have to change by a multiple. So the first is the one
    that fewest flipped bits, or ulps, explain. Numerics: numerics/fingerprint.h.
    """
    delta = np.uint64((recorded - sound) % 2**64)
    words = weights.contiguous().view(-1).numpy().view(np.uint32)
    found: list[tuple[int, int, int, int]] = []
    with np.errstate(over="ignore"):
        for first in range(0, len(words), CHUNK):
            part = words[first : first + CHUNK].astype(np.int64)
            k = np.arange(first + 1, first + 1 + len(part), dtype=np.uint64) * np.uint64(GOLDEN)
            high, odd = (k >> np.uint64(32)).astype(np.int64), k | np.uint64(1)
            inverse = odd.copy()  # right in 3 bits; each Newton step doubles them
            for _ in range(5):
                inverse *= np.uint64(2) - odd * inverse
            change = (delta * inverse).view(np.int64)
            mixed = (part ^ high) + change
            for i in np.flatnonzero((np.abs(change) < 2**32) & (mixed >= 0) & (mixed < 2**32)):
                old, new = int(part[i]), int(mixed[i] ^ high[i])
                apart = abs(old - new)
                found.append((min(bin(old ^ new).count("1"), apart), apart, first + int(i), new))
    return [(position, bits) for _, _, position, bits in sorted(found)]


def flat_of(recipe: Recipe) -> Flat:
    """The flat space of a recipe's model."""
    from pipeline.models.flat import Flat
    from pipeline.models.model import model_of

    return Flat(model_of(recipe.bits.model).table(recipe.bits.model))


def located(recipe: Recipe, position: int) -> tuple[str, tuple[int, ...]]:
    """The parameter and index of a position in the flat space."""
    return flat_of(recipe).located(position)


def updated(recipe: Recipe, step: int, name: str, before: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The weights after a step, from those before it and the optimizer's state after it."""
    from pipeline.training.optimizers import optimizer_of

    bits, parameter = recipe.bits, flat_of(recipe).table[name]
    lr = learning_rate(bits.schedule, step, bits.steps)
    return optimizer_of(bits.optimizer).updated(bits.optimizer, parameter, before, state, step, lr)


def state_of(recipe: Recipe, recorded: Checkpoint, name: str) -> dict[str, Tensor]:
    """The optimizer's state of a parameter in a checkpoint, by the state's name."""
    from pipeline.training.optimizers import optimizer_of, state_prefixes

    prefixes = zip(optimizer_of(recipe.bits.optimizer).STATE, state_prefixes(recipe.bits.optimizer), strict=True)
    return {state: recorded.tensors[prefix + name] for state, prefix in prefixes}


def update_mismatches(
    recipe: Recipe, recorded: Checkpoint, before: dict[str, Tensor]
) -> list[tuple[str, tuple[int, ...]]]:
    """The elements of a recorded checkpoint that its own optimizer state and the weights before do not give."""
    found = []
    for name, weights in before.items():
        expected = updated(recipe, recorded.step, name, weights, state_of(recipe, recorded, name))
        differs = expected.view(torch.int32) != recorded.tensors[name].view(torch.int32)
        found += [(name, tuple(int(i) for i in at)) for at in torch.nonzero(differs).tolist()]
    return found


def altered_value(
    recipe: Recipe, recorded: Checkpoint, before: dict[str, Tensor], name: str, index: tuple[int, ...]
) -> tuple[float, int] | None:
    """The value nearest to the sound one, one bit or one ulp away, that an element must have had; and its bits."""
    state = {part: tensor[index].reshape(1) for part, tensor in state_of(recipe, recorded, name).items()}
    target = recorded.tensors[name][index].reshape(1)
    old = int(before[name][index].view(torch.int32).item())
    candidates = [old + 1, old - 1, *(old ^ (1 << bit) for bit in range(31)), old ^ -(2**31)]
    for bits in candidates:
        value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        if not math.isfinite(value.item()):
            continue
        after = updated(recipe, recorded.step, name, value, state)
        if after.view(torch.int32).item() == target.view(torch.int32).item():
            return value.item(), bits & 0xFFFFFFFF
    return None


def fingerprint_of(recipe: Recipe, checkpoint: Checkpoint) -> int:
    """The fingerprint of a checkpoint's weights, as the chain's line of its step has it."""
    from cuda_ops import ops

    offsets = flat_of(recipe).offsets
    return sum(ops.fingerprint(checkpoint.tensors[name].view(-1), at) for name, at in offsets.items()) % 2**64
