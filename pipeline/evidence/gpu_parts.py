"""The parts of the GPU proof: functions with a name and a limit in seconds, and the order they run in.

A part returns what was seen, or raises Failed, Expired, Skipped or NotMet. Its limit is so long that only a hang
outlasts it: a part that does is judged by what it saw until then. The first five take at most ten minutes together,
the others too.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.files import sha256_of
from pipeline.evidence import gpu_machine, speed_targets
from pipeline.evidence.gpu_session import BUILD, ROOT, Expired, Failed, NotMet, Session, Skipped
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import checkpoint_name
from pipeline.records.catalogue import of_stage
from pipeline.records.digests import EXPECTED, checkpoint_digest, published

SANITIZED_MICRO_BATCH = 16  # sequences: all of a lane
BRIEF_FACTOR = 10  # of the limit: a brief run may be on a slow CPU


@dataclass(frozen=True)
class Part:
    name: str
    limit: int  # seconds
    what: str
    work: Callable[[Session], str]


@dataclass
class Result:
    """What came of a part. verdict: passed, FAILED, unfinished, skipped or not met."""

    name: str
    verdict: str = ""
    seconds: float = 0.0
    detail: str = ""
    date: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


PARTS: dict[str, Part] = {}


def part(name: str, limit: int, what: str) -> Callable[[Callable[[Session], str]], Callable[[Session], str]]:
    """Enter a function in PARTS."""

    def enter(work: Callable[[Session], str]) -> Callable[[Session], str]:
        PARTS[name] = Part(name, limit, what, work)
        return work

    return enter


def prove(session: Session, names: list[str]) -> Iterator[Result]:
    """Run parts one after another; none stops the others."""
    for name in names:
        found, began = Result(name, date=time.strftime("%Y-%m-%d")), time.monotonic()
        session.until = began + PARTS[name].limit * (BRIEF_FACTOR if session.brief else 1)
        session.seen, session.facts = [], {}
        try:
            found.detail, found.verdict = PARTS[name].work(session), "passed"
        except Expired as reason:
            found.detail, found.verdict = "; ".join([*session.seen, str(reason)]), "unfinished"
        except Skipped as reason:
            found.detail, found.verdict = str(reason), "skipped"
        except NotMet as reason:
            found.detail, found.verdict = str(reason), "not met"
        except (Failed, UserError) as reason:
            found.detail, found.verdict = "; ".join([*session.seen, str(reason)]), "FAILED"
        found.detail = session.plain(found.detail)
        found.seconds, found.facts = round(time.monotonic() - began, 1), session.facts
        yield found


# ---------------------------------------------------------------------- comparing


def compare_chains(found: Path, reference: Path) -> str:
    """Every line of a chain from step 1 against the same steps of another; Failed names the first that differs."""
    ours, theirs = chain.read(found), {line.step: line for line in chain.read(reference)}
    if not ours:
        raise Failed(f"{found}: no steps")
    for line in ours:
        other = theirs.get(line.step)
        if other != line:
            raise Failed(
                f"step {line.step} differs first: {line.content()!r}, {reference.name} has {other and other.content()!r}"
            )
    return f"{len(ours)} steps equal {reference.name} line by line"


def first_difference(name: str, found: Path) -> str:
    """Where a chain whose digest differs leaves the published one, if that is kept."""
    reference = EXPECTED / "chains" / f"{name}.tsv"
    if reference.exists():
        try:
            compare_chains(found, reference)
        except Failed as reason:
            return str(reason)
    return f"{found.name} differs from the published digest; compare it with a CPU's: diff chain_a.tsv chain_b.tsv | head -2"


# ---------------------------------------------------------------------- parts


@part("build", 120, "the library compiles for the GPUs present")
def build(session: Session) -> str:
    archs = "auto" if session.device == "cuda" else "none"
    line = session.run("-m", "pipeline.compile", "--out", BUILD, "--archs", archs).strip().splitlines()[-1]
    if session.device == "cuda" and line.startswith("CPU only"):
        raise Failed(line)
    return line


@part("ops", 120, "every op's tests with the ops on the device; all cases against the CPU backend")
def ops(session: Session) -> str:
    """The tests of every stem that has a kernel; brief: the chain over tokens of one op."""
    stems = ["rows", *sorted(path.stem for path in (ROOT / "cuda_ops" / "kernels").glob("*.cu"))]
    files = [path for path in (ROOT / "tests" / "ops" / f"test_{stem}.py" for stem in stems) if path.exists()]
    chosen = [ROOT / "tests" / "ops" / "test_matmul.py", "-k", "chain"] if session.brief else files
    session.run("-m", "pytest", *chosen, "--device", session.device, "-q", "--tb=short", "-x")
    if session.device == "cpu":
        return "the tests passed on the CPU"
    session.seen.append("every op's tests passed with the ops on the GPU")
    session.run("-m", "pytest", "tests/ops/test_backends.py", "-k", "a_gpu", "-q", "--tb=short")
    return f"{session.seen[0]}, and all cases have the CPU's bits"


@part("unary", 60, "2^32 inputs of each elementary function have the published fingerprints")
def unary(session: Session) -> str:
    functions = ["--functions", "sin_turn"] if session.brief else []
    output = session.run("-m", "pipeline.unary_digest", "--device", session.device, *functions)
    return output.strip().splitlines()[-1].split(": ")[-1]


def trained(session: Session, name: str) -> str:
    """A recipe whole, in its published segments; brief: three steps. All steps and digests are compared."""
    recipe, want = load_recipe(session.recipe(name)), published(name)
    if session.brief:
        found = session.chain(name, 3, session.device)
        reference = EXPECTED / "chains" / f"{name}.tsv"
        if not reference.exists():
            reference = session.chain(name, 3, "cpu", "--micro-batch", "1", folder="cpu")
        return compare_chains(found, reference)
    previous, steps, began = "none", 0, time.monotonic()
    for steps in recipe.checkpoints:
        made = session.chain(name, steps, session.device, "--micro-batch", "16", previous=previous)
        if sha256_of(made) != want[f"train/{made.name}"]:
            raise Failed(first_difference(name, made))
        checkpoint = made.with_name(checkpoint_name(steps))
        if checkpoint_digest(checkpoint) != want[f"train/{checkpoint.name}"]:
            raise Failed(f"{checkpoint.name} differs, though every step's fingerprint is equal: its moments do")
        previous = str(checkpoint)
        session.seen = [f"{steps} of {recipe.bits.steps} steps and their checkpoints equal the published digests"]
    seconds = time.monotonic() - began
    for item in [*of_stage(recipe, "evaluate", steps), *of_stage(recipe, "sample")]:
        out = session.work / name / "run" / item.name
        session.run(
            "-m", f"pipeline.{item.stage}", "--recipe", session.recipe(name), "--tokens", session.tokens(name), "--checkpoint", previous,
            "--out", out, "--device", session.device, "--batch-size", "16",
        )  # fmt: skip
        if sha256_of(out) != want[item.key]:
            raise Failed(f"{item.name} differs from the published one")
    return f"all {steps} steps, every checkpoint, evaluation and samples equal the published digests ({seconds:.0f} s)"


@part("fables", 150, "every chain, checkpoint, evaluation and sample of the recipe has its published digest")
def fables(session: Session) -> str:
    return trained(session, "fables")


@part("digits", 150, "the same of the recipe fables_int8x3, whose products are on 8-bit integers")
def digits(session: Session) -> str:
    return trained(session, "fables_int8x3")


@part("ranks", 90, "one and two ranks on one GPU, and a GPU beside a CPU: the published steps")
def ranks(session: Session) -> str:
    """One and two ranks on the device, and a CPU beside it; brief: the last only."""
    steps = 2 if session.brief else 20
    settings = [(1, session.device), (2, session.device), (2, f"cpu,{session.device}")]
    for count, devices in settings[-1:] if session.brief else settings:
        made = session.chain("fables", steps, devices, "--ranks", str(count), folder=f"ranks-{count}-{devices}")
        compare_chains(made, EXPECTED / "chains" / "fables.tsv")
        session.seen.append(f"{steps} steps equal on {count} x {devices}")
    return "; ".join(session.seen)


@part(
    "sanitizer", 150, "memcheck finds nothing in steps in fp32 and int8x3, racecheck in fp32; both find a planted fault"
)
def sanitizer(session: Session) -> str:
    """Steps under compute-sanitizer, after it has shown that it sees; without a GPU the same steps without it.

    racecheck sees no step in digits: it does not follow the copies of compute capability 9.0 through barriers in shared
    memory, which the CPU's stand-in for them checks (tests/ops/test_digits_cuda.py).
    """
    tool = None
    if session.device == "cuda":
        import torch

        cuda = torch.version.cuda or ""
        nvcc = gpu_machine.nvcc_here(cuda)
        tool = gpu_machine.find_sanitizer(nvcc, cuda)
        if tool is None or nvcc is None:
            raise Skipped("compute-sanitizer or nvcc is missing; the first lines say what brings it")
        planted = compile_faults(session, nvcc)
    recipe = ROOT / "tests" / "recipes" / "tiny.yaml"
    data, tokens, out = (session.work / "tiny" / name for name in ("data", "tokens", "run"))
    session.run("-m", "pipeline.download", "--recipe", recipe, "--out", data)
    session.run("-m", "pipeline.prepare_text", "--recipe", recipe, "--data", data, "--out", tokens)
    digits = session.work / "tiny" / "int8x3.yaml"
    digits.write_text(in_digits(recipe.read_text(encoding="utf-8")), encoding="utf-8")
    checks = [("memcheck", "write_beyond", (recipe, digits)), ("racecheck", "race", (recipe,))]
    for check, fault, recipes in checks[: 1 if session.brief else 2]:
        prefix, env = sanitized(tool, check)
        if tool:
            must_see(session, check, fault, planted, prefix, env)
        for each in recipes:
            shutil.rmtree(out, ignore_errors=True)
            output = session.run(
                "-m", "pipeline.train", "--recipe", each, "--tokens", tokens, "--steps-to", "1", "--out", out / "step.safetensors",
                "--chain", out / "chain.tsv", "--state", out / "state", "--device", session.device, "--graph", "0",
                "--micro-batch", str(SANITIZED_MICRO_BATCH), prefix=prefix, env=env,
            )  # fmt: skip
            if tool and found_by(output) != 0:
                raise Failed(f"{check} gave no summary without errors of the step of {each.name}; see the log")
        steps = "a step in fp32 and one in int8x3" if len(recipes) > 1 else "a step in fp32"
        session.seen.append(f"{check} saw a planted fault and found nothing in {steps}" if tool else "the steps ran")
    return "; ".join(session.seen) if tool else "the steps ran; the tool needs a GPU"


def in_digits(recipe: str) -> str:
    """A recipe's text in int8x3 and two lanes.

    The gradient of a weight is then a sum over the blocks of 16 sequences: the four stages of a tile of wgmma are filled
    four times over, and both phases of their barriers are waited for.
    """
    for old, new in (("numerics: fp32", "numerics: int8x3"), ("lanes: 4", "lanes: 2")):
        if old not in recipe:
            raise Failed(f"the recipe of the steps has no {old!r}, so its step in int8x3 would be another's")
        recipe = recipe.replace(old, new)
    return recipe


def sanitized(tool: Path | None, check: str) -> tuple[tuple[str, ...], dict[str, str | None]]:
    """Prefix and variables of a command under compute-sanitizer, so that it sees the tensors as they are.

    torch's caching allocator hands out parts of large segments, in which an access beyond a tensor is valid memory;
    without it each tensor is an allocation of its own, and --padding keeps neighbours apart. API errors that torch
    probes for are no faults. Both options are memcheck's alone. --error-exitcode holds where the command itself
    succeeded, so a step with a finding is no success either way.
    """
    if tool is None:
        return (), {}
    own = ("--padding", "64", "--report-api-errors", "no") if check == "memcheck" else ()
    prefix = (str(tool), "--tool", check, *own, "--error-exitcode", "9")
    return prefix, {
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTORCH_CUDA_ALLOC_CONF": None, "PYTORCH_ALLOC_CONF": None,
    }  # fmt: skip


def found_by(output: str) -> int | None:
    """How many errors the tool's last summary names; None: there is none."""
    counts = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (\d+)", output, re.MULTILINE)
    return int(counts[-1]) if counts else None


