"""Pinned files: from a folder of copies, from a URL with resume, always checked against their SHA-256."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse

from cuda_ops.errors import UserError, writing
from pipeline.base.checked import checked
from pipeline.base.files import sha256_of
from pipeline.recipe.pins import load_pins, pins_path

ATTEMPTS = 4


def vocabulary(folder: Path) -> Path:
    """The folder of GPT-2's vocabulary, its files checked against their pins."""
    path = pins_path("gpt2_bpe")
    remedy = f"python -m pipeline.download --pins {path} --out {folder} brings it"
    for pin in load_pins(path).files:
        checked(folder / pin.name, pin.sha256, remedy)
    return folder


def from_mirror(sha256: str, size: int | None, name: str = "") -> Path | None:
    """A file of this content under $SAMEBITS_MIRROR, whatever its name; those that are called so are read first."""
    folder = os.environ.get("SAMEBITS_MIRROR")
    if not folder:
        return None
    for path in sorted(Path(folder).rglob("*"), key=lambda path: (path.name != Path(name).name, path)):
        if path.is_file() and size in (None, path.stat().st_size) and sha256_of(path) == sha256:
            return path
    return None


def namesakes(name: str) -> list[Path]:
    """The files under $SAMEBITS_MIRROR that are called so."""
    folder = os.environ.get("SAMEBITS_MIRROR")
    return sorted(path for path in Path(folder).rglob(Path(name).name) if path.is_file()) if folder else []


def fetch(url: str, sha256: str, size: int | None, target: Path, local: Path | None = None) -> Path:
    """The file of a pin at `target`, checked. An interrupted download goes on where it stopped.

    A content that differs from the pin is kept as <target>.rejected and named; nothing else is touched.
    """
    if target.exists() and sha256_of(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = local or from_mirror(sha256, size)
    part = target.with_name(target.name + ".part")
    if copy is not None:
        if not copy.exists():
            raise UserError(f"--local {copy}: no such file")
        shutil.copyfile(copy, part)
    elif urlparse(url).scheme == "file":
        source = Path(urlparse(url).path)
        if not source.exists():
            raise UserError(f"{url}: no such file")
        shutil.copyfile(source, part)
    else:
        _download(url, part)
    found = sha256_of(part)
    if found != sha256:
        rejected = target.with_name(target.name + ".rejected")
        os.replace(part, rejected)
        raise UserError(
            f"{copy or url}: sha256 {found} ({rejected.stat().st_size} bytes), the recipe pins {sha256}; the content "
            f"is kept as {rejected}. If the new content is right, change the pin"
        )
    os.replace(part, target)
    return target


def _download(url: str, part: Path) -> None:
    import requests
    from tqdm import tqdm

    for attempt in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as reply:
                if reply.status_code == 416:  # nothing after what we have
                    return
                reply.raise_for_status()
                resumed = reply.status_code == 206
                length = int(reply.headers.get("Content-Length", 0))
                with (
                    writing(part),
                    open(part, "ab" if resumed else "wb") as file,
                    tqdm(
                        initial=have if resumed else 0,
                        total=(have if resumed else 0) + length or None,
                        unit="B",
                        unit_scale=True,
                        desc=part.stem,
                        disable=None,
                    ) as bar,
                ):
                    for block in reply.iter_content(1 << 16):
                        file.write(block)
                        bar.update(len(block))
                    got = file.tell()
            if not length or got >= (have if resumed else 0) + length:
                return
            problem = f"broke off after {got} bytes"
        except requests.RequestException as error:
            problem = str(error)
        print(f"{url}: {problem} (attempt {attempt + 1} of {ATTEMPTS})", file=sys.stderr)
    raise UserError(
        f"{url}: {problem}. What arrived is kept and the next run goes on from there; or give a copy by --local FILE, "
        "or a folder of copies by SAMEBITS_MIRROR"
    )
