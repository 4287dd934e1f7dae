"""pytest tests/models/test_branches.py

What runs beside other work (pipeline/machine/graphs.py): two streams with the order that run() and join() give; and in
the GPT's backward pass no op beside another writes what that one reads or writes, the same values included. Work that
runs late, at any time up to its join, gives the same bits. Each join that is left out is seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import ops
from pipeline.machine.graphs import Branch
from pipeline.models.gpt import Gpt
from pipeline.recipe import Gpt2Init
from tests.bits import assert_bits_equal
from tests.models.test_gpt import batch, config

Range = tuple[int, int, bool]  # first byte, the one after the last, written


class TwoStreams(TorchDispatchMode):
    """Stands for a Branch; sees what each op reads and writes, and which ops of two streams may meet.

    Work is done at once, or, with a generator, at a random time up to its join, in the order of the stream.
    leave_out: the number of a join that is none.
    """

    def __init__(self, late: random.Random | None = None, leave_out: int = -1) -> None:
        super().__init__()
        self.late, self.leave_out, self.joins, self.met = late, leave_out, 0, set[str]()
        self.beside: list[tuple[str, list[Range]]] = []  # ops of the branch since the last join
        self.waiting: list[Callable[[], None]] = []
        self.on_branch = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        touched: list[Range] = []
        for value, parameter in zip(args, func._schema.arguments, strict=False):
            if isinstance(value, torch.Tensor) and value.numel():
                writes = parameter.alias_info is not None and parameter.alias_info.is_write
                begin = value.data_ptr()
                touched.append((begin, begin + value.numel() * value.element_size(), writes))
        name = func._schema.name.split("::")[1]
        if not func._schema.name.startswith("samebits") and not any(writes for *_, writes in touched):
            return func(*args, **(kwargs or {}))  # a view
        if self.on_branch:
            self.beside.append((name, touched))
        else:
            self._do(self.late.randint(0, len(self.waiting)) if self.late else 0)
            for other, ranges in self.beside:
                if any(a < d and c < b and (v or w) for a, b, v in ranges for c, d, w in touched):
                    self.met.add(f"{other} beside {name}")
        return func(*args, **(kwargs or {}))

    def _do(self, count: int) -> None:
        for work in self.waiting[:count]:
            self.on_branch = True
            work()
            self.on_branch = False
        del self.waiting[:count]

    def run(self, work: Callable[[], None]) -> None:
        self.waiting.append(work)
        if not self.late:
            self._do(1)

    def join(self) -> None:
        self.joins += bool(self.beside)  # others wait for nothing
        if self.beside and self.joins == self.leave_out:
            return
        self._do(len(self.waiting))
        self.beside.clear()


def descended(beside: TwoStreams | None, recompute: bool = False) -> torch.Tensor:
    """The gradient of a lane; what a block has completed is read at once, as the exchange does."""
    cfg = config(padded=128)
    model = Gpt(cfg, 3, recompute=recompute)
    model.initialise(2, Gpt2Init())
    tokens, targets = batch(cfg, 3)
    grads, word = model.new_flat(), torch.empty(1, dtype=torch.int64)
    lane = Gpt.lane(cfg, {"tokens": tokens.numpy(), "targets": targets.numpy()})

    def done(name: str) -> None:
        ops.fingerprint_into(word, grads[model.flat.offsets[name] :], 0)

    with beside or nullcontext():
        if beside is not None:
            model.beside = beside  # type: ignore[assignment]
        model.begin_lane(lane)
        model.accumulate(lane, slice(0, len(tokens)), grads, 0.01, done)
        model.finish_lane(lane, grads)
    return grads


@pytest.fixture(params=[2**26, 2**12], ids=["gradient of GELU apart", "in place"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the logits' buffer, which holds the gradient of GELU or is too small for it."""
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_BYTES", request.param)
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_ROWS", {"cpu": 8})
    return int(request.param)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_runs_beside_each_other_touches_nothing_in_common(room: int, recompute: bool) -> None:
    seen = TwoStreams()
    descended(seen, recompute)
    assert seen.met == set()
    assert seen.joins > 2 * 2


def test_late_work_gives_the_same_bits(room: int) -> None:
    expected = descended(None)
    for seed in range(5):
        assert_bits_equal(descended(TwoStreams(random.Random(seed))), expected, f"gradients, order {seed}")


def test_each_join_that_is_left_out_is_seen(room: int) -> None:
    counted = TwoStreams()
    descended(counted)
    last_of_the_step = counted.joins
    unseen = []
    for number in range(1, last_of_the_step + 1):
        seen = TwoStreams(leave_out=number)
        descended(seen)
        unseen += [] if seen.met else [number]
    assert unseen == []


def test_a_branch_is_ordered_by_two_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branch itself, on stand-ins for streams: the work after what was queued, and what follows join() after the work."""
    said: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name, self.device = name, torch.device("cuda", 0)

        def wait_stream(self, other: Stream) -> None:
            said.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def stream(which: Stream) -> Any:
        current.append(which)
        yield
        current.pop()

    current = [Stream("main")]
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("branch"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    branch = Branch(torch.device("cuda", 0))
    branch.run(lambda: said.append(f"work on {current[-1].name}"))
    said.append(f"next on {current[-1].name}")
    branch.join()
    assert said == ["branch waits for main", "work on branch", "next on main", "main waits for branch"]