def compile_faults(session: Session, nvcc: Path) -> Path:
    """The library of beyond.cu, for the GPUs present."""
    library, source = session.work / "beyond.so", Path(__file__).with_name("beyond.cu")
    code = "import subprocess, sys; raise SystemExit(subprocess.run(sys.argv[1:]).returncode)"
    session.run("-c", code, *gpu_machine.shared_library(nvcc, "native", source, library))
    return library


def must_see(
    session: Session, check: str, fault: str, library: Path, prefix: tuple[str, ...], env: dict[str, str | None]
) -> None:
    """Failed unless the tool reports a planted fault in a tensor of torch's.

    Its summary is read, not its exit code: memcheck ends the context after an error, in which torch's freeing of the
    tensor would abort. So the command ends without destructors, and counts whatever its own end was.
    """
    code = (
        f"import ctypes, os, torch; buffer = torch.zeros(1000, device={session.device!r}); "
        f"ctypes.CDLL({str(library)!r}).{fault}(ctypes.c_void_p(buffer.data_ptr()), ctypes.c_longlong(1000)); os._exit(0)"
    )
    try:
        output = session.run("-c", code, prefix=prefix, env=env)
    except Failed as reason:
        output = reason.output
        if found_by(output) is None:
            raise Failed(f"{check} could not be tried on a planted fault: {reason}") from None
    if not found_by(output):
        raise Failed(f"{check} does not see a planted fault ({fault} in beyond.cu): what it finds clean means nothing")


