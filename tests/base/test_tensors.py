"""pytest tests/base/test_tensors.py

Files of tensors: the bytes of the safetensors library, one tensor in memory at a time, and every fault of a header one
message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import Checkpoint, load, save, sidecar
from pipeline.base.files import sha256_of
from pipeline.base.tensors import KEY, Spec, TensorFile, raw, write_tensors
from tests.conftest import run

TENSORS = {
    "wte": torch.arange(12.0).view(3, 4), "b": torch.tensor([-0.0, 1e-42]), "none": torch.zeros(0, 5),
    "ids": torch.tensor([3, -1], dtype=torch.int32), "long": torch.tensor([2**40]), "one": torch.tensor(7.5),
}  # fmt: skip
SPECS = {name: Spec(t.dtype, tuple(t.shape)) for name, t in TENSORS.items()}


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    path, about = tmp_path / "x.safetensors", {"step": 3, "name": 'é " \\'}
    digest = write_tensors(path, SPECS, TENSORS, about)
    assert path.read_bytes() == safetensors.torch.save(TENSORS, {KEY: json.dumps(about, sort_keys=True)})
    assert digest == sha256_of(path)
    file = TensorFile(path)
    assert file.about == about
    assert set(file) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (file[name].dtype, file[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes(raw(file[name])) == bytes(raw(tensor)), name
    assert file.part("wte", 5, 8).tolist() == [5.0, 6.0, 7.0]
    write_tensors(path, dict(reversed(SPECS.items())), TENSORS, about)
    assert sha256_of(path) == digest, "the order of a dictionary is not in the file"
    with pytest.raises(AssertionError, match="announced as"):
        write_tensors(path, SPECS, TENSORS | {"b": torch.zeros(3)}, about)
    assert sha256_of(path) == digest, "the earlier file stays"


MEMORY = """
import sys, re, numpy as np, torch
from collections.abc import Mapping
from pathlib import Path
from pipeline.base.checkpoint import Checkpoint, load, save, tensors_digest
from pipeline.base.tensors import Spec
peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])
COUNT, EACH = 12, 2**22  # 16 MiB each
class Made(Mapping):
    def __len__(self): return COUNT
    def __iter__(self): return (f't{i:02d}' for i in range(COUNT))
    def __getitem__(self, name): return torch.from_numpy(np.full(EACH, float(name[1:]), dtype=np.float32))
