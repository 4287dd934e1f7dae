"""Train one segment of a run: from the previous checkpoint, or from nothing, to a step.

    python -m pipeline.train --recipe config/recipes/fables.yaml --steps-to 250 --previous none \\
        --out results/runs/fables/step_000250.safetensors --chain results/runs/fables/chain_000250.tsv
    step 200/1000  loss 0.6180  norm 0.39  lr 2.8e-03  21,000 tokens/s  eta 5 s, of the run 78 s
    results/runs/fables/step_000250.safetensors  file sha256 …  link of the last step 22ab36943a9c

Kill it at any instant and run it again, on any number of ranks: it goes on from the last rolling checkpoint and ends
with the same bits. SIGUSR1 saves a rolling checkpoint and goes on. Exit code 2: something to mend, with one message.
3: the loss or a gradient was not finite. 130, 143: interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base import chain
from pipeline.base.files import sha256_of
from pipeline.machine.devices import check_device, device_errors
from pipeline.machine.energy import Energy
from pipeline.machine.execution import FLAGS, Execution
from pipeline.machine.launch import launch
from pipeline.machine.memory import is_out_of_memory
from pipeline.machine.progress import Progress
from pipeline.machine.ranks import Ranks
from pipeline.machine.room import check_room, check_writable, lacking
from pipeline.machine.stops import Stops
from pipeline.recipe import Recipe, cost, load_recipe, recipe_id
from pipeline.recipe.paths import METRICS, RECEIPTS, RESULTS, SUMMARY, receipt_name, tokens_dir
from pipeline.records.code_digest import trigger
from pipeline.records.contents import Facts
from pipeline.records.metrics import Metrics
from pipeline.records.receipt import made_by, receipt
from pipeline.records.spent import spent

NOT_FINITE = 3


def state_key(recipe: Recipe, tokens: Path) -> str:
    """What a rolling checkpoint depends on: the bits, the tokens, and what must make training run again."""
    parts = [recipe_id(recipe), sha256_of(tokens / SUMMARY), trigger("pipeline.train", recipe)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def say(words: str) -> None:
    print(words, file=sys.stderr)


def check_disk(recipe: Recipe, execution: Execution, until: int, out: Path, state: Path) -> None:
    """Refuse a segment whose checkpoints would not fit; warn where those of the whole run would not."""
    from pipeline.base.checkpoint import Rolling

    size = cost.checkpoint_bytes(recipe.bits)
    before = max((step for step in recipe.checkpoints if step < until), default=recipe.bits.start)
    majors = until // execution.major - before // execution.major if execution.major else 0
    have = len(Rolling(state).steps())
    rolling = max(1, execution.keep + 1 + majors - have) if recipe.bits.steps else 0  # one more while it is written
    remedy = f"--state or --out on another disk, a smaller --keep (now {execution.keep}), or no --major"
    check_room({out: size, state: rolling * size}, f"the checkpoints up to step {until}", remedy)
    later = sum(step >= until for step in recipe.checkpoints)
    missing = lacking({out: later * size, state: rolling * size})
    if missing:
        say(f"warning: the {later} checkpoints still to come will not fit: {missing}")


def train(
    args: argparse.Namespace, recipe: Recipe, execution: Execution, ranks: Ranks, facts: Facts
) -> tuple[int, Callable[[], None] | None]:
    """The segment that the flags name; returns the exit code and, where it is done, what removes its rolling
    checkpoints. Adds to the receipt's facts."""
    import torch

    from cuda_ops import runtime
    from pipeline.training.segment import Segment
    from pipeline.training.trainer import new_trainer

    runtime.set_threads(execution.threads_per_rank)
    tokens = args.tokens or tokens_dir(recipe)
    state = args.state / state_key(recipe, tokens)
    if ranks.first:
        check_writable([args.out.parent, args.chain.parent, state], "give other --out, --chain and --state")
        check_disk(recipe, execution, args.steps_to, args.out.parent, state)
    trainer = new_trainer(recipe, execution, ranks, tokens)
    previous = None if args.previous == "none" else Path(args.previous)
    segment = Segment(
        trainer, execution, args.steps_to, state, say, previous=previous, init=args.init, chain_path=args.chain
    )
    stops = Stops()
    progress = Progress(recipe, args.steps_to, ranks.first)
    gpu = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else ""
    energy = Energy(bool(gpu))
    metrics = Metrics(args.out.parent / METRICS, recipe, trainer.step) if ranks.first else None

    def seen(line: chain.Line) -> None:
        progress(line)
        if metrics:
            metrics(line)

    done = segment.run(lambda: bool(stops.number), seen, stops.saves)
    facts["cost"] = spent(
        recipe.bits, progress.done, time.perf_counter() - progress.began, gpu, execution.ranks if gpu else execution.nodes,
        execution.price, energy.gpu_joules(), energy.cpu_joules(),
    )  # fmt: skip
    if metrics:
        metrics.close()
    if not done:
        if ranks.first:
            say(
                ("\n" if sys.stderr.isatty() else "")
                + f"stopped after step {trainer.step}; the same command goes on from there"
            )
        return 128 + (stops.number or signal.SIGTERM), None
    digest = segment.finish(args.out)
    if ranks.first:
        print(f"{args.out}  file sha256 {digest[:12]}  link of the last step {trainer.link[:12]}")
    facts |= {
        "steps": progress.done,
        "resumed_from": segment.resumed,
        "execution": vars(execution),
        "isa": runtime.isa(),
    }
    facts.update(made_by(recipe))
    if progress.unit == "token":
        facts["tokens_per_second"] = round(progress.rate, 1)
    else:
        facts["images_per_second"] = round(progress.rate, 1)
    return 0, segment.clear


