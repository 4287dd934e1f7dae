"""What every part of a recipe is made of: strict models, the digest of their bits, and the keys that are none.

The schema is strict: an unknown key, a wrong type or an impossible combination is an error. A key marked NotBits (a URL, a folder,
a licence) says where or how, never what: it is not in the canonical form. Neither is a key that is None, so that a later key can
be added, None by default, without moving the digest of any recipe that lacks it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 lower-case hex digits")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+-]*$", max_length=100)]  # a folder's
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]


class NotBits:
    """Annotation of a key that cannot change a bit of the result."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def bits_of(value: Any) -> Any:
    """The content of a model as JSON values, without the keys that are NotBits or None."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = [name for name in fields if not any(isinstance(mark, NotBits) for mark in fields[name].metadata)]
        return {name: bits_of(found) for name in kept if (found := getattr(value, name)) is not None}
    if isinstance(value, tuple | list):
        return [bits_of(item) for item in value]
    return value


def canonical(value: BaseModel) -> str:
    """Canonical JSON of a model's bits: sorted keys, no spaces, floats in shortest round-trip form."""
    return json.dumps(bits_of(value), sort_keys=True, separators=(",", ":"))


def digest_of(value: BaseModel) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
