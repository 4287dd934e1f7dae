"""Whether a GPU gives the bits that a CPU published, and how fast: every part of the proof in one command.

    make gpu-proof          or, with any Python that has torch >= 2.11 and a few packages (offline, without Snakemake):
    python -m pipeline.gpu_proof
    driver             580.95.05
    …
    [1/10] build            passed       41 s  CUDA 13.0 for sm_90a
    …
    docs/evidence/nvidia-h200-71700235.md: 10 of 10 parts passed

Where a command may take ten minutes only, two make one proof; each adds its parts to the same page. Where only a folder
of output comes back, each writes its own and a third makes one page of them, on any machine:

    python -m pipeline.gpu_proof --parts build,ops,unary,fables,digits --out one
    python -m pipeline.gpu_proof --parts ranks,sanitizer,speed,shakespeare_char,gpt2_124m_steps --out two
    python -m pipeline.gpu_proof --merge one/*.json two/*.json

The parts are functions of pipeline/evidence/gpu_parts.py. One that fails or outlasts its limit is named and the
others go on. Exit code 1 if a part failed or did not finish, a speed target is not met (`--speed report` only lists
it) or, on a GPU, a part was skipped; 2 if the device cannot be used. `--device cpu --brief` goes the same way where
there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.evidence import gpu_machine  # needs nothing but Python; all else is imported after prepared()

if TYPE_CHECKING:
    from pipeline.evidence.gpu_record import Proof

ROOT = Path(__file__).resolve().parent.parent


def prepared(device: str) -> None:
    """Print what the machine has and lacks; UserError if the proof cannot begin."""
    absent = gpu_machine.missing_packages()
    tools = gpu_machine.look(device)
    print("\n".join(gpu_machine.lines(tools, absent, gpu_machine.torch_here()[1])), flush=True)
    if absent:
        raise UserError(
            f"{sys.executable} lacks {' '.join(absent)}: the command above brings them; where there is no network bring a "
            "folder of them and name it in PYTHONPATH (docs/gpu.md)"
        )
    if device == "cuda" and not gpu_machine.gpu_name():
        raise UserError("--device cuda: torch sees no GPU here; --device cpu --brief goes the same way without one")


def summary(path: Path, record: Proof) -> str:
    """Last line: the page, what passed in all runs, and of the rest what is said of it, or that it was not run."""
    from pipeline.evidence.gpu_parts import PARTS
    from pipeline.evidence.gpu_record import open_parts

    verdicts = {part["name"]: part["verdict"] for part in record["parts"]}
    remaining: dict[str, list[str]] = {}
    for name in open_parts(record):
        remaining.setdefault(verdicts.get(name, "not run"), []).append(name)
    passed = len(PARTS) - sum(map(len, remaining.values()))
    words = [f"{passed} of {len(PARTS)} parts passed"]
    words += [f"{verdict}: {', '.join(names)}" for verdict, names in sorted(remaining.items())]
    return f"{path}: {'; '.join(words)}"


def without_folders(args: argparse.Namespace) -> str:
    """The command as a record may say it anywhere: what was asked for, and no folder of this machine."""
    words = ["python -m pipeline.gpu_proof"]
    words += [f"--device {args.device}"] if args.device != "cuda" else []
    words += ["--brief"] if args.brief else []
    words += [f"--parts {args.parts}"] if args.parts else []
    words += [f"--speed {args.speed}"] if args.speed != "judge" else []
    return " ".join(words)


def exit_code(verdicts: set[str], device: str, speed: str) -> int:
    """What a GPU did not show is no proof, so there a skipped part counts as one that failed."""
    counts = {"FAILED", "unfinished"}
    counts |= ({"skipped"} if device == "cuda" else set()) | ({"not met"} if speed == "judge" else set())
    return 1 if verdicts & counts else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether a GPU gives the bits that a CPU published.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--brief", action="store_true", help="a few steps of everything; its page is for reading, not for docs/evidence"
    )
    parser.add_argument("--parts", help="names of docs/gpu.md, separated by commas (default: all)")
    parser.add_argument(
        "--speed", choices=("judge", "report"), default="judge", help="report: a missed target is no error"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "gpu_proof", help="folder of builds and runs")
    parser.add_argument(
        "--out", type=Path, help="folder of page, JSON and log (default: docs/evidence for a whole proof)"
    )
    parser.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="no part is run: JSON files of several commands as one page",
    )
    args = parser.parse_args()
    if args.merge:
        return merged(args)
    prepared(args.device)
    return proven(args)


def write(path: Path, record: Proof) -> None:
    """The JSON and its page."""
    from pipeline.base.files import write_bytes, write_json
    from pipeline.pages.proof_page import page

    write_json(path, record)
    write_bytes(path.with_suffix(".md"), page(record).encode())


def merged(args: argparse.Namespace) -> int:
    """One page, JSON and log of those of several commands."""
    from pipeline.evidence import gpu_record

    if args.parts:
        raise UserError("--merge runs no part; leave --parts away")
    record = gpu_record.merged(args.merge)
    path, _ = gpu_record.place(args.out or ROOT / "docs" / "evidence", record)
    files = args.merge
    if path.exists() and path not in files:  # what is there already stays
        files = [path, *files]
        record = gpu_record.merged(files)
    logs = [log.read_text(encoding="utf-8") for file in files if (log := file.with_suffix(".log")).exists()]
    write(path, record)
    path.with_suffix(".log").write_text("".join(logs), encoding="utf-8")
    print(summary(path.with_suffix(".md"), record))
    return exit_code({part["verdict"] for part in record["parts"]}, record["device"], args.speed)


def proven(args: argparse.Namespace) -> int:
    """Run the parts, once all that they import is there."""
    from pipeline.evidence import gpu_record
    from pipeline.evidence.gpu_parts import PARTS, prove
    from pipeline.evidence.gpu_session import Session

    wanted = args.parts.split(",") if args.parts else list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise UserError(f"--parts {','.join(unknown)}: allowed are {', '.join(PARTS)}")
    machine = gpu_machine.machine(args.device)
    whole = args.device == "cuda" and not args.brief
    out = args.out or (ROOT / "docs" / "evidence" if whole else args.work)
    path, record = gpu_record.place(out, gpu_record.made(args.device, args.brief, machine))
    session = Session(args.device, args.brief, args.work, path.with_suffix(".log"))
    session.gpu = machine["gpu"]["name"] if "gpu" in machine else ""
    session.environment = gpu_machine.environment(args.device)
    verdicts: set[str] = set()
    for number, result in enumerate(prove(session, wanted), 1):
        verdicts.add(result.verdict)
        print(
            f"[{number}/{len(wanted)}] {result.name:16} {result.verdict:10} {result.seconds:5.0f} s  {result.detail}",
            flush=True,
        )
        # Part by part: what ends this process takes nothing with it.
        gpu_record.add(record, [result], without_folders(args))
        write(path, record)
    print(f"{summary(path.with_suffix('.md'), record)}; log: {session.log}")
    return exit_code(verdicts, args.device, args.speed)


if __name__ == "__main__":
    exit_on_user_error(main)