def guarded(args: argparse.Namespace, recipe: Recipe, execution: Execution, ranks: Ranks) -> int:
    """Train under a receipt; what can go wrong with numbers, devices and memory is said in the user's words."""
    from pipeline.training.trainer import NotFinite

    path = args.receipt or args.out.parent / RECEIPTS / receipt_name("train", args.steps_to)
    own = path if ranks.first else path.with_name(f"{path.stem}.rank{ranks.rank}.json")
    try:
        with receipt(own, f"train {args.steps_to}") as facts, device_errors(f"training up to step {args.steps_to}"):
            code, clear = train(args, recipe, execution, ranks, facts)
        if clear:
            clear()  # after the receipt: what cannot be finished goes on from them
    except NotFinite as error:
        print(f"error: not finite at {error}. The last checkpoint is kept", file=sys.stderr)
        code = NOT_FINITE
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory while training: {str(error).splitlines()[0]}; lower it with --micro-batch 1, --recompute 1, "
            "more --ranks or --graph 0. The last checkpoint is kept"
        ) from None
    if not ranks.first:
        own.unlink(missing_ok=True)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one segment of a run.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--previous", default="none", help="checkpoint to go on from, or none")
    parser.add_argument("--init", type=Path, help="file of the initial weights, where bits.init reads one")
    parser.add_argument("--steps-to", type=int, required=True, help="last step of the segment")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--chain", type=Path, required=True, help="chain of the segment's steps to write")
    parser.add_argument("--state", type=Path, default=RESULTS / "state", help="folder of rolling checkpoints")
    parser.add_argument("--receipt", type=Path, help="receipt to write")
    group = parser.add_argument_group(FLAGS)
    for flag, about in Execution.flags().items():
        group.add_argument(flag, **about)
    args = parser.parse_args()
    recipe, execution = load_recipe(args.recipe), Execution.from_flags(vars(args))
    execution.check(recipe)
    check_device(recipe.bits, execution.device)
    launch(execution, "pipeline.train")
    ranks = Ranks(execution.device, execution.ranks, execution.nodes)
    code = guarded(args, recipe, execution, ranks)
    if code != NOT_FINITE:
        ranks.close()  # after success only, see there
    return code


if __name__ == "__main__":
    exit_on_user_error(main)
