"""Where checkpoints stand on disk. Knows nothing about what is inside them, and never downloads."""

from __future__ import annotations

import os
from pathlib import Path

from scenegen.scene import InvalidInput

_PACKAGE = Path(__file__).resolve().parent
_PACKAGED = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Packaged weights: installed beside the module, in the source tree beside the package."""


def find_weights(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint, which is one with a `pipeline.json`.

    Takes the name of packaged weights ("tiny"), "full" for what `scenegen download full` fetched, any folder, a folder
    of the Hugging Face cache, or the name of a repository in that cache ("owner/name").
    Raises InvalidInput with what to do when there is none.
    """
    packaged = sorted({path.parent for root in _PACKAGED for path in root.glob("*/pipeline.json")})
    folders = {folder.name: folder for folder in packaged}
    if str(name_or_path) in folders:
        return folders[str(name_or_path)]
    folder = Path(name_or_path).expanduser()
    candidates = [folder, snapshot(folder), cached_repository(str(name_or_path))]
    if str(name_or_path) == "full":
        candidates = [full_folder()]
    for candidate in candidates:
        if candidate is not None and (candidate / "pipeline.json").is_file():
            return candidate
    known = ", ".join(folders) or "none"
    if str(name_or_path) == "full":
        raise InvalidInput(f"weights 'full' are not in {full_folder()}: fetch them with `scenegen download full`")
    what = "has no pipeline.json" if folder.is_dir() else "is no folder"
    raise InvalidInput(
        f"weights {str(name_or_path)!r}: {folder} {what}. Give the folder of a checkpoint (pipeline.json, and .json "
        f"and .safetensors for each model), or the name of packaged weights (there are: {known})"
    )


def full_folder() -> Path:
    """Where `scenegen download full` puts the published checkpoints unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "scenegen" / "full"


def cached_repository(name: str) -> Path | None:
    """The files of a repository ("owner/name") in the Hugging Face cache, None when it is not there."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    owner, _, own_name = name.partition("/")
    return snapshot(cache / f"models--{owner}--{own_name}") if own_name and "/" not in own_name else None


def snapshot(folder: Path) -> Path | None:
    """The files inside a repository's folder of the Hugging Face cache (refs/, snapshots/): those of `main`.

    Without a `main`, those of the only snapshot. None when this is no such folder, or has several and none is `main`.
    """
    snapshots = sorted(path for path in (folder / "snapshots").glob("*") if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        named = folder / "snapshots" / main.read_text().strip()
        return named if named in snapshots else None
    return snapshots[0] if len(snapshots) == 1 else None
