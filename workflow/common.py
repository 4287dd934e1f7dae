"""What the rules share: the environment of the stages, the recipe, its paths, and the checkpoints' order."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

ROOT = Path(__file__).resolve().parent.parent


def prepare_environment() -> None:
    """Stages run with this interpreter and these sources, from any working folder."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.setdefault("SAMEBITS_BUILD", "results/build")


class Run:
    """The recipe of this invocation and where its results lie."""

    def __init__(self, config: dict[str, Any]) -> None:
        from cuda_ops.errors import UserError
        from pipeline import own_text
        from pipeline.recipe import load_recipe, paths

        try:
            named = ROOT / "config" / "recipes" / f"{config['recipe']}.yaml"
            self.recipe_path = config["recipe"] if os.path.exists(config["recipe"]) else os.path.relpath(named)
            self.recipe = load_recipe(self.recipe_path)
            if config["data"]:
                self.recipe = own_text.derive(self.recipe, Path(config["data"]))
                self.recipe_path = str(own_text.write(self.recipe))
        except UserError as error:
            raise WorkflowError(str(error)) from None
        self.data = str(paths.data_dir(self.recipe))
        self.tokens = str(paths.tokens_dir(self.recipe))
        self.folder = str(paths.run_dir(self.recipe))
        self.logs = f"results/logs/{self.recipe.name}"
        self.shards = [f"{self.tokens}/{name}" for name in paths.train_shards(self.recipe)]
        self.steps = [f"{step:06d}" for step in self.recipe.checkpoints]
        self.last_checkpoint = f"{self.folder}/step_{self.steps[-1]}.safetensors"

    def previous(self, wildcards: Any) -> str:
        """The checkpoint before a step, or none."""
        at = self.steps.index(wildcards.step)
        return f"{self.folder}/step_{self.steps[at - 1]}.safetensors" if at else "none"

    def previous_sha256(self, wildcards: Any) -> list[str]:
        """Its digest file: small, so compared by content; an equal checkpoint retrains nothing."""
        return [] if self.previous(wildcards) == "none" else [f"{self.previous(wildcards)}.sha256"]

    def expected(self) -> list[str]:
        """The published digests, if there are any."""
        path = ROOT / "config" / "expected" / f"{self.recipe.name}.json"
        return [os.path.relpath(path)] if path.exists() else []

    def pins(self, name: str) -> str:
        """A file of pinned downloads."""
        return os.path.relpath(ROOT / "config" / "data" / f"{name}.yaml")
