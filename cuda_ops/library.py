"""Loads the compiled ops, and refuses a library that was not built from the sources at hand."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from cuda_ops import build
from cuda_ops.errors import UserError


def build_folder() -> Path:
    """$SAMEBITS_BUILD, else results/build beside the sources."""
    given = os.environ.get("SAMEBITS_BUILD")
    return Path(given) if given else build.ROOT.parent / "results" / "build"


def device_message() -> str:
    """What a check on a GPU has left for the host, as in "tokens: element 3 is 99, allowed is 0 to 9", once; or ""."""
    library = ctypes.CDLL(str(build_folder() / build.LIBRARY), mode=ctypes.RTLD_LOCAL)
    function = getattr(library, "samebits_device_message", None)  # a library without CUDA kernels has none
    if function is None:
        return ""
    function.restype = ctypes.c_char_p
    message: bytes = function()
    return message.decode()


@cache
def load() -> str:
    """Register torch.ops.samebits once per process; returns the digest of its sources and flags."""
    path = build_folder() / build.LIBRARY
    remedy = f"run: python -m pipeline.compile --out {path.parent}"
    if not path.exists():
        raise UserError(f"{path}: the ops are not compiled; {remedy}")
    expected = build.source_digest()
    # libtorch first, so that the library's own needs are met by the torch in use.
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
    library.samebits_source_digest.restype = ctypes.c_char_p
    digest: str = library.samebits_source_digest().decode()
    if digest != expected:
        raise UserError(
            f"{path} is stale: built from sources {digest[:12]}, the sources here are {expected[:12]}; {remedy}"
        )
    torch.ops.load_library(str(path))
    return digest
