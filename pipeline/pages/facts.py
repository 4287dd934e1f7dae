"""What a page says of a run at a glance: (label, value, note)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.recipe.models import Model

if TYPE_CHECKING:
    from pipeline.pages.run import Run

Fact = tuple[str, str, str]


def of_model(model: Model) -> list[Fact]:
    """Size and shape of any model, from what every model of recipe/models.py has; of its own keys, those that are
    numbers.
    """
    sizes = {
        name: value for name, value in model.model_dump().items() if isinstance(value, int) and "vocab" not in name
    }
    shape = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sizes.items())
    return [("parameters", f"{model.parameters:,}", f"{model.kind}: {shape}")]


def of_run(run: Run) -> list[Fact]:
    """The last scores, the model, the training and the corpus."""
    bits, about, unit = run.recipe.bits, run.about, run.unit
    found: list[Fact] = []
    if run.evals:
        loss = run.loss(run.evals[-1])
        found.append(("validation loss", f"{loss:.4f}", f"nats per {unit}, whole split"))
        if run.floor:
            found.append(("entropy floor", f"{run.floor:.4f}", f"the loss is {loss - run.floor:.4f} above it"))
        for kind, (share, note) in run.shares().items():
            found.append((kind, f"{100 * share:.1f}%", note))
    blocks = [receipt["digits"] for receipt in run.receipts if "digits" in receipt]
    if blocks:
        shares = blocks[-1]["of"]
        worst = max(shares, key=lambda operand: shares[operand])
        note = f"one value over 16 times the others' root mean square, of {blocks[-1]['blocks']:,}; most before {worst}"
        found.append(("blocks with an outlier", f"{100 * blocks[-1]['outliers']:.3f}%", note))
    found += of_model(bits.model)
    samples = "sequences" if unit == "token" else f"{unit}s"
    each = f" of {bits.model.units} {unit}s" if bits.model.units > 1 else ""
    note = f"{bits.batch.sequences} {samples}{each} in {bits.batch.lanes} lanes"
    note += f", after {bits.start:,} of another run" if bits.start else ""
    found.append(("training", f"{bits.steps - bits.start:,} steps", note))
    count = about["train"].get(f"{unit}s")
    if count is not None:
        note = f"{unit}s" + (f", vocabulary {about['vocab_size']:,}" if "vocab_size" in about else "")
        found.append(("training split", f"{count:,}", note))
    return found
