"""A scene in a browser: textured objects, the cameras with what they saw, frames, and how far each object is trusted.

Served by viser while it changes, or saved as one HTML file that needs neither a server nor a network. Knows nothing
about ROS: the viewer node and `scenegen view` both feed it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.contact_sheet import confidence_colour
from scenegen.files import read_scene
from scenegen.glb import mesh_from_glb
from scenegen.placement.sights import FIELD_OF_VIEW
from scenegen.scene import ROTATION_YUP_ZUP, Floats, InvalidInput, View
from scenegen.scene_json import mesh_name

if TYPE_CHECKING:
    import viser

CONTROLS = {"objects": True, "cameras": True, "boxes": True, "labels": True, "frames": False}
"""What can be shown and hidden, and whether it is shown at first."""
_PICTURE_WIDTH = 320
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
BOX_EDGES: Floats = np.array(
    [(a, b) for i, a in enumerate(_CORNERS) for b in _CORNERS[i + 1 :] if np.abs(a - b).sum() == 1.0]
)
"""float64 [12, 2, 3]: both ends of each edge of the unit box about the origin."""


@dataclass(frozen=True)
class ShownObject:
    """One object where it stands. glb: its mesh in the unit box, y-up, None where it could not be had.

    T_world_object float64 [4, 4], rigid; scale: world lengths per asset unit; size float64 [3] along the object's axes.
    """

    id: int
    label: str
    detail: str
    glb: bytes | None
    T_world_object: Floats
    scale: float
    size: Floats
    confidence: float
    metric: bool

    @cached_property
    def T_world_box(self) -> Floats:
        """Where the middle of its bounding box stands: the unit box's own centre without a mesh."""
        T = self.T_world_object.copy()
        if self.glb is not None:
            middle = mesh_from_glb(self.glb, f"the mesh of object {self.id}").bounds.mean(0)
            T[:3, 3] += T[:3, :3] @ (self.scale * middle)
        return T

    @property
    def corners(self) -> Floats:
        """Of its bounding box: float64 [8, 3], where it stands."""
        return np.asarray(self.T_world_box[:3, 3] + (_CORNERS * self.size) @ self.T_world_box[:3, :3].T)

    @property
    def caption(self) -> str:
        """What is written over it: who it is, how far to trust it, and that nothing gave it a scale."""
        return f"{self.id} {self.label} {self.confidence:.2f}" + ("" if self.metric else " (not metric)")


@dataclass(frozen=True)
class ShownScene:
    """Objects in one frame. up: float64 [3], which way is up in it."""

    name: str
    frame_id: str
    objects: tuple[ShownObject, ...]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)


def shown_scene(folder: Path) -> ShownScene:
    """A stored scene. InvalidInput when the folder holds none."""
    scene, placed, meta = read_scene(folder)
    objects = []
    for i, asset in enumerate(scene.assets):
        glb = (folder / mesh_name(asset.id, meta.get("preliminary", False))).read_bytes()
        if placed is None:  # in the query asset's frame
            T = scene.T_query_asset(i)
            scale = float(np.cbrt(np.linalg.det(T[:3, :3])))
            T[:3, :3] /= scale
            size, confidence, metric = scale * np.asarray(asset.mesh.extents), 0.0, False
        else:
            o = placed[i]
            T, scale, size, confidence, metric = o.T_world_object, o.scale_m, o.size_m, o.confidence, o.metric
        objects.append(ShownObject(asset.id, asset.label, asset.detail, glb, T, scale, size, confidence, metric))
    seen = [view["T_world_camera"] for view in meta["views"]]
    in_camera_frame = placed is not None and (not meta["metric"] or (bool(seen) and seen[0] is None))
    up = (0.0, -1.0, 0.0) if in_camera_frame else (0.0, 0.0, 1.0)
    return ShownScene(str(meta["id"]), str(meta["frame_id"]), tuple(objects), up)


