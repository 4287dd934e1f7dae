"""pytest tests/invariance/test_invariance.py

One digest for a small run of `fables` under every way of running it: ranks, micro-batch, threads, recompute, optimisation level,
instruction set, hash seed, locale, time zone, folder; and after kills at random instants with resume on other ranks. The
controls at the end must be seen to differ.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import NotFinite, Trainer
from tests.conftest import ROOT, run

STEPS = 6


def command(tiny: dict[str, Path], out: Path, *flags: str, steps: int = STEPS) -> list[str]:
    return [
        "-m", "pipeline.train", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--steps-to", str(steps),
        "--out", str(out / f"step_{steps:06d}.safetensors"), "--chain", str(out / f"chain_{steps:06d}.tsv"),
        "--state", str(out / "state"), *flags,
    ]  # fmt: skip


def result(out: Path, steps: int = STEPS) -> str:
    """Link of the last step and digest of every tensor."""
    lines = chain.read(out / f"chain_{steps:06d}.tsv")
    assert chain.check(lines, chain.START, out) == lines[-1].link
    tensors = load(out / f"step_{steps:06d}.safetensors").tensors
    return json.dumps([lines[-1].link, {name: tensor_digest(tensors[name]) for name in sorted(tensors)}])


def in_process(
    tiny: dict[str, Path], execution: Execution, steps: int = 2, sabotage: Callable[[Trainer], None] | None = None
) -> str:
    """The chain's link after some steps in this process."""
    from cuda_ops import runtime

    runtime.set_threads(execution.threads or 2)
    trainer = Trainer(load_recipe(tiny["recipe"]), execution, Ranks(), tiny["tokens"])
    trainer.initialise()
    link = chain.START
    for _ in range(steps):
        if sabotage:
            sabotage(trainer)
        line, _ = trainer.train_step()
        link = line.linked(link).link
    return link


