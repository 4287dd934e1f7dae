"""Whether a GPU gives the bits that a CPU published, and how fast: every part of the proof in one command.

    make gpu-proof          or, with any Python that has torch >= 2.11 and the packages of NEEDED (offline, without Snakemake):
    python -m pipeline.gpu_proof
    [1/8] build          passed   41 s  CUDA 13.0 for sm_90
    …
    docs/evidence/nvidia-h200-2026-11-24.md: 8 of 8 parts passed in 402 s

Parts: build, ops (every op's test natively), unary (2^32 inputs of each elementary function), fables and shakespeare_char (every
step and digest), ranks (one and two ranks on one GPU, a CPU and a GPU in one job), sanitizer (memcheck and racecheck on a small
recipe), speed (pipeline/evidence/speed_targets.py). A part that fails or outlasts its time is named and the others go on. Exit code 1 if a
part failed, a speed target is not met (`--speed report` only lists it) or, on a GPU, a part was skipped; 2 if the device cannot
be used. `--device cpu --brief` goes the same way where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError, exit_on_user_error

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "config" / "expected"
BUILD = ROOT / "results" / "build"
# module or program -> its package
NEEDED = {
    "torch": "torch", "pytest": "pytest", "ninja": "ninja", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml",
    "safetensors": "safetensors", "tqdm": "tqdm", "hypothesis": "hypothesis",
}  # fmt: skip


class Failed(Exception):
    """A part that did not hold, with the reason."""


class Skipped(Exception):
    """A part that cannot be tried here, with the reason."""


class NotMet(Exception):
    """Speed targets that were missed."""


@dataclass
class Part:
    name: str
    verdict: str = ""
    seconds: float = 0.0
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Proof:
    """The parts in order, over one work folder; `seconds` limits each part's commands together."""

    def __init__(self, device: str, brief: bool, work: Path) -> None:
        self.device, self.brief, self.work = device, brief, work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.until, self.facts, self.tables, self.gpu = 0.0, dict[str, Any](), list[str](), ""
        self.log = self.work / "log.txt"
        self.log.write_text("", encoding="utf-8")
        # seconds at most, together within the 8 minutes of the whole
        self.parts: dict[str, tuple[int, Callable[[], str]]] = {
            "build": (80, self.build),
            "ops": (45, self.ops),
            "unary": (25, self.unary),
            "fables": (70, lambda: self.train("fables")),
            "shakespeare_char": (50, lambda: self.train("shakespeare_char")),
            "ranks": (45, self.ranks),
            "sanitizer": (60, self.sanitizer),
            "speed": (105, self.speed),
        }

    # ------------------------------------------------------------------ commands

    def note(self, *texts: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.writelines(texts)

    def run(self, *command: str | Path, prefix: tuple[str, ...] = ()) -> str:
        """Run `python <command>` within the part's time; its output goes to the log, what it printed comes back. Failed has its last lines."""
        env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        env["SAMEBITS_BUILD"] = str(BUILD)
        words = [*prefix, sys.executable, *map(str, command)]
        self.note(f"\n$ {' '.join(words)}\n")
        left = max(1.0, self.until - time.monotonic())
        with subprocess.Popen(
            words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                out, err = process.communicate(timeout=left)
            except subprocess.TimeoutExpired as error:
                self.note(*(part.decode(errors="replace") for part in (error.stdout, error.stderr) if part))
                raise Failed(f"still running when its time was over: {' '.join(map(str, command[:3]))} …") from error
            finally:  # an interrupt too leaves nobody on the GPU
                if process.poll() is None:
                    kill_tree(process.pid)
        self.note(out, err)
        if process.returncode:
            raise Failed(f"exit code {process.returncode}: " + " / ".join((out + err).strip().splitlines()[-3:])[-400:])
        return out

    def recipe(self, name: str) -> Path:
        return ROOT / "config" / "recipes" / f"{name}.yaml"

    def tokens(self, name: str) -> Path:
        """Corpus and tokens of a recipe, made once; those of `make reproduction` serve, since every step proves them."""
        from pipeline.recipe import load_recipe, paths

        made = ROOT / paths.tokens_dir(load_recipe(self.recipe(name)))
        if (made / "tokens.json").exists():
            return made
        data, tokens = self.work / name / "data", self.work / name / "tokens"
        if not (tokens / "tokens.json").exists():
            try:
                self.run("-m", "pipeline.download", "--recipe", self.recipe(name), "--out", data)
            except Failed as error:
                if name == "fables":
                    raise
                raise Skipped("its corpus is not here: name a folder of copies in SAMEBITS_MIRROR") from error
            self.run("-m", "pipeline.prepare_text", "--recipe", self.recipe(name), "--data", data, "--out", tokens)
        return tokens

    def chain(
        self, name: str, steps: int, device: str, *flags: str, folder: str = "run", previous: str = "none"
    ) -> Path:
        """Train up to a step and return the chain; the checkpoint lies beside it."""
        out = self.work / name / folder
        shutil.rmtree(out / "state", ignore_errors=True)
        self.run(
            "-m", "pipeline.train", "--recipe", self.recipe(name), "--tokens", self.tokens(name), "--previous", previous,
            "--steps-to", str(steps), "--out", out / f"step_{steps:06d}.safetensors", "--chain", out / f"chain_{steps:06d}.tsv",
            "--state", out / "state", "--device", device, *flags,
        )  # fmt: skip
        return out / f"chain_{steps:06d}.tsv"

    # ------------------------------------------------------------------ parts

    def build(self) -> str:
        archs = "auto" if self.device == "cuda" else "none"
        return self.run("-m", "pipeline.compile", "--out", BUILD, "--archs", archs).strip().splitlines()[-1]

    def ops(self) -> str:
        """Every op's tests with the ops on the device, then the cases of both backends against each other; brief: one op's."""
        from cuda_ops.build import stems

        chosen = [f"tests/ops/test_{stem}.py" for stem in (["step_scalars"] if self.brief else stems())]
        self.run("-m", "pytest", *chosen, "--device", self.device, "-q", "--tb=short", "-x")
        if self.device == "cpu":
            return "the tests passed on the CPU"
        self.run("-m", "pytest", "tests/ops/test_backends.py", "-k", "a_gpu", "-q", "--tb=short")
        return "every op's tests passed with the ops on the GPU, and all cases have the CPU's bits"

    def unary(self) -> str:
        functions = ["--functions", "sin_turn"] if self.brief else []
        output = self.run("-m", "pipeline.unary_digest", "--device", self.device, *functions)
        return output.strip().splitlines()[-1].split(": ")[-1]

    def train(self, name: str) -> str:
        """The recipe whole, in its published segments; brief: three steps. All steps and digests are compared."""
        from pipeline import recipe as recipes
        from pipeline.base.checkpoint import load
        from pipeline.records.digests import checkpoint_digest, published

        recipe, want = recipes.load_recipe(self.recipe(name)), published(name)
        if self.brief:
            found = self.chain(name, 3, self.device)
            reference = EXPECTED / "chains" / f"{name}.tsv"
            if not reference.exists():
                reference = self.chain(name, 3, "cpu", "--micro-batch", "1", folder="cpu")
            return compare_chains(found, reference)
        previous, steps = "none", 0
        began = time.monotonic()
        for steps in recipe.checkpoints:
            chain = self.chain(name, steps, self.device, "--micro-batch", "16", previous=previous)
            if sha256(chain) != want[f"train/{chain.name}"]:
                raise Failed(first_difference(name, chain))
            checkpoint = chain.with_name(f"step_{steps:06d}.safetensors")
            if checkpoint_digest(checkpoint) != want[f"train/{checkpoint.name}"]:
                raise Failed(f"{checkpoint.name} differs, though every step's fingerprint is equal: its moments do")
            previous = str(checkpoint)
        seconds = time.monotonic() - began
        for stage, result in (("evaluate", f"eval_{steps:06d}.json"), ("sample", "samples.json")):
            out = self.work / name / "run" / result
            self.run(
                "-m", f"pipeline.{stage}", "--recipe", self.recipe(name), "--tokens", self.tokens(name), "--checkpoint", previous,
                "--out", out, "--device", self.device, "--batch-size", "16",
            )  # fmt: skip
            if sha256(out) != want[f"{stage}/{result}"]:
                raise Failed(f"{result} differs from the published one")
        assert load(Path(previous)).step == steps
        return f"all {steps} steps, every checkpoint, {result} and the evaluation equal the published digests ({seconds:.0f} s)"

    def ranks(self) -> str:
        """One and two ranks on the device, and a CPU beside it, against the published steps; brief: the last only."""
        steps, words = (2 if self.brief else 20), []
        reference = EXPECTED / "chains" / "fables.tsv"
        settings = [(1, self.device), (2, self.device), (2, f"cpu,{self.device}")]
        for ranks, devices in settings[-1:] if self.brief else settings:
            found = self.chain("fables", steps, devices, "--ranks", str(ranks), folder=f"ranks-{ranks}-{devices}")
            compare_chains(found, reference)
            words.append(f"{ranks} x {devices}")
        return f"{steps} steps equal on {'; '.join(words)}"

    def sanitizer(self) -> str:
        """One step of a small recipe under compute-sanitizer; without a GPU the same step without it."""
        tool = shutil.which("compute-sanitizer")
        if self.device == "cuda" and tool is None:
            raise Skipped("compute-sanitizer is not on PATH")
        recipe = ROOT / "tests" / "recipes" / "tiny.yaml"
        data, tokens, out = self.work / "tiny" / "data", self.work / "tiny" / "tokens", self.work / "tiny" / "run"
        self.run("-m", "pipeline.download", "--recipe", recipe, "--out", data)
        self.run("-m", "pipeline.prepare_text", "--recipe", recipe, "--data", data, "--out", tokens)
        for check in ("memcheck",) if self.brief else ("memcheck", "racecheck"):
            prefix = (str(tool), "--tool", check, "--error-exitcode", "9") if self.device == "cuda" else ()
            shutil.rmtree(out, ignore_errors=True)
            self.run(
                "-m", "pipeline.train", "--recipe", recipe, "--tokens", tokens, "--steps-to", "1", "--out", out / "step.safetensors",
                "--chain", out / "chain.tsv", "--state", out / "state", "--device", self.device, "--graph", "0", prefix=prefix,
            )  # fmt: skip
        return "memcheck and racecheck found nothing" if self.device == "cuda" else "the step ran; the tool needs a GPU"

    def speed(self) -> str:
        """Ops at the shapes of GPT-2 124M and 1558M and the step of 124M beside PyTorch's, judged; a CPU has no targets."""
        from pipeline.evidence.speed_targets import judge

        rows: dict[str, list[dict[str, Any]]] = {}
        models = ["--models", "tiny", "--tokens", "64", "--rounds", "1"] if self.brief else ["--models", "124M,1558M"]
        config, sides, seconds = (
            ("tiny", "samebits;eager", "0.1") if self.brief else ("124M x8", "samebits;compiled", "5")
        )
        step = ["--configs", config, "--sides", sides, "--rounds", "1", "--seconds", seconds]
        for name, flags in (("gpu", models), ("step", step)):
            page, found = self.work / f"{name}.md", self.work / f"{name}.json"
            self.run("-m", f"benchmarks.{name}", "--device", self.device, *flags, "--out", page, "--json", found)
            self.facts[name] = json.loads(found.read_text(encoding="utf-8"))
            rows[name] = self.facts[name]["rows"]
            self.tables.append(page.read_text(encoding="utf-8"))
            if not rows[name]:
                raise Failed("a table is empty; see the log")
        seen = f"{len(rows['gpu'])} ops and {len(rows['step'])} training steps measured"
        if self.device == "cpu" or self.brief:
            return f"{seen}; the targets and constant memory are judged on a GPU at full size only"
        targets = judge(rows["gpu"], rows["step"], self.gpu)
        self.facts["targets"] = [asdict(target) for target in targets]
        missed = [f"{target.what} {target.found}, asked {target.asked}" for target in targets if not target.met]
        if missed:
            raise NotMet(f"{seen}; not met: {'; '.join(missed)}")
        return f"{seen}; all {len(targets)} targets met"

    # ------------------------------------------------------------------ all of them

    def prove(self, wanted: list[str]) -> list[Part]:
        found = []
        for number, name in enumerate(wanted, 1):
            seconds, work = self.parts[name]
            began = time.monotonic()
            self.until = began + seconds * (10 if self.brief else 1)  # a brief run may be on a slow CPU
            part = Part(name)
            try:
                part.detail, part.verdict = work(), "passed"
            except Skipped as reason:
                part.detail, part.verdict = str(reason), "skipped"
            except NotMet as reason:
                part.detail, part.verdict = str(reason), "not met"
            except (Failed, UserError) as reason:
                part.detail, part.verdict = str(reason), "FAILED"
            part.seconds = round(time.monotonic() - began, 1)
            found.append(part)
            print(
                f"[{number}/{len(wanted)}] {name:16} {part.verdict:8} {part.seconds:5.0f} s  {part.detail}", flush=True
            )
        return found


def kill_tree(pid: int) -> None:
    """Kill a process and all that come from it, also those that began sessions of their own, as ranks do."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    tree = [pid]
    for parent in tree:  # grows as it is walked
        tree += parents.get(parent, [])
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for each in tree:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


# ---------------------------------------------------------------------- comparing


def sha256(path: Path) -> str:
    from pipeline.base.files import sha256_of

    return sha256_of(path)


def compare_chains(found: Path, reference: Path) -> str:
    """Every line of a chain from step 1 against the same steps of another; Failed names the first that differs."""
    from pipeline.base import chain

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


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether a GPU gives the bits that a CPU published.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--brief", action="store_true", help="a few steps of everything; writes no evidence of a GPU")
    parser.add_argument("--parts", help="of build, ops, unary, fables, shakespeare_char, ranks, sanitizer, speed")
    parser.add_argument(
        "--speed", choices=("judge", "report"), default="judge", help="report: a missed target is no error"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "results" / "gpu_proof", help="folder of builds, runs and the log"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence", help="folder of the page and its JSON")
    args = parser.parse_args()
    missing = [
        package
        for name, package in NEEDED.items()
        if find_spec(name) is None and not (name == "ninja" and shutil.which(name))
    ]
    if missing:
        raise UserError(
            f"{sys.executable} lacks {' '.join(missing)}: pip install them, or where there is no network bring a folder "
            "of them and name it in PYTHONPATH (docs/gpu.md)"
        )
    proof = Proof(args.device, args.brief, args.work)
    wanted = args.parts.split(",") if args.parts else list(proof.parts)
    unknown = sorted(set(wanted) - set(proof.parts))
    if unknown:
        raise UserError(f"--parts {','.join(unknown)}: allowed are {', '.join(proof.parts)}")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU here; --device cpu --brief goes the same way without one")
    from cuda_ops.build import source_digest
    from pipeline.pages.proof_page import machine, page

    began, here = time.monotonic(), machine(args.device)
    proof.gpu = here.get("gpu", {}).get("name", "")
    parts = proof.prove(wanted)
    evidence = {
        "date": time.strftime("%Y-%m-%d"), "command": " ".join(["python -m pipeline.gpu_proof", *sys.argv[1:]]),
        "device": args.device, "brief": args.brief, "sources": source_digest(), "seconds": round(time.monotonic() - began, 1),
        "machine": here, "parts": [asdict(part) for part in parts], "facts": proof.facts,
    }  # fmt: skip
    name = evidence["machine"].get("gpu", {}).get("name", args.device).lower().replace(" ", "-")
    target = args.out / f"{name}-{evidence['date']}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(evidence, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    target.with_suffix(".md").write_text(page(evidence, proof.tables), encoding="utf-8")
    by_verdict: dict[str, list[str]] = {}
    for part in parts:
        by_verdict.setdefault(part.verdict, []).append(part.name)
    passed = len(by_verdict.pop("passed", []))
    rest = "".join(f"; {verdict}: {', '.join(names)}" for verdict, names in by_verdict.items())
    print(
        f"{target.with_suffix('.md')}: {passed} of {len(parts)} parts passed in {evidence['seconds']:.0f} s{rest}; log: {proof.log}"
    )
    return exit_code(set(by_verdict), args.device, args.speed)


def exit_code(verdicts: set[str], device: str, speed: str) -> int:
    """Of the verdicts other than passed. What a GPU did not show is no proof, so there a skipped part counts as one that failed."""
    counts = {"FAILED"} | ({"skipped"} if device == "cuda" else set()) | ({"not met"} if speed == "judge" else set())
    return 1 if verdicts & counts else 0


if __name__ == "__main__":
    exit_on_user_error(main)
