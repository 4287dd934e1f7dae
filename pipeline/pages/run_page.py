"""The page of a run."""

from __future__ import annotations

from pipeline.pages import facts
from pipeline.pages.render import fill, page
from pipeline.pages.run import Run
from pipeline.pages.sections import sections


def run_page(run: Run) -> str:
    """Verdict, facts, and every section that has something to show."""
    head = fill("head", run=run, facts=facts.of_run(run))
    return page(run.recipe.name, "one run", head, list(sections(run)))
