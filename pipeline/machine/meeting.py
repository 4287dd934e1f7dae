"""Where the launchers of a run's machines meet: torch's store, a server in the launcher of the first machine.

Their ranks find each other there too. On one machine the address is 127.0.0.1 with a port that the system chooses:
no network and no name service is asked. Every launcher writes that it lives and what failed; so a machine that is
gone is named by the others.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore

from cuda_ops.errors import UserError
from pipeline.machine.place import parse_rendezvous

MEET = 300.0  # seconds for all machines to come
SILENT = 45.0  # after which a machine whose launcher does not beat is lost
ASK = 2.0  # seconds between two looks
PATIENCE = timedelta(seconds=20)  # of one question to the store


def is_here(host: str) -> bool:
    """Whether an address or name belongs to this machine."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(
            f"--rendezvous {host}: {error.strerror}; give an address, or a name that resolves here"
        ) from None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.bind(address)
            return True
        except OSError:
            continue
    return False


def interface_towards(host: str, port: int) -> str | None:
    """The name of the network interface by which this machine reaches a host; nothing is sent."""
    import fcntl
    import struct

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        if family != socket.AF_INET:
            return None
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                try:
                    request = struct.pack("256s", name.encode()[:15])
                    if fcntl.ioctl(probe.fileno(), 0x8915, request)[20:24] == own:  # SIOCGIFADDR
                        return name
                except OSError:
                    continue
    except OSError:
        pass
    return None


class Meeting:
    """One machine's side: node is its number, 0 for the one that holds the store."""

    def __init__(self, ranks: int, nodes: int, rendezvous: str = "") -> None:
        self.nodes, self.node = nodes, 0
        host, port = parse_rendezvous(rendezvous) if nodes > 1 else ("127.0.0.1", 0)
        self.host = host
        self.store = self._join(host, port)
        self.port = self.store.port
        self._asked = 0.0
        self._lives: dict[int, tuple[int, float]] = {}
        if nodes > 1:
            self._wait_for_all(f"{ranks} ranks on {nodes} machines", f"{host}:{port}")

    def _join(self, host: str, port: int) -> TCPStore:
        """The store: ours if the address is this machine's and free, else another launcher's."""
        if self.nodes == 1 or is_here(host):
            try:
                store = TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=PATIENCE)
                store.add("came", 1)
                store.set("host", "here")
                return store
            except (RuntimeError, dist.DistError) as error:
                if self.nodes == 1:
                    raise UserError(
                        "the ranks cannot meet on 127.0.0.1, which needs no network but the loopback interface: "
                        f"{str(error).splitlines()[0]}; try: ip link set lo up"
                    ) from None
        try:
            store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=MEET))
            store.wait(["host"])
            self.node = store.add("came", 1) - 1
            store.set_timeout(PATIENCE)
            return store
        except (RuntimeError, dist.DistError) as error:
            raise UserError(
                f"--rendezvous {host}:{port}: the first machine does not answer ({str(error).splitlines()[0]}). Start the same "
                "command there; the port must be free there and open to this machine"
            ) from None

    def _wait_for_all(self, what: str, where: str) -> None:
        if self.node >= self.nodes:
            raise UserError(f"--rendezvous {where}: all of --nodes {self.nodes} had come already; take another port")
        if self.node == 0:
            self.store.set("what", what)
        found = self.store.get("what").decode()
        if found != what:
            self.fail(f"machine {self.node} was started for {what}, the first for {found}")
            self.leave()
            raise UserError(
                f"--rendezvous {where}: the first machine runs {found}, this one {what}; start the same command"
            )
        deadline = time.monotonic() + MEET
        while (came := self.store.add("came", 0)) < self.nodes:
            if time.monotonic() > deadline:
                raise UserError(f"--rendezvous {where}: {came} of --nodes {self.nodes} came within {MEET:.0f} s")
            time.sleep(0.5)

    def others(self) -> str | None:
        """What ended on another machine, asked from time to time; also writes that this one lives."""
        now = time.monotonic()
        if self.nodes == 1 or now - self._asked < ASK:
            return None
        if self._asked and now - self._asked > 5 * ASK:
            self._lives.clear()  # this launcher was stopped itself
        self._asked = now
        try:
            self.store.add(f"lives/{self.node}", 1)
            if self.store.check(["failed"]):
                return str(self.store.get("failed"), "utf-8")
            for node in set(range(self.nodes)) - {self.node}:
                beats = self.store.add(f"lives/{node}", 0)
                if self._lives.get(node, (-1, now))[0] != beats:
                    self._lives[node] = beats, now
                elif now - self._lives[node][1] > SILENT and not self.store.check([f"done/{node}"]):
                    return f"machine {node} is silent for {SILENT:.0f} s"
        except (RuntimeError, dist.DistError):
            return "the first machine, which holds the rendezvous, is gone"
        return None

    def fail(self, words: str) -> None:
        """Tell the other machines; the first word counts."""
        if self.nodes > 1:
            try:
                if not self.store.check(["failed"]):
                    self.store.set("failed", words)
            except (RuntimeError, dist.DistError):
                return

    def leave(self, wait: float = 10.0) -> None:
        """The first machine's store stays until the others have seen the end, or for `wait` seconds."""
        if self.nodes == 1:
            return
        try:
            self.store.set(f"done/{self.node}", "")
            deadline = time.monotonic() + wait
            everyone = [f"done/{node}" for node in range(self.nodes)]
            while self.node == 0 and not self.store.check(everyone) and time.monotonic() < deadline:
                time.sleep(0.2)
        except (RuntimeError, dist.DistError):
            return
