"""Scores of a classifier over the whole validation split: mean loss, and the share of images whose class is found.

The fp32 losses of the images are added exactly (math.fsum), so no batch size, thread or order can change the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.model import Classifier

if TYPE_CHECKING:
    from pipeline.records.contents import Accuracy, ImageLoss


def lanes(
    model: Classifier, records: NDArray[np.uint8], batch: int, what: str
) -> Iterator[tuple[dict[str, Tensor], NDArray[np.int32]]]:
    """The model's inputs and the labels [n] of records [n, 1 + pixels] of label and pixels, a batch at a time."""
    from tqdm import tqdm

    for begin in tqdm(range(0, len(records), batch), desc=what, unit="batch", disable=None):
        group = np.asarray(records[begin : begin + batch])
        labels = group[:, 0].astype(np.int32)
        lane = model.lane(model.config, {"pixels": np.ascontiguousarray(group[:, 1:]), "labels": labels})
        yield {name: values.to(model.memory.device) for name, values in lane.items()}, labels


def loss(model: Classifier, records: NDArray[np.uint8], batch: int) -> ImageLoss:
    """Summed and mean cross-entropy over records [n, 1 + pixels]."""
    parts: list[float] = []
    for inputs, _ in lanes(model, records, batch, "validation"):
        parts += model.losses(inputs["pixels"], inputs["labels"]).cpu().view(-1).tolist()
    total = math.fsum(parts)
    return {"images": len(parts), "nats": total.hex(), "nats_per_image": total / len(parts)}


def accuracy(model: Classifier, records: NDArray[np.uint8], batch: int) -> Accuracy:
    """How many of records [n, 1 + pixels] are found: the class of the largest logit, the first on ties."""
    right = 0
    for inputs, labels in lanes(model, records, batch, "accuracy"):
        logits = model.logits(inputs["pixels"]).cpu().view(len(labels), -1).numpy()
        right += int((logits.argmax(axis=1) == labels).sum())  # numpy's argmax is the first of the largest
    return {"images": len(records), "right": right, "share": right / len(records)}
