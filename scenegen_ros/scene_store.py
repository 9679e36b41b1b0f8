"""Scenes on disk: written before they are announced, and the newest found again after a restart.

The files themselves are scenegen.files'; this adds only what the node announces. Knows nothing about ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenegen.files import list_scenes, new_scene_id, read_scene, write_scene
from scenegen.scene import InvalidInput, PlacedObject, Scene, View


@dataclass(frozen=True)
class StoredScene:
    """A scene whose files are on disk in `folder`. frame_id, stamp_ns: of the poses, and of the newest view used."""

    id: str
    folder: Path
    scene: Scene
    objects: tuple[PlacedObject, ...]
    frame_id: str
    stamp_ns: int

    @property
    def uri(self) -> str:
        """Where the whole scene lies."""
        return (self.folder / "scene.glb").as_uri()

    def mesh_uri(self, instance: int) -> str:
        """Where one object's mesh lies; unique for each scene, since RViz caches meshes by URI."""
        return (self.folder / "objects" / f"{instance}.glb").as_uri()


class SceneStore:
    """The folder of scenes."""

    def __init__(self, root: str) -> None:
        """root: may begin with ~; made when the first scene is saved."""
        self._root = Path(root).expanduser()

    def save(
        self, scene: Scene, objects: tuple[PlacedObject, ...], views: Sequence[View], frame_id: str, stamp_ns: int
    ) -> StoredScene:
        """Writes a scene, whole or not at all. SceneNotStored when the disk refuses."""
        scene_id = new_scene_id(stamp_ns)
        folder = write_scene(
            self._root, scene, objects, scene_id=scene_id, views=views, frame_id=frame_id, stamp_ns=stamp_ns
        )
        return StoredScene(scene_id, folder, scene, objects, frame_id, stamp_ns)

    def last(self, on_damaged: Callable[[str], None]) -> StoredScene | None:
        """The newest readable scene that was placed; on_damaged is told of each that cannot be read."""
        for folder in list_scenes(self._root):
            try:
                scene, objects, meta = read_scene(folder)
            except InvalidInput as error:
                on_damaged(str(error))
                continue
            if objects is not None:
                return StoredScene(meta["id"], folder, scene, objects, meta["frame_id"], meta["stamp_ns"])
        return None
