"""pytest tests/evidence/test_gpu_proof.py

The GPU proof's own path where there is no GPU: `--device cpu --brief` goes it in two commands that make one page, a
difference is named, and a part that fails or hangs does not stop the others, nor do its processes outlive it; what a
part saw before its time was over is kept; a missed speed target and a part skipped on a GPU are no success; a blind
sanitizer is found out. The published fingerprints and chain belong to the published digests.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cuda_ops import build
from cuda_ops.errors import UserError
from pipeline import gpu_proof, unary_digest
from pipeline.base import chain
from pipeline.base.files import sha256_of
from pipeline.evidence import gpu_machine, gpu_parts, gpu_record
from pipeline.evidence.gpu_machine import NEEDED, Tool
from pipeline.evidence.gpu_parts import PARTS, Part, Result, compare_chains, first_difference, prove
from pipeline.evidence.gpu_session import Expired, Failed, Session
from pipeline.pages.proof_page import page
from pipeline.recipe import load_recipe
from pipeline.records.digests import EXPECTED, published
from tests.conftest import ROOT, run
from tests.machine.test_devices import alive

FABLES = EXPECTED / "chains" / "fables.tsv"


def test_brief_proof_on_the_cpu_in_two_commands(tmp_path: Path) -> None:
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "evidence")]
    brief = ["-m", "pipeline.gpu_proof", "--device", "cpu", "--brief", *where, "--parts"]
    output = run(*brief, "build,ops,fables,digits")
    assert output.startswith("ninja ")  # what the machine has comes first
    assert "4 of 10 parts passed; not run: unary, ranks, sanitizer, speed, shakespeare_char, gpt2_124m_steps" in output
    assert "3 steps equal fables.tsv line by line" in output
    assert "3 steps equal fables_int8x3.tsv line by line" in output
    output = run(*brief, "ranks,sanitizer,speed")
    assert "2 steps equal on 2 x cpu,cpu" in output
    assert "7 of 10 parts passed; not run: unary, shakespeare_char, gpt2_124m_steps" in output
    (found,) = (tmp_path / "evidence").glob("cpu-brief-*.json")
    evidence = json.loads(found.read_text())
    assert [part["name"] for part in evidence["parts"]] == [
        "build",
        "ops",
        "fables",
        "digits",
        "ranks",
        "sanitizer",
        "speed",
    ]
    facts = evidence["parts"][-1]["facts"]
    assert {row["kind"] for row in facts["rows"]["ops"]} >= {"matmul", "memory"}
    assert [row["side"] for row in facts["rows"]["step"]] == ["samebits", "eager"]
    assert "targets" not in facts  # a CPU has none
    text = found.with_suffix(".md").read_text()
    assert text.count("| passed |") == 7
    assert "Open: unary, shakespeare_char, gpt2_124m_steps." in text
    for parts in ("build,ops,fables,digits", "ranks,sanitizer,speed"):
        assert f"\npython -m pipeline.gpu_proof --device cpu --brief --parts {parts}\n" in text
    log = found.with_suffix(".log").read_text()
    assert "\n$ python -m pipeline.compile --out ./results/build --archs none\n" in log
    assert "--state work/fables/run/state" in log
    for place in (ROOT, tmp_path, sys.executable):
        assert not [line for line in (text + log + found.read_text()).splitlines() if str(place) in line]
    assert "| tiny lm head, d input |" in text


def test_the_two_commands_of_the_docs_take_ten_minutes_each() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    commands = re.findall(r"gpu_proof --parts (\S+) --out", text)
    assert commands == re.findall(r"gpu_proof --parts (\S+) --out", (ROOT / "pipeline" / "gpu_proof.py").read_text())
    assert len(commands) == 2
    parts = [command.split(",") for command in commands]
    assert sorted(name for each in parts for name in each) == sorted(PARTS)
    for each in parts:
        assert sum(PARTS[name].limit for name in each) <= 600


def test_the_docs_name_every_part_and_its_limit() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    for part in PARTS.values():
        assert f"| {part.name} | {part.what} | {part.limit} s |" in text
    assert (
        gpu_machine.remedy([Tool(n, "", "", n) for n in ("nvcc", "sanitizer", "ninja")], [], "13.0").split(" ", 1)[1]
        in text.replace(" \\\n  ", " ")  # a command over two lines
    )


# ---------------------------------------------------------------------- the record


def record(**changes: Any) -> gpu_record.Proof:
    made: Any = {"device": "cuda", "brief": False, "sources": "5" * 64, "trainer": "7" * 64, "parts": []}
    made["machine"] = {
        "system": "Linux 6.1.0 x86_64",
        "cpu": "a CPU",
        "versions": {"torch": "2"},
        "gpu": {"name": "NVIDIA H200", "driver": "580"},
    }
    found: gpu_record.Proof = made | changes
    return found


def test_a_second_run_adds_and_another_machine_has_a_file_of_its_own(tmp_path: Path) -> None:
    first = record()
    path, there = gpu_record.place(tmp_path, first)
    assert (path.name, there) == ("nvidia-h200-55555555.json", first)
    gpu_record.add(first, [Result("ops", "FAILED", 3.0, "a bit differs", "2026-01-01")], "one")
    path.write_text(json.dumps(first))
    again, there = gpu_record.place(tmp_path, record())
    assert again == path
    gpu_record.add(there, [Result("ops", "passed", 2.0, "well"), Result("build", "passed")], "two")
    assert [part["name"] for part in there["parts"]] == ["build", "ops"]
    assert there["parts"][1]["earlier"] == [
        {"date": "2026-01-01", "verdict": "FAILED", "seconds": 3.0, "detail": "a bit differs"}
    ]
    assert "- ops: before that FAILED on 2026-01-01" in page(there)
    assert gpu_record.open_parts(there)[0] == "unary"
    for change in ({"trainer": "8" * 64}, {"machine": first["machine"] | {"cpu": "another"}}):
        other, empty = gpu_record.place(tmp_path, record(**change))
        assert other.name == "nvidia-h200-55555555-2.json"
        assert empty["parts"] == []
    assert gpu_record.place(tmp_path, record(sources="6" * 64))[0].name == "nvidia-h200-66666666.json"


def test_two_folders_of_two_machines_of_a_kind_are_merged(tmp_path: Path) -> None:
    """As of two commands that each began with an empty folder; the kernel's release may differ, the driver may not."""
    first = record()
    second = record(machine=first["machine"] | {"system": "Linux 6.8.1 x86_64"})
    gpu_record.add(first, [Result("ops", "FAILED", 3.0, "a bit differs", "2026-01-01")], "one")
    gpu_record.add(second, [Result("ops", "passed", 2.0, "well", "2026-01-02"), Result("unary", "passed")], "two")
    files = [tmp_path / name / "nvidia-h200-55555555.json" for name in ("one", "two")]
    for file, each in zip(files, (first, second), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps(each))
        file.with_suffix(".log").write_text(f"log of {file.parent.name}\n")
    out = tmp_path / "out"
    words = [*map(str, files), "--out", str(out)]
    output = run("-m", "pipeline.gpu_proof", "--merge", *words)
    assert "2 of 10 parts passed; not run: build, fables" in output
    assert (out / files[0].with_suffix(".log").name).read_text() == "log of one\nlog of two\n"
    whole = json.loads((out / files[0].name).read_text())
    assert [(part["name"], part["verdict"], part["command"]) for part in whole["parts"]] == [
        ("ops", "passed", "two"), ("unary", "passed", "two"),
    ]  # fmt: skip
    assert [old["detail"] for old in whole["parts"][0]["earlier"]] == ["a bit differs"]
    assert "- ops: before that FAILED on 2026-01-01" in (out / files[0].with_suffix(".md").name).read_text()
    assert gpu_record.merged([out / files[0].name, *files]) == whole  # what is there already is not put again
    other = record(machine=first["machine"] | {"gpu": {"name": "NVIDIA H200", "driver": "590"}})
    files[1].write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"another proof than .*: gpu is .*590"):
        gpu_record.merged(files)
    files[1].write_text("{}")
    with pytest.raises(UserError, match="not the JSON of a proof"):
        gpu_record.merged(files)


