"""Check a recipe, and say what it is and what it takes, before anybody starts what cannot end.

    python -m pipeline.recipe fables
    fables  recipe_id 9fd8…  875,264 parameters, 1000 steps of 16 x 128 tokens in 4 lanes
    tokens trained on        2,048,000
    …
    python -m pipeline.recipe gpt2_124m --devices 8 --mfu 0.38 --price 3.5
    python -m pipeline.recipe --schema     the JSON schema of a recipe, as workflow/schemas/recipe.schema.json holds it

Memory is that of the buffers which the trainer allocates, counted by its own constructor; hours and dollars follow from
the MFU, peak and price that are stated, and from nothing measured; of a run of less than a minute they are left out, unless asked for by these flags.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from cuda_ops.bounds import real, whole
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.output import listing
from pipeline.machine.room import amount
from pipeline.recipe import Recipe, cost, load_recipe, recipe_id, schema

RANKS = (1, 2, 4, 8)
PRICE: dict[str, Any] = {"devices": 8, "mfu": 0.5, "peak": None, "price": 3.5}  # peak: that of the recipe's numerics


def head(recipe: Recipe) -> str:
    bits = recipe.bits
    begun = f" from {bits.start + 1}" if bits.start else ""
    return (
        f"{recipe.name}  recipe_id {recipe_id(recipe)}  {bits.model.parameters:,} parameters, {bits.steps} steps{begun} "
        f"of {bits.batch.sequences} x {bits.model.units} {bits.model.unit}s in {bits.batch.lanes} lanes"
    )


def gb(size: int | None) -> str:
    """Decimal units, as disks and networks count."""
    return "not stated by the recipe" if size is None else amount(size)


def facts(recipe: Recipe, price: cost.Price, asked: bool) -> list[tuple[str, str]]:
    """What the run takes whatever runs it, and at what price: if asked, or if it takes a minute."""
    bits = recipe.bits
    count = len(recipe.checkpoints)
    found = [
        (f"{bits.model.unit}s trained on", f"{cost.units(bits):,}"),
        ("FLOPs, 6ND", f"{cost.flops_6nd(bits):.3e}"),
        ("FLOPs, as llm.c counts", f"{cost.units(bits) * cost.flops_per_unit(bits):.3e}"),
        ("to download", gb(cost.download_bytes(bits))),
        ("a checkpoint", gb(cost.checkpoint_bytes(bits))),
        ("to keep", f"{gb(cost.checkpoint_bytes(bits) * count)} in {count} checkpoint{'s' if count > 1 else ''}"),
        ("free disk to start with", gb(cost.disk_bytes(recipe))),
    ]
    if not asked and 60 * price.hours(bits) < 1:
        return found
    devices = f"{price.devices} devices of {price.peak:g} TFLOP/s"
    return [
        *found,
        ("hours", f"{price.hours(bits):,.3g} on {devices} at an MFU of {price.mfu:.0%}"),
        ("dollars", f"{price.dollars(bits):,.2f} at {price.price:.2f} per device and hour"),
    ]


def memory(recipe: Recipe, micro_batch: int, recompute: bool, device: str) -> list[str]:
    """Lines of a table: buffers of a rank, and those for gradients of them, by the number of ranks; without the compiled
    library, whose models count them, a line that says what brings it."""
    from pipeline.machine.execution import Execution
    from pipeline.machine.memory import gib

    try:
        from pipeline.training.trainer import bytes_needed
    except UserError as error:
        return [f"{'memory of a rank':<24} not counted: {error}"]
    execution = Execution(micro_batch=micro_batch, recompute=recompute, device=device)
    lines = [f"memory of a rank ({device}, micro-batch {micro_batch}, recompute {int(recompute)}):"]
    lanes = recipe.bits.batch.lanes
    for ranks in RANKS:
        if lanes % ranks:
            lines.append(f"  {ranks} ranks: not possible with {lanes} lanes")
            continue
        buffers = (lanes // ranks).bit_length()
        needed = bytes_needed(recipe, replace(execution, ranks=ranks), ranks, None)
        lines.append(
            f"  {ranks} rank{'s' if ranks > 1 else ' '}  {gib(needed):>11}  of it {buffers} gradient buffer"
            f"{'s' if buffers > 1 else ''} of {gib(4 * cost.padded_parameters(recipe.bits))}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.recipe", description="Check a recipe, and say what it is and what it takes."
    )
    parser.add_argument("recipe", nargs="?", help="a file, or a name of config/recipes")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a recipe instead")
    parser.add_argument("--devices", type=whole(1, 10**9), help="that share the work (default: 8)")
    parser.add_argument(
        "--mfu", type=real(most=1.0, above=True), help="part of the peak reached, by llm.c's count (default: 0.5)"
    )
    parser.add_argument(
        "--peak", type=real(above=True), help="TFLOP/s of one device (default: H100 SXM at the recipe's numerics)"
    )
    parser.add_argument("--price", type=real(), help="dollars per device and hour (default: 3.5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="whose buffers are counted")
    parser.add_argument("--micro-batch", type=whole(1), default=4, help="samples per forward and backward")
    parser.add_argument("--recompute", type=int, choices=(0, 1), default=0)
    args = parser.parse_args()
    if args.schema:
        listing(schema().removesuffix("\n"))
        return 0
    if args.recipe is None:
        raise UserError("name a recipe: a file, or a name of config/recipes")
    recipe = load_recipe(args.recipe)
    asked = {name: value for name in PRICE if (value := getattr(args, name)) is not None}
    price = cost.Price(**(PRICE | {"peak": cost.PEAK[recipe.bits.numerics]} | asked))
    listing("\n".join([head(recipe), *(f"{name:<24} {value}" for name, value in facts(recipe, price, bool(asked)))]))
    listing("\n".join(memory(recipe, args.micro_batch, bool(args.recompute), args.device)))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
