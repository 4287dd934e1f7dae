"""A copy of the project, whose tiny recipe has been run once, for every test of the workflow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.records.modules import KEPT
from tests.conftest import ROOT, compile_ops, once
from tests.workflow.running import snakemake


def run_once(project: Path) -> None:
    """A copy of the sources with the library built here; first.txt: what its first run said."""
    compile_ops()
    ignore = shutil.ignore_patterns(".venv", "results", ".git", ".snakemake", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, project, ignore=ignore, dirs_exist_ok=True)
    build = project / "results" / "build"
    build.mkdir(parents=True)
    for name in ("samebits_ops.so", "ops.digest"):
        shutil.copy2(ROOT / "results" / "build" / name, build / name)
    if (kept := ROOT / KEPT).exists():
        shutil.copytree(kept, project / KEPT)
    shutil.copy(project / "tests" / "recipes" / "tiny.yaml", project / "config" / "recipes" / "tiny.yaml")
    (project / "first.txt").write_text(snakemake(project))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that tests may edit, each putting back what it changes."""
    first = once(tmp_path_factory, "project", run_once)
    return Path(shutil.copytree(first, tmp_path_factory.mktemp("copy") / "project", symlinks=True))


@pytest.fixture
def own(project: Path, tmp_path: Path) -> Path:
    """One of a test's own, to be left as it likes."""
    return Path(shutil.copytree(project, tmp_path / "project", symlinks=True))
