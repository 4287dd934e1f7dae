"""Where this process stands among the ranks of its run, told from its environment.

Three ways lead to several ranks: our own launcher (launch.py), torchrun, and processes that a cluster started with
all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. What a cluster's environment says otherwise is not about this
run.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

from cuda_ops.errors import UserError

LAUNCHER = "SAMEBITS_LAUNCHER"  # the process number of our launcher, in the environment of its ranks
BEATS = "SAMEBITS_BEATS"  # the folder of their heartbeats
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOCAL = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """rank of size, local_rank of local_size on this machine; they meet at address:port. ours: by our own launcher."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    ours: bool


def _number(name: str) -> int | None:
    """A variable's whole number; None if it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{name}={text} in the environment: expected a whole number from 0; unset it or correct it")
    return int(text)


def _given(nodes: int) -> Place:
    """The place that a complete environment says."""
    rank, size, port = (_number(name) or 0 for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    local_size = _number("LOCAL_WORLD_SIZE") or max(1, size // nodes)
    local_rank = _number("LOCAL_RANK")
    if rank >= size:
        raise UserError(f"RANK={rank} with WORLD_SIZE={size} in the environment: expected 0 to {size - 1}")
    if not 0 < port < 65536:
        raise UserError(f"MASTER_PORT={port} in the environment: expected 1 to 65535")
    return Place(
        rank, size, rank % local_size if local_rank is None else local_rank, local_size,
        os.environ["MASTER_ADDR"], port, LAUNCHER in os.environ,
    )  # fmt: skip


def place_of(ranks: int, nodes: int = 1) -> Place | None:
    """This process's place if others were started beside it, None if it is alone; ranks and nodes are the command's.

    A UserError says which variable is missing or at odds where a process is plainly one of several from elsewhere.
    """
    missing = [name for name in NEEDED if not os.environ.get(name, "").strip()]
    if LAUNCHER in os.environ:
        return _given(nodes)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        place = _given(nodes)
        if place.size != ranks:
            raise UserError(f"--ranks {ranks}, but torchrun started {place.size}: give --ranks {place.size}")
        return place if ranks > 1 else None
    if ranks > 1 and not missing and _number("WORLD_SIZE") == ranks:
        return _given(nodes)
    rank = _number("RANK") or 0
    if rank > 0:
        why = f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '')}" if not missing else f"{' and '.join(missing)} missing"
        raise UserError(
            f"RANK={rank} in the environment says that this is one of several processes, but {why} with --ranks {ranks}. "
            f"Started from outside, all of {', '.join(NEEDED)} must be set and WORLD_SIZE be --ranks; "
            "otherwise unset RANK, and --ranks starts the processes itself"
        )
    return None


def check_address(place: Place) -> None:
    """Refuse at once a name that nobody knows: the ranks would wait a minute for it."""
    try:
        socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise UserError(
            f"MASTER_ADDR={place.address} in the environment: {words}; give the first machine's address, or a name that "
            "resolves here; if nothing else starts ranks, unset RANK, and --ranks starts the processes itself"
        ) from None


def parse_rendezvous(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address stands in brackets."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"--rendezvous {text}: expected HOST:PORT of the first machine, as in node1:29500")
    return host.strip("[]"), int(port)


def note_foreign(ranks: int) -> None:
    """Say once which variables of a cluster this run does not follow."""
    foreign = [f"{name}={os.environ[name]}" for name in NEEDED[:2] if os.environ.get(name, "").strip()]
    if foreign:
        what = f"--ranks {ranks} starts its own" if ranks > 1 else "--ranks 1 runs alone"
        print(f"note: {', '.join(foreign)} in the environment not followed: {what}", file=sys.stderr)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
