"""pytest tests/invariance/test_invariance.py

One digest for a small run of `fables` under every way of running it: ranks, micro-batch, threads, recompute, optimisation level,
instruction set, hash seed, locale, time zone, folder. The controls at the end must be seen to differ.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.base import chain
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import NotFinite, Trainer
from tests.conftest import ROOT, beside_ours, run
from tests.invariance.running import command, result
from tests.ops.test_matmul_digits import of_instruction_sets, printed


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


def test_micro_batch_threads_and_recompute(tiny: dict[str, Path]) -> None:
    found = {
        in_process(tiny, Execution(micro_batch=micro_batch, threads=threads, recompute=recompute))
        for micro_batch, threads, recompute in itertools.product((1, 2, 3, 4, 8, 64), (1, 2, 3), (False, True))
    }
    assert len(found) == 1


WAYS = [(1, 1, 0), (2, 4, 1), (4, 2, 0), (8, 3, 1)]  # micro-batch, threads, recompute


@pytest.mark.parametrize(("ranks", "ways"), [(2, WAYS[1:2]), (2, WAYS), (4, WAYS)], ids=["2", "2, every way", "4"])
def test_ranks(
    tiny: dict[str, Path], tmp_path: Path, reference: str, ranks: int, ways: list[tuple[int, int, int]]
) -> None:
    """Ranks that the launcher starts, gloo; every micro-batch, threads and recompute in turn."""
    for number, (micro_batch, threads, recompute) in enumerate(ways):
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
    beside_ours(tmp_path / "build")
    run("-m", "pipeline.compile", "--out", str(tmp_path / "build"), "--cxx", compiler, "--opt-level", level)
    env = {"SAMEBITS_BUILD": str(tmp_path / "build")}
    run(*command(tiny, tmp_path), env=env)
    assert result(tmp_path) == reference
    assert of_instruction_sets(**env) == {printed()}


def test_segments_are_the_whole(tiny: dict[str, Path], tmp_path: Path, reference: str) -> None:
    run(*command(tiny, tmp_path, steps=3))
    run(*command(tiny, tmp_path, "--previous", str(tmp_path / "step_000003.safetensors"), "--ranks", "2"))
    first, second = (chain.read(tmp_path / f"chain_{step:06d}.tsv") for step in (3, 6))
    chain.write(tmp_path / "chain_000006.tsv", first + second)
    assert result(tmp_path) == reference


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


def test_every_rank_says_what_is_not_finite_in_its_lanes(tiny: dict[str, Path], tmp_path: Path) -> None:
    """However long one looks: the other, which has nothing more to do, does not end it."""
    text = tiny["recipe"].read_text()
    assert "  schedule:" in text
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("  schedule:", "  init: {kind: normal, std: 1.0e+30}\n  schedule:", 1))
    words = command({**tiny, "recipe": path}, tmp_path, "--ranks", "2")
    said = run("-m", "tests.training.slow_rank", *words[2:], code=3)
    for rank in range(2):  # whose squares overflow only in their sum
        assert re.search(rf"^error: not finite at step 1: .*; every lane of rank {rank} is finite: ", said, re.M), said


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
