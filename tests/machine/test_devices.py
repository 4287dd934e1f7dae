"""pytest tests/machine/test_devices.py

What training on GPUs rests on, as far as it can be seen without one: a recorded step replayed gives the bits of the step itself;
the gradient exchanged in ranges those of the whole; one job whose ranks run the CPU's kernels and the CUDA sources (on a CPU) those of
one rank; and every way a device can be missing, unfit or too small is one message.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import runtime
from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.machine.devices import check_device, device_of
from pipeline.machine.execution import Execution
from pipeline.machine.graphs import Replayed
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.recipe.models import CUDA_HEAD_SIZE
from pipeline.training.trainer import Trainer, bytes_needed
from tests.conftest import ROOT, run
from tests.forks import forking_python
from tests.invariance.test_invariance import command, in_process
from tests.ports import free_port

VIEWS = {"view", "slice", "select", "unbind", "split", "split_with_sizes", "detach", "alias", "_unsafe_view"}
WRITES = {"zero_", "copy_", "fill_"}


class Recording(TorchDispatchMode):
    """A CUDA graph's rules on a CPU: kernels are noted with their tensors and not run; nothing may wait or allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = op._schema.name.split("::")
        if name in VIEWS:
            return op(*args, **(kwargs or {}))
        assert space == "samebits" or name in WRITES, f"{op} waits, allocates or computes during capture"
        self.kernels.append((op, args, kwargs or {}))
        return args[0] if space == "aten" else None

    def record(self, function: Callable[[], None]) -> None:
        with self:
            function()

    def replay(self) -> None:
        for op, args, kwargs in self.kernels:
            op(*args, **kwargs)


def with_replays(tiny: dict[str, Path], steps: int, spoil: bool = False) -> str:
    """The chain's link after some steps, from the third on by replay."""
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(micro_batch=3), Ranks(), tiny["tokens"])
    recordings: list[Recording] = []

    def new_graph() -> Recording:
        recordings.append(Recording())
        return recordings[-1]

    trainer.descend = Replayed(trainer._descend, new_graph)
    trainer.update = Replayed(trainer._update, new_graph)
    trainer.initialise()
    link = chain.START
    for _ in range(steps):
        if spoil and trainer.step == 3:
            trainer.feed.prepare(3, trainer.own_lanes)  # tokens of another step than is loaded next
            trainer.feed._prepared = (4, tuple(trainer.own_lanes))
        line, _ = trainer.train_step()
        link = line.linked(link).link
    assert len(recordings) == 2
    assert len(recordings[0].kernels) > 100
    return link


def test_a_recorded_step_replayed_gives_the_bits_of_the_step(tiny: dict[str, Path]) -> None:
    good = in_process(tiny, Execution(), steps=5)
    assert with_replays(tiny, 5) == good
    assert with_replays(tiny, 5, spoil=True) != good


def test_a_recorded_step_cuts_its_weights_again(tiny: dict[str, Path], tmp_path: Path) -> None:
    """In digits: what is kept of the weights is made in the recording, which the flags of Python do not see replayed."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny["recipe"].read_text().replace("numerics: fp32", "numerics: int8x3"))
    digits = tiny | {"recipe": recipe}
    assert with_replays(digits, 5) == in_process(digits, Execution(), steps=5)


def test_capture_refuses_what_a_graph_cannot_hold() -> None:
    recording = Recording()
    with pytest.raises(AssertionError, match="waits, allocates or computes"):
        recording.record(lambda: print(torch.ones(1).item()))
    calls: list[int] = []
    eager = Replayed(lambda: calls.append(1), None)
    for _ in range(5):
        eager()
    assert len(calls) == 5


RANK = """
import os, sys, torch
from pathlib import Path
from cuda_ops import runtime
from pipeline.base import chain
from pipeline.base.checkpoint import load
from pipeline.training import exchange
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
exchange.RANGE = int(sys.argv[3])
started = []
start = exchange.Exchange.start
def counted(self, gradient, begin, end):
    started.append((begin, end))
    start(self, gradient, begin, end)
