"""Ports for ranks that meet in a test."""

from __future__ import annotations

import socket

HELD: list[socket.socket] = []  # names of ports, each bound in Linux' own space of names until this process ends


def free_port() -> int:
    """One that no other process of tests gets, nor the kernel for a connection: those begin at 32768."""
    for port in range(20000, 32768):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0samebits test {port}")
            with socket.socket() as tried:
                tried.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        HELD.append(name)
        return port
    raise OSError("no port is free")
