"""One copy of the project, whose tiny recipe has been run once, for every test of the workflow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, compile_ops
from tests.workflow.running import snakemake


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the library built here, whose tiny recipe has been run once."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    ignore = shutil.ignore_patterns(".venv", "results", ".git", ".snakemake", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignore)
    compile_ops()
    build = copy / "results" / "build"
    build.mkdir(parents=True)
    for name in ("samebits_ops.so", "ops.digest"):
        shutil.copy2(ROOT / "results" / "build" / name, build / name)
    shutil.copy(copy / "tests" / "recipes" / "tiny.yaml", copy / "config" / "recipes" / "tiny.yaml")
    (copy / "first.txt").write_text(snakemake(copy))
    return copy
