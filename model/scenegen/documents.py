"""What a scene's folder holds besides the scene: the views it was made from, and a contact sheet.

`views/` is as scenegen.images reads and writes it, so that it can be looked at, recorded, and played to a camera's
topics again; `contact_sheet.png` is for people. Both are whole or not there. A scene is complete without them: they are
added after it was announced. Knows nothing about ROS.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from scenegen.contact_sheet import draw_contact_sheet
from scenegen.files import SceneNotStored, read_scene
from scenegen.images import read_views, write_views
from scenegen.scene import InvalidInput, PlacedObject, View

VIEWS = "views"
CONTACT_SHEET = "contact_sheet.png"


def document_scene(folder: Path, views: Sequence[View], placed: Sequence[PlacedObject]) -> None:
    """Add the views to a stored scene's folder, if they are not there yet, and draw its contact sheet (anew).

    SceneNotStored when the disk refuses.
    """
    unfinished = folder / f".unfinished-{os.getpid()}"
    try:
        unfinished.mkdir()
        if not (folder / VIEWS).exists():
            (unfinished / VIEWS).mkdir()
            write_views(unfinished / VIEWS, views)
            (unfinished / VIEWS).rename(folder / VIEWS)
        packed = cv2.imencode(".png", draw_contact_sheet(views, placed)[..., ::-1])[1]
        (unfinished / CONTACT_SHEET).write_bytes(packed.tobytes())
        (unfinished / CONTACT_SHEET).replace(folder / CONTACT_SHEET)
    except OSError as error:
        raise SceneNotStored(f"cannot add views and contact sheet to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def scene_views(folder: Path) -> list[View]:
    """The views a stored scene was made from, in its order; empty when they were not kept.

    InvalidInput when the folder holds no scene, or its views are damaged.
    """
    meta = read_scene(folder)[2]
    if not (folder / VIEWS).is_dir():
        return []
    views = read_views(folder / VIEWS)
    if len(views) != len(meta["views"]):
        raise InvalidInput(f"{folder / VIEWS} holds {len(views)} views, scene.json {len(meta['views'])}: it is damaged")
    return [replace(view, stamp_ns=int(entry["stamp_ns"])) for view, entry in zip(views, meta["views"], strict=True)]
