"""pytest tests/machine/test_place.py

Which environment makes a process a rank: our launcher's, torchrun's, a complete one of a cluster; everything else is
not about this run.
"""

from __future__ import annotations

import pytest

from cuda_ops.errors import UserError
from pipeline.machine import execution
from pipeline.machine.execution import Execution
from pipeline.machine.place import LAUNCHER, LOCAL, NEEDED, Place, check_address, place_of
from pipeline.machine.ranks import choice
from pipeline.recipe import load_recipe
from tests.conftest import ROOT

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29531"}
TORCHRUN = {**COMPLETE, "TORCHELASTIC_RUN_ID": "none"}


def environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in (*NEEDED, *LOCAL, LAUNCHER, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in COMPLETE.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ({}, 1),
        ({}, 2),
        ({"RANK": "", "WORLD_SIZE": ""}, 1),
        ({"RANK": " "}, 2),
        ({"WORLD_SIZE": "8"}, 1),
        ({"WORLD_SIZE": "8"}, 2),
        ({**COMPLETE, "RANK": "0"}, 1),  # a pod that is told it is the first of two
        ({**COMPLETE, "RANK": "0", "WORLD_SIZE": "64"}, 2),
        ({"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1", "LOCAL_RANK": "3"}, 4),
        ({**without("MASTER_PORT"), "RANK": "0"}, 2),
    ],
)
def test_a_clusters_environment_is_not_about_this_run(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], ranks: int
) -> None:
    environment(monkeypatch, values)
    assert place_of(ranks) is None


def test_a_rank_started_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, COMPLETE)
    assert place_of(2) == Place(1, 2, 1, 2, "node7", 29531, False)
    assert place_of(2, nodes=2) == Place(1, 2, 0, 1, "node7", 29531, False)
    environment(monkeypatch, {**COMPLETE, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert place_of(2) == Place(1, 2, 0, 1, "node7", 29531, False)
    environment(monkeypatch, TORCHRUN)
    assert place_of(2) == Place(1, 2, 1, 2, "node7", 29531, False)
    environment(monkeypatch, {**COMPLETE, LAUNCHER: "17"})
    place = place_of(2)
    assert place is not None
    assert place.ours


@pytest.mark.parametrize(
    ("values", "ranks", "words"),
    [
        (COMPLETE, 1, r"RANK=1 .* one of several processes, but WORLD_SIZE=2 with --ranks 1"),
        (COMPLETE, 4, r"WORLD_SIZE=2 with --ranks 4"),
        (without("MASTER_PORT"), 2, r"RANK=1 .* MASTER_PORT missing"),
        (without("WORLD_SIZE", "MASTER_ADDR"), 2, r"WORLD_SIZE and MASTER_ADDR missing"),
        ({**COMPLETE, "RANK": "two"}, 2, r"RANK=two in the environment: expected a whole number"),
        ({**COMPLETE, "RANK": "2"}, 2, r"RANK=2 with WORLD_SIZE=2 .*: expected 0 to 1"),
        ({**COMPLETE, "MASTER_PORT": "70000"}, 2, r"MASTER_PORT=70000 in the environment: expected 1 to 65535"),
        (TORCHRUN, 4, r"--ranks 4, but torchrun started 2: give --ranks 2"),
    ],
)
def test_what_is_at_odds_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], ranks: int, words: str
) -> None:
    environment(monkeypatch, values)
    with pytest.raises(UserError, match=words):
        place_of(ranks)


@pytest.mark.parametrize("name", ["nowhere.invalid", "a..b", "x" * 70])
def test_a_name_that_does_not_resolve_is_refused_at_once(name: str) -> None:
    with pytest.raises(
        UserError, match=f"^MASTER_ADDR={name} in the environment: .*; give the first machine's address"
    ):
        check_address(Place(0, 2, 0, 2, name, 29531, False))
    check_address(Place(0, 2, 0, 2, "127.0.0.1", 29531, False))


def test_threads_are_shared_out_among_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, {})
    monkeypatch.setattr(execution, "cores", lambda: 64)
    assert Execution().threads_per_rank == 64
    assert Execution(ranks=16, nodes=2).threads_per_rank == 8
    assert Execution(ranks=16, nodes=2, threads=24).threads_per_rank == 3
    assert Execution(ranks=128).threads_per_rank == 1
    environment(monkeypatch, {**COMPLETE, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert Execution(ranks=2).threads_per_rank == 64  # one of two machines, as the environment says


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Execution(ranks=4, nodes=3), "--nodes 3 does not divide --ranks 4"),
        (Execution(ranks=2, nodes=0), "--nodes 0"),
        (Execution(ranks=2, nodes=2), r"--rendezvous : expected HOST:PORT"),
        (Execution(ranks=2, nodes=2, rendezvous="node1"), r"--rendezvous node1: expected HOST:PORT"),
        (Execution(ranks=2, nodes=2, rendezvous="node1:port"), r"node1:port: expected HOST:PORT"),
        (Execution(ranks=2, rendezvous="node1:29500"), "is for --nodes 2 or more"),
    ],
)
def test_nodes_that_cannot_be(given: Execution, words: str) -> None:
    with pytest.raises(UserError, match=words):
        given.check_nodes()
    Execution(ranks=4, nodes=2, rendezvous="[::1]:29500").check_nodes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Execution(rolling=float("nan")), "--rolling nan: expected more than 0"),
        (Execution(price=float("inf")), "--price inf"),
        (Execution(threads=10**11), "--threads 100000000000, .*up to 1024"),
    ],
)
def test_numbers_that_cannot_be(given: Execution, words: str) -> None:
    with pytest.raises(UserError, match=words):
        given.check(load_recipe(ROOT / "tests" / "recipes" / "tiny.yaml"))


def test_the_backend_is_chosen_from_what_all_say() -> None:
    eight = [("a", f"gpu{i}", True) for i in range(8)]
    other = [("b", f"gpu{i}", True) for i in range(8)]  # the same numbers on another machine are other GPUs
    assert choice(eight + other) == "NCCL, 16 GPUs of 2 machines"
    assert choice([("a", "cpu", True)] * 2) == "gloo, CPUs of 1 machine"
    assert choice([*eight[:2], ("b", "cpu", True)]).startswith(
        "gloo by way of the host, slower, because rank 2 runs on"
    )
    assert choice([eight[0], eight[0]]).endswith("two ranks share a GPU")
    assert choice([eight[0], ("b", "gpu0", False)]).endswith("has no NCCL")
