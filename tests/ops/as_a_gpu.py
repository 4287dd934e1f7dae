"""pytest -p tests.ops.as_a_gpu --device cuda ...

A stand-in for a GPU in two respects: ops get copies of their tensors, and after a wrong index no op runs any more, as after a trap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests import on_device


def run_ops_here(device: str) -> None:
    from cuda_ops import ops

    lost: list[RuntimeError] = []

    def trapping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if lost:
                raise RuntimeError("CUDA error: unspecified launch failure")
            try:
                return function(*args, **kwargs)
            except RuntimeError as error:
                lost.extend([error] if ": element " in str(error) else [])
                raise

        return call

    for name in ops.__all__:
        if name not in on_device.NOT_OPS:
            setattr(ops, name, trapping(on_device.moved(getattr(ops, name), "cpu")))


on_device.run_ops_on = run_ops_here