@part("speed", 240, "the step and the ops of GPT-2 beside PyTorch on the same GPU, against speed_targets.py")
def speed(session: Session) -> str:
    """The step of 124M of either side, then ops at the shapes of 124M and 1558M, judged; a CPU has no targets."""
    tables: list[str] = []
    rows: dict[str, list[dict[str, Any]]] = {"ops": [], "step": []}
    config, sides, seconds = ("tiny", ("samebits", "eager"), "0.1")
    models: list[tuple[str, list[str]]] = [("tiny", ["--tokens", "64", "--rounds", "1"])]
    if not session.brief:
        config, sides, seconds = ("124M x8", ("samebits", "compiled"), "5")
        models = [("124M", []), ("1558M", ["--rounds", "3"])]
    jobs = [
        ("step", side, ["--configs", config, "--sides", side, "--rounds", "1", "--seconds", seconds]) for side in sides
    ]
    jobs += [("ops", model, ["--models", model, *flags]) for model, flags in models]
    trouble: list[Expired | Failed] = []
    for kind, name, flags in jobs:
        page, found = session.work / f"{kind}-{name}.md", session.work / f"{kind}-{name}.json"
        found.unlink(missing_ok=True)
        page.unlink(missing_ok=True)
        module = "benchmarks.gpu" if kind == "ops" else "benchmarks.step"
        try:
            session.run("-m", module, "--device", session.device, *flags, "--out", page, "--json", found)
        except (Expired, Failed) as reason:
            trouble.append(reason)
        if found.exists():  # whole, or up to where time was over
            rows[kind] += json.loads(found.read_text(encoding="utf-8"))["rows"]
        if page.exists():
            tables.append(page.read_text(encoding="utf-8"))
    session.facts = {"rows": rows, "tables": tables}
    seen = f"{len(rows['ops'])} ops and {len(rows['step'])} training steps measured"
    if not trouble and not (rows["ops"] and rows["step"]):
        trouble.append(Failed("a table is empty; see the log"))
    session.seen = [seen]
    if session.device == "cuda" and not session.brief:
        targets = speed_targets.judge(rows["ops"], rows["step"], session.gpu)
        session.facts["targets"] = [asdict(target) for target in targets]
        session.seen += [target.words() for target in targets if target.met is False]
    if trouble:  # a failure before an expiry
        raise min(trouble, key=lambda each: isinstance(each, Expired))
    if len(session.seen) > 1:
        raise NotMet("; ".join(session.seen))
    if "targets" in session.facts:
        return f"{seen}; all {len(targets)} targets met"
    return f"{seen}; the targets and constant memory are judged on a GPU at full size only"


@part("shakespeare_char", 60, "the same of the recipe shakespeare_char")
def shakespeare_char(session: Session) -> str:
    return trained(session, "shakespeare_char")


@part("gpt2_124m_steps", 60, "the same of the recipe gpt2_124m_steps: GPT-2 at its true size")
def gpt2_124m_steps(session: Session) -> str:
    return trained(session, "gpt2_124m_steps")