exchange.Exchange.start = counted
runtime.set_threads(1)
ranks = Ranks(size=int(os.environ["WORLD_SIZE"]))
def new_trainer():
    return Trainer(load_recipe(sys.argv[1]), Execution(micro_batch=4), ranks, Path(sys.argv[2]))
trainer = new_trainer()
trainer.initialise()
trainer.link = chain.START
for step in range(2):
    if step == 1:  # through a checkpoint
        saved = Path(sys.argv[4]) / "step.safetensors"
        trainer.save(saved)
        ranks.agree(0)
        trainer = new_trainer()
        trainer.restore(load(saved))
    line, _ = trainer.train_step()
    trainer.link = link = line.linked(trainer.link).link
print(runtime.isa(), len(started) // 2, link)
ranks.close()
"""


def by_hand(tiny: dict[str, Path], out: Path, ranges: int, builds: list[str | None]) -> list[list[str]]:
    """One process per entry of builds, each with its own library (None: the shipped one); returns what each printed.

    Two steps, the second of a trainer that has read the first one's checkpoint.
    """
    port = free_port()
    workers = []
    for rank, build in enumerate(builds):
        env = os.environ | {
            "PYTHONPATH": str(ROOT), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(builds)),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        } | ({"SAMEBITS_BUILD": build} if build else {})  # fmt: skip
        arguments = [forking_python(), "-c", RANK, str(tiny["recipe"]), str(tiny["tokens"]), str(ranges), str(out)]
        workers.append(
            subprocess.Popen(arguments, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    found = []
    for worker in workers:
        output, errors = worker.communicate(timeout=400)
        assert worker.returncode == 0, errors[-2000:]
        found.append(output.split())
    return found


@pytest.mark.parametrize(("ranks", "ranges", "messages"), [(1, 1, 0), (2, 1, 3), (4, 20_000, 3)])
def test_exchange_in_ranges_gives_the_bits_of_the_whole(
    tiny: dict[str, Path], tmp_path: Path, ranks: int, ranges: int, messages: int
) -> None:
    good = in_process(tiny, Execution())
    for _, count, link in by_hand(tiny, tmp_path, ranges, [None] * ranks):
        assert (int(count), link) == (messages, good)


def test_ranks_on_the_cpu_and_through_the_cuda_sources_agree(tiny: dict[str, Path], tmp_path: Path, shim: Path) -> None:
    good = in_process(tiny, Execution())
    (_, _, first), (_, _, second) = by_hand(tiny, tmp_path, 1, [None, str(shim)])
    assert first == second == good


# ---------------------------------------------------------------- bad input


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_message(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(tiny["recipe"])
    with pytest.raises(UserError, match="--device tpu: 'tpu' is neither cpu nor cuda"):
        Execution(device="tpu").check(recipe)
    with pytest.raises(UserError, match="--device cpu,cuda names 2 devices for --ranks 1"):
        Execution(device="cpu,cuda").check(recipe)
    with pytest.raises(UserError, match=r"cuda:0: .*use --device cpu"):
        Ranks("cuda")
    output = run(*command(tiny, tmp_path, "--ranks", "2", "--device", "cpu,cuda"), code=2)
    assert "use --device cpu or mend the driver" in output
    assert "error: rank 1 ended with exit code 2; the others were stopped" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040).", "too old.* mend the driver"),
        ("Found no NVIDIA driver on your system.", "no NVIDIA driver.* use --device cpu"),
    ],
)
def test_a_driver_that_cannot_serve_is_named(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    def fail() -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        device_of("cuda")


def test_a_gpu_or_library_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr("cuda_ops.runtime.device_archs", lambda: [])
    with pytest.raises(UserError, match=r"compiled without CUDA kernels; run: python -m pipeline\.compile"):
        device_of("cuda")
    monkeypatch.setattr("cuda_ops.runtime.device_archs", lambda: ["80", "90a"])
    with pytest.raises(UserError, match=r"compute capability 7\.0; the kernels are written for 80"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    with pytest.raises(UserError, match=r"compute capability 12\.0, the library holds 80, 90a; run: "):
        device_of("cuda")
    for capability, held in (((9, 0), ["80", "90a"]), ((8, 6), ["80", "90a"]), ((10, 3), ["100"])):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, of=capability: of)
        monkeypatch.setattr("cuda_ops.runtime.device_archs", lambda held=held: held)
        runtime.require_cuda()


SMALL = """
import re, resource, sys
from pathlib import Path
import pipeline.training.trainer, pipeline.base.checkpoint
from pipeline import train
size = int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 80 * 2**20, -1))
from cuda_ops.errors import exit_on_user_error
exit_on_user_error(train.main)
"""


def test_too_little_memory_says_how_much_and_what_lowers_it(tiny: dict[str, Path], tmp_path: Path) -> None:
    text = tiny["recipe"].read_text()
    for old, new in (("channels: 32", "channels: 256"), ("layers: 2", "layers: 4"), ("heads: 2", "heads: 8")):
        text = text.replace(old, new)
    large = tmp_path / "large.yaml"
    large.write_text(text)
    arguments = command(tiny | {"recipe": large}, tmp_path, "--micro-batch", "8")[2:]
    output = run("-c", SMALL, *arguments, code=2)
    needed = bytes_needed(load_recipe(large), Execution(micro_batch=8), 1, tiny["tokens"])
    assert f"error: out of memory: the buffers of a rank need {needed / 2**20:.1f} MiB" in output
    for words in ("more after", "would need: --micro-batch 1 ", "--recompute 1 ", "--ranks 2, each "):
        assert words in output
    assert "Traceback" not in output


def test_the_count_of_bytes_is_what_is_allocated(tiny: dict[str, Path]) -> None:
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(micro_batch=2), Ranks(), tiny["tokens"])
    assert trainer.model.memory.bytes == bytes_needed(trainer.recipe, Execution(micro_batch=2), 1, tiny["tokens"])


STOPS = """
import torch
from pipeline import train
from pipeline.training import trainer
step = trainer.Trainer.train_step
def stops(self, signal=0):
    if self.step == 2:
        raise ERROR
    return step(self, signal)
