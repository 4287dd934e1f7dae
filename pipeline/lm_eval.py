"""Tasks of lm-evaluation-harness for a checkpoint, by our exact likelihoods.

    uv pip install --target results/lm_eval --require-hashes -r requirements-lm-eval.lock
    PYTHONPATH=results/lm_eval python -m pipeline.lm_eval --recipe config/recipes/openai_gpt2.yaml \\
        --checkpoint results/runs/openai_gpt2/step_000000.safetensors --tasks arc_easy,piqa --out results/lm_eval.json
    arc_easy: acc 0.4381, acc_norm 0.3948

The harness brings a task's data itself. It is no part of the project's environment, and its results are no artefact with a
digest; what we give it is the same for every batch size and thread count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import tokens_dir


def evaluate(lm: Any, tasks: list[str], folder: Path | None, limit: int | None) -> dict[str, Any]:
    """The harness' results by task; folder: of task files of one's own."""
    from lm_eval.evaluator import simple_evaluate  # type: ignore[import-not-found,unused-ignore]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found,unused-ignore]

    manager = TaskManager(include_path=str(folder) if folder else None)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise UserError(f"--tasks {unknown[0]}: the harness has no such task; --include FOLDER for files of one's own")
    found = simple_evaluate(lm, tasks=tasks, task_manager=manager, limit=limit, bootstrap_iters=0)
    return cast(dict[str, Any], found["results"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Tasks of lm-evaluation-harness for a checkpoint.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of the tokenizer (default: from the recipe)")
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--include", type=Path, help="folder of task files of one's own")
    parser.add_argument("--limit", type=whole(1), help="the first examples of each task only")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--batch-size", type=whole(1), default=8, help="samples together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1, help="never changes a bit")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    from cuda_ops import runtime
    from pipeline.base.checkpoint import load
    from pipeline.data.tokenizers import load_tokenizer
    from pipeline.scoring.lm_eval import Exact, adapter
    from pipeline.scoring.model import load_model

    runtime.set_threads(args.threads)
    tokenizer = load_tokenizer(args.tokens or tokens_dir(recipe))
    model: Any = load_model(recipe, load(args.checkpoint), args.checkpoint, args.batch_size, 1, args.device)
    lm = adapter(Exact(model, tokenizer, args.batch_size))
    results = evaluate(lm, args.tasks.split(","), args.include, args.limit)
    write_json(args.out, results)
    for task, found in results.items():
        numbers = ", ".join(
            f"{key.split(',')[0]} {value:.4f}" for key, value in found.items() if isinstance(value, float)
        )
        print(f"{task}: {numbers}")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