def test_what_is_open_is_said_as_it_ended(tmp_path: Path) -> None:
    """Of what earlier commands and other files hold too, not of the last command alone."""
    made = record()
    gpu_record.add(made, [Result("speed", "not met", 9.0, "0.4 of the target"), Result("ops", "passed")], "one")
    file = tmp_path / "one.json"
    file.write_text(json.dumps(made))
    words = gpu_proof.summary(tmp_path / "one.md", gpu_record.merged([file]))
    assert "one.md: 1 of 10 parts passed; not met: speed; not run: build, unary, fables" in words


def test_a_later_command_adds_to_the_log(tmp_path: Path) -> None:
    for words in ("first", "second"):
        Session("cpu", False, tmp_path / "work", tmp_path / "out" / "proof.log").note(f"{words}\n")
    assert (tmp_path / "out" / "proof.log").read_text() == "first\nsecond\n"


# ---------------------------------------------------------------------- the machine


def test_what_is_missing_is_said_with_one_command() -> None:
    tools = [
        Tool("nvcc", "", "compiles the kernels", "nvcc"),
        Tool("compute-sanitizer", "", "part sanitizer", "sanitizer"),
    ]
    tools += [Tool("ninja", "", "compiles the ops", "ninja"), Tool("GPU", "", "torch sees none", "")]
    lines = gpu_machine.lines(tools, ["pytest"], "13.0")
    assert [line.split()[1] for line in lines[:4]] == ["MISSING:"] * 4
    command = lines[-1].split("to bring it")[1].strip()
    assert command.startswith(f"{sys.executable} -m pip install ninja ")
    for package in ("pytest", "nvidia-cuda-nvcc==13.0.*", "nvidia-nvvm==13.0.*", "nvidia-cuda-sanitizer-api==13.0.*"):
        assert package in command
    assert "GPU" not in command
    assert gpu_machine.remedy(tools, [], "12.8").startswith("apt-get install cuda-nvcc-12-8 cuda-sanitizer-12-8")
    found = [Tool("nvcc", "/usr/bin/nvcc", "", "nvcc")]
    assert gpu_machine.lines(found, [], "13.0") == ["nvcc               /usr/bin/nvcc"]


