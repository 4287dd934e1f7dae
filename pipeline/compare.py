"""Where two runs part: the first artefact, the first step, the first tensor of that step in the order of computation,
and why.

    python -m pipeline.compare results/runs/fables other/runs/fables --recipe config/recipes/fables.yaml
    first artefact   train/chain_000250.tsv
    first step       3: loss, norm, fingerprint
    first tensor     lane.0/d.stream[0, 0, 1]: 3.1e-05 (38021f2a) and … 1 ulp apart (at most 9); 5120 of 12288 elements differ
    cause            other flags: …

A and B are run folders, checkpoints, chains, lists of digests, or traces of a step (pipeline.replay --trace), from any
machines. What is recorded is compared first; then the step is computed again. Sides made by different code or
libraries are each computed by their own (--code-b FOLDER of a checkout, --build-b FOLDER of a library), and their
tensors are compared. With one code for both, there is one truth: the side that agrees with it is sound, and what the
other recorded is held against it. Exit code: 0 equal, 1 different, 2 error.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from cuda_ops.bounds import whole
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_bytes
from pipeline.evidence.comparison import Comparison
from pipeline.evidence.sides import ROOT, Side
from pipeline.machine.room import check_outputs
from pipeline.recipe.load import recipe_file


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Where two runs part.")
    parser.add_argument("a", type=Path, help="run folder, checkpoint, chain, digests.json or trace")
    parser.add_argument("b", type=Path)
    parser.add_argument("--recipe", type=recipe_file, help="of both sides (default: from provenance.json of each)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for steps computed again (default: cpu)")
    parser.add_argument("--init", type=Path, help="file of the initial weights, where bits.init reads one")
    for side in ("a", "b"):
        group = parser.add_argument_group(f"side {side.upper()}, where it differs")
        group.add_argument(f"--recipe-{side}", type=recipe_file)
        group.add_argument(f"--tokens-{side}", type=Path, help="folder of its shards")
        group.add_argument(f"--code-{side}", type=Path, help="checkout whose code made it")
        group.add_argument(f"--build-{side}", type=Path, help="folder of its compiled ops")
        group.add_argument(f"--device-{side}", help="cpu or cuda")
        group.add_argument(f"--env-{side}", nargs="+", default=[], metavar="NAME=VALUE", help="its environment")
    parser.add_argument("--no-replay", action="store_true", help="compare what is recorded only")
    parser.add_argument("--further", type=whole(0), default=3, help="steps after the first, to see the difference grow")
    parser.add_argument("--json", type=Path, help="write everything found as JSON")
    parser.add_argument("--html", type=Path, help="write a page with pictures")
    return parser


def side(args: argparse.Namespace, name: str) -> Side:
    given = {key: getattr(args, f"{key}_{name}") for key in ("recipe", "tokens", "code", "build", "env")}
    bad = [item for item in given["env"] if "=" not in item]
    if bad:
        raise UserError(f"--env-{name} {bad[0]}: expected NAME=VALUE")
    env = dict(item.split("=", 1) for item in given["env"])
    for key in ("tokens", "code", "build"):
        if given[key] and not given[key].is_dir():
            raise UserError(f"--{key}-{name} {given[key]}: no such folder")
    code = (given["code"] or ROOT).resolve()
    device = getattr(args, f"device_{name}") or args.device
    if device not in ("cpu", "cuda"):
        flag = f"--device-{name}" if getattr(args, f"device_{name}") else "--device"
        raise UserError(f"{flag} {device}: neither cpu nor cuda")
    return Side(
        name.upper(),
        getattr(args, name),
        given["recipe"] or args.recipe,
        given["tokens"],
        code,
        given["build"],
        env,
        device,
        args.init,
    ).read()


def plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    args = flags().parse_args()
    check_outputs([args.json, args.html])
    found = Comparison(side(args, "a"), side(args, "b"))
    found.run(None if args.no_replay else args.further)
    rows = [(label, text) for label, texts in found.table() for text in texts]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    if args.json:
        write_bytes(args.json, (json.dumps(plain(asdict(found.result)), indent=2, sort_keys=True) + "\n").encode())
    if args.html:
        from pipeline.pages.compare_page import page

        write_bytes(args.html, page(found).encode())
        print(f"{args.html}: the same with pictures")
    return 0 if found.result.equal else 1


if __name__ == "__main__":
    exit_on_user_error(main)