trainer.Trainer.train_step = stops
from cuda_ops.errors import exit_on_user_error
exit_on_user_error(train.main)
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("torch.AcceleratorError('CUDA error: unspecified launch failure')", 2),
        ("RuntimeError('gelu_kernel: cannot be launched: invalid argument')", 2),
        ("RuntimeError('a mistake of our own')", 1),  # the control: keeps its traceback
    ],
)
def test_a_gpu_that_stops_is_one_message(tiny: dict[str, Path], tmp_path: Path, error: str, code: int) -> None:
    output = run("-c", STOPS.replace("ERROR", error), *command(tiny, tmp_path)[2:], code=code)
    assert ("error: the GPU stopped while training up to step 6: " in output) == (code == 2)
    assert ("CUDA_LAUNCH_BLOCKING=1" in output) == (code == 2)
    assert ("Traceback" in output) == (code == 1)


def test_heads_that_a_gpu_cannot_hold_are_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    (limit,) = re.findall(r"C / H > (\d+)", (ROOT / "cuda_ops" / "kernels" / "attention_tile.h").read_text())
    assert int(limit) == CUDA_HEAD_SIZE
    wide = tmp_path / "wide.yaml"
    wide.write_text(tiny["recipe"].read_text().replace("channels: 32", "channels: 514"))  # of 2 heads
    bits = load_recipe(wide).bits
    check_device(bits, "cpu")
    with pytest.raises(UserError, match=r"--device cuda: heads of 257 \(514 channels / 2 heads\).*up to 256"):
        check_device(bits, "cuda")
    flags = command(tiny | {"recipe": wide}, tmp_path, "--device", "cuda")
    assert "heads of 257" in run(*flags, code=2), "the command refuses before anything runs"
    wide.write_text(wide.read_text().replace("channels: 514", "channels: 512"))
    check_device(load_recipe(wide).bits, "cuda")