@pytest.mark.parametrize(
    ("lacking", "named"),
    [(("pydantic", "yaml"), "pydantic pyyaml"), (("torch",), "torch"), (("numpy", "safetensors"), "numpy safetensors")],
)
def test_a_missing_package_is_said_in_the_first_lines(lacking: tuple[str, ...], named: str) -> None:
    """In a Python that lacks them: no traceback, the lines of the machine, and the command that brings them."""
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({lacking!r})); sys.argv = ['gpu_proof', '--device', 'cuda']; "
    output = run("-c", code + "runpy.run_module('pipeline.gpu_proof', run_name='__main__')", code=2)
    assert "Traceback" not in output
    assert output.startswith("driver ")
    assert f"Python packages    MISSING: {named}\n" in output
    command = next(line for line in output.splitlines() if line.startswith("to bring it"))
    assert set(named.split()) <= set(re.split(r"[ =]+", command))
    assert re.search(r"^error: \S+ lacks " + named + ": the command above brings them", output, re.M)


def test_a_cpu_build_of_torch_is_replaced_by_the_locked_one() -> None:
    tools = [Tool("torch with CUDA", "", "a CPU build", "torch"), Tool("nvcc", "", "compiles the kernels", "nvcc")]
    command = gpu_machine.remedy(tools, [], "")
    assert "-m pip install --force-reinstall torch==2.13.0 'nvidia-cuda-nvcc==13.0.*' " in command
    assert "==.*" not in command


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_sanitizer_is_found_beside_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(gpu_machine, "packaged", lambda cuda: tmp_path / "packages")
    nvcc = program(tmp_path / "toolkit" / "bin" / "nvcc", "")
    assert gpu_machine.find_sanitizer(nvcc, "13.0") is None
    tool = program(tmp_path / "packages" / "bin" / "compute-sanitizer", "")
    assert gpu_machine.find_sanitizer(nvcc, "13.0") == tool
    tool = program(tmp_path / "toolkit" / "bin" / "compute-sanitizer", "")
    assert gpu_machine.find_sanitizer(nvcc, "13.0") == tool
    linked = tmp_path / "bin" / "nvcc"
    linked.parent.mkdir()
    linked.symlink_to(nvcc)
    assert gpu_machine.find_sanitizer(linked, "13.0") == tool


