"""Two layers: pixels, a hidden layer with GELU, a softmax. Forward and backward over buffers that are allocated once.

The net of Steinkraus, Buck and Simard 2005, section 3, with the tanh form of GELU. A sample is an image: its bytes /
256, which fp32 holds exactly, are the input. Each sum over images is one chain in the order of the images: the
gradient of a bias takes them as sequences of one row each, and a column reduction goes over sequences in order.

Shapes: B images of a micro-batch, P pixels, H hidden units, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from cuda_ops.errors import UserError
from pipeline import recipe
from pipeline.base.philox import Stream
from pipeline.machine.memory import Memory
from pipeline.models.flat import Parameter, Shape
from pipeline.models.layers import Layers
from pipeline.models.model import Arrays, Input, Inputs, int32
from pipeline.recipe.training import Init, NormalInit


class TwoLayer(Layers):
    """Parameters, forward and backward of the net; see Model. There is nothing to recompute and nothing to decode."""

    def __init__(
        self, config: recipe.TwoLayer, micro_batch: int, *, lane_samples: int = 0, recompute: bool = False,
        training: bool = True, decode_batch: int = 0, flat_multiple: int = 1, memory: Memory | None = None,
        numerics: str = "fp32",
    ) -> None:  # fmt: skip
        if decode_batch:
            raise ValueError("a two-layer net generates nothing: decode_batch must be 0")
        matrices = ("fc.weight", "head.weight")
        super().__init__(self.table(config), flat_multiple, memory, numerics, matrices, training)
        self.config, self.micro_batch = config, micro_batch
        buffer = self.memory.zeros
        self._hidden, self._active = buffer(micro_batch, 1, config.hidden), buffer(micro_batch, 1, config.hidden)
        self._logits, self._losses = buffer(micro_batch, 1, config.classes), buffer(micro_batch)

    @staticmethod
    def table(config: recipe.TwoLayer) -> dict[str, Parameter]:
        """Two matrices, which weight decay acts on, and their biases."""
        return {
            "fc.weight": Parameter((config.hidden, config.inputs), decay=True),
            "fc.bias": Parameter((config.hidden,)),
            "head.weight": Parameter((config.classes, config.hidden), decay=True),
            "head.bias": Parameter((config.classes,)),
        }

    @staticmethod
    def inputs(config: recipe.TwoLayer, samples: int) -> dict[str, Input]:
        """Pixels [S, P] in [0, 1) and labels [S]."""
        return {"pixels": Input((samples, config.inputs), torch.float32), "labels": Input((samples,))}

    @staticmethod
    def lane(config: recipe.TwoLayer, arrays: Arrays) -> dict[str, Tensor]:
        """From arrays pixels, bytes [S, P], and labels [S]."""
        pixels = arrays["pixels"].astype(np.float32) / np.float32(256)  # a power of two: exact
        return {"pixels": torch.from_numpy(pixels), "labels": int32(arrays["labels"])}

    @staticmethod
    def shown(config: recipe.TwoLayer, samples: int) -> dict[str, Shape]:
        """Inputs, activations, gradients from the last op to the first."""
        hidden, logits = (samples, config.hidden), (samples, config.classes)
        found: dict[str, Shape] = {
            "pixels": (samples, config.inputs),
            "labels": (samples,),
            "fc": hidden,
            "gelu": hidden,
        }
        return found | {"logits": logits, "losses": (samples,), "d.logits": logits, "d.gelu": hidden, "d.fc": hidden}

    def initialise(self, seed: int, init: Init) -> None:
        """N(0, std) for the matrices, zero biases. Element i of the flat space is normal number i of the stream
        INIT."""
        if not isinstance(init, NormalInit):
            raise UserError(f"bits.init.kind {init.kind}: a two-layer net takes normal")
        for name, offset in self.flat.offsets.items():
            if name.endswith(".weight"):
                ops.fill_normal(self.weights[name], seed, int(Stream.INIT), offset, 0.0, init.std)
            else:
                self.weights[name].zero_()

    def logits(self, pixels: Tensor) -> Tensor:
        """[b, K] of pixels [b, P]; a buffer that the next call overwrites."""
        b = len(pixels)
        hidden, active, logits = self._hidden[:b], self._active[:b], self._logits[:b]
        self._linear(hidden, pixels.view(b, 1, -1), "fc")
        self._see("fc", hidden)
        ops.gelu_forward(active, hidden)
        self._see("gelu", active)
        self._linear(logits, active, "head")
        self._see("logits", logits)
        return logits.view(b, -1)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats of each image [b]; inputs: pixels [b, P], targets: labels [b]."""
        losses = self._losses[: len(inputs)]
        ops.cross_entropy_forward(losses, self.logits(inputs), targets, self.config.classes)
        return losses

    def begin_lane(self, lane: Inputs) -> None:
        """Nothing is kept over a lane but its gradients."""
        self._see("pixels", lane["pixels"])
        self._see("labels", lane["labels"])

    def accumulate(
        self, lane: Inputs, part: slice, grads: Tensor, loss_scale: float, done: Callable[[str], None] | None = None
    ) -> Tensor:
        """Forward and backward of the images `part` of the lane; returns their losses [b] (a buffer)."""
        pixels, labels = lane["pixels"][part], lane["labels"][part]
        b, g = len(labels), self.flat.views(grads)
        hidden, active, losses = self._hidden[:b], self._active[:b], self._losses[:b]
        logits = self.logits(pixels)
        ops.cross_entropy_fused(losses, logits, labels, loss_scale, self.config.classes)
        self._see("losses", losses)
        self._see("d.logits", logits)
        self._linear_backward(active, g, "head", logits.view(b, 1, -1), active)
        self._see("d.gelu", active)
        if done:
            done("head.weight")
        ops.gelu_backward(active, active, hidden)
        self._see("d.fc", active)
        self._linear_backward(None, g, "fc", active, pixels)
        return losses

    def finish_lane(self, lane: Inputs, grads: Tensor) -> None:
        """Nothing is left to add."""
