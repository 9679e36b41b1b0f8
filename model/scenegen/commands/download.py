"""`scenegen download full`: the published checkpoints from Hugging Face, into one folder that `--weights` takes.

Asks first, showing sizes and licences; goes on where it stopped; checks every file against the hub's SHA-256 and keeps
it in `download.json`. A pickle is converted, in a process of its own, and removed. Knows nothing about models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from scenegen.client import ServerError
from scenegen.commands.convert import SUFFIXES, convert
from scenegen.scene import InvalidInput
from scenegen.weights import full_folder

RECORD = "download.json"


@dataclass(frozen=True)
class Repository:
    """One repository: which of its files are wanted, where in the folder they go, and under which licence they are.

    licence: as known when this was written; the repository's page is what counts.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    licence: str


REPOSITORIES = (
    Repository("haoningwu/SceneGen", ".", ("pipeline.json", "ckpts/*"), "MIT"),
    Repository(
        "facebook/dinov2-with-registers-large",
        "dinov2-with-registers-large",
        ("config.json", "model.safetensors"),
        "Apache-2.0",
    ),
    Repository("facebook/VGGT-1B", "VGGT-1B", ("config.json", "model.safetensors"), "CC BY-NC 4.0: not for commerce"),
)
"""No revision is pinned: none could be looked up when this was written. The commit that `main` is at the first time is
kept in the record and used from then on; `--revision` names another."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository; sha256 None for small ones, of which the hub keeps none."""

    path: str
    size: int
    sha256: str | None


class Hub(Protocol):
    """Where repositories are."""

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        """The commit that a revision is, and its files."""

    def fetch(self, repository: str, commit: str, file: RemoteFile, folder: Path) -> Path:
        """Fetch one file into a folder, going on where an earlier attempt stopped."""


class HuggingFace:
    """Hugging Face's hub, or a server that speaks like it."""

    def __init__(self, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(endpoint=endpoint)

    def files(self, repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
        """See Hub. Raises ServerError with what to do."""
        info = _asked(repository, lambda: self._api.model_info(repository, revision=revision, files_metadata=True))
        files = [
            RemoteFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None)
            for item in info.siblings or ()
        ]
        return str(info.sha), files

    def fetch(self, repository: str, commit: str, file: RemoteFile, folder: Path) -> Path:
        """See Hub. Raises ServerError with what to do."""
        # hf_hub_download begins anew in every process: with files of 5 GB that is not good enough
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(repository, file.path, revision=commit, endpoint=self._api.endpoint)
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f"{place.name}.{commit[:12]}.part")
        with unfinished.open("ab") as out:
            have = out.tell() if out.tell() <= file.size else out.truncate(0)
            _asked(
                repository,
                lambda: http_get(
                    url,
                    out,
                    resume_size=have,
                    headers=build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.path,
                ),
            )
        unfinished.replace(place)
        return place


def _asked(repository: str, request: Callable[[], Any]) -> Any:
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError

    try:
        return request()
    except GatedRepoError as error:
        raise ServerError(
            f"{repository} wants its licence accepted first: do so on https://huggingface.co/{repository}, then "
            "`hf auth login`"
        ) from error
    except (HTTPError, OSError) as error:
        raise ServerError(
            f"{repository} can't be fetched ({str(error).splitlines()[0]}): what is here already is kept, try again"
        ) from error


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("download", help="fetch the published checkpoints (about 11 GB), after asking")
    p.add_argument("what", choices=["full"])
    p.add_argument("--out", type=Path, help=f"folder (default: {full_folder()}, which `--weights full` finds)")
    p.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="REPOSITORY=REVISION",
        help="a branch, tag or commit instead of main; may be repeated",
    )
    p.add_argument("--yes", action="store_true", help="do not ask: the licences are accepted")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    revisions = dict(item.split("=", 1) for item in args.revision if "=" in item)
    unknown = [item for item in args.revision if item.split("=", 1)[0] not in {r.name for r in REPOSITORIES}]
    if unknown or len(revisions) != len(args.revision):
        raise InvalidInput(f"--revision {args.revision}: give REPOSITORY=REVISION, of {[r.name for r in REPOSITORIES]}")
    folder = download(HuggingFace(), args.out or full_folder(), revisions, confirm=None if args.yes else _ask)
    if folder is None:
        print("nothing was fetched")
        return 1
    print(f"{folder}: see it with `scenegen inspect {folder}`")
    return 0


