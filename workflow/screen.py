"""What of Snakemake's words stands on the screen under profiles/default: the stages say a line each with their result,
so only what no stage says is left; a failure is one line. The log in .snakemake/log has all words, a dry run too.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from snakemake.logging import DefaultFilter, logger
from snakemake.settings.enums import Quietness

PROFILE = {Quietness.HOST, Quietness.PROGRESS, Quietness.RULES}  # `quiet` of profiles/default

# Beginnings of lines that tell a user nothing, or what the line of a failure tells.
CHATTER = (
    "Assuming unrestricted shared filesystem", "Building DAG of jobs", "Using shell:", "Select jobs to execute",
    "Execute ", "Restored previous version of", "Shutting down, this might take", "Exiting because a job",
    "Terminating processes on user request", "Complete log(s):", "WorkflowError:\nAt least one job did not complete",
)  # fmt: skip
FAILED = re.compile(
    r"python -m pipeline\.(\w+) .*?--log (\S+).*'\s+(?:returned non-zero exit status (\d+)|died with)", re.S
)
# Of a folder without a Snakefile the command says where it is.
WHERE = (
    "" if os.path.exists("Snakefile") else f" -s {shlex.quote(os.path.relpath(Path(__file__).parent / 'Snakefile'))}"
)
UNLOCK = (
    "error: another snakemake runs here, or one was killed. If none runs: "
    f"{os.path.relpath(sys.executable)} -m snakemake{WHERE} --unlock, and then the same command again"
)
REFUSED = re.compile(r'WorkflowError in file "[^"]*", line \d+:\n(.*?)(?:\n  File "|\Z)', re.S)  # ours
UNKNOWN = re.compile(r"MissingRuleException\b.*?No rule to produce (.+?) \(if you use input functions", re.S)
WORKFLOW: list[Any] = []  # the one at hand, once it is read: its rules have names
STOPPED = {"129", "130", "143"}  # the stage has said that it stopped, and how to go on


def targets() -> list[str]:
    """The rules that may be asked for by name: those without wildcards."""
    return sorted(rule.name for workflow in WORKFLOW for rule in workflow.rules if not rule.has_wildcards())


def plain(text: str) -> str:
    """A message as a user reads it; nothing for one that tells nothing."""
    if text.startswith(CHATTER):
        return ""
    if text.startswith("LockException"):
        return UNLOCK
    if unknown := UNKNOWN.match(text):
        known = targets()
        near = get_close_matches(unknown[1], known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return (
            f"error: {unknown[1]}: no such target, and no rule makes such a file; targets are {', '.join(known)}{hint}"
        )
    if refused := REFUSED.match(text):
        return f"error: {refused[1]}"
    failed = FAILED.search(text)
    if not failed:
        return text
    stage, log, code = failed.groups()
    if code in STOPPED:
        return ""
    ending = f"ended with exit code {code}" if code else "was killed"
    return f"{stage} {ending}; what it said is above and in {log}. Results made before are kept"


class Plain(logging.Formatter):
    """Snakemake's own formatter, but for what `plain` changes; its handler prints no empty text."""

    def __init__(self, own: logging.Formatter | None) -> None:
        super().__init__()
        self.own, self.last = own or logging.Formatter(), ""

    def format(self, record: logging.LogRecord) -> str:
        text = plain(self.own.format(record) or "")
        repeated, self.last = text == self.last, text or self.last
        return "" if repeated else text


def plain_words(workflow: Any) -> None:
    """Begin it, where the quietness is the profile's: other flags of the user's are obeyed."""
    WORKFLOW[:] = [workflow]
    for handler in logger.handlers:
        for known in handler.filters:
            if not isinstance(known, DefaultFilter) or set(known.quiet) != PROFILE:
                continue
            if known.dryrun or isinstance(handler, logging.FileHandler):
                known.quiet = {Quietness.HOST}
            if not known.verbose and not isinstance(handler, logging.FileHandler):
                handler.setFormatter(Plain(handler.formatter))
