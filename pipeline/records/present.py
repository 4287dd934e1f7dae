"""What lies in the folder of a run: its artefacts by digests.json and the recipe, and the old files beside them.

A folder without digests.json, of rolling checkpoints or of a run under way, has no list to go by: all in it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe import Recipe, recipe_id
from pipeline.recipe.paths import DIGESTS
from pipeline.records.catalogue import Artefact, by_name, run_files
from pipeline.records.digests import digests_in

NAMED = 6  # old files


@dataclass(frozen=True)
class Present:
    """Files of a run folder that could have published digests. old: names that belong to no current artefact."""

    folder: Path
    current: list[Artefact]
    old: list[str]

    def paths(self, digest: str) -> dict[int, Path]:
        """The current files of a kind of digest, by step."""
        return {item.step: self.folder / item.name for item in self.current if item.digest == digest}

    def note(self) -> str:
        """The old files in words, or nothing."""
        if not self.old:
            return ""
        more = f" and {len(self.old) - NAMED} more" if len(self.old) > NAMED else ""
        return f"{self.folder}: not of this run, and not read: {', '.join(self.old[:NAMED])}{more}"


def present(folder: Path, recipe: Recipe | None = None, recorded: dict[str, str] | None = None) -> Present:
    """Current is what digests.json names, and what the recipe names. A digests.json of other bits is old itself.

    recorded: what is in digests.json, if the caller has read it.
    """
    known = map(by_name, sorted(path.name for path in folder.iterdir())) if folder.is_dir() else iter(())
    found = sorted((item for item in known if item), key=lambda item: (item.step, item.name))
    recorded = digests_in(folder / DIGESTS) if recorded is None else recorded
    if not recorded:
        return Present(folder, found, [])
    names = {key.partition("/")[2] for key in recorded}
    if recipe is not None:
        own = set(run_files(recipe))
        names = own | names if recorded.get("recipe/bits") in (None, recipe_id(recipe)) else own
    return Present(
        folder, [item for item in found if item.name in names], [item.name for item in found if item.name not in names]
    )
