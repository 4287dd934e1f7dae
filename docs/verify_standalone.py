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
import struct
import sys
from pathlib import Path

DTYPES = {"F32": "torch.float32", "F64": "torch.float64", "F16": "torch.float16", "BF16": "torch.bfloat16"}
DTYPES |= {"I64": "torch.int64", "I32": "torch.int32", "I16": "torch.int16", "I8": "torch.int8", "U8": "torch.uint8"}


def tensors(path):
    """(name, dtype, shape, bytes) of each tensor of a safetensors file, by name; and the metadata."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header.pop("__metadata__", {}).get("samebits", "{}"))
    body = memoryview(content)[8 + size :]
    found = [(name, h["dtype"], h["shape"], body[slice(*h["data_offsets"])]) for name, h in sorted(header.items())]
    return found, about


def checkpoint_digest(path):
    whole = hashlib.sha256()
    found, about = tensors(path)
    for name, dtype, shape, content in found:
        one = hashlib.sha256(f"{DTYPES[dtype]} {shape}\n".encode())
        one.update(content)
        whole.update(f"{name} {one.hexdigest()}\n".encode())
    return whole.hexdigest(), about


def follow(path, link, links):
    """Follow the links of a chain file; returns the last. `links` gets the link of every step."""
    for row in path.read_text(encoding="ascii").splitlines()[1:]:
        content, recorded = row.rsplit("\t", 1)
        link = hashlib.sha256(f"{link}\t{content}".encode()).hexdigest()
        if link != recorded:
            raise ValueError(f"{path.name}: step {content.split(chr(9))[0]} does not follow from the line before")
        links[int(content.split("\t")[0])] = link
    return link


def main(run, expected=None):
    digests = json.loads((expected or run / "digests.json").read_text())
    found, problems, links, link = {}, [], {}, "0" * 64
    for path in sorted(run.glob("chain_*.tsv")):
        try:
            link = follow(path, link, links)
        except ValueError as error:
            problems.append(str(error))
            break
    print(f"chain: {len(links)} links from step 1, each follows" if not problems else problems[0])
    for key, digest in digests.items():
        path = run / key.split("/", 1)[1]
        if key.split("/")[0] not in ("train", "evaluate", "sample"):
            continue  # the recipe's id, and data that lies elsewhere
        if not path.exists():
            problems.append(f"{key}: missing")
            continue
        if path.suffix == ".safetensors":
            found[key], about = checkpoint_digest(path)
            if links and links.get(about.get("step")) != about.get("link"):
                problems.append(f"{key}: its link is not the chain's at step {about.get('step')}")
        else:
            found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {found[key][:12]}  {'equal' if found[key] == digest else 'DIFFERS from ' + digest[:12]}")
        if found[key] != digest:
            problems.append(f"{key}: differs")
    for name in re.findall(r"^([0-9a-f]{64}  .+)$", (run / "SHA256SUMS").read_text(), re.M):
        digest, file = name.split("  ", 1)
        if not (run / file).exists() or hashlib.sha256((run / file).read_bytes()).hexdigest() != digest:
            problems.append(f"SHA256SUMS: {file} differs")
    print("\n".join(problems) if problems else f"{run.name}: {len(found)} artefacts checked, all equal")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} RUN_FOLDER [EXPECTED.json]")
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:])))
