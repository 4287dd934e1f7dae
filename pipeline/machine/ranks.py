"""Ranks of a run. Collectives move bytes; none of them ever adds a float.

One process needs no torch.distributed at all, and takes the same path through the trainer. Ranks meet over gloo and
decide together what moves a GPU's tensors: NCCL where every rank has a GPU of its own, otherwise gloo by way of the
host, so that ranks on CPUs and GPUs may work on one job. Small integers travel by gloo in any case.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore

from cuda_ops.errors import Ending, Fatal, UserError
from pipeline.machine.beats import Beat
from pipeline.machine.devices import device_of
from pipeline.machine.place import BEATS, Place, check_address, place_of
from pipeline.machine.stops import stop_with_parent

# Of a collective whose peer lives but does not come; under our launcher it is named long before (beats.py).
TIMEOUT = timedelta(seconds=600)
MEET = timedelta(seconds=60)  # for all ranks to come
LOST = 4  # exit code of a rank whose peers are gone, and of a run that knows no more than that

# torch 2.13 renamed it.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class PeerLost(Fatal):
    """A collective failed: not this rank's doing."""

    code = LOST


class Moving(Protocol):
    """A transfer under way."""

    def wait(self) -> object: ...


class Arrived:
    """A transfer that is over."""

    def wait(self) -> None:
        return None


class Under:
    """A transfer under way whose wait is seen and whose failure is told."""

    def __init__(self, ranks: Ranks, work: Moving) -> None:
        self._ranks, self._work = ranks, work

    def wait(self) -> None:
        with self._ranks.together("exchange"):
            self._work.wait()


