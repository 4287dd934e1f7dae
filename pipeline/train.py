"""Train one segment of a run: from the previous checkpoint, or from nothing, to a step.

    python -m pipeline.train --recipe config/recipes/fables.yaml --steps-to 200 --previous none \\
        --out results/runs/fables/step_000200.safetensors --chain results/runs/fables/chain_000200.tsv
    step 200/1000  loss 0.6132  norm 0.52  lr 2.8e-03  21,000 tokens/s  eta 58 s
    results/runs/fables/step_000200.safetensors  file sha256 1c5e…  link of the last step 77ab…

Kill it at any instant and run it again, on any number of ranks: it goes on from the last rolling checkpoint and ends with the
same bits. Exit code 2: something to mend, with one message. 3: the loss or a gradient was not finite. 130, 143: interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base import chain
from pipeline.base.files import sha256_of
from pipeline.machine.devices import device_errors
from pipeline.machine.execution import Execution
from pipeline.machine.memory import is_out_of_memory
from pipeline.machine.ranks import Ranks, launch
from pipeline.recipe import Recipe, load_recipe, recipe_id
from pipeline.recipe.paths import RESULTS, SUMMARY, tokens_dir
from pipeline.records.code_digest import trigger
from pipeline.records.receipt import made_by, receipt

if TYPE_CHECKING:
    from pipeline.base.checkpoint import Checkpoint

STOP, SAVE = 1, 2  # signal bits that the ranks share after each step
NOT_FINITE = 3


def state_key(recipe: Recipe, tokens: Path) -> str:
    """What a rolling checkpoint depends on: the bits, the tokens, and what must make training run again."""
    parts = [recipe_id(recipe), sha256_of(tokens / SUMMARY), trigger("pipeline.train", recipe)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


class Progress:
    """A line in place on a terminal; every two seconds, a line in a log."""

    def __init__(self, recipe: Recipe, until: int, shown: bool) -> None:
        self.tokens = recipe.bits.batch.sequences * recipe.bits.model.context
        self.steps, self.until, self.shown = recipe.bits.steps, until, shown
        self.began = self.last = time.perf_counter()
        self.done = 0

    @property
    def rate(self) -> float:
        """Tokens per second of this process's steps so far."""
        return self.done * self.tokens / max(1e-9, time.perf_counter() - self.began)

    def __call__(self, line: chain.Line) -> None:
        self.done += 1
        now = time.perf_counter()
        final = line.step == self.until
        tty = sys.stderr.isatty()
        if not self.shown or not (final or now - self.last > (0.1 if tty else 2.0)):
            return
        self.last = now
        eta = (self.until - line.step) * self.tokens / max(1e-9, self.rate)
        text = (
            f"step {line.step}/{self.steps}  loss {line.loss:.4f}  norm {line.norm:.2f}  lr {line.lr:.1e}  "
            f"{self.rate:,.0f} tokens/s  eta {eta:.0f} s"
        )
        end = "\n" if final or not tty else ""
        print(("\r\x1b[K" if tty else "") + text, end=end, file=sys.stderr, flush=True)


