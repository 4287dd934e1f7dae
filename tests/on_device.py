"""Runs every op of a test on another device: tensors go there, the op runs, tensors come back. For pytest --device cuda."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

NOT_OPS = {"FUNCTIONS", "NORM_CHUNK"}


def moved(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The op with its CPU tensors taken to the device and back; a tensor given twice is one tensor there too."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        there: dict[tuple[Any, ...], torch.Tensor] = {}
        here: dict[tuple[Any, ...], torch.Tensor] = {}

        def take(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
                return x
            key = (x.data_ptr(), x.shape, x.stride(), x.dtype)
            if key not in there:
                there[key], here[key] = x.to(device, copy=True), x
            return there[key]

        result = function(*map(take, args), **{name: take(x) for name, x in kwargs.items()})
        for key, x in here.items():
            x.copy_(there[key])
        return result

    return call


def run_ops_on(device: str) -> None:
    """Exchange every op of cuda_ops.ops for one that runs on the device."""
    from cuda_ops import ops, runtime

    runtime.require_cuda()
    for name in ops.__all__:
        if name not in NOT_OPS:
            setattr(ops, name, moved(getattr(ops, name), device))
