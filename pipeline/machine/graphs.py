"""A step as a CUDA graph, and work in it that may run beside other work.

A step reads and writes buffers that were allocated once, and what changes from step to step (tokens, learning rate)
lies in them, so its kernels can be recorded once and replayed. On a CPU the function is simply called; tests replay a
recording there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

EAGER_CALLS = 2  # the first calls run as they are, so that lazily made things are not recorded


class Graph(Protocol):
    """What is recorded once and replayed."""

    def record(self, function: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


class CudaGraph:
    """torch's CUDA graph on the current device."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def record(self, function: Callable[[], None]) -> None:
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph):
            function()

    def replay(self) -> None:
        self._graph.replay()


class Branch:
    """Work that may run beside what its caller queues next: on a GPU in a second stream, which a graph keeps as a branch.

    The work begins after all that was queued before; what is queued after join() begins after the work. On a CPU it is
    done at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, work: Callable[[], None]) -> None:
        if self._stream is None:
            work()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            work()

    def join(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


class Replayed(Generic[T]):
    """Calls `function`; with a graph, records its third call and replays that from then on.

    A replay reads the tensors that the recorded call was given and returns what that call returned, so both must be
    buffers that stay where they are.
    """

    def __init__(self, function: Callable[..., T], new_graph: Callable[[], Graph] | None) -> None:
        self._function, self._new_graph = function, new_graph
        self._graph: Graph | None = None
        self._result: list[T] = []
        self._calls = 0

    def __call__(self, *buffers: Tensor) -> T:
        self._calls += 1
        if self._new_graph is None or self._calls <= EAGER_CALLS:
            return self._function(*buffers)
        if self._graph is None:
            graph = self._new_graph()
            graph.record(lambda: self._result.append(self._function(*buffers)))  # recording runs nothing
            self._graph = graph
        self._graph.replay()
        return self._result[0]
