"""Matrix products. Kernels: cpu/matmul.cpp, kernels/matmul.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def matmul(
    out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, layout: str = "nt", accumulate: bool = False
) -> None:
    """out [M, N] = A B (+ bias [N]), fp32; leading dimensions of out and a are flattened.

    layout "nt": a [M, K], b [N, K] (a linear layer); "nn": a [M, K], b [K, N]; "tn": a [K, M], b [K, N] (a weight
    gradient). Order: each output is one chain of fma over k ascending, from +0, or from out if accumulate; the bias is
    added to the finished chain. RuntimeError names a wrong shape, dtype or layout.
    """
    compiled.matmul.default(_rows(out), _rows(a), b, bias, layout, accumulate)


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.view(-1, x.shape[-1])
