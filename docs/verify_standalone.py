"""Check a run folder of samebits with Python's standard library alone. Copy this file anywhere.

    python verify_standalone.py results/runs/fables [config/expected/fables.json]
    step_000250.safetensors  9f1c…  equal
    chain: 1000 links from step 1, each follows
    fables: 7 artefacts checked, all equal

The digest of a checkpoint is over its tensors, not its container: SHA-256 over the lines "<name> <digest>" by name, where a
tensor's digest is SHA-256 over "<dtype> <shape>", a line end, and its little-endian bytes. Exit code 1: something differs.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

DTYPES = {"F32": "torch.float32", "F64": "torch.float64", "F16": "torch.float16", "BF16": "torch.bfloat16"}
DTYPES |= {"I64": "torch.int64", "I32": "torch.int32", "I16": "torch.int16", "I8": "torch.int8", "U8": "torch.uint8"}
DAMAGE = (ValueError, KeyError, TypeError, AttributeError)  # what a file that is not whole may raise


def digest_of(path):
    """The digest of a file, a safetensors file by its tensors; and the project's metadata in it."""
    content, whole = path.read_bytes(), hashlib.sha256()
    if path.suffix != ".safetensors":
        return hashlib.sha256(content).hexdigest(), None
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header.pop("__metadata__", {}).get("samebits", "{}"))
    body = memoryview(content)[8 + size :]
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} has the unknown dtype {entry['dtype']}")
        if end > len(body):
            raise ValueError(f"{name} ends at byte {end} of {len(body)}: truncated")
        one = hashlib.sha256(f"{DTYPES[entry['dtype']]} {entry['shape']}\n".encode() + body[begin:end])
        whole.update(f"{name} {one.hexdigest()}\n".encode())
    return whole.hexdigest(), dict(about)


def follow(path, link, links):
    """Follow the links of a chain file; returns the last. `links` gets the link of every step."""
    for row in path.read_text(encoding="ascii").splitlines()[1:]:
        content, recorded = row.rsplit("\t", 1)
        link = hashlib.sha256(f"{link}\t{content}".encode()).hexdigest()
        if link != recorded:
            raise ValueError(f"step {content.split(chr(9))[0]} does not follow from the line before")
        links[int(content.split("\t")[0])] = link
    return link


def main(run, expected=None):
    found, problems, links, link, source = {}, [], {}, "0" * 64, expected or run / "digests.json"
    if missing := next((path for path in (run, source) if not path.exists()), None):
        sys.exit(f"{missing}: missing; name the folder of a finished run (make reproduction makes one) and its digests")
    try:
        digests = dict(json.loads(source.read_text()))
    except (OSError, *DAMAGE) as error:
        sys.exit(f"{source}: not a list of digests: {getattr(error, 'strerror', None) or error}")
    names = {key.partition("/")[2] for key in digests}
    kinds = ("step_*.safetensors", "chain_*.tsv", "eval_*.json", "samples.json")
    old = [path.name for kind in kinds for path in sorted(run.glob(kind)) if path.name not in names]
    try:
        for path in sorted((run / name for name in names if name.startswith("chain_")), key=lambda p: (len(p.name), p)):
            link = follow(path, link, links) if path.is_file() else link
    except DAMAGE as error:
        problems.append(f"{path.name}: {error}")
    print(f"chain: {len(links)} links from step 1, each follows" if not problems else problems[0])
    for key, digest in digests.items():
        stage, _, name = key.partition("/")
        if name and stage not in ("train", "evaluate", "sample"):
            continue  # the recipe's id, and data that lies elsewhere
        if not name or not (run / name).is_file():
            problems.append(f"{key}: {'missing' if name else 'not of the form stage/file'}")
            continue
        try:
            found[key], about = digest_of(run / name)
            if links and about is not None and links.get(about.get("step"), 0) != about.get("link"):
                problems.append(f"{key}: its metadata has not the chain's link at step {about.get('step')}")
        except DAMAGE as error:
            problems.append(f"{key}: not a whole checkpoint: {error}")
            continue
        print(f"{name}  {found[key][:12]}  {'equal' if found[key] == digest else f'DIFFERS from {digest}'}")
        problems += [] if found[key] == digest else [f"{key}: differs"]
    sums = run / "SHA256SUMS"
    text = sums.read_text(errors="replace") if sums.is_file() else problems.append("SHA256SUMS: missing") or ""
    for digest, file in re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.M):
        if not (run / file).is_file() or hashlib.sha256((run / file).read_bytes()).hexdigest() != digest:
            problems.append(f"SHA256SUMS: {file} differs")
    problems += [] if found else [f"{source}: names no file that is whole, so nothing was checked"]
    print(f"not of this run, and not read: {', '.join(old)}\n" if old else "", end="")
    print("\n".join(problems) if problems else f"{run.name}: {len(found)} artefacts checked, all equal")
    return 1 if problems else 0


if __name__ == "__main__":
    usage = f"usage: {sys.argv[0]} RUN_FOLDER [EXPECTED.json]"
    sys.exit(main(*map(Path, sys.argv[1:])) if len(sys.argv) in (2, 3) else usage)
