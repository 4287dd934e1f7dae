"""How often a block of digits has an outlier: one value that its scale must hold, so that the rest gets few digits.

Counted are the left operands of a forward pass's products, cut along features into blocks of 128 (docs/numerics.md,
Digits). An outlier is a largest magnitude of more than 16 times the root mean square of the block's other values; of
all values of 128 it could not be more than 11.4 times, the root of their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.records.contents import Outliers

BLOCK, TIMES = 128, 16.0
MOST = 1 << 20  # blocks that are looked at; about a second
OPERANDS = {"ln_1": "qkv", "attn": "attn.proj", "ln_2": "mlp.fc", "mlp.gelu": "mlp.proj", "ln_f": "lm head"}


class OutlierBlocks:
    """An observer of a model: sees operands until it has seen MOST blocks."""

    def __init__(self) -> None:
        self.blocks = dict.fromkeys(OPERANDS, 0)
        self.outliers = dict.fromkeys(OPERANDS, 0)

    def __call__(self, name: str, tensor: Tensor) -> None:
        operand = name.split(".", 2)[-1] if name.startswith("h.") else name
        if operand not in OPERANDS or sum(self.blocks.values()) >= MOST:
            return
        values = tensor.detach().reshape(-1, tensor.shape[-1]).to("cpu", torch.float64).numpy()
        for first in range(0, values.shape[1], BLOCK):
            squares = values[:, first : first + BLOCK] ** 2
            largest, others = squares.max(axis=1), max(1, squares.shape[1] - 1)
            self.blocks[operand] += len(squares)
            self.outliers[operand] += int(np.sum(largest > TIMES**2 * (squares.sum(axis=1) - largest) / others))

    def facts(self) -> Outliers:
        """Blocks seen, and the share of them with an outlier: of each product's operand and of all."""
        total = sum(self.blocks.values())
        shares = {OPERANDS[name]: self.outliers[name] / self.blocks[name] for name in OPERANDS if self.blocks[name]}
        return {"blocks": total, "outliers": sum(self.outliers.values()) / max(1, total), "of": shares}