class Ranks:
    """This process's place among `size` ranks, and its device; devices is Execution.device."""

    _beat = Beat()
    _nccl: dist.ProcessGroup | None = None
    _place: Place | None = None

    def __init__(self, devices: str = "cpu", size: int = 1, nodes: int = 1) -> None:
        place = self._place = place_of(size, nodes) if size > 1 else None
        self.rank, self.size = (place.rank, place.size) if place else (0, 1)
        if size != self.size:
            raise UserError(f"--ranks {size}, but {self.size} were started")
        if place and BEATS in os.environ:
            self._beat = Beat(Path(os.environ[BEATS]) / str(self.rank))
            faulthandler.register(
                signal.SIGUSR1, all_threads=False
            )  # the launcher asks a rank that hangs for its stack
        if place and (place.ours or "TORCHELASTIC_RUN_ID" in os.environ):
            stop_with_parent()
        self.device = device_of(devices, self.rank, place.local_rank if place else 0)
        if place:
            Ending.at_once = True
            self._meet(place)
            self._choose()

    def _meet(self, place: Place) -> None:
        agent = place.ours or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # a launcher holds the store
        self.at("starting, meeting the other ranks")
        check_address(place)
        try:
            store = TCPStore(
                place.address, place.port, None if agent else place.size, place.rank == 0 and not agent, MEET,
                wait_for_workers=not agent,
            )  # fmt: skip
            dist.init_process_group(
                "gloo",
                store=PrefixStore("samebits", store),
                rank=place.rank,
                world_size=place.size,
                timeout=TIMEOUT,
            )
        except (RuntimeError, dist.DistError) as error:
            raise UserError(
                f"the ranks cannot meet at {place.address}:{place.port}: {str(error).splitlines()[0]}. Rank {place.rank} of "
                f"{place.size} waits {MEET.seconds} s for the others. If the port is in use, unset MASTER_PORT and take another; if "
                "nothing else starts them, unset RANK, and --ranks starts the processes itself. GLOO_SOCKET_IFNAME names the "
                "network interface"
            ) from None
        self.at("starting")

    def _choose(self) -> None:
        """NCCL or the host, from what every rank says of its device; the same everywhere, printed by rank 0."""
        gpu = self.device.type == "cuda"
        own = str(torch.cuda.get_device_properties(self.device).uuid) if gpu else "cpu"
        said: list[tuple[str, str, bool]] = [("", "", False)] * self.size
        with self.together("meeting"):
            dist.all_gather_object(said, (socket.gethostname(), own, dist.is_nccl_available()))
        line = choice(said)
        if line.startswith("NCCL"):
            with self.together("starting NCCL"):
                self._nccl = dist.new_group(backend="nccl", timeout=TIMEOUT)
        if self.first:
            print(f"{self.size} ranks: {line}", file=sys.stderr, flush=True)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def at(self, where: str) -> None:
        """Tell the launcher what this rank does: "step 12" or, where a disk may be slow, "saving"."""
        self._beat.where = where
        self._beat(where)

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Around a collective: whoever is not within it is late. Its failure is a PeerLost."""
        self._beat(f"{self._beat.where}, {name}", waits=True)
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            if isinstance(error, torch.AcceleratorError) or "out of memory" in str(error):
                raise
            raise PeerLost(self._lost(name, str(error).splitlines()[0])) from None
        self._beat(self._beat.where)

    def _lost(self, name: str, words: str) -> str:
        """What to say of a failed collective: under our launcher nothing, because it knows who was first."""
        message = (
            f"rank {self.rank} lost the others in {name} at {self._beat.where}: {words}. A rank that failed says why itself. If none "
            "did, the network may be at fault: NCCL_DEBUG=INFO shows NCCL's view, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name "
            "the interface to use. The last checkpoint is kept"
        )
        if BEATS not in os.environ:
            return message
        (Path(os.environ[BEATS]) / f"lost.{self.rank}").write_text(message, encoding="utf-8")
        return ""

    def _by_host(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cuda" and self._nccl is None

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        return self._nccl if tensor.device.type == "cuda" else None

    def exchange(self, received: Tensor, mine: Tensor, counts: list[int]) -> Moving:
        """All-to-all of a flat tensor: its next counts[r] elements go to rank r; row r of received came from rank r.

        Returns at once; neither tensor may be touched before wait().
        """
        expected = [received.shape[1]] * self.size
        if self._by_host(mine):
            there = torch.empty(received.shape, dtype=received.dtype)
            own = mine.cpu()
            with self.together("exchange"):
                dist.all_to_all_single(there.view(-1), own, expected, counts)
            received.copy_(there)
            return Arrived()
        with self.together("exchange"):
            work: Moving = dist.all_to_all_single(
                received.view(-1), mine, expected, counts, group=self._group(mine), async_op=True
            )
        return Under(self, work)

    def gather(self, everyone: Tensor, mine: Tensor) -> None:
        """All-gather: row r of everyone [size, n] becomes what rank r gave; mine may be that row itself."""
        if self.size == 1:
            everyone.view(-1).copy_(mine.view(-1))
        elif self._by_host(mine):
            there, own = torch.empty(everyone.shape, dtype=everyone.dtype), mine.cpu().view(-1)
            with self.together("gather"):
                all_gather(there.view(-1), own)
            everyone.copy_(there)
        else:
            with self.together("gather"):
                all_gather(everyone.view(-1), mine.view(-1), group=self._group(mine))

    def collect(self, mine: Tensor, counts: list[int]) -> Tensor:
        """Rank 0's host gets what each rank gives, counts[r] elements of rank r, one after another; the others nothing."""
        mine = mine.cpu()
        if self.size == 1:
            return mine
        with self.together("collect"):
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
        with self.together("agree"):
            dist.broadcast(box, 0)
        return int(box.item())

    def end_after_the_first(self) -> NoReturn:
        """At the ranks that cannot say why the run ends: lose rank 0, which says it and comes to no collective any more.

        The launcher then names rank 0: a rank that ended earlier without a word would be named in its place.
        """
        self.agree(0)
        raise PeerLost("")

    def close(self) -> None:
        """After success only: with a peer in a collective, ending an NCCL group never returns."""
        if self.size > 1 and dist.is_initialized():
            with self.together("close"):
                dist.barrier()  # over gloo: nobody ends a group that another still uses
                dist.destroy_process_group()
        self.at("ending")


def choice(said: list[tuple[str, str, bool]]) -> str:
    """What moves the tensors, in a line that begins with NCCL or gloo, from every rank's (host, GPU or "cpu", has NCCL)."""
    hosts = len({host for host, _, _ in said})
    machines = f"{hosts} machine{'s' if hosts > 1 else ''}"
    gpus = [(host, gpu) for host, gpu, _ in said if gpu != "cpu"]
    if not gpus:
        return f"gloo, CPUs of {machines}"
    if len(gpus) < len(said):
        why = f"rank {next(rank for rank, (_, gpu, _) in enumerate(said) if gpu == 'cpu')} runs on a CPU"
    elif len(set(gpus)) < len(gpus):
        why = "two ranks share a GPU"
    elif not all(has for _, _, has in said):
        why = "a rank's torch has no NCCL"
    else:
        return f"NCCL, {len(gpus)} GPUs of {machines}"
    return f"gloo by way of the host, slower, because {why}"
