"""A stage for the tests of the launcher: python -m tests.machine.program --ranks 2 --steps 5 --fault raise --rank 1
--at 3

Steps gather and exchange small tensors through Ranks, as training does. At a step one rank meets a fault. --nccl
makes the collectives behave as NCCL's do where it matters here: a peer that is gone is never noticed, and ending the
group never returns while another rank sits in a collective.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.machine import beats
from pipeline.machine import launch as launcher
from pipeline.machine import ranks as ranks_module
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.machine.stops import Stops


def hang_as_nccl() -> None:
    """The stand-in: see above."""
    gather, exchange, end = ranks_module.all_gather, dist.all_to_all_single, dist.destroy_process_group

    def deaf(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def never_notices(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except RuntimeError:
                time.sleep(3600)
                raise

        return never_notices

    def deaf_exchange(*args: Any, **kwargs: Any) -> Any:
        work = deaf(exchange)(*args, **kwargs)
        return SimpleNamespace(wait=deaf(work.wait)) if work else work

    def waits_for_peers(group: dist.ProcessGroup | None = None) -> None:
        store = dist.distributed_c10d._get_default_store()
        store.add("ends", 1)
        while store.add("ends", 0) < dist.get_world_size():
            time.sleep(0.1)
        end()

    ranks_module.all_gather, dist.destroy_process_group = deaf(gather), waits_for_peers
    dist.all_to_all_single = deaf_exchange


def fault(kind: str, ranks: Ranks) -> None:
    if kind == "raise":
        raise ValueError("a mistake of the program")
    if kind == "user":
        raise UserError("rank's own words")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill within an exchange":  # from a thread, while the main one sits there: the others come later
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "hang":
        threading.Lock().acquire() and threading.Event().wait()
    if kind == "spin":
        while True:
            pass
    if kind == "save":  # longer than a rank may be idle
        ranks.at("saving")
        time.sleep(8)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--fault", default="")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--at", type=int, default=3)
    parser.add_argument("--nccl", action="store_true")
    parser.add_argument("--close-by-habit", action="store_true", help="the control: end the group in a finally")
    for flag, about in Execution.flags().items():
        parser.add_argument(flag, **about)
    args = parser.parse_args()
    execution = Execution.from_flags(vars(args))
    beats.LIMITS = replace(beats.LIMITS, stopped=2.0, idle=4.0, together=5.0, busy=4.0, times=2.0, early=6.0)
    launcher.GRACE = 1.0
    launcher.launch(execution, "tests.machine.program")
    ranks = Ranks(execution.device, execution.ranks, execution.nodes)
    if args.nccl:
        hang_as_nccl()
    stops = Stops()
    whole = torch.zeros(ranks.size, 3)
    print(f"rank {ranks.rank} of {ranks.size}, {os.environ.get('GLOO_SOCKET_IFNAME')}, begins", flush=True)
    try:
        for step in range(1, args.steps + 1):
            ranks.at(f"step {step}")
            time.sleep(args.pause)
            if args.fault and ranks.rank == args.rank and step == args.at:
                fault(args.fault, ranks)
            elif args.fault == "kill within an exchange" and step == args.at:
                time.sleep(3.0)
            received, mine = torch.zeros(ranks.size, 2), torch.full((2 * ranks.size,), float(ranks.rank))
            ranks.exchange(received, mine, [2] * ranks.size).wait()
            assert received[:, 0].tolist() == [float(rank) for rank in range(ranks.size)]
            signals = torch.zeros(ranks.size, 1)
            ranks.gather(signals, torch.tensor([float(stops.number)]))
            if signals.any():
                print(f"stopped after step {step}", file=sys.stderr)
                return 128 + int(signals.max())
            for _ in range(10):
                ranks.gather(whole, torch.full((3,), float(ranks.rank + step)))
            assert whole[:, 0].tolist() == [float(rank + step) for rank in range(ranks.size)]
    finally:
        if args.close_by_habit:
            dist.destroy_process_group()
    ranks.close()
    print(f"rank {ranks.rank} done", flush=True)
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