path = Path(sys.argv[1])
np.full(EACH, 1.0)
before = peak()
specs = {name: Spec(torch.float32, (EACH,)) for name in Made()}
save(path, Checkpoint(1, 'r', 'l', Made(), {}, specs))
digest = tensors_digest(load(path).tensors)
print((peak() - before) // 1024)
if len(sys.argv) > 2:
    kept = dict(load(path).tensors)
    print((peak() - before) // 1024)
"""


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """Of a checkpoint of 192 MiB: writing and hashing take a few tensors' room. The control keeps them all."""
    streamed, whole = map(int, run("-c", MEMORY, str(tmp_path / "big.safetensors"), "control", anew=True).split())
    assert streamed < 64
    assert whole > 150


def forged(path: Path, header: Any, body: bytes = bytes(16), size: int | None = None) -> Path:
    """A file with any header, and a sidecar that says it is whole."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + body)
    sidecar(path).write_text(f"{sha256_of(path)}  {path.name}\n")
    return path


ABOUT = {KEY: json.dumps({"step": 1, "recipe_id": "r", "link": "l"})}
ROW = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ({"__metadata__": ABOUT, "w": ROW}, 2**62, "its header would have 4611686018427387904"),
        ({"__metadata__": ABOUT, "w": ROW}, 1, "its header would have 1 of"),
        (b"[" * 100_000 + b"]" * 100_000, None, "not a whole safetensors file"),
        (b"\xff\xfe", None, "not a whole safetensors file"),
        (b'{"w": {}, "w": {}}', None, "a name is given twice"),
        ([], None, "not a whole safetensors file"),
        ({"w": 5}, None, "not a whole safetensors file"),
        ({"__metadata__": ABOUT, "w": {"dtype": "F32"}}, None, "no 'data_offsets' in its header"),
        ({"__metadata__": ABOUT, "w": ROW | {"dtype": "F7"}}, None, "the dtype 'F7'; known are I64"),
        ({"__metadata__": ABOUT, "w": ROW | {"dtype": []}}, None, "not a whole safetensors file"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": [2**40, 2**40]}}, None, "has the shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": [-4]}}, None, "has the shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": [4.0]}}, None, "has the shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": [True, 4]}}, None, "has the shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": "4"}}, None, "has the shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"shape": [3]}}, None, "does not lie where its shape"),
        ({"__metadata__": ABOUT, "w": ROW, "v": ROW}, None, "does not lie where its shape"),
        ({"__metadata__": ABOUT, "w": ROW | {"data_offsets": [4, 20]}}, None, "does not lie where"),
        ({"__metadata__": ABOUT, "w": ROW | {"data_offsets": [0]}}, None, "not a whole safetensors file"),
        (
            {"__metadata__": ABOUT, "w": ROW | {"shape": [2], "data_offsets": [0, 8]}},
            None,
            "8 bytes belong to no tensor",
        ),
        ({"__metadata__": {KEY: "{"}, "w": ROW}, None, "not a whole safetensors file"),
        ({"__metadata__": {KEY: 5}, "w": ROW}, None, "not a whole safetensors file"),
        ({"__metadata__": [], "w": ROW}, None, "its metadata has step None"),
        ({"w": ROW}, None, "its metadata has step None"),
        ({"__metadata__": {KEY: '{"step": true, "recipe_id": "r", "link": "l"}'}, "w": ROW}, None, "step True"),
        ({"__metadata__": {KEY: '{"step": 1, "recipe_id": 2, "link": "l"}'}, "w": ROW}, None, "recipe_id 2"),
        ({"__metadata__": {KEY: "[]"}, "w": ROW}, None, "its metadata has step None"),
    ],
)
def test_a_hostile_header_is_one_message(tmp_path: Path, header: Any, size: int | None, said: str) -> None:
    path = forged(tmp_path / "forged.safetensors", header, size=size)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load(path)
    assert str(path) in str(error.value)


def test_the_forger_can_make_a_sound_file(tmp_path: Path) -> None:
    stored = load(forged(tmp_path / "sound.safetensors", {"__metadata__": ABOUT, "w": ROW}))
    assert (stored.step, stored.tensors["w"].tolist()) == (1, [0.0] * 4)
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(UserError, match=r"no such file|whole safetensors"):
            TensorFile(path)


class Asked(Mapping[str, torch.Tensor]):
    """Notes which tensors were asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(TENSORS)

    def __iter__(self) -> Iterator[str]:
        return iter(TENSORS)

    def __getitem__(self, name: str) -> torch.Tensor:
        self.names.append(name)
        return TENSORS[name]


def test_each_tensor_is_asked_for_once_in_the_files_order(tmp_path: Path) -> None:
    asked = Asked()
    save(tmp_path / "x.safetensors", Checkpoint(1, "r", "l", asked, {}, SPECS))
    assert asked.names == ["long", "b", "none", "one", "wte", "ids"]


def test_what_a_file_must_hold_is_checked_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, SPECS, TENSORS, {})
    file = TensorFile(path)
    file.check(SPECS, "the model")
    for change, said in (
        ({"more": Spec(torch.float32, (2,))}, "it has no tensor more, which the model has"),
        (
            {"wte": Spec(torch.float32, (4, 3))},
            r"wte is torch.float32 of shape \[3, 4\], the model has torch.float32 of shape \[4, 3\]",
        ),
        ({"b": Spec(torch.int32, (2,))}, "b is torch.float32"),
    ):
        with pytest.raises(UserError, match=said):
            file.check(SPECS | change, "the model")
    with pytest.raises(UserError, match="it has a tensor wte, which the model has not"):
        file.check({name: spec for name, spec in SPECS.items() if name != "wte"}, "the model")
