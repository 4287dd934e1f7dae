"""The comparison of two sides, from what is recorded to the first tensor that differs; pipeline.compare shows it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.base.tensors import TensorFile
from pipeline.evidence import forensics
from pipeline.evidence.differences import COLUMNS, Difference, between, broken_link, difference, first_line, keys
from pipeline.evidence.rerun import checkpoints_of
from pipeline.evidence.sides import Side
from pipeline.evidence.trace import Trace, bytes_digest, step_shapes
from pipeline.recipe.paths import checkpoint_name
from pipeline.recipe.strict import bits_of
from pipeline.records.catalogue import PREPARING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.base.checkpoint import Stored
    from pipeline.recipe import Recipe

FURTHER_BACK = 4  # steps to look at before the first line that differs
BEFORE = "the state before the step differs: other initial weights, or an altered checkpoint"


@dataclass
class Result:
    """Everything that was found; JSON holds it as it is."""

    equal: bool = True
    artefact: str = ""
    step: int = 0
    columns: list[str] = field(default_factory=list)
    sound: str = ""  # the side that the step computed again agrees with
    tensor: Difference | None = None
    tensor_step: int = 0  # its step: earlier than the chain shows if only moments differed at first
    network: list[Difference] = field(default_factory=list)  # every tensor of the step that differs, in order
    order: list[str] = field(default_factory=list)  # every tensor of the step
    growth: list[dict[str, Any]] = field(default_factory=list)  # per step from the first: differences
    causes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Comparison:
    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b, self.result = a, b, Result()

    def table(self) -> list[tuple[str, list[str]]]:
        r = self.result
        rows = [("", ["equal: everything that both sides have"] if r.equal else [])]
        rows += [("first artefact", [r.artefact] if r.artefact else [])]
        rows += [("first step", [f"{r.step}: {', '.join(r.columns)}"] if r.step else [])]
        rows += [("sound side", [r.sound] if r.sound else [])]
        if r.tensor:
            where = f"step {r.tensor_step or r.step}: " if r.step else ""
            rows += [("first tensor", [where + r.tensor.words()])]
        rows += [("cause", r.causes), ("note", r.notes)]
        return [row for row in rows if row[1]]

    def run(self, further: int | None) -> None:
        """further: steps after the first one to follow; None computes nothing again."""
        a, b, r = self.a, self.b, self.result
        for side in (a, b):
            r.notes += [f"{side.name}: {words}; what is whole is compared" for words in side.damage]
        if a.trace and b.trace:
            self._traces(a.trace, b.trace)
            return
        self._recorded()
        self._receipts()
        r.notes += dict.fromkeys(side.note for side in (a, b) if side.note)
        if r.step and further is not None:
            try:
                self._replayed(further)
            except UserError as error:
                r.notes.append(f"the step could not be computed again: {error}")
        elif r.artefact.endswith(".safetensors"):
            self._checkpoints()
        if r.step and not r.tensor and further is None:
            r.notes.append("no step was computed again: leave out --no-replay to find the tensor")

    # ------------------------------------------------------------------ what is recorded

    def _recorded(self) -> None:
        a, b, r = self.a, self.b, self.result
        for side in (a, b):
            for key in side.altered():
                r.notes.append(f"{side.name}: {key} is not what its own digests.json says: altered after the run")
                r.causes.append(f"{key} of side {side.name} was altered after the run")
            step = broken_link(side.lines)
            if step:
                r.notes.append(f"{side.name}: the link of step {step} does not follow from the line before")
                r.causes.append(f"the chain of side {side.name} was altered at step {step}: its link is broken")
        mine, its = a.artefacts(), b.artefacts()
        both = [key for key in mine if key in its]
        r.artefact = next((key for key in both if mine[key] != its[key]), "")
        if both and len(both) < len({*mine, *its}):
            r.notes.append(
                f"{len(both)} of {len({*mine, *its})} artefacts are on both sides; the others cannot be compared"
            )
        parted = first_line(a.lines, b.lines)
        if parted:
            r.step, r.columns = parted
            r.growth = [self._distance(step) for step in sorted(set(a.lines) & set(b.lines)) if step >= r.step][:64]
        if not both and not (a.lines and b.lines):
            damage = "".join(f"; {words}" for side in (a, b) for words in side.damage)
            raise UserError(f"{a.path} and {b.path} have nothing in common that could be compared{damage}")
        if a.recipe and b.recipe:
            r.causes += [f"other recipe: {line}" for line in keys(bits_of(a.recipe.bits), bits_of(b.recipe.bits))]
        elif a.recipe_id and b.recipe_id and a.recipe_id != b.recipe_id:
            r.causes.append("other recipe; give --recipe-a and --recipe-b to see which key")
        data = [key for key in both if mine[key] != its[key] and key.split("/")[0] in PREPARING]
        r.causes += [f"other data: {key}" for key in data[:1]]
        r.causes += [f"side {side.name} is damaged" for side in (a, b) if side.damage]
        r.equal = not r.artefact and not r.step and not r.causes

    def _distance(self, step: int) -> dict[str, Any]:
        x, y = self.a.lines[step], self.b.lines[step]
        return {"step": step} | {
            name: abs(getattr(x, name) - getattr(y, name)) for name in COLUMNS if name != "fingerprint"
        }

    def _receipts(self) -> None:
        """What the receipts say of two sides that differ."""
        if self.result.equal:
            return
        words = {
            "numerics": "another numerics version", "sources": "other sources of the ops", "flags": "other flags of the ops",
            "code": "other code of the trainer",
        }  # fmt: skip
        for name, text in words.items():
            x, y = self.a.made_by.get(name), self.b.made_by.get(name)
            if x and y and x != y:
                self.result.causes.append(f"{text}: {x[:12]} and {y[:12]} (receipts)")

    def _checkpoints(self) -> None:
        """Two checkpoints of one step whose chains, as far as they are known, are equal."""
        r = self.result
        mine, its = (side.checkpoints | side.cut for side in (self.a, self.b))
        for step in sorted(set(mine) & set(its)):
            x, y = self._opened(self.a, mine[step]), self._opened(self.b, its[step])
            before = len(r.order)
            self._tensors(x.tensors, y.tensors, f"{Path(checkpoint_name(step)).stem}/")
            if not r.tensor:
                if x.tensors.damage or y.tensors.damage:
                    r.notes.append(f"{len(r.order) - before} tensors of step {step} are whole on both sides, and equal")
                continue
            recipe = self._recipe()
            for side, state in ((self.a, x), (self.b, y)):
                line = side.lines.get(step)
                whole = not state.tensors.damage
                if recipe and line and whole and forensics.fingerprint_of(recipe, state) != line.fingerprint:
                    r.causes.append(
                        f"side {side.name}'s checkpoint has not the fingerprint of its chain's line: altered after"
                    )
            self._one_element()
            return

    def _opened(self, side: Side, path: Path) -> Stored:
        """A checkpoint of a side as it lies there: a file that is damaged, cut off, or without its digest, is what is
        looked for.
        """
        from pipeline.base.checkpoint import opened, verify

        try:
            verify(path)
        except UserError as error:
            words = f"{side.name}: {str(error).split(';')[0]}; compared as it is"
            self.result.notes += [] if words in self.result.notes else [words]
        return opened(path, whole=False)

    def _tensors(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor], prefix: str) -> None:
        r = self.result
        cut = isinstance(y, TensorFile) and y.damage  # which says how many tensors are not there
        for name, mine in x.items():
            its = y.get(name)
            if its is None and cut:
                continue
            if its is None or mine.shape != its.shape:
                r.notes.append(f"{name} is of another shape, or absent, in B")
                continue
            found = difference(prefix + name, mine, its)
            r.order.append(prefix + name)
            if found:
                r.network.append(found)
        weights = [item for item in r.network if "optimizer." not in item.name]
        r.tensor = next(iter(weights or r.network), None)

    def _one_element(self) -> None:
        r = self.result
        if len(r.network) == 1 and r.network[0].count == 1:
            bits = bin(int(r.network[0].bits[0], 16) ^ int(r.network[0].bits[1], 16)).count("1")
            r.causes.append("a single flipped bit" if bits == 1 else f"one changed element ({bits} of its bits)")

    def _recipe(self) -> Recipe | None:
        return self.a.recipe or self.b.recipe

    # ------------------------------------------------------------------ the step again

    def _traces(self, a: Trace, b: Trace) -> None:
        r = self.result
        if a.about["step"] != b.about["step"]:
            raise UserError(f"traces of steps {a.about['step']} and {b.about['step']}: expected one step")
        step = (
            [s for s in a.tensors if not s.name.startswith("further.")],
            [s for s in b.tensors if not s.name.startswith("further.")],
        )
        r.step = int(a.about["step"])
        r.network, notes = between(*step)
        r.notes += notes
        r.order = [seen.name for seen in step[0]]
        r.tensor = next(iter(r.network), None)
        r.equal = not r.network and not notes
        for name, text in (
            ("recipe_id", "other recipe"),
            ("sources", "other sources or flags of the ops"),
            ("code", "other code of the trainer"),
        ):
            if a.about.get(name) != b.about.get(name) and not any(text in cause for cause in r.causes):
                r.causes.append(f"{text}: {str(a.about.get(name))[:12]} and {str(b.about.get(name))[:12]}")
        if (
            r.tensor
            and r.tensor.name.endswith(("/tokens", "/targets"))
            and not any("other data" in c for c in r.causes)
        ):
            r.causes.append("other data, or another order of the samples")
        if r.tensor and r.tensor.name.startswith("before/"):
            r.causes.append(BEFORE)
        further = {s.name: s for s in b.tensors if s.name.startswith("further.")}
        for seen in a.tensors:
            if seen.name in further and further[seen.name].sample.shape == seen.sample.shape:
                grown = difference(seen.name, seen.sample, further[seen.name].sample)
                number = int(seen.name.split("/")[0].removeprefix("further."))
                known = next((item for item in r.growth if item["step"] == number), None)
                entry = {"step": number, "weights": grown.relative if grown else 0.0}
                r.growth = [*r.growth, entry] if known is None else r.growth
                if known is not None:
                    known |= entry

    def _replayed(self, further: int) -> None:
        a, b, r = self.a, self.b, self.result
        step, columns = r.step, r.columns
        if columns == ["link"]:
            r.notes.append(
                "the lines from here on differ in their links alone: an earlier line is missing or was altered"
            )
            return
        traces = self._pair(step, further)
        agrees = [trace.about["line"] == side.lines[step].content() for trace, side in zip(traces, (a, b), strict=True)]
        self._traces(*traces)
        r.step, r.equal, r.columns = step, False, columns
        self._further_back(step)
        if all(agrees):
            r.notes.append(
                "each side gives its recorded line again, by its own code and from its own checkpoint: both can be reproduced"
            )
            return
        for side, trace, good in zip((a, b), traces, agrees, strict=True):
            if not good:
                self._altered_in_memory(side, trace)
        if agrees[0] != agrees[1]:
            r.sound = f"{'A' if agrees[0] else 'B'}: the step computed again gives its line"

    def _further_back(self, step: int) -> None:
        """While the state before the step differs already, look at the step before: the chain's fingerprint has no
        moments in it."""
        r = self.result
        r.tensor_step = step
        while r.tensor and r.tensor.name.startswith("before/") and r.tensor_step > max(1, step - FURTHER_BACK):
            earlier = r.tensor_step - 1
            pair = self._pair(earlier, 0)
            network, _ = between(*(trace.tensors for trace in pair))
            if not network:
                self._altered_checkpoint(earlier, pair[0])
                return
            r.network, r.tensor, r.tensor_step = network, network[0], earlier
            r.causes = [cause for cause in r.causes if cause != BEFORE]
            if r.tensor.name.startswith("before/"):
                r.causes.append(BEFORE)
        if r.tensor_step < step:
            r.notes.append(
                f"the weights differ from step {step} on, the moments from step {r.tensor_step}: no chain shows those"
            )

    def _pair(self, step: int, further: int) -> tuple[Trace, Trace]:
        """A step computed again for both sides: once if they would compute it alike, from the same state."""
        a, b = self.a, self.b
        mine = a.traced(step, further)
        alike = a.same_setting(b) and a.start(step) == b.start(step)
        return mine, mine if alike else b.traced(step, further)

    def _altered_checkpoint(self, step: int, truth: Trace) -> None:
        """Both sides compute a step alike, yet the state after it differs: the side whose checkpoint is not that state
        was altered."""
        r = self.result
        after = {s.name.removeprefix("after/"): s.sha256 for s in truth.tensors if s.name.startswith("after/")}
        altered = []
        for side in (self.a, self.b):
            path = checkpoints_of(side.folder, side.recipe).get(step)
            tensors = self._opened(side, path).tensors if path else None
            if tensors and any(name in after and bytes_digest(tensors[name]) != after[name] for name in tensors):
                altered.append(side.name)
        where = f" on side {altered[0]}" if len(altered) == 1 else ""
        r.causes.append(
            f"the checkpoint of step {step} was altered{where}: computed again, the step that made it is equal"
        )
        if where:
            r.sound = f"{'B' if altered == ['A'] else 'A'}: step {step} computed again gives the state it went on from"

    def _altered_in_memory(self, side: Side, truth: Trace) -> None:
        """A side whose line its own code does not give: hold its records against the step computed again."""
        r, step = self.result, self.result.step
        recipe = side.recipe or self._recipe()
        if recipe is None:
            r.notes.append(f"{side.name}: its recipe is not known; give --recipe-{side.name.lower()}")
            return
        state = self._state(side, step, recipe)
        import torch

        flat = torch.cat([state[f"after/{name}"].view(-1) for name in forensics.flat_of(recipe).offsets])
        sound = int(str(truth.about["line"]).split("\t")[4], 16)
        words = forensics.changed_word(flat, sound, side.lines[step].fingerprint)
        if r.columns == ["fingerprint"] and words:
            position, bits = words[0]
            name, index = forensics.located(recipe, position)
            old = state[f"after/{name}"]
            new = old.clone()
            new.view(torch.int32)[index] = bits - 2**32 if bits >= 2**31 else bits
            r.tensor = difference(f"after/{name}", old, new)
            r.network = [r.tensor] if r.tensor else []
            r.causes.append(
                f"one word of {name} was altered on side {side.name} after the update; found from the fingerprints alone"
            )
            if len(words) > 1:
                r.notes.append(f"{len(words) - 1} other words could explain it, by larger changes")
            self._one_element()
            return
        if step not in side.checkpoints:
            r.notes.append(
                f"{side.name}: its own code gives another line, and it has no checkpoint of step {step}. Give its code (--code-"
                f"{side.name.lower()}), its library (--build-{side.name.lower()}), or a checkpoint of that step (--rolling-steps 1)"
            )
            return
        self._recorded_update(side, recipe, state)

    def _recorded_update(self, side: Side, recipe: Recipe, state: dict[str, Tensor]) -> None:
        import torch

        r = self.result
        recorded = self._opened(side, side.checkpoints[r.step])
        names = [name for name in recorded.tensors if not name.startswith("optimizer.")]
        before = {name: state[f"before/{name}"] for name in names}
        wrong = forensics.update_mismatches(recipe, recorded, before)
        after = {f"after/{name}": state[f"after/{name}"] for name in recorded.tensors if f"after/{name}" in state}
        self._tensors(after, {f"after/{name}": tensor for name, tensor in recorded.tensors.items()}, "")
        if not wrong:
            r.notes.append(f"{side.name}: its recorded update follows from its moments, so its gradient differed")
            return
        name, index = wrong[0]
        value = forensics.altered_value(recipe, recorded, before, name, index) if len(wrong) == 1 else None
        if value is None:
            r.notes.append(
                f"{side.name}: {len(wrong)} weights do not follow from its moments, first {name}{list(index)}"
            )
            return
        new = before[name].clone()
        new[index] = value[0]
        found = difference(f"before/{name}", before[name], new)
        r.tensor = found
        r.network = [*([found] if found else []), *r.network]
        flips = bin(int(before[name][index].view(torch.int32).item()) & 0xFFFFFFFF ^ value[1]).count("1")
        what = "a single flipped bit" if flips == 1 else "one changed element"
        r.causes.append(f"{what}: {name}{list(index)} was altered on side {side.name} before step {r.step} used it")

    def _state(self, side: Side, step: int, recipe: Recipe) -> dict[str, Tensor]:
        """Weights before and after, and moments after the step, computed again."""
        wanted = [name for name in step_shapes(recipe) if name.startswith("after/")]
        wanted += [name for name in step_shapes(recipe) if name.startswith("before/") and "optimizer." not in name]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "state.safetensors"
            side.replay(step, Path(folder) / "trace", "--out", str(out), "--tensor", *wanted)
            return dict(TensorFile(out))
