"""Scenes on disk: written before they are announced, and the newest found again after a restart.

The files themselves are scenegen.files'; this adds only what the node announces. Knows nothing about ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scenegen.files import list_scenes, mesh_name, new_scene_id, read_scene, refine_scene, write_scene
from scenegen.scene import InvalidInput, PlacedObject, Scene, View


@dataclass(frozen=True)
class StoredScene:
    """A scene whose files are on disk in `folder`. frame_id, stamp_ns: of the poses, and of the newest view used.

    preliminary: its textured meshes are still being made.
    """

    id: str
    folder: Path
    scene: Scene
    objects: tuple[PlacedObject, ...]
    frame_id: str
    stamp_ns: int
    preliminary: bool = False

    @property
    def uri(self) -> str:
        """Where the whole scene lies."""
        return (self.folder / "scene.glb").as_uri()

    def mesh_uri(self, instance: int) -> str:
        """Where one object's mesh lies; unique for each mesh, since RViz caches meshes by URI."""
        return (self.folder / mesh_name(instance, self.preliminary)).as_uri()


class SceneStore:
    """The folder of scenes."""

    def __init__(self, root: str) -> None:
        """root: may begin with ~; made when the first scene is saved."""
        self._root = Path(root).expanduser()

    def save(
        self,
        scene: Scene,
        objects: tuple[PlacedObject, ...],
        views: Sequence[View],
        frame_id: str,
        stamp_ns: int,
        *,
        preliminary: bool = False,
    ) -> StoredScene:
        """Writes a scene, whole or not at all. preliminary: refine is to follow. SceneNotStored if the disk refuses."""
        scene_id = new_scene_id(stamp_ns)
        folder = write_scene(
            self._root,
            scene,
            objects,
            scene_id=scene_id,
            views=views,
            frame_id=frame_id,
            stamp_ns=stamp_ns,
            preliminary=preliminary,
        )
        return StoredScene(scene_id, folder, scene, objects, frame_id, stamp_ns, preliminary)

    def refine(self, stored: StoredScene, scene: Scene) -> StoredScene:
        """Gives a preliminary scene the assets of `scene`, each where the object of its id stands.

        SceneNotStored when the disk refuses; the preliminary scene is then as it was.
        """
        assets = {asset.id: asset for asset in scene.assets}
        objects = tuple(placed.with_asset(assets[placed.id]) for placed in stored.objects)
        refine_scene(stored.folder, scene, objects)
        return replace(stored, scene=scene, objects=objects, preliminary=False)

    def last(self, on_damaged: Callable[[str], None]) -> StoredScene | None:
        """The newest readable scene that was placed; on_damaged is told of each that cannot be read."""
        for folder in list_scenes(self._root):
            try:
                scene, objects, meta = read_scene(folder)
            except InvalidInput as error:
                on_damaged(str(error))
                continue
            if objects is not None:
                where = meta["frame_id"], meta["stamp_ns"], meta.get("preliminary", False)
                return StoredScene(meta["id"], folder, scene, objects, *where)
        return None
