"""The files of a pin file, brought here one by one: from a folder of copies, a local folder, a URL, or the Hugging Face hub.

Every file is checked against its SHA-256 before it has its name; what differs is kept as <name>.rejected and named. The hub's own
client (huggingface_hub) resumes, follows mirrors (HF_ENDPOINT) and holds tokens; what it says wrong is one message here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.checked import checked, remember
from pipeline.base.files import sha256_of
from pipeline.data.fetch import fetch, from_mirror, namesakes
from pipeline.recipe.pins import PinnedFile, Pins, format_of


def bring(pins: Pins, file: PinnedFile, target: Path) -> Path:
    """A file of a pin file at `target`, checked."""
    if target.exists() and _is(target, file.sha256):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.url:
        return fetch(file.url, file.sha256, file.bytes, target)
    if pins.folder:
        return _link(Path(pins.folder) / file.name, file, target)
    if (copy := from_mirror(file.sha256, file.bytes, file.name)) is not None:
        return fetch("", file.sha256, file.bytes, target, copy)
    wrong = namesakes(file.name)
    for path in wrong:
        print(f"{path}: not the file that is pinned as {file.name} ({file.sha256}): not taken", file=sys.stderr)
    hint = f"; {wrong[0]} has the name, but not the SHA-256 that is pinned" if wrong else ""
    return _take(_from_hub(pins, file, target, hint), pins, file, target)


def _is(path: Path, sha256: str) -> bool:
    try:
        checked(path, sha256, "")
    except UserError:
        return False
    return True


def _link(source: Path, file: PinnedFile, target: Path) -> Path:
    """A local file where the others lie, as a link: its content is checked, not copied."""
    if not source.is_file():
        raise UserError(f"{source}: no such file; the pin file names its folder")
    if source.stat().st_size != file.bytes or sha256_of(source) != file.sha256:
        raise UserError(
            f"{source}: not the file that is pinned ({file.sha256}); bring that one back, or pin the new content: "
            f"python -m pipeline.pin {source.parent} --out PINS.yaml"
        )
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve())
    os.replace(link, target)
    remember(target, file.sha256)
    return target


def _take(arrived: Path, pins: Pins, file: PinnedFile, target: Path) -> Path:
    """What arrived, renamed if it is what is pinned."""
    found = sha256_of(arrived)
    if found != file.sha256:
        rejected = target.with_name(target.name + ".rejected")
        size = arrived.stat().st_size
        os.replace(arrived, rejected)
        reported = (
            f"; the pin was reported elsewhere ({pins.reported}), so it may be the one that is wrong"
            if pins.reported
            else ""
        )
        raise UserError(
            f"{file.name} of {pins.repo} at {pins.revision}: sha256 {found} ({size} bytes), pinned is {file.sha256} "
            f"({file.bytes} bytes); the content is kept as {rejected}. Run again for a damaged transfer; if the new content is "
            f"right, change the pin{reported}"
        )
    os.replace(arrived, target)
    remember(target, file.sha256)
    return target


def hub() -> str | None:
    """A mirror of the hub, if one is named; its client reads the name only when it is imported."""
    return os.environ.get("HF_ENDPOINT")


def _from_hub(pins: Pins, file: PinnedFile, target: Path, hint: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    assert pins.repo
    what = f"{file.name} of {pins.repo} at revision {pins.revision}"
    remedy = f"give a folder of copies by SAMEBITS_MIRROR{hint}"
    folder = target.parent / ".hub"
    try:
        return Path(
            hf_hub_download(
                pins.repo, file.name, repo_type=pins.repo_type, revision=pins.revision, local_dir=folder, endpoint=hub()
            )
        )
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{what}: the hub has this revision no more; {remedy}, or pin a revision that is there"
        ) from None
    except errors.GatedRepoError:
        raise UserError(
            f"{what}: only for those who agreed to its terms; log in: hf auth login (HF_TOKEN); or {remedy}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what}: the hub has no such {pins.repo_type}, or not for you (HF_TOKEN); {remedy}") from None
    except errors.LocalEntryNotFoundError as error:  # before EntryNotFoundError, whose kind it is: no network
        raise UserError(f"{what}: the hub is out of reach ({_first_line(error)}); {remedy}") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{what}: the revision has no such file; {remedy}, or mend its name in the pin file") from None
    except Exception as error:  # what a broken connection raises depends on the client's version
        raise UserError(
            f"{what}: {_first_line(error)}. What arrived is kept and the next run goes on from there; or {remedy}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def list_hub(pins: Pins) -> list[PinnedFile]:
    """The files of a repository at a revision that a selection chooses, with the hashes that the hub states (of LFS)."""
    from huggingface_hub import HfApi, errors

    assert pins.repo
    where = f"{pins.repo} at revision {pins.revision}"
    try:
        api = HfApi(endpoint=hub())
        ask = api.dataset_info if pins.repo_type == "dataset" else api.model_info
        info = ask(pins.repo, revision=pins.revision, files_metadata=True)
    except errors.RevisionNotFoundError:
        raise UserError(f"{where}: the hub has this revision no more; pin one that is there") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{where}: the hub has no such {pins.repo_type}, or not for you (HF_TOKEN)") from None
    except Exception as error:  # what a broken connection raises depends on the client's version
        raise UserError(
            f"{where}: the hub is out of reach ({_first_line(error)}); ask where there is a network"
        ) from None
    found = {entry.rfilename: entry for entry in info.siblings or ()}
    names = pins.chosen(list(found))
    if not names:
        raise UserError(f"{where}: none of its {len(found)} files is selected by {', '.join(pins.select)}")
    without = [name for name in names if found[name].lfs is None]
    if without:
        raise UserError(
            f"{where}: the hub states no SHA-256 of {without[0]}; download it and pin it: python -m pipeline.pin"
        )
    return [PinnedFile(name=name, sha256=lfs.sha256, bytes=lfs.size) for name in names if (lfs := found[name].lfs)]


def kinds_of(pins: Pins) -> list[str]:
    """The formats of the files, in order; a UserError names one that is none."""
    found = []
    for file in pins.files:
        kind = format_of(file.name)
        if kind is None:
            raise UserError(
                f"{file.name}: neither text, jsonl, parquet nor a shard by its suffix; known are .parquet, .bin, and .txt, .md, "
                ".jsonl, .json, also with .gz or .zst"
            )
        found.append(kind)
    return found
