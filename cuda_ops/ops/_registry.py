"""The compiled ops as torch operators, and their fake kernels (shape propagation without data)."""

from __future__ import annotations

from typing import Any

import torch

from cuda_ops import library

library.load()
compiled = torch.ops.samebits


def writing_ops() -> list[str]:
    """Every op that writes into tensors it is given, by its schema. Such an op returns nothing."""
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("samebits::")}
    schemas = {name: getattr(compiled, name).default._schema for name in names}
    return sorted(name for name, schema in schemas.items() if schema.is_mutable)


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


for _name in writing_ops():
    torch.library.register_fake(f"samebits::{_name}")(_nothing)
