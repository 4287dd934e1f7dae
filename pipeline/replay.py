"""Recompute one step of a run from the nearest checkpoint before it, on any machine.

    python -m pipeline.replay --recipe config/recipes/fables.yaml --step 251 --check
    step 251 from results/runs/fables/step_000250.safetensors, 0 steps on the way
    loss 0x1.305a540000000p-1  lr …  norm …  fingerprint 575049abcba28869  link b35c9ba1233b: equal to the chain
    python -m pipeline.replay --recipe config/recipes/fables.yaml --step 251 --lane 0 --tensor lane.0/h.1.attn.qkv --out qkv.safetensors

--list names the tensors of the step in the order of computation. Without a checkpoint it starts from the recipe's own
initial weights. Exit code 1: --check found a difference.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base import chain
from pipeline.base.tensors import Spec, write_tensors
from pipeline.evidence.rerun import Rerun, altered, checkpoints_of, lines_of
from pipeline.machine.room import check_outputs, check_run
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import run_dir, tokens_dir
from pipeline.records.present import present


def verdict(again: Rerun, line: chain.Line, known: dict[int, chain.Line]) -> tuple[str, bool]:
    """A line's agreement with the recorded chain, in words, and whether it agrees."""
    shown = "  ".join(
        f"{name} {value}"
        for name, value in zip(chain.HEADER.split("\t")[1:], line.content().split("\t")[1:], strict=False)
    )
    shown += f"  link {line.link[:12]}"
    if line.step not in known:
        return (
            f"{shown}: no recorded line of step {line.step} to compare with; name a folder with chain_*.tsv by --run",
            False,
        )
    if again.parted:
        ours, recorded = again.parted
        return (
            f"{shown}: DIFFERS from the chain, first at step {ours.step}\n  again    {ours.content()}\n  recorded {recorded.content()}",
            False,
        )
    if line.link != known[line.step].link:
        return (
            f"{shown}: the line is equal, but the chain's link is {known[line.step].link[:12]}: its earlier lines DIFFER",
            False,
        )
    return f"{shown}: equal to the chain", True


def further(again: Rerun, steps: int, seen: list[Any], elements: int) -> None:
    """Steps after the one in question: a sample of the weights after each, to see a difference grow."""
    from pipeline.evidence.trace import Collector

    for _ in range(min(steps, again.trainer.recipe.bits.steps - again.trainer.step)):
        line = again.advance()
        name = f"further.{line.step}/weights"
        weights = again.trainer.model.parameters[: again.trainer.model.flat.used]
        collector = Collector({name: (weights.numel(),)}, set(), 4 * elements)
        collector(name, weights)
        seen += collector.trace()


def main() -> int:
    parser = argparse.ArgumentParser(description="Recompute one step of a run from the nearest checkpoint before it.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--step", type=int, required=True, help="from 1")
    parser.add_argument("--run", type=Path, help="folder with checkpoints and chain (default: from the recipe)")
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--checkpoint", type=Path, help="start from this one, not from the nearest of --run")
    parser.add_argument("--lane", type=whole(0), help="this lane alone: its forward and backward pass")
    parser.add_argument("--tensor", nargs="+", default=[], metavar="NAME", help="tensors to show and to write")
    parser.add_argument("--list", action="store_true", help="name the tensors of the step, in the order of computation")
    parser.add_argument("--check", action="store_true", help="compare the step with the recorded chain")
    parser.add_argument("--out", type=Path, help="write the tensors (all, without --tensor) to this safetensors file")
    parser.add_argument("--trace", type=Path, help="write digests and samples of all tensors, for pipeline.compare")
    parser.add_argument(
        "--further", type=whole(0), default=0, help="steps after it whose weights the trace samples too"
    )
    parser.add_argument("--init", type=Path, help="file of the initial weights, where bits.init reads one")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="never changes a bit")
    parser.add_argument("--micro-batch", type=whole(1), default=4, help="never changes a bit")
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="never changes a bit (default: all)")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    run = args.run or run_dir(recipe)
    check_run(args.run)
    check_outputs([args.out, args.trace])
    if args.further and not args.trace:
        raise UserError(
            f"--further {args.further}: what it sees is written by --trace FILE alone; give that, or leave it out"
        )
    if args.check and args.lane is not None:
        raise UserError("--check needs the whole step: leave --lane out")
    from pipeline.evidence.trace import TRACE_BYTES, Collector, Trace, step_shapes

    shapes = step_shapes(recipe, None if args.lane is None else [args.lane])
    if args.list:
        print("\n".join(f"{name} {list(shape)}" for name, shape in shapes.items()))
        return 0
    from cuda_ops import runtime

    if args.threads:
        runtime.set_threads(args.threads)
    checkpoints = checkpoints_of(run, recipe)
    if args.checkpoint:
        from pipeline.base.checkpoint import load

        checkpoints = {load(args.checkpoint).step: args.checkpoint}
        if min(checkpoints) >= args.step:
            raise UserError(
                f"--checkpoint {args.checkpoint}: of step {min(checkpoints)}, which is not before {args.step}"
            )
    known = lines_of(run, recipe)
    if note := present(run, recipe).note():
        print(f"note: {note}")
    wanted = set(args.tensor) or (set(shapes) if args.out else set())
    collector = Collector(shapes, wanted, TRACE_BYTES if args.trace else 0)
    tokens = args.tokens or tokens_dir(recipe)
    again = Rerun(
        recipe,
        tokens,
        args.step,
        checkpoints,
        micro_batch=args.micro_batch,
        known=known,
        device=args.device,
        init=args.init,
    )
    start = again.origin or "the recipe's initial weights"
    print(f"step {args.step} from {start}, {again.steps_on_the_way} steps on the way")
    if again.origin and (words := altered(again.origin, run)):
        print(f"warning: {words}")
    observed = bool(args.tensor or args.out or args.trace)
    began, agrees = time.perf_counter(), True
    about: dict[str, Any] = {"step": args.step, **again.about()}
    if args.lane is not None:
        about["losses"] = again.lane(args.lane, collector)
        print(f"lane {args.lane}: sum of its losses {about['losses'].hex()}")
    else:
        line = again.advance(collector if observed else None)
        about["line"] = line.content()
        words, agrees = verdict(again, line, known)
        print(words)
    print(f"{time.perf_counter() - began:.2f} s for the step")
    seen = collector.trace() if observed or args.lane is not None else []
    if args.tensor:
        rows = [(s.name, s.shape, f"{s.rms:.4g}", s.sha256[:12]) for s in seen if s.name in wanted]
        print(tabulate(rows, headers=("tensor", "shape", "rms", "sha256"), tablefmt="plain", disable_numparse=True))
    if args.out:
        tensors = {name: collector.tensor(name) for name in collector.order if name in wanted}
        write_tensors(args.out, {name: Spec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}, tensors, about)
        print(f"{args.out}: {len(tensors)} tensors")
    if args.trace:
        further(again, args.further, seen, collector.each)
        Trace(about, seen).save(args.trace)
        print(f"{args.trace}: {len(seen)} tensors")
    return 0 if agrees or not args.check else 1


if __name__ == "__main__":
    exit_on_user_error(main)
