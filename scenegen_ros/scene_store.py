"""Scenes on disk: written before they are announced, and the newest found again after a restart.

The files themselves are scenegen.files'; this adds only what the node announces. Knows nothing about ROS.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from scenegen.documents import document_scene
from scenegen.files import SceneNotStored, list_scenes, new_scene_id, read_scene, refine_scene, write_scene
from scenegen.scene import InvalidInput, PlacedObject, Scene, View
from scenegen.scene_json import mesh_name


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

    def __init__(self, root: str, keep: int, on_problem: Callable[[str], None]) -> None:
        """root: may begin with ~; made when the first scene is saved. keep: how many scenes, at least two.

        on_problem: told, in words, of old scenes that cannot be deleted and of damaged ones.
        """
        self._root, self._keep, self._on_problem = Path(root).expanduser(), keep, on_problem
        self._latest: deque[Path] = deque(maxlen=2)
        self._documents = ThreadPoolExecutor(1, "scenegen documents")

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
        self._latest.append(folder)
        self._delete_old()
        return StoredScene(scene_id, folder, scene, objects, frame_id, stamp_ns, preliminary)

    def refine(self, stored: StoredScene, scene: Scene) -> StoredScene:
        """Gives a preliminary scene the assets of `scene`, each where the object of its id stands.

        SceneNotStored when the disk refuses; the preliminary scene is then as it was.
        """
        assets = {asset.id: asset for asset in scene.assets}
        objects = tuple(placed.with_asset(assets[placed.id]) for placed in stored.objects)
        refine_scene(stored.folder, scene, objects)
        return replace(stored, scene=scene, objects=objects, preliminary=False)

    def document(self, stored: StoredScene, views: Sequence[View]) -> None:
        """Adds the views and a contact sheet to a scene's folder, in a thread: nothing waits for them."""
        self._documents.submit(self._document, stored, tuple(views))

    def close(self) -> None:
        """Waits for what is still being added."""
        self._documents.shutdown()

    def _document(self, stored: StoredScene, views: tuple[View, ...]) -> None:
        try:
            document_scene(stored.folder, views, stored.objects)
        except (SceneNotStored, InvalidInput) as error:
            self._on_problem(str(error))

    def find(self, scene_id: str) -> Path:
        """The folder of a scene that is kept. InvalidInput, naming the newest, when there is none of this id."""
        folders = {folder.name: folder for folder in list_scenes(self._root)}
        if scene_id not in folders:
            newest = ", ".join(list(folders)[:3])
            raise InvalidInput(f"no scene '{scene_id}' is kept in {self._root}; the newest are {newest or 'none'}")
        return folders[scene_id]

    def last(self) -> StoredScene | None:
        """The newest readable scene that was placed."""
        for folder in list_scenes(self._root):
            try:
                scene, objects, meta = read_scene(folder)
            except InvalidInput as error:
                self._on_problem(str(error))
                continue
            if objects is not None:
                where = meta["frame_id"], meta["stamp_ns"], meta.get("preliminary", False)
                self._latest.append(folder)
                return StoredScene(meta["id"], folder, scene, objects, *where)
        return None

    def _delete_old(self) -> None:
        """Leaves the newest scenes, and by all means the last two: viewers may still be loading the one before."""
        for folder in list_scenes(self._root)[self._keep :]:
            if folder in self._latest:  # a clock that was set back makes them look old
                continue
            try:
                (folder / "scene.json").unlink()  # first: from now on it is no scene
                shutil.rmtree(folder)
            except OSError as error:
                self._on_problem(f"the old scene {folder} cannot be deleted ({error.strerror}): check its permissions")