class Segment:
    """A segment under way: the trainer, its chain so far, and the rolling checkpoints."""

    def __init__(self, args: argparse.Namespace, recipe: Recipe, execution: Execution, ranks: Ranks) -> None:
        from cuda_ops import ops
        from pipeline.base.checkpoint import Rolling, load
        from pipeline.training.trainer import new_trainer

        ops.set_threads(execution.threads_per_rank)
        tokens = args.tokens or tokens_dir(recipe)
        self.args, self.execution, self.ranks = args, execution, ranks
        self.trainer = new_trainer(recipe, execution, ranks, tokens)
        self.rolling = Rolling(args.state / state_key(recipe, tokens))
        self.lines: list[chain.Line] = []
        self.resumed = 0
        previous = 0
        if args.previous == "none":
            self.trainer.initialise()
        else:
            path = Path(args.previous)
            self.trainer.restore(load(path), path)
            previous = self.trainer.step
        if not previous < args.steps_to <= recipe.bits.steps:
            raise UserError(f"--steps-to {args.steps_to}: expected {previous + 1} to {recipe.bits.steps}")
        step = ranks.agree(self.rolling.newest(previous, args.steps_to, self._saved) if ranks.first else 0)
        if step > 0:
            self._resume(step)

    def _saved(self, step: int) -> tuple[Checkpoint, list[chain.Line]]:
        """A rolling checkpoint and the chain that leads to it; a UserError says which of the two is damaged."""
        from pipeline.base.checkpoint import load

        state, path = load(self.rolling.path(step)), self.rolling.chain_path(step)
        lines = chain.read(path)
        if chain.check(lines, self.trainer.link, path) != state.link:
            raise UserError(f"{path} does not lead to {self.rolling.path(step)}")
        return state, lines

    def _resume(self, step: int) -> None:
        state, self.lines = self._saved(step)
        path = self.rolling.path(step)
        self.trainer.restore(state, path)
        self.resumed = step
        if self.ranks.first:
            print(f"resuming from step {step} ({path})", file=sys.stderr)

    def save_rolling(self) -> None:
        """A rolling checkpoint: the chain first, so that a sound checkpoint always has one."""
        from pipeline.base.checkpoint import save

        state = self.trainer.checkpoint()
        if self.ranks.first:
            chain.write(self.rolling.chain_path(state.step), self.lines)
            save(self.rolling.path(state.step), state)
            self.rolling.prune()

    def run(self, facts: dict[str, Any]) -> int:
        from cuda_ops import ops
        from pipeline.base.checkpoint import save

        received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: received.append(number))
        trainer, until = self.trainer, self.args.steps_to
        progress = Progress(trainer.recipe, until, self.ranks.first)
        saved = time.perf_counter()
        while trainer.step < until:
            due = time.perf_counter() - saved > self.execution.rolling and not self.execution.rolling_steps
            flags = (STOP if received else 0) | (SAVE if due and self.ranks.first else 0)
            line, flags = trainer.train_step(flags)
            line = line.linked(trainer.link)
            trainer.link = line.link
            self.lines.append(line)
            progress(line)
            every = self.execution.rolling_steps
            if (flags & (STOP | SAVE) or (every and line.step % every == 0)) and line.step < until:
                self.save_rolling()
                saved = time.perf_counter()
            if flags & STOP and line.step < until:
                if self.ranks.first:
                    print(f"\nstopped after step {line.step}; the same command goes on from there", file=sys.stderr)
                return 128 + (received[0] if received else signal.SIGTERM)
        state = trainer.checkpoint()
        if self.ranks.first:
            digest = save(self.args.out, state)
            chain.write(self.args.chain, self.lines)
            self.rolling.clear()
            print(f"{self.args.out}  file sha256 {digest[:12]}  link of the last step {trainer.link[:12]}")
        facts |= {
            "steps": progress.done,
            "resumed_from": self.resumed,
            "tokens_per_second": round(progress.rate, 1),
            "execution": vars(self.execution),
            **made_by(trainer.recipe),
            "isa": ops.isa(),
        }
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one segment of a run.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--previous", default="none", help="checkpoint to go on from, or none")
    parser.add_argument("--steps-to", type=int, required=True, help="last step of the segment")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--chain", type=Path, required=True, help="chain of the segment's steps to write")
    parser.add_argument("--state", type=Path, default=RESULTS / "state", help="folder of rolling checkpoints")
    parser.add_argument("--receipt", type=Path, help="receipt to write")
    Execution.add_flags(parser)
    args = parser.parse_args()
    recipe, execution = load_recipe(args.recipe), Execution.from_flags(args)
    execution.check(recipe)
    launch(execution.ranks, "pipeline.train")
    ranks = Ranks(execution.device)
    if ranks.size != execution.ranks:
        raise UserError(f"--ranks {execution.ranks}, but torchrun started {ranks.size}")
    from pipeline.training.trainer import NotFinite

    folder = args.receipt or args.out.parent / "receipts" / f"train_{args.steps_to:06d}.json"
    own = folder if ranks.first else folder.with_name(f"{folder.stem}.rank{ranks.rank}.json")
    try:
        with receipt(own, f"train {args.steps_to}") as facts, device_errors(f"training up to step {args.steps_to}"):
            code = Segment(args, recipe, execution, ranks).run(facts)
    except NotFinite as error:
        print(f"error: not finite at {error}. The last checkpoint is kept", file=sys.stderr)
        return NOT_FINITE
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory while training: {str(error).splitlines()[0]}; lower it with --micro-batch 1, --recompute 1, more --ranks or "
            "--graph 0. The last checkpoint is kept"
        ) from None
    finally:
        ranks.close()
    if not ranks.first:
        own.unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    exit_on_user_error(main)
