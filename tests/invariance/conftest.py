"""The run that every other way of running is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import once, run
from tests.invariance.running import command, result


@pytest.fixture(scope="session")
def reference(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return result(once(tmp_path_factory, "reference", lambda out: run(*command(tiny, out))))
