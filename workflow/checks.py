"""What is refused before the graph is built: a key, a folder, a profile or an execution that cannot be; a rerun that
fails costs nothing then.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from common import ROOT, Run, Runs
from snakemake.exceptions import WorkflowError

from cuda_ops.errors import UserError
from pipeline.recipe import FileSource, paths
from pipeline.recipe.training import WeightsInit

KEYS = ("recipe", "data")  # of --config


def check_keys(config: dict[str, Any]) -> None:
    """Refuse a key of --config that is none, and a value that cannot be one."""
    for key, value in config.items():
        if key not in KEYS:
            hint = "".join(f"; did you mean {near}?" for near in get_close_matches(key, KEYS, 1))
            raise WorkflowError(f"--config {key}: unknown key; known are {', '.join(KEYS)}{hint}")
        words = value if isinstance(value, list) and key == "recipe" else [value]
        if not words or not all(isinstance(word, str) and word for word in words):
            shown = "" if value is None else value
            raise WorkflowError(
                f"--config {key}={shown}: expected "
                + ("names of config/recipes, or paths" if key == "recipe" else "the path of a text; left out, none")
            )


def check_folder() -> None:
    """Refuse a working folder that Snakemake cannot keep its records in; it would end in a traceback."""
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        raise WorkflowError(
            f"{here}: Snakemake cannot write its .snakemake here; run it in a folder that you may write to: "
            f"cd there, and snakemake -s {shlex.quote(str(ROOT / 'Snakefile'))} …"
        )


def check_profile(words: list[str]) -> None:
    """Refuse a --workflow-profile that does not exist; Snakemake would go on without one."""
    for at, word in enumerate(words):
        flag, _, given = word.partition("=")
        given = given or next(iter(words[at + 1 :]), "")
        places = [Path(given), Path("profiles", given), ROOT / "profiles" / given]
        if flag == "--workflow-profile" and given != "none" and not any(place.exists() for place in places):
            known = [os.path.relpath(path.parent) for path in sorted(ROOT.glob("config/execution/*/profile.yaml"))]
            near = get_close_matches(given, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise WorkflowError(f"{flag} {given}: there is no such profile; there are {', '.join(known)}{hint}")


def local_files(run: Run) -> Iterator[tuple[str, str, str]]:
    """Key and path of each file of the user's own that the recipe names, and the first file that is made of it."""
    bits, source = run.recipe.bits, getattr(run.recipe.bits.data, "source", None)
    made = f"{run.data}/{paths.SOURCE}"
    if isinstance(source, FileSource):
        yield "bits.data.source.path", source.path, made
    for i, file in enumerate(getattr(source, "files", ())):
        yield f"bits.data.source.files[{i}].path", file.path, made
    for score in run.recipe.artifacts.asked:
        if isinstance(score.source, FileSource):
            made = f"{run.tokens}/{paths.choices_name(score.stem)}"
            yield f"artifacts.scores, {score.kind}: source.path", score.source.path, made
    if isinstance(bits.init, WeightsInit) and not bits.init.url:
        yield "bits.init.path", bits.init.path, run.file(paths.checkpoint_name(run.recipe.checkpoints[0]))


def check_files(runs: Runs) -> None:
    """Refuse a file that a recipe names and that is not there, unless what is made of it is."""
    for run in runs.values():
        for key, path, made in local_files(run):
            if not (Path(path).is_file() or Path(made).exists()):
                raise WorkflowError(
                    f"{run.path}: {key}: {path or 'names nothing'}: "
                    f"{'not a file' if path and Path(path).exists() else 'no such file'}; "
                    f"a path that is not absolute is looked for in the working folder, {Path.cwd()}"
                )


def given_value(resource: Any) -> Any:
    """A resource as it was given: a word of the command line or a profile is an expression to Snakemake until a job
    needs it.
    """
    return resource.raw if resource.is_evaluable() else resource.value


def check_execution(workflow: Any, runs: Runs) -> None:
    """Refuse, before the graph is built, what no rule has and what a recipe cannot be run with: a rerun that fails
    costs nothing.
    """
    settings = workflow.resource_settings
    rules = {rule.name: rule for rule in workflow.rules}
    for flag, given in (
        ("--set-resources", settings.overwrite_resources),
        ("--set-threads", settings.overwrite_threads),
    ):
        for rule in given:
            if rule not in rules:
                near = get_close_matches(rule, rules, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; rules are {', '.join(sorted(rules))}"
                raise WorkflowError(f"{flag} {rule}: there is no such rule{hint}")
    own = (
        "ranks",
        "device",
        "gpu",
        "micro_batch",
        "recompute",
        "rolling",
        "nodes",
        "rendezvous",
        "price",
        "keep",
        "major",
    )
    for rule, resources in settings.overwrite_resources.items():
        for name in resources:
            near = get_close_matches(name, own, 1, 0.7)
            if name not in own and near:
                raise WorkflowError(f"--set-resources {rule}:{name}: did you mean {near[0]}?")
            has = own if rule == "train" else ("device", "gpu") if rule in ("evaluate", "sample") else ()
            if name in own and name not in has:
                raise WorkflowError(
                    f"--set-resources {rule}:{name}: {rule} has {', '.join(has) or 'none of them'}; {name} is train's"
                )
    if not {"train", "evaluate", "sample"} & set(settings.overwrite_resources):
        return
    from argparse import ArgumentParser

    from pipeline.machine.devices import check_device
    from pipeline.machine.execution import Execution

    parser = ArgumentParser(prog="--set-resources train", usage="train:NAME=VALUE", add_help=False)
    for flag, about in Execution.flags().items():
        parser.add_argument(flag, **about)
    try:
        for run in runs.values():
            given = {
                name: given_value(rules["train"].resources[name])
                for name in ("ranks", "micro_batch", "recompute", "rolling", "device")
            }
            flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
            Execution.from_flags(vars(parser.parse_args(flags))).check(run.recipe)
            for rule in ("evaluate", "sample"):
                check_device(run.recipe.bits, given_value(rules[rule].resources["device"]))
    except UserError as error:
        raise WorkflowError(f"{error} (--set-resources, or the profile)") from None
    except SystemExit:
        raise WorkflowError("--set-resources train: a value is of the wrong type, see above") from None