def download(
    hub: Hub,
    folder: Path,
    revisions: Mapping[str, str] | None = None,
    *,
    confirm: Callable[[Sequence[str]], bool] | None,
    repositories: Sequence[Repository] = REPOSITORIES,
) -> Path | None:
    """Fetch all repositories into a folder; returns it, or None when not confirmed.

    revisions: by repository, instead of what the record names, or `main`. confirm: shown what will be fetched, says
    whether to; None goes ahead. Raises InvalidInput when the disk is too full or a file is not what the hub says.
    """
    record = _read_record(folder)
    plans = []
    for repository in repositories:
        known = record.get(repository.name, {})
        wanted = (revisions or {}).get(repository.name) or known.get("commit") or "main"
        commit, files = hub.files(repository.name, wanted)
        if known.get("commit") != commit:
            known = record[repository.name] = {"commit": commit, "licence": repository.licence, "files": {}}
        chosen = [file for file in files if any(fnmatch(file.path, pattern) for pattern in repository.files)]
        plans.append((repository, _missing(folder / repository.folder, chosen, known["files"])))
    needed = sum(file.size for _, files in plans for file in files)
    if needed and confirm is not None and not confirm(_lines(plans, record, folder)):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if needed > shutil.disk_usage(folder).free:
        raise InvalidInput(f"{folder} needs {needed / 1e9:.1f} GB more: free some, or say --out")
    for repository, files in plans:
        for file in files:
            place = hub.fetch(repository.name, record[repository.name]["commit"], file, folder / repository.folder)
            record[repository.name]["files"][file.path] = _accepted(place, file)
            _write_record(folder, record)
    return folder


def _missing(folder: Path, files: Sequence[RemoteFile], known: Mapping[str, Any]) -> list[RemoteFile]:
    """Files that are not there yet; a pickle is when what it was converted to is."""
    return [file for file in files if not (file.path in known and (folder / known[file.path]["kept_as"]).is_file())]


def _accepted(place: Path, file: RemoteFile) -> dict[str, Any]:
    """Check one file that was fetched, convert it if it is a pickle, and say what to remember of it."""
    with place.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if file.sha256 not in (None, found):
        place.unlink()
        raise InvalidInput(
            f"{place} has SHA-256 {found}, but the hub says {file.sha256}: it was removed, fetch it again"
        )
    entry = {"sha256": found, "bytes": place.stat().st_size, "kept_as": file.path}
    if place.suffix in SUFFIXES:
        kept = place.with_suffix(".safetensors")
        kept.unlink(missing_ok=True)
        convert(place, kept)
        place.unlink()
        entry["kept_as"] = str(Path(file.path).with_suffix(".safetensors"))
    return entry


def _lines(
    plans: Sequence[tuple[Repository, Sequence[RemoteFile]]], record: Mapping[str, Any], folder: Path
) -> list[str]:
    lines = [f"into {folder}:"]
    for repository, files in plans:
        size = sum(file.size for file in files)
        commit = record[repository.name]["commit"][:12]
        lines.append(
            f"  {repository.name} at {commit}: {len(files)} files, {size / 1e9:.2f} GB, licence {repository.licence} "
            f"(see https://huggingface.co/{repository.name})"
        )
    return lines


def _ask(lines: Sequence[str]) -> bool:
    print("\n".join(lines))
    if not sys.stdin.isatty():
        raise InvalidInput("nobody is there to accept the licences: say --yes")
    return input("Fetch this, under these licences? [y/N] ").strip().lower() in ("y", "yes")


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} can't be read ({error}): remove it, and everything is checked again") from error
    return content if isinstance(content, dict) else {}


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    temporary = folder / f"{RECORD}.part"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(folder / RECORD)
