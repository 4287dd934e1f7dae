"""pytest tests/ops/test_digests.py

One digest per stem: an edit moves the stems whose bits it may change, and no other; comments and checks move none. What the
compile stage writes beside the library.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cuda_ops import build
from tests.conftest import ROOT, compile_ops

ALL = set(build.stems())
ATTENTION_IN_DIGITS = {"attention_digits", "attention_digits_backward"}
# file, text, other text, stems that move. The first occurrence is edited.
EDITS = {
    "a kernel on a CPU": ("cpu/sample.cpp", "running > threshold", "running >= threshold", {"sample"}),
    "a kernel on a GPU": ("kernels/gelu.cu", "gelu(inp)", "gelu(-inp)", {"gelu"}),
    "a binding's own scalars": ("bindings/layernorm.cpp", "(float)eps", "(float)(eps + eps)", {"layernorm"}),
    "an order of sums": (
        "numerics/order.h", "kPartials = 32", "kPartials = 16", {"bias", "cross_entropy", "layernorm", "norm"},
    ),
    "an order on a CPU": ("cpu/row_sums.h", "= 0.0f", "= -0.0f", {"cross_entropy", "layernorm", "norm"}),
    "an order on a GPU": ("kernels/columns.h", "kTile = 32", "kTile = 64", {"bias", "layernorm"}),
    "chains": ("cpu/chains.h", "kTileRows = 8", "kTileRows = 4", {"attention", "attention_backward", "matmul", *ATTENTION_IN_DIGITS}),
    "the exponential": (
        "numerics/exp_log.h", "12582912.0f", "12582913.0f",
        {"attention", "attention_backward", "cross_entropy", "fill", "gelu", "sample", "unary", *ATTENTION_IN_DIGITS},
    ),
    "a function of one value": ("numerics/gelu.h", "-16.0f", "-15.0f", {"gelu", "unary"}),
    "the cut": ("numerics/digits.h", "12582912.0f", "12582911.0f", {"digits", "matmul_digits", *ATTENTION_IN_DIGITS}),
    "a primitive": ("numerics/float.h", "return a + b;", "return b + a;", ALL),
    "the float environment": ("cpu/parallel.h", "FloatEnvironment environment;", "", ALL),
    "a comment": ("numerics/order.h", "// The order of", "// An order of", set()),
    "indentation": ("cpu/gelu.cpp", "  parallel_for", "    parallel_for", set()),
    "a check": ("bindings/checks.h", '" share memory"', '" overlap"', set()),
    "the library itself": ("bindings/library.cpp", "count > 0", "count >= 0", set()),
    "which instruction set": ("cpu/dispatch.cpp", '"avx2"', '"avx"', set()),
    "a new op in the catalogue": ("kernels.inc", "KERNEL(add,", "KERNEL(subtract, (float* out))\nKERNEL(add,", set()),
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path.resolve() / "cuda_ops"
    shutil.copytree(build.ROOT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "ROOT", folder)
    return folder


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_moves_the_stems_it_may_change(copy: Path, what: str) -> None:
    file, old, new, expected = EDITS[what]
    before, whole = build.stem_digests(), build.source_digest()
    text = (copy / file).read_text()
    assert old in text, f"{file} has no {old!r} any more: mend the test"
    (copy / file).write_text(text.replace(old, new, 1))
    after = build.stem_digests()
    assert {stem for stem in ALL if after[stem] != before[stem]} == expected
    assert (build.source_digest() != whole) == (what not in ("a comment", "indentation"))  # the library is built again


def test_a_new_stem_moves_no_other(copy: Path) -> None:
    before = build.stem_digests()
    for folder, ending in {"cpu": "cpp", "kernels": "cu", "bindings": "cpp", "ops": "py"}.items():
        shutil.copy(copy / folder / f"gelu.{ending}", copy / folder / f"silu.{ending}")
    after = build.stem_digests()
    assert after.pop("silu") not in before.values()
    assert after == before


def test_an_arithmetic_flag_moves_every_stem(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.stem_digests()
    monkeypatch.setitem(build.flags.DEVICE_ARITHMETIC, "-ftz=true", "")
    assert not {stem for stem, digest in build.stem_digests().items() if digest == before[stem]}


def test_every_source_is_a_stem_s_or_declared_none() -> None:
    found = {path for stem in build.stems() for path in build.stem_files(stem)}
    rest = {path.relative_to(build.ROOT).as_posix() for path in set(build.sources()) - found}
    assert rest - set(build.PLUMBING) == {
        "bindings/cuda.cpp", "bindings/library.cpp", "cpu/dispatch.cpp", "kernels/check.cu", "kernels/check.h",
    }  # fmt: skip
    assert set(build.PLUMBING) <= rest


def test_one_process_builds_in_a_folder_and_another_waits(capfd: pytest.CaptureFixture[str]) -> None:
    compile_ops()
    folder = ROOT / "results" / "build"
    with ThreadPoolExecutor() as pool, open(folder / build.LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = pool.submit(build.build, folder)
        said = ""
        while f"another process builds in {folder}: waiting for it" not in said:
            assert not other.done()
            time.sleep(0.05)
            said += capfd.readouterr().err
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert other.result()[0] == build.source_digest()


def test_what_is_beside_the_library() -> None:
    compile_ops()
    folder = ROOT / "results" / "build"
    assert (folder / build.DIGEST).read_text().strip() == build.source_digest()
    listed = json.loads((folder / build.COMPILE_COMMANDS).read_text())
    files = {Path(entry["directory"], entry["file"]) for entry in listed}
    assert files >= {path for path in build.sources() if path.suffix == ".cpp" and path.name != "cuda.cpp"}
    assert all(re.search(r" -c \S+ -o \S+\.o$", entry["command"]) for entry in listed)
