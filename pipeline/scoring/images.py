"""Scores of a classifier over the whole validation split: mean loss, and the share of images whose class is found.

The fp32 losses of the images are added exactly (math.fsum), so no batch size, thread or order can change the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Classifier(Protocol):
    """What is asked of a model of images; lane makes its inputs of pixels, uint8 [n, pixels], and labels, int32 [n]."""

    config: Any
    memory: Any

    @staticmethod
    def lane(config: Any, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]: ...

    def logits(self, pixels: Tensor) -> Tensor:
        """[n, classes]"""
        ...

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats [n]."""
        ...


def scores(model: Classifier, records: NDArray[np.uint8], batch: int, accuracy: bool) -> dict[str, Any]:
    """`validation`, and `accuracy` if it is asked for, over records [n, 1 + pixels] of label and pixels.

    The class found is that of the largest logit, the first on ties.
    """
    from tqdm import tqdm

    parts: list[float] = []
    right = 0
    for begin in tqdm(range(0, len(records), batch), desc="validation", unit="batch", disable=None):
        group = np.asarray(records[begin : begin + batch])
        labels = group[:, 0].astype(np.int32)
        lane = model.lane(model.config, {"pixels": np.ascontiguousarray(group[:, 1:]), "labels": labels})
        inputs = {name: values.to(model.memory.device) for name, values in lane.items()}
        parts += model.losses(inputs["pixels"], inputs["labels"]).cpu().view(-1).tolist()
        if accuracy:
            logits = model.logits(inputs["pixels"]).cpu().view(len(group), -1).numpy()
            right += int((logits.argmax(axis=1) == labels).sum())  # numpy's argmax is the first of the largest
    total = math.fsum(parts)
    result: dict[str, Any] = {
        "validation": {"images": len(parts), "nats": total.hex(), "nats_per_image": total / len(parts)}
    }
    if accuracy:
        result["accuracy"] = {"images": len(parts), "right": right, "share": right / len(parts)}
    return result
