"""Where checkpoints stand on disk. Knows nothing about what is inside them, and never downloads."""

from __future__ import annotations

from pathlib import Path

from scenegen.scene import InvalidInput

_PACKAGE = Path(__file__).resolve().parent
_PACKAGED = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Packaged weights: installed beside the module, in the source tree beside the package."""


def find_weights(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: one that comes with the package ("tiny"), or any folder with a `pipeline.json`.

    Raises InvalidInput with what to do when there is none.
    """
    packaged = sorted({path.parent for root in _PACKAGED for path in root.glob("*/pipeline.json")})
    folders = {folder.name: folder for folder in packaged}
    if str(name_or_path) in folders:
        return folders[str(name_or_path)]
    folder = Path(name_or_path).expanduser()
    if (folder / "pipeline.json").is_file():
        return folder
    known = ", ".join(folders) or "none"
    what = "has no pipeline.json" if folder.is_dir() else "is no folder"
    raise InvalidInput(
        f"weights {str(name_or_path)!r}: {folder} {what}. Give the folder of a checkpoint (pipeline.json, and .json "
        f"and .safetensors for each model), or the name of packaged weights (there are: {known})"
    )