def test_ninja_comes_from_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install --target`: neither beside the Python nor on PATH."""
    tool = program(tmp_path / "site" / "bin" / "ninja", "")
    module = tmp_path / "site" / "ninja" / "__init__.py"
    module.parent.mkdir()
    module.write_text("BIN_DIR = ''\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "ninja", raising=False)
    monkeypatch.setattr(build.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert build.find_ninja() == str(tool)


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("name", sorted({path.stem for path in FABLES.parent.glob("*.tsv")} | {"shakespeare_char"}))
def test_the_published_chains_are_those_of_the_published_digests(tmp_path: Path, name: str) -> None:
    path, recipe = FABLES.with_stem(name), load_recipe(ROOT / "config" / "recipes" / f"{name}.yaml")
    lines = chain.read(path)
    chain.check(lines, chain.START, path)
    assert len(lines) == recipe.bits.steps
    first = 0
    for last in recipe.checkpoints:
        part = tmp_path / f"chain_{last:06d}.tsv"
        chain.write(part, lines[first:last])
        assert sha256_of(part) == published(name)[f"train/{part.name}"]
        first = last


def test_the_first_step_that_differs_is_named(tmp_path: Path) -> None:
    lines = chain.read(FABLES)
    found = tmp_path / "chain_000250.tsv"
    chain.write(found, lines[:250])
    assert compare_chains(found, FABLES) == "250 steps equal fables.tsv line by line"
    text = found.read_text().splitlines()
    text[124] = text[124].replace("0x1.", "0x1.0", 1)  # the line of step 124
    found.write_text("\n".join(text) + "\n")
    with pytest.raises(Failed, match="step 124 differs first"):
        compare_chains(found, FABLES)
    assert "step 124 differs first" in first_difference("fables", found)


def test_a_failed_or_hanging_part_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(name: str, code: str, limit: int = 400) -> None:
        def work(session: Session) -> str:
            session.seen.append(f"{name} began")
            return session.run("-c", code).strip()

        monkeypatch.setitem(PARTS, name, Part(name, limit, "", work))

    part("wrong", "raise SystemExit('a bit differs')")
    part("hangs", "import time; time.sleep(3600)", 1)
    part("right", "print('well')")
    parts = list(prove(Session("cpu", False, tmp_path), ["wrong", "hangs", "right"]))
    assert [p.verdict for p in parts] == ["FAILED", "unfinished", "passed"]
    assert "a bit differs" in parts[0].detail
    assert parts[1].detail.startswith("hangs began; time was over after 1 s in: -c")
    assert parts[2].detail == "well"


def test_no_process_outlives_its_part(tmp_path: Path) -> None:
    """Neither a grandchild nor one that began a session of its own, as torchrun's ranks do."""
    child = "import subprocess, sys; " + "; ".join(
        f"print(subprocess.Popen(['sleep', '600'], start_new_session={own}).pid, file=open('{tmp_path}/{own}', 'w'))"
        for own in (True, False)
    )
    session = Session("cpu", False, tmp_path / "work")
    for seconds in (3.0, 30.0, 200.0):  # as long as this machine needs to begin
        session.until = time.monotonic() + seconds
        with pytest.raises(Expired, match="time was over"):
            session.run("-c", f"{child}; print('begun', flush=True); import time; time.sleep(600)")
        if "begun" in session.log.read_text():
            break
    assert "begun" in session.log.read_text()
    pids = [int((tmp_path / own).read_text()) for own in ("True", "False")]
    deadline = time.monotonic() + 300
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pids)


# Runs its command as compute-sanitizer does: --error-exitcode holds only where the command itself succeeded.
SANITIZER = """
import subprocess, sys
words = sys.argv[1:]
at = words.index('--error-exitcode') + 2
done = subprocess.run(words[at:], capture_output=True, text=True)
faults = done.stdout.count('a fault') if SEES else 0
print('=========', 'ERROR' if 'memcheck' in words else 'RACECHECK', f'SUMMARY: {faults} errors')
sys.exit(done.returncode or (int(words[at - 1]) if faults else 0))
"""
# A fault after which the process aborts at its end, as torch's freeing of a tensor does, or at once.
BEYOND = """
#include <stdio.h>
#include <stdlib.h>
int write_beyond(float* buffer, long long size) { puts("a fault"); fflush(stdout); return atexit(abort); }
int race(float* buffer, long long size) { puts("a fault"); fflush(stdout); abort(); }
"""


@pytest.mark.parametrize(("check", "fault"), [("memcheck", "write_beyond"), ("racecheck", "race")])
def test_a_blind_sanitizer_is_found_out(tmp_path: Path, check: str, fault: str) -> None:
    """Stand-ins for compute-sanitizer: one reports the planted fault, one does not, one cannot run at all."""
    library, source = tmp_path / "beyond.so", tmp_path / "beyond.c"
    source.write_text(BEYOND)
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    session = Session("cpu", False, tmp_path / "work")
    session.until = time.monotonic() + 300.0

    def tried(text: str) -> None:
        prefix, env = gpu_parts.sanitized(program(tmp_path / "compute-sanitizer", text), check)
        gpu_parts.must_see(session, check, fault, library, prefix, env)

    tried(SANITIZER.replace("SEES", "True"))
    with pytest.raises(Failed, match=f"{check} does not see a planted fault"):
        tried(SANITIZER.replace("SEES", "False"))
    with pytest.raises(Failed, match="could not be tried on a planted fault: exit code 3"):
        tried("raise SystemExit(3)")


def test_options_of_memcheck_are_not_given_to_racecheck() -> None:
    tool = Path("compute-sanitizer")
    memcheck = ("--tool", "memcheck", "--padding", "64", "--report-api-errors", "no", "--error-exitcode", "9")
    assert gpu_parts.sanitized(tool, "memcheck")[0][1:] == memcheck
    assert gpu_parts.sanitized(tool, "racecheck")[0][1:] == ("--tool", "racecheck", "--error-exitcode", "9")


def test_the_sanitizers_summary_is_read() -> None:
    assert gpu_parts.found_by("========= ERROR SUMMARY: 3 errors\n") == 3
    assert gpu_parts.found_by("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n") == 0
    assert gpu_parts.found_by("no summary") is None


def test_under_the_sanitizer_each_tensor_is_an_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    session = Session("cuda", False, tmp_path)
    session.until = time.monotonic() + 60.0
    _, env = gpu_parts.sanitized(tmp_path / "compute-sanitizer", "memcheck")
    show = "import os; print({k: v for k, v in os.environ.items() if k.startswith('PYTORCH')})"
    assert session.run("-c", show, env=env).strip() == "{'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}"


def test_the_planted_faults_and_the_peak_link_with_torchs_runtime(tmp_path: Path) -> None:
    nvcc = gpu_machine.nvcc_here("13.0")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    for source in (ROOT / "pipeline" / "evidence" / "beyond.cu", ROOT / "benchmarks" / "peak.cu"):
        library = tmp_path / f"{source.stem}.so"
        command = gpu_machine.shared_library(nvcc, "sm_90", source, library)
        subprocess.run(command, check=True)
        plan = subprocess.run([*command, "--dryrun"], capture_output=True, text=True, check=True).stderr
        assert "cudart_static" not in plan  # which pip's nvcc does not find
        needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        assert "[libcudart.so." in needed
        assert "RUNPATH" in needed
    names = (tmp_path / "beyond.so").read_bytes()
    assert b"write_beyond" in names
    assert b"race" in names


# ---------------------------------------------------------------------- the first things to see


def test_the_first_checks_have_commands_that_run(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The shell of docs/gpu.md with a small recipe on the CPU: T ends with two lines, P with the planted token's index."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    shell = text[text.index("train() {") : text.index("P() {")].replace("sed -n 201p config", "tail -1 config")
    shell += text[text.index("P() {") :].split("\n")[0]
    recipe, where = tiny["recipe"], str(tmp_path)
    shell = f"recipe={recipe}\n{shell}\n".replace("x/run", f"{where}/run").replace("--steps-to 200", "--steps-to 6")
    shell = shell.replace("x/tokens", str(tiny["tokens"])).replace("x/planted", f"{where}/planted")
    assert "token 60000 in every" in run("-m", "tests.evidence.plant", str(tiny["tokens"]), f"{where}/planted")
    for call, code, expected in (
        ("T --device cpu", 0, "\n1000\t"),
        ("P --device cpu", 1, "is 60000, allowed is 0 to 303"),
    ):
        done = subprocess.run(
            ["bash", "-c", shell + call], capture_output=True, text=True, cwd=ROOT, check=False,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert expected in done.stdout + done.stderr


# ---------------------------------------------------------------------- mistakes


def test_the_recipe_without_a_network_brings_what_is_needed() -> None:
    (line,) = re.findall(r"^pip install --target .*$", (ROOT / "docs" / "gpu.md").read_text(), re.M)
    brought = set(line.split(" site ")[1].split())
    assert brought | {"torch", "pytest", "ninja"} == set(NEEDED.values())


def test_mistakes_are_named() -> None:
    output = run("-m", "pipeline.gpu_proof", "--device", "cpu", "--parts", "spead", code=2)
    assert "error: --parts spead: allowed are build, ops, unary" in output
    for part in (["--functions", "exp"], ["--device", "cuda"]):
        output = run("-m", "pipeline.unary_digest", "--write", *part, code=2)
        assert "error: --write publishes all functions as a CPU computes them" in output
    output = run("-m", "pipeline.unary_digest", "--functions", "tan", code=2)
    assert "error: --functions tan: allowed are exp, log" in output


def test_an_elementary_function_has_its_published_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^30 inputs of one function here; all of all functions: python -m pipeline.unary_digest."""
    assert set(unary_digest.published()) == set(unary_digest.ops.FUNCTIONS)
    unary_digest.runtime.set_threads(2)
    good = unary_digest.published()["cos_turn"]
    assert unary_digest.digest("cos_turn") == good
    part = unary_digest.digest("cos_turn", stride=64)
    exact = unary_digest.ops.unary

    def one_ulp(out: Any, inp: Any, function: str) -> None:
        exact(out, inp, function)
        if inp.view(unary_digest.torch.int32)[5] == 5:
            out.view(unary_digest.torch.int32)[5] += 1

    monkeypatch.setattr(unary_digest.ops, "unary", one_ulp)
    assert unary_digest.digest("cos_turn", stride=64) != part