class Viewer:
    """A page that shows one scene and the views of it. Its methods may be called from any thread."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Serves on port, or the next free one. InvalidInput when viser is not installed or the address is not ours."""
        try:
            import viser
        except ImportError as error:
            raise InvalidInput(
                "the viewer needs viser, which is not installed: pip install -r requirements/view.txt "
                "-c requirements/constraints.txt"
            ) from error
        try:
            self._server: viser.ViserServer = viser.ViserServer(host, port, label="scenegen", verbose=False)
        except OSError as error:
            raise InvalidInput(f"cannot serve on {host}:{port} ({error.strerror or error}): choose another") from error
        self._lock = threading.RLock()
        self._host = host
        self._scene: ShownScene | None = None
        self._views: list[View] = []
        gui, scene = self._server.gui, self._server.scene
        # Nothing of the page asks the network for anything.
        gui.configure_theme(show_logo=False, show_share_button=False)
        scene.configure_environment_map(None)  # soft light needs none, and it takes software renderers a minute
        scene.configure_default_lights(cast_shadow=False)
        scene.add_light_ambient("/light", intensity=0.6)
        self._status = gui.add_markdown("waiting")
        self._groups = {name: scene.add_frame(f"/{name}", show_axes=False, visible=on) for name, on in CONTROLS.items()}
        for name, on in CONTROLS.items():
            box = gui.add_checkbox(name, on)
            box.on_update(partial(self._toggle, name))
        self._table = gui.add_markdown("")
        gui.add_button("Save as one file").on_click(self._download)

    @property
    def address(self) -> str:
        """Where to point a browser."""
        return f"http://{self._host}:{self._server.get_port()}"

    @property
    def status(self) -> str:
        """What was said last."""
        return str(self._status.content)

    def say(self, text: str) -> None:
        """A line above everything else: what is going on."""
        with self._lock:
            if self._status.content != text:
                self._status.content = text

    def show_scene(self, scene: ShownScene) -> None:
        """Objects in place of those shown before."""
        with self._lock, self._server.atomic():
            first = self._scene is None
            self._scene = scene
            self._server.scene.set_up_direction(scene.up)
            self._clear("objects", "boxes", "labels", "frames")
            for o in scene.objects:
                self._add_object(o)
            self._table.content = _table(scene)
            if first:
                self._look_at_everything()

    def show_views(self, views: Sequence[View]) -> None:
        """Cameras with their images in place of those shown before. Views without a pose stand at the origin."""
        with self._lock, self._server.atomic():
            self._clear("cameras")
            self._views = []
            for view in views:
                self.add_view(view)
            self._look_at_everything()

    def add_view(self, view: View, name: str | None = None) -> None:
        """One more camera. name: in place of the camera that was added under it before."""
        with self._lock, self._server.atomic():
            if name is None:
                name = str(len(self._views))
                self._views.append(view)
            height, width = view.masks.shape
            focal = width / 2 / np.tan(FIELD_OF_VIEW / 2) if view.intrinsics is None else view.intrinsics[1, 1]
            size = (_PICTURE_WIDTH, max(1, _PICTURE_WIDTH * height // width))
            smaller = np.asarray(cv2.resize(view.image, size, interpolation=cv2.INTER_AREA))
            T = np.eye(4) if view.T_world_camera is None else view.T_world_camera
            self._server.scene.add_camera_frustum(
                f"/cameras/{name}",
                fov=2 * float(np.arctan(height / 2 / focal)),
                aspect=width / height,
                scale=0.1 * self._reach(),
                thickness=0.003 * self._reach(),
                color=(40, 90, 200),
                image=smaller,
                jpeg_quality=85,
                **_pose(T),
            )

    def html(self) -> str:
        """The whole page as it is now, in one file that needs no server."""
        with self._lock:
            return self._server.scene.as_html()

    def stop(self) -> None:
        """Ends the server."""
        self._server.stop()

    def _toggle(self, name: str, event: viser.GuiEvent[viser.GuiCheckboxHandle]) -> None:
        self._groups[name].visible = event.target.value

    def _clear(self, *groups: str) -> None:
        for name in groups:
            shown = self._groups[name].visible
            self._groups[name].remove()
            self._groups[name] = self._server.scene.add_frame(f"/{name}", show_axes=False, visible=shown)

    def _add_object(self, o: ShownObject) -> None:
        scene, colour, box = self._server.scene, confidence_colour(o.confidence), o.T_world_box
        if o.glb is not None:
            T_world_file = o.T_world_object.copy()
            T_world_file[:3, :3] = T_world_file[:3, :3] @ ROTATION_YUP_ZUP.T  # GLB is y-up, the page takes it as it is
            scene.add_glb(f"/objects/{o.id}", o.glb, scale=o.scale, **_pose(T_world_file))
        edges = (box[:3, 3] + (BOX_EDGES * o.size) @ box[:3, :3].T).astype(np.float32)
        scene.add_line_segments(f"/boxes/{o.id}", edges, colour, thickness=2.5, thickness_units="screen")
        up, middle = np.array(self._up()), o.corners.mean(0)
        at = middle + ((o.corners - middle) @ up).max() * up
        scene.add_label(f"/labels/{o.id}", o.caption, position=at, anchor="bottom-center", font_screen_scale=0.8)
        long = 0.6 * float(np.max(o.size))
        frame = _pose(o.T_world_object)
        scene.add_frame(f"/frames/{o.id}", axes_length=long, axes_radius=0.02 * long, **frame)

    def _up(self) -> tuple[float, float, float]:
        return self._scene.up if self._scene is not None else (0.0, 0.0, 1.0)

    def _reach(self) -> float:
        """How large the scene is: cameras and lines are drawn in proportion to it."""
        if self._scene is None or not self._scene.objects:
            return 0.5
        low, high = _bounds(self._scene)
        return float(np.linalg.norm(high - low))

    def _look_at_everything(self) -> None:
        """Where a page begins: between the cameras, which would be in the way; a grid under what stands upright."""
        if self._scene is None or not self._scene.objects:
            return
        (low, high), reach = _bounds(self._scene), self._reach()
        middle, up = (low + high) / 2, np.array(self._up())
        aside = self._widest_gap(middle) if up[2] else np.array([0.5, 0.0, -1.0])
        first = self._server.initial_camera
        first.up = up
        first.look_at = middle
        first.position = middle + 1.3 * reach * (aside / np.linalg.norm(aside) + 0.6 * up)
        first.fov = float(np.radians(50))
        if up[2]:
            size = float(10 ** np.ceil(np.log10(4 * reach)))
            self._server.scene.add_grid(
                "/grid", width=size, height=size, plane="xy", cell_size=size / 40, section_size=size / 10,
                position=(middle[0], middle[1], low[2]), fade_distance=6 * reach,
            )  # fmt: skip

    def _widest_gap(self, middle: Floats) -> Floats:
        """The level direction, of 24, that is farthest from those in which cameras stand: float64 [3], unit."""
        angles = np.arange(24) * (2 * np.pi / 24) - 0.6
        level = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(24)])
        seen = [view.T_world_camera[:3, 3] - middle for view in self._views if view.T_world_camera is not None]
        if not seen:
            return np.asarray(level[0])
        towards = np.array(seen) * [1.0, 1.0, 0.0]
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
        return np.asarray(level[np.argmin((level @ towards.T).max(1))])

    def _download(self, event: viser.GuiEvent[viser.GuiButtonHandle]) -> None:
        name = self._scene.name if self._scene is not None else "scene"
        if event.client is not None:
            event.client.send_file_download(f"{name}.html", self.html().encode())


class _Pose(TypedDict):
    wxyz: tuple[float, float, float, float]
    position: tuple[float, float, float]


def _pose(T: Floats) -> _Pose:
    w, x, y, z = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True).tolist()
    at = T[:3, 3].tolist()
    return {"wxyz": (w, x, y, z), "position": (at[0], at[1], at[2])}


def _bounds(scene: ShownScene) -> tuple[Floats, Floats]:
    points = np.concatenate([o.corners for o in scene.objects])
    return points.min(0), points.max(0)


def _table(scene: ShownScene) -> str:
    unit = "m" if all(o.metric for o in scene.objects) else "in sizes of the query asset"
    lines = [f"**{scene.name}** in `{scene.frame_id}`", "", f"| id | label | size, {unit} | confidence |", "|-|-|-|-|"]
    for o in scene.objects:
        size = " x ".join(f"{x:.3f}" for x in o.size)
        lines.append(f"| {o.id} | {o.label} | {size} | {o.confidence:.2f} |")
    return "\n".join(lines)
