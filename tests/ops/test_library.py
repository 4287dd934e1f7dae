"""pytest tests/ops/test_library.py

The library as such: schemas (torch's opcheck), messages, what it imports, stale copies, instruction sets, foreign flags.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from cuda_ops import build, ops
from cuda_ops.errors import UserError
from tests.conftest import ROOT, run

f, i32 = torch.randn, torch.int32


def samples() -> dict[str, tuple[Any, ...]]:
    """Arguments for every op that writes tensors."""
    ids, tier = torch.tensor([[0, 2, 1]], dtype=i32), "int8x3"
    digits = torch.zeros(ops.digits_bytes(3, 5, tier), dtype=torch.uint8)
    return {
        "matmul": (torch.empty(4, 5), f(4, 3), f(5, 3), f(5), "nt", False),
        "bias_backward": (f(4), f(2, 3, 4)),
        "embedding_forward": (torch.empty(1, 3, 4), ids, f(3, 4), f(5, 4), 1),
        "embedding_backward": (f(3, 4), f(3, 4), f(1, 3, 4), ids),
        "embedding_add": (f(3, 4), f(3, 4), torch.tensor([0, 2, -1], dtype=i32)),
        "layernorm_forward": (torch.empty(2, 3, 4), torch.empty(2, 3), torch.empty(2, 3), f(2, 3, 4), f(4), f(4), 1e-5),
        "layernorm_backward": (
            torch.empty(2, 3, 4), f(4), f(4), f(2, 3, 4), None, f(2, 3, 4), f(4), f(2, 3), torch.rand(2, 3)
        ),
        "gelu_forward": (torch.empty(7), f(7)),
        "gelu_backward": (torch.empty(7), f(7), f(7)),
        "add": (torch.empty(7), f(7), f(7)),
        "attention_forward": (torch.empty(1, 3, 4), torch.empty(1, 2, 3), torch.empty(1, 2, 3), f(1, 3, 12), 2),
        "attention_backward": (
            torch.empty(1, 3, 12), f(1, 3, 4), f(1, 3, 4), f(1, 3, 12), f(1, 2, 3) + 9, torch.rand(1, 2, 3) + 1, 2
        ),
        "attention_cached": (torch.empty(1, 3, 4), torch.zeros(1, 2, 5, 2), torch.zeros(1, 2, 5, 2), f(1, 3, 12), 2, 1),
        "cross_entropy_forward": (torch.empty(3), f(3, 5), ids.view(-1), 4),
        "cross_entropy_fused": (torch.empty(3), f(3, 5), ids.view(-1), 0.5, 4),
        "chain_sum": (torch.zeros(1), f(9)),
        "adamw": (f(9), f(9), torch.rand(9), f(9), torch.ones(1), torch.tensor([1e-3, 0.1, 0.05]), 0.9, 0.95, 1e-8, 0.1),
        "step_scalars": (torch.empty(2), torch.empty(1), torch.rand(2), 0.5, 1.0),
        "fingerprint_into": (torch.empty(1, dtype=torch.int64), f(9), 0),
        "first_nonfinite_into": (torch.empty(1, dtype=torch.int64), f(9)),
        "norm_partials": (torch.empty(3), f(9), 4),
        "tree_sum": (torch.empty(1), f(9)),
        "unary": (torch.empty(9), torch.rand(9), 0),
        "fill_normal": (torch.empty(9), 1, 2, 3, 0.0, 1.0),
        "fill_uniform": (torch.empty(9), 1, 2, 3),
        "digits": (digits, f(3, 5), False, tier),
        "matmul_digits": (torch.empty(4, 5), f(4, 3), f(5, 3), f(5), "nt", False, tier, 0),
        "matmul_kept_digits": (torch.empty(2, 3), f(2, 5), digits, f(3), tier),
        "attention_digits_forward": (
            torch.empty(1, 3, 4), torch.empty(1, 2, 3), torch.empty(1, 2, 3), f(1, 3, 12), 2, tier
        ),
        "attention_digits_backward": (
            torch.empty(1, 3, 12), f(1, 3, 4), f(1, 3, 4), f(1, 3, 12), f(1, 2, 3) + 9, torch.rand(1, 2, 3) + 1, 2, tier
        ),
        "attention_digits_cached": (
            torch.empty(1, 3, 4), torch.zeros(1, 2, 5, 2), torch.zeros(1, 2, 5, 2), f(1, 3, 12), 2, 1, tier
        ),
        "sample": (torch.zeros(2, dtype=i32), f(2, 5), torch.rand(2), 4, 1.0, 2),
    }  # fmt: skip


def test_every_writing_op_has_a_sample() -> None:
    names = {
        name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "samebits::" in name
    }
    assert names - {"fingerprint", "first_nonfinite", "device_archs", "set_threads", "isa", "digits_bytes"} == set(
        samples()
    )


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    op = getattr(torch.ops.samebits, name).default
    torch.library.opcheck(op, samples()[name], test_utils=("test_schema", "test_faketensor"))


def test_messages_say_expected_and_actual() -> None:
    cases = [
        (lambda: ops.matmul(torch.empty(2, 2), f(2, 3), f(2, 4)), r"b: expected K = 3 .* got shape \[2, 4\]"),
        (lambda: ops.matmul(torch.empty(2, 2), f(2, 3), f(2, 3), layout="tt"), "layout: expected nt, nn or tn, got tt"),
        (lambda: ops.gelu_forward(torch.empty(3), f(4)), r"out: expected shape \[4\], got \[3\]"),
        (lambda: ops.gelu_forward(torch.empty(3), f(3).double()), "expected dtype Float, got Double"),
        (lambda: ops.gelu_forward(torch.empty(3, 2), f(2, 3).t()), "expected a contiguous tensor"),
        (lambda: ops.attention_forward(f(1, 3, 4), f(1, 3, 3), f(1, 3, 3), f(1, 3, 12), 3), "multiple of heads 3"),
    ]
    for call, message in cases:
        with pytest.raises(RuntimeError, match=message):
            call()


@pytest.mark.host("a wrong index stops a GPU, and every test after it would fail: docs/gpu.md, check 5")
def test_a_wrong_index_is_named() -> None:
    tokens = torch.tensor([[0, 9]], dtype=i32)
    with pytest.raises(RuntimeError, match="tokens: element 1 is 9, allowed is 0 to 2"):
        ops.embedding_forward(f(1, 2, 4), tokens, f(3, 4), f(5, 4))


@pytest.mark.host("a device gets copies of tensors, and copies do not overlap")
def test_tensors_that_share_memory_are_named() -> None:
    row = f(9)
    with pytest.raises(RuntimeError, match="out and inp share memory"):
        ops.gelu_forward(row[1:], row[:-1])
    with pytest.raises(RuntimeError, match="out and b share memory"):
        ops.add(row[:-1], f(8), row[1:])


def test_on_a_gpu_these_tests_leave_the_device_alone(tmp_path: Path) -> None:
    """On a stand-in for one (as_a_gpu.py); the control is a test of a wrong index that is not marked."""
    gpu = ("-m", "pytest", "-p", "tests.ops.as_a_gpu", "--device", "cuda", "--rootdir", str(ROOT))
    output = run(*gpu, __file__, "-k", "messages or wrong_index or share_memory or fma_is_exact")
    assert "2 passed, 2 skipped" in output
    unmarked = tmp_path / "test_unmarked.py"
    unmarked.write_text(re.sub(r"^@pytest.mark.host.*$", "", Path(__file__).read_text(), flags=re.M))
    output = run(*gpu, "-p", "tests.conftest", str(unmarked), "-k", "wrong_index or fma_is_exact", code=1)
    assert "unspecified launch failure" in output


# Everything the library may import by a plain C name: memory, strings, threads, the C++ and CUDA runtimes. No mathematics.
ALLOWED = re.compile(
    r"_ITM_\w+|_Unwind_\w+|__cxa_\w+|__gxx_\w+|__gmon_start__|__tls_get_addr|__libc_single_threaded|__stack_chk_fail"
    r"|(__)?(GOMP|omp|kmpc|cuda)_?\w+|abort|aligned_alloc|malloc|free|mem(cpy|set|move|cmp)(_chk)?|str(chr|cmp|len|tol)|getenv|qsort"
    r"|stderr|f(printf|write|putc|puts)|__fprintf_chk"
)


def foreign_symbols(library: Path) -> set[str]:
    """Imported names that are neither C++ names (torch and the standard library) nor allowed."""
    command = ["nm", "-D", "--undefined-only", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in symbols.splitlines()}
    assert names
    return {name for name in names if not name.startswith("_Z") and not ALLOWED.fullmatch(name)}


def test_the_library_imports_nothing_that_computes_a_float(tmp_path: Path) -> None:
    assert not foreign_symbols(build.ROOT.parent / "results" / "build" / build.LIBRARY)
    (tmp_path / "libm.c").write_text("#include <math.h>\nfloat f(float x) { return expf(x) + fmaf(x, x, x); }\n")
    command = ["g++", "-x", "c", "-O0", "-shared", "-fPIC", "-o", str(tmp_path / "libm.so"), str(tmp_path / "libm.c")]
    subprocess.run(command, check=True)
    assert foreign_symbols(tmp_path / "libm.so") == {"expf", "fmaf"}, "the control does not fire"


def test_a_stale_library_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "results" / "build" / build.LIBRARY, tmp_path)
    copy = tmp_path / "project"
    for folder in ("cuda_ops", "pipeline"):
        shutil.copytree(ROOT / folder, copy / folder)
    exp = copy / "cuda_ops" / "numerics" / "exp_log.h"
    script = "from cuda_ops import library\nfrom cuda_ops.errors import UserError\ntry:\n  library.load()\n"
    script += "except UserError as e:\n  print('refused:', e)\n"
    env = {"SAMEBITS_BUILD": str(tmp_path), "PYTHONPATH": str(copy)}
    exp.write_text(exp.read_text() + "\n// a comment\n")
    assert "refused" not in run("-c", script, env=env, cwd=copy)
    exp.write_text(exp.read_text().replace("12582912.0f", "12582913.0f"))
    assert "is stale: built from sources" in run("-c", script, env=env, cwd=copy)


def test_comments_and_layout_leave_the_digest_alone() -> None:
    text = 'int a =  1; // note "x"\n/* more\n */ const char* s = "//  kept";\n\n#define X \\\n  1\nint b;\n'
    assert build.without_comments(text) == 'int a = 1;\nconst char* s = "//  kept";\n#define X \\\n1\nint b;'
    joined = text.replace("1\nint b", "1 int b")  # b is now part of the macro
    assert build.without_comments(joined) != build.without_comments(text)
    assert build.without_comments(text.replace("//  kept", "// kept")) != build.without_comments(text)


STREAM = """
#include <sstream>
extern "C" __attribute__((visibility("default"))) long length(long x) {
  std::ostringstream text;
  text << x;
  return (long)text.str().size();
}
"""


def test_a_toolchain_with_a_static_runtime_gives_no_second_one(tmp_path: Path) -> None:
    """A compiler that finds libstdc++.a before any libstdc++.so, as one that was moved does."""
    archive = subprocess.run(
        ["g++", "-print-file-name=libstdc++.a"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(archive).is_file():
        pytest.skip("g++ has no libstdc++.a")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "libstdc++.a").symlink_to(archive)
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\nexec g++ -L{tmp_path}/moved "$@"\n')
    compiler.chmod(0o755)
    source = tmp_path / "stream.cpp"
    source.write_text(STREAM)

    def holds_a_runtime(library: Path) -> bool:
        listed = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        return "_ZNSo" in listed

    plain = tmp_path / "plain.so"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", plain], check=True)
    assert holds_a_runtime(plain)
    ninja = build.Ninja(str(compiler), 1)
    ninja.compile(source, "stream")
    ninja.run(tmp_path / "build")
    assert not holds_a_runtime(tmp_path / "build" / build.LIBRARY)
    assert ctypes.CDLL(str(tmp_path / "build" / build.LIBRARY)).length(-1234) == 5


def test_any_path_can_be_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkout, its torch and its compiler in a path with spaces, a dollar and a quote."""
    there = tmp_path / "my own: $HOME & 'more'"
    (there / "cuda_ops" / "cpu").mkdir(parents=True)
    source = there / "cuda_ops" / "cpu" / "stream.cpp"
    source.write_text(STREAM)
    (there / "torch").mkdir()
    (there / "torch" / "lib").symlink_to(Path(torch.__file__).parent / "lib")
    compiler = there / "g++"
    compiler.write_text('#!/bin/sh\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(build, "ROOT", there / "cuda_ops")
    monkeypatch.setattr(torch, "__file__", str(there / "torch" / "__init__.py"))
    ninja = build.Ninja(str(compiler), 1)
    ninja.compile(source, "stream", ninja.includes)
    ninja.run(there / "build", 2)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("compiling the ops (steps: 2, at a time: 2); all of them take minutes on a few cores")
    assert said[1:] == ["compiled 1 of 2", "compiled 2 of 2"]
    ninja.run(there / "build", 2)
    assert capsys.readouterr().err == "", "there is nothing to do"
    assert (there / "build" / build.LIBRARY).exists()
    (listed,) = json.loads((there / "build" / build.COMPILE_COMMANDS).read_text())
    words = shlex.split(listed["command"])
    assert {str(compiler), str(there / "torch" / "include"), f"-ffile-prefix-map={there}/cuda_ops=cuda_ops"} <= {*words}


def test_a_compilation_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten lines of 57 steps, whatever the compiler says between them; of a failure its last words."""
    steps = 'for i in $(seq 57); do echo "[$i/57] compile $i.o"; echo "warning: $i"; done'
    build.Ninja._watched(["sh", "-c", steps])
    done = (6, 12, 18, 23, 29, 35, 40, 46, 52, 57)
    assert capsys.readouterr().err.splitlines() == [f"compiled {n} of 57" for n in done]
    with pytest.raises(UserError, match=r"compiling the ops failed:\n(.*\n)*warning: 57\nfatal error$"):
        build.Ninja._watched(["sh", "-c", f"{steps}; echo fatal error >&2; exit 1"])


def test_no_compiler_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no C\\+\\+ compiler: no-such-compiler is not on PATH"):
        build.find_compiler("no-such-compiler")
    output = run("-m", "pipeline.compile", "--out", str(tmp_path), env={"PATH": str(tmp_path), "CXX": ""}, code=2)
    assert output.strip().splitlines()[-1].startswith("error: no C++ compiler")


FINGERPRINTS = """
import torch
from cuda_ops import ops, runtime
g = torch.Generator().manual_seed(1)
x, w, b = (torch.randn(s, generator=g) for s in ((70, 130), (90, 130), (90,)))
x.view(-1)[::7] = 1e-40
runtime.set_threads({threads})
out = torch.empty(70, 90); ops.matmul(out, x, w, b)
g1 = torch.empty(70, 90); ops.gelu_forward(g1, out)
qkv = torch.randn(2, 40, 96, generator=g); a = torch.empty(2, 40, 32); m = torch.empty(2, 2, 40); s = torch.empty(2, 2, 40)
ops.attention_forward(a, m, s, qkv, 2); d = torch.empty_like(qkv); ops.attention_backward(d, a, a, qkv, m, s, 2)
n = torch.empty(5001); ops.fill_normal(n, 3, 1, 1, 0.0, 1.0)
e = torch.empty(70); y = g1.clone(); ops.cross_entropy_fused(e, y, torch.arange(70, dtype=torch.int32), 0.5, 90)
u = torch.empty(6300); ops.unary(u, g1.view(-1), 'exp')
tiny = torch.full((999,), 2142, dtype=torch.int32).view(torch.float32); sums = torch.zeros(2)
ops.tree_sum(sums[:1], tiny); ops.chain_sum(sums[1:], tiny)
assert sums.view(torch.int32).tolist() == [999 * 2142] * 2, 'subnormals were flushed'
print(runtime.isa(), [ops.fingerprint(t) for t in (out, g1, a, d, n, e, y, u, sums)])
"""


def levels() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    return [
        "baseline",
        *(["v3"] if " fma " in flags and " avx2 " in flags else []),
        *(["v4"] if " avx512dq " in flags else []),
    ]


def test_instruction_sets_threads_and_foreign_flush_to_zero_give_the_same_bits(tmp_path: Path) -> None:
    """A library built with -Ofast flushes subnormals in every process that loads it; the kernels do not care."""
    (tmp_path / "foreign.c").write_text("int foreign;\n")
    subprocess.run(
        ["g++", "-x", "c", "-Ofast", "-shared", "-o", tmp_path / "foreign.so", tmp_path / "foreign.c"], check=True
    )
    load = f"import ctypes; ctypes.CDLL({str(tmp_path / 'foreign.so')!r})\n"
    results = {}
    for level in levels():
        output = run("-c", FINGERPRINTS.format(threads=2), env={"SAMEBITS_ISA": level})
        name, fingerprints = output.strip().splitlines()[-1].split(" ", 1)
        assert name == level
        results[level] = fingerprints
    for threads, grain in ((1, "1"), (3, "1"), (3, "3000")):
        output = run("-c", FINGERPRINTS.format(threads=threads), env={"SAMEBITS_GRAIN": grain})
        results[f"{threads} threads, grain {grain}"] = output.strip().splitlines()[-1].split(" ", 1)[1]
    flushed = (
        load
        + "assert float('1e-310') * 1.0 == 0.0, 'not flushed: the control does not fire'\n"
        + FINGERPRINTS.format(threads=2)
    )
    results["foreign"] = run("-c", flushed).strip().splitlines()[-1].split(" ", 1)[1]
    assert len(set(results.values())) == 1, results


WOKEN = """
import os, torch
from cuda_ops import ops, runtime
torch.set_num_threads(1)
runtime.set_threads(3)
x, y = torch.zeros(1 << 20), torch.zeros(1 << 20)
rows, mean, weight = torch.zeros(16, 128), torch.zeros(16), torch.zeros(128)
works = [
    lambda: ops.add(y[:10_000], x[:10_000], x[:10_000]),
    lambda: ops.layernorm_forward(rows.clone(), mean, mean.clone(), rows, weight, weight, 1e-5),
    lambda: ops.matmul(rows.clone(), rows, torch.zeros(128, 128)),
    lambda: ops.add(y, x, x),
]
def threads(): return len(os.listdir("/proc/self/task"))
print([(before := threads(), work(), threads() - before)[2] for work in works])
"""


def test_a_small_op_wakes_no_thread() -> None:
    """Ten microseconds of work: of OpenMP's two further threads none is there before an op that is worth them."""
    assert run("-c", WOKEN, env={"SAMEBITS_GRAIN": ""}) == "[0, 0, 0, 2]\n"
    assert run("-c", WOKEN, env={"SAMEBITS_GRAIN": "1"}) == "[2, 0, 0, 0]\n"


def test_an_instruction_set_that_is_not_there_is_an_error() -> None:
    code = "import torch\nfrom cuda_ops import ops\nops.gelu_forward(torch.empty(3), torch.zeros(3))"
    output = run("-c", code, env={"SAMEBITS_ISA": "v9"}, code=1)
    assert "SAMEBITS_ISA=v9 cannot run on this CPU" in output


def test_fma_is_exact_where_double_rounding_would_show() -> None:
    out = torch.full((1, 1), 2.0**-40)
    ops.matmul(out, torch.tensor([[4097.0]]), torch.tensor([[4097.0]]), accumulate=True)
    assert out.item() == 16785410.0
