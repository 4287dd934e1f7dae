"""The matrix: one small run under compilers, optimisation levels, instruction sets, threads and architectures.

    python -m tests.evidence.matrix            writes docs/evidence/matrix.json
    72 native cells, 8 emulated: 1 distinct run

A cell builds tests/evidence/mini_training.cpp, a whole training run without torch, and runs it; its lines must be
those that the trainer writes for tests/recipes/odd.yaml (so it is that run). Native cells: compiler x level x
instruction set x threads. The foreign ones run under qemu-user. The control, a compiler that may contract a*b+c, must
give other lines.
"""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from cuda_ops import flags
from pipeline.data.samples import samples_of
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
from tests.evidence.common import ROOT, prepared, save

RECIPE = ROOT / "tests" / "recipes" / "odd.yaml"
KERNELS = [
    str(path)
    for path in sorted((ROOT / "cuda_ops" / "cpu").glob("*.cpp"))
    if path.stem != "dispatch" and "digits" not in path.stem  # a run in fp32 links none of those
]
COMPILERS, LEVELS, THREADS = ("g++", "clang++-14"), ("0", "2", "3"), (1, 2, 3, 7)
FOREIGN = ("aarch64", "riscv64")


def bits(x: float) -> str:
    return f"{struct.unpack('<I', struct.pack('<f', x))[0]:08x}"


def write_windows(path: Path, tokens: Path) -> list[str]:
    """The tokens of every step as int32 [steps, sequences, T + 1]; returns the arguments that describe the recipe."""
    b = load_recipe(RECIPE).bits
    samples = samples_of(load_recipe(RECIPE), tokens)
    with open(path, "wb") as file:
        for step in range(1, b.steps + 1):
            arrays = samples.get(step, 0, b.batch.sequences)
            rows = zip(arrays["tokens"], arrays["targets"], strict=True)
            file.write(b"".join(i.tobytes() + t[-1:].tobytes() for i, t in rows))
    m, s = b.model, b.schedule
    assert m.kind == "gpt"
    assert s.kind == "cosine"
    return [str(x) for x in (b.seed, m.layers, m.heads, m.channels, m.context, m.vocab_size, m.padded_vocab_size,
                             b.batch.sequences, b.batch.lanes, b.steps, s.warmup_steps, s.peak, s.final_fraction)]  # fmt: skip


def trainer_lines(tokens: Path) -> list[str]:
    """What the trainer says, in the form that the program prints."""
    trainer = Trainer(load_recipe(RECIPE), Execution(), Ranks(), tokens)
    trainer.initialise()
    lines = [trainer.train_step()[0] for _ in range(trainer.recipe.bits.steps)]
    return [f"{x.step}\t{bits(x.loss)}\t{bits(x.lr)}\t{bits(x.norm)}\t{x.fingerprint:016x}" for x in lines]


def compile_program(program: Path, compiler: str, level: str, isa: str = "baseline", *extra: str) -> Path:
    """Build the program; `extra` replaces arithmetic flags of the same name."""
    keep = [flag for flag in flags.ARITHMETIC if flag.split("=")[0] not in {e.split("=")[0] for e in extra}]
    native = "linux-gnu" not in compiler
    march = flags.levels()[isa] if native else []
    command = [compiler, *keep, f"-O{level}", "-w", "-fopenmp", f"-DSAMEBITS_ISA={isa}", *march, *extra]
    command += [] if native else ["-static"]
    source = ROOT / "tests" / "evidence" / "mini_training.cpp"
    subprocess.run([*command, str(source), *KERNELS, "-o", str(program)], check=True)
    return program


class Run:
    """The program's input, written once, and what its lines must be."""

    def __init__(self, folder: Path, tokens: Path) -> None:
        self.folder, self.windows = folder, folder / "windows.bin"
        self.arguments = write_windows(self.windows, tokens)
        self.expected = trainer_lines(tokens)

    def lines(self, program: Path, threads: int, micro_batch: int = 1, emulator: str = "") -> list[str]:
        command = [emulator] * bool(emulator) + [str(program), str(self.windows), str(threads), str(micro_batch)]
        done = subprocess.run([*command, *self.arguments], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def native(self, compiler: str, level: str, isa: str, threads: tuple[int, ...] = THREADS) -> list[list[str]]:
        program = compile_program(self.folder / f"{compiler}-{level}-{isa}", compiler, level, isa)
        return [self.lines(program, count, 1 + count % 2) for count in threads]

    def foreign(self, machine: str, level: str, threads: tuple[int, ...]) -> list[list[str]]:
        program = compile_program(self.folder / f"{machine}-{level}", f"{machine}-linux-gnu-g++", level)
        return [self.lines(program, count, 1 + count % 2, f"qemu-{machine}") for count in threads]

    def contracted(self) -> list[str]:
        """The control."""
        program = compile_program(self.folder / "contracted", "g++", "2", "v3", "-ffp-contract=fast")
        return self.lines(program, 1)


def main() -> None:
    cells = []
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), prepared())
        for compiler, level, isa in itertools.product(COMPILERS, LEVELS, flags.levels()):
            for threads, lines in zip(THREADS, run.native(compiler, level, isa), strict=True):
                cells.append({"machine": "x86_64", "compiler": compiler, "level": level, "isa": isa, "threads": threads,
                              "last": lines[-1], "equal": lines == run.expected})  # fmt: skip
            print(compiler, f"-O{level}", isa, [c["equal"] for c in cells[-len(THREADS) :]], flush=True)
        for machine, level in itertools.product(FOREIGN, ("0", "2", "3")):
            if not shutil.which(f"qemu-{machine}"):
                continue
            for threads, lines in zip((1, 3), run.foreign(machine, level, (1, 3)), strict=True):
                cells.append({"machine": machine, "compiler": f"{machine}-linux-gnu-g++", "level": level, "isa": "baseline",
                              "threads": threads, "last": lines[-1], "equal": lines == run.expected})  # fmt: skip
            print(machine, f"-O{level}", [c["equal"] for c in cells[-2:]], flush=True)
        distinct = sorted({str(c["last"]) for c in cells})
        save("matrix", {"recipe": "tests/recipes/odd.yaml", "trainer": run.expected, "distinct_runs": len(distinct),
                        "native_cells": sum(c["machine"] == "x86_64" for c in cells),
                        "emulated_cells": sum(c["machine"] != "x86_64" for c in cells),
                        "control_contraction_differs": run.contracted() != run.expected, "cells": cells})  # fmt: skip
    print(f"{len(cells)} cells: {len(distinct)} distinct run, all the trainer's: {all(c['equal'] for c in cells)}")


if __name__ == "__main__":
    main()