@pytest.fixture(scope="module")
def reference(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference")
    run(*command(tiny, out))
    return result(out)


def test_micro_batch_threads_and_recompute(tiny: dict[str, Path]) -> None:
    found = {
        in_process(tiny, Execution(micro_batch=micro_batch, threads=threads, recompute=recompute))
        for micro_batch, threads, recompute in itertools.product((1, 2, 3, 4, 8, 64), (1, 2, 3), (False, True))
    }
    assert len(found) == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks(tiny: dict[str, Path], tmp_path: Path, reference: str, ranks: int) -> None:
    """Real torchrun, gloo; every micro-batch, threads and recompute in turn."""
    for number, (micro_batch, threads, recompute) in enumerate([(1, 1, 0), (2, 4, 1), (4, 2, 0), (8, 3, 1)]):
        out = tmp_path / str(number)
        flags = ["--ranks", ranks, "--micro-batch", micro_batch, "--threads", threads, "--recompute", recompute]
        run(*command(tiny, out, *map(str, flags)))
        assert result(out) == reference, flags


def test_ranks_of_a_launcher_that_is_process_1(tiny: dict[str, Path], tmp_path: Path, reference: str) -> None:
    """As in a container, where the ranks' parent has number 1 and yet is no init that took over orphans."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare and the right to make a process namespace")
    program = [*apart, sys.executable, *command(tiny, tmp_path, "--ranks", "2")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(tmp_path) == reference


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONHASHSEED": "1", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Apia"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "UTC", "SAMEBITS_ISA": "baseline"},
        {"SAMEBITS_ISA": "v3"},
    ],
)
def test_environment_and_folder(tiny: dict[str, Path], tmp_path: Path, reference: str, env: dict[str, str]) -> None:
    if env.get("SAMEBITS_ISA") == "v3" and " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2")
    run(*command(tiny, tmp_path), env=env, cwd=tmp_path)
    assert result(tmp_path) == reference


@pytest.mark.parametrize(("compiler", "level"), [("g++", "0"), ("clang++-14", "2")])
def test_compilers_and_optimisation_levels(
    tiny: dict[str, Path], tmp_path: Path, reference: str, compiler: str, level: str
) -> None:
    if subprocess.run(["which", compiler], capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler} is not installed")
    run("-m", "pipeline.compile", "--out", str(tmp_path / "build"), "--cxx", compiler, "--opt-level", level)
    run(*command(tiny, tmp_path), env={"SAMEBITS_BUILD": str(tmp_path / "build")})
    assert result(tmp_path) == reference


def test_segments_are_the_whole(tiny: dict[str, Path], tmp_path: Path, reference: str) -> None:
    run(*command(tiny, tmp_path, steps=3))
    run(*command(tiny, tmp_path, "--previous", str(tmp_path / "step_000003.safetensors"), "--ranks", "2"))
    first, second = (chain.read(tmp_path / f"chain_{step:06d}.tsv") for step in (3, 6))
    chain.write(tmp_path / "chain_000006.tsv", first + second)
    assert result(tmp_path) == reference


def test_random_kills_lose_no_bit(tiny: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 of the whole process group at up to 20 random instants, resumed on 1 or 2 ranks."""
    recipe = load_recipe(tiny["recipe"])
    long = tmp_path / "long.yaml"
    text = tiny["recipe"].read_text().replace("steps: 6", "steps: 1500").replace("checkpoints: [3]", "checkpoints: []")
    long.write_text(text)
    assert load_recipe(long).bits.steps == 1500 != recipe.bits.steps
    setting = tiny | {"recipe": long}
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run(*command(setting, whole, steps=1500))
    rng = random.Random(7)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    kills = 0
    for _ in range(60):
        ranks = 2 if kills % 5 == 4 else 1
        flags = ["--ranks", str(ranks), "--rolling-steps", "4", "--micro-batch", str(rng.choice([1, 3, 8]))]
        process = subprocess.Popen(
            [sys.executable, *command(setting, out, *flags, steps=1500)], env=env, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            wait = rng.uniform(1.8, 3.0) if ranks == 1 else rng.uniform(6, 8)
            process.wait(wait if kills < 20 else None)  # the last one may take as long as it takes
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kill_workers(out)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.communicate()[1].decode()[-2000:]
        break
    assert (out / "step_001500.safetensors").exists()
    assert kills, "the run was done before the first kill"  # how many more is the machine's speed
    assert result(out, 1500) == result(whole, 1500)
    assert not list((out / "state").glob("*/*")), "rolling checkpoints are removed when the segment is done"


def kill_workers(out: Path) -> None:
    """Ranks may have process groups of their own."""
    subprocess.run(["pkill", "-9", "-f", f"out {out}/step"], check=False)


def test_a_damaged_rolling_checkpoint_is_named_and_the_one_before_is_used(
    tiny: dict[str, Path], tmp_path: Path, reference: str
) -> None:
    state = stop_after(tiny, tmp_path, 4)
    newest = state / "step_000004.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    output = run(*command(tiny, tmp_path))
    assert "step_000004.safetensors: damaged" in output
    assert "resuming from step 3" in output
    assert result(tmp_path) == reference
    stop_after(tiny, tmp_path, 4)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert "resuming from step 3" in run(*command(tiny, tmp_path))
    assert result(tmp_path) == reference


def stop_after(tiny: dict[str, Path], out: Path, step: int) -> Path:
    """The rolling state of a run that was killed after a step."""
    code = (
        "import os, sys\nfrom pipeline import train\nfrom pipeline.training.segment import Segment\nsave = Segment.save_rolling\n"
        f"def killed(self):\n  save(self)\n  if self.trainer.step == {step}: os.kill(os.getpid(), 9)\n"
        "Segment.save_rolling = killed\n"
        f"sys.argv[1:] = {[*command(tiny, out, '--rolling-steps', '1')[2:]]!r}\ntrain.main()\n"
    )
    run("-c", code, code=-9)
    (folder,) = (out / "state").iterdir()
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_saves_and_goes_on(
    tiny: dict[str, Path], tmp_path: Path, reference: str, number: signal.Signals
) -> None:
    slow = (
        "import sys, time\nfrom pipeline import train\nfrom pipeline.training.trainer import Trainer\nstep = Trainer.train_step\n"
        "def slowly(self, signal=0):\n  print('step', flush=True); time.sleep(0.5)\n  return step(self, signal)\n"
        "Trainer.train_step = slowly\n"
        f"sys.argv[1:] = {command(tiny, tmp_path)[2:]!r}\nsys.exit(train.main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "the same command goes on from there" in errors
    assert "resuming from step" in run(*command(tiny, tmp_path))
    assert result(tmp_path) == reference


def test_a_dead_rank_stops_the_others(tiny: dict[str, Path], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *command(tiny, tmp_path, "--ranks", "2", "--rolling-steps", "1")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SAMEBITS_ISA": "baseline"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < deadline and process.poll() is None:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        workers = found.stdout.split()
        time.sleep(0.05)
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)  # it ends by itself; how soon is the machine's speed
    assert process.returncode != 0
    assert "error: rank 1 ended by signal SIGKILL; the others were stopped" in errors
    assert "Traceback" not in errors.split("error: rank 1")[1]


def test_not_a_number_stops_with_step_lane_and_tensor(tiny: dict[str, Path]) -> None:
    def poison(trainer: Trainer) -> None:
        if trainer.step == 1:
            trainer.model.weights["h.1.mlp.fc.weight"][3, 5] = float("nan")

    with pytest.raises(NotFinite, match=r"step 2: .* weights h\.1\.mlp\.fc\.weight held a NaN or Inf at element 101"):
        in_process(tiny, Execution(), sabotage=poison)

    def overflow(trainer: Trainer) -> None:
        trainer.model.weights["h.0.mlp.fc.weight"].fill_(3e38)

    with pytest.raises(NotFinite, match=r"step 1: .*first in lane 0: gradient of"):
        in_process(tiny, Execution(), sabotage=overflow)


def test_memory_is_constant_after_the_first_steps(tiny: dict[str, Path]) -> None:
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(micro_batch=8), Ranks(), tiny["tokens"])
    trainer.initialise()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(2):
        trainer.train_step()
    before = resident()
    for _ in range(4):
        trainer.train_step()
    assert resident() - before < 512 * 1024


# ---------------------------------------------------------------- controls: each must be seen to differ


def test_controls_fire(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    good = in_process(tiny, Execution())

    def one_ulp(trainer: Trainer) -> None:
        if trainer.step == 0:
            trainer.model.weights["h.0.attn.qkv.weight"].view(torch.int32)[0, 0] += 1

    assert in_process(tiny, Execution(), sabotage=one_ulp) != good

    def swapped_lanes(trainer: Trainer) -> None:
        trainer.own_lanes = [2, 1, 0, 3]  # type: ignore[assignment]

    assert in_process(tiny, Execution(), sabotage=swapped_lanes) != good
    with monkeypatch.context() as patch:
        from cuda_ops import ops
        from pipeline.training.lanes import LaneCounter

        def left_fold(self: LaneCounter, gradient: torch.Tensor, begin: int, end: int) -> torch.Tensor:
            self._lanes += 1
            if self._waiting:
                ops.add(self._waiting[0], self._waiting[0], gradient)
            else:
                self._waiting.append(gradient)
            return self._waiting[0]

        patch.setattr(LaneCounter, "push", left_fold)
        assert in_process(tiny, Execution()) != good
    assert in_process(tiny, Execution()) == good
