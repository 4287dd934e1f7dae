"""Ranks under torchrun. Collectives move bytes; none of them ever adds a float.

One process needs no torch.distributed at all, and takes the same path through the trainer. NCCL moves the tensors of a GPU where
every rank has one of its own; otherwise gloo does, by way of the host, so that ranks on CPUs and GPUs may work on one job.
Small integers travel by gloo in any case.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from datetime import timedelta
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.machine.devices import device_of, gpus_apart

# Of a collective whose peer lives but does not come: a long checkpoint, a stopped process.
TIMEOUT = timedelta(seconds=600)
LAUNCHER = "SAMEBITS_LAUNCHER"  # environment of the ranks: the process that started them


class Moving(Protocol):
    """A transfer under way."""

    def wait(self) -> object: ...


class Arrived:
    """A transfer that is over."""

    def wait(self) -> None:
        return None


class Ranks:
    """This process's place among `size` ranks, and its device; devices is Execution.device."""

    def __init__(self, devices: str = "cpu") -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = device_of(devices, self.rank, int(os.environ.get("LOCAL_RANK", "0")))
        self._nccl = self.size > 1 and gpus_apart(devices, int(os.environ.get("LOCAL_WORLD_SIZE", self.size)))
        if "TORCHELASTIC_RUN_ID" in os.environ:
            stop_with_parent()
        if self.size > 1:
            try:
                dist.init_process_group("cpu:gloo,cuda:nccl" if self._nccl else "gloo", timeout=TIMEOUT)
            except (RuntimeError, dist.DistError) as error:
                address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                raise UserError(
                    f"the ranks cannot meet at {address}: {str(error).splitlines()[0]}. If the port is in use, unset "
                    "MASTER_PORT and let torchrun --standalone choose one"
                ) from None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def _by_host(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cuda" and not self._nccl

    def exchange(self, received: Tensor, mine: Tensor, counts: list[int]) -> Moving:
        """All-to-all of a flat tensor: its next counts[r] elements go to rank r; row r of received came from rank r.

        Returns at once; neither tensor may be touched before wait().
        """
        expected = [received.shape[1]] * self.size
        if self._by_host(mine):
            there = torch.empty(received.shape, dtype=received.dtype)
            dist.all_to_all_single(there.view(-1), mine.cpu(), expected, counts)
            received.copy_(there)
            return Arrived()
        work: Moving = dist.all_to_all_single(received.view(-1), mine, expected, counts, async_op=True)
        return work

    def gather(self, everyone: Tensor, mine: Tensor) -> None:
        """All-gather: row r of everyone [size, n] becomes what rank r gave."""
        if self.size == 1:
            everyone.view(-1).copy_(mine.view(-1))
        elif self._by_host(mine):
            there = torch.empty(everyone.shape, dtype=everyone.dtype)
            dist.all_gather(list(there.view(self.size, -1).unbind()), mine.cpu().view(-1))
            everyone.copy_(there)
        else:
            dist.all_gather(list(everyone.view(self.size, -1).unbind()), mine.view(-1))

    def gather_flat(self, flat: Tensor) -> None:
        """All-gather in place: each rank's own equal part of flat goes to all."""
        if self.size > 1:
            self.gather(flat, flat.view(self.size, -1)[self.rank].clone())

    def collect(self, mine: Tensor, counts: list[int]) -> Tensor:
        """Rank 0's host gets what each rank gives, counts[r] elements of rank r, one after another; the others nothing."""
        mine = mine.cpu()
        if self.size == 1:
            return mine
        if not self.first:
            if len(mine):
                dist.send(mine, 0)
            return mine[:0]
        # NumPy's memory, because glibc may keep what torch's aligned allocation frees.
        whole = torch.from_numpy(np.empty(sum(counts), dtype=mine.numpy().dtype))
        for rank, part in enumerate(whole.split(counts)):
            if rank == 0:
                part.copy_(mine)
            elif len(part):
                dist.recv(part, rank)
        return whole

    def agree(self, value: int) -> int:
        """Rank 0's integer, at every rank."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.int64)
        dist.broadcast(box, 0)
        return int(box.item())

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def stop_with_parent() -> None:
    """Ask Linux for a SIGTERM when the launcher ends, however it ends, so that no worker outlives it."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(os.environ.get(LAUNCHER, os.getppid())):  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def launch(ranks: int, module: str) -> None:
    """Outside torchrun, run this command on `ranks` processes through it and exit with their code; inside, return.

    A rank that fails has said why; the others are stopped within half a minute. A signal is passed on to the ranks.
    """
    if ranks == 1 or "RANK" in os.environ:
        return
    os.environ[LAUNCHER] = str(os.getpid())  # for stop_with_parent; in a container it may well be 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHELASTIC_LOG_LEVEL", "CRITICAL")  # the ranks speak for themselves
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    sys.stdout.flush()
    command = ["--nproc-per-node", str(ranks), "--standalone", "-m", module, *sys.argv[1:]]
    try:
        run(parse_args(command))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = int(failure.exitcode)
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        print(f"error: rank {rank} ended {how}; the others were stopped. The last checkpoint is kept", file=sys.stderr)
        sys.exit(128 - code if code < 0 else code)
    except SignalException as error:
        print(f"stopped by {error.sigval.name}", file=sys.stderr)
        sys.exit(128 + error.sigval)
    sys.exit(0)