# ---------------------------------------------------------------- launcher

FAILS = """
import time
import torch.distributed as dist
from pipeline import train
from pipeline.training import trainer
step = trainer.Trainer.train_step
def fails(self, signal=0):
    if self.step == 2 and self.ranks.rank == 1:
        raise ERROR
    return step(self, signal)
trainer.Trainer.train_step = fails
leave = dist.destroy_process_group
def hangs():  # as NCCL's, while a peer sits in a collective
    time.sleep(10000)
dist.destroy_process_group = HOW
from cuda_ops.errors import UserError, exit_on_user_error
exit_on_user_error(train.main)
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("UserError('the disk of rank 1 is full')", 2, "error: the disk of rank 1 is full"),
        ("trainer.NotFinite('step 3: rank 1')", 3, "error: not finite at step 3: rank 1"),
        ("RuntimeError('a mistake of our own')", 1, "RuntimeError: a mistake of our own"),
    ],
)
def test_a_rank_that_fails_ends_at_once_and_never_waits_for_its_peers(
    tiny: dict[str, Path], tmp_path: Path, error: str, code: int, said: str
) -> None:
    """Rank 1 raises while rank 0 waits for it, and leaving the group would hang: its words and code come first."""
    workers = by_hand_of(FAILS.replace("ERROR", error).replace("HOW", "hangs"), tiny, tmp_path)
    _, errors = workers[1].communicate(timeout=400)
    assert workers[1].returncode == code
    assert said in errors
    _, errors = workers[0].communicate(timeout=400)  # gloo sees at once that its peer is gone
    assert workers[0].returncode != 0


def test_ranks_that_succeed_leave_in_order(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The control: on success the group is left, so a hanging one would be seen."""
    counted = "lambda: (leave(), print('left'))"
    workers = by_hand_of(FAILS.replace("raise ERROR", "pass").replace("HOW", counted), tiny, tmp_path)
    assert [worker.communicate(timeout=400)[0].count("left") for worker in workers] == [1, 1]
    assert [worker.returncode for worker in workers] == [0, 0]


def by_hand_of(code: str, tiny: dict[str, Path], out: Path) -> list[subprocess.Popen[str]]:
    """Two ranks of pipeline.train without a launcher."""
    port = free_port()
    arguments = [forking_python(), "-c", code, *command(tiny, out, "--ranks", "2")[2:]]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        subprocess.Popen(
            arguments, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip


def two_ranks(tiny: dict[str, Path], out: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A run that would take minutes, once its two workers have trained for a while."""
    long = out / "long.yaml"
    text = (
        tiny["recipe"].read_text().replace("steps: 6", "steps: 100000").replace("checkpoints: [3]", "checkpoints: []")
    )
    long.write_text(text)
    process = subprocess.Popen(
        [sys.executable, *command(tiny | {"recipe": long}, out, "--ranks", "2", "--rolling-steps", "2", steps=100000)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    while not list((out / "state").glob("*/step_*.sha256")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return process, [int(pid) for pid in found.stdout.split()]


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]


def test_workers_do_not_outlive_a_killed_launcher(tiny: dict[str, Path], tmp_path: Path) -> None:
    process, workers = two_ranks(tiny, tmp_path)
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 400
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(workers)


def test_a_polite_stop_of_the_launcher_is_ours(tiny: dict[str, Path], tmp_path: Path) -> None:
    """And SIGUSR1 before it saves and goes on."""
    process, workers = two_ranks(tiny, tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    said = iter(process.stderr.readline, "")
    step = next(int(line.split()[3].rstrip(",")) for line in said if line.startswith("saved after step"))
    assert step > 0
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on from there" in errors
    assert errors.strip().splitlines()[-1].startswith("stopped after step ")  # one line, the last
    assert "Traceback" not in errors
    assert not alive(workers)
