"""A stored scene as an MCAP recording: what the cameras saw, where they stood, and what was made of it.

Topics are those of the node, so that Foxglove shows it, `ros2 bag` and the simulated camera play it. Objects are
Foxglove's SceneUpdate with the meshes inside, since markers name files that other machines do not have. Knows nothing
about ROS installations: rosbags writes it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from scenegen.contact_sheet import confidence_colour
from scenegen.documents import scene_views
from scenegen.files import read_scene
from scenegen.scene import Floats, InvalidInput, View
from scenegen.viewer import BOX_EDGES, ShownObject, ShownScene, shown_scene

CAMERA_FRAME = "camera_optical_frame"
SCENE_TOPIC = "/scenegen/scene_update"
_FIXED_FRAME = "map"
_PAUSE_NS = 500_000_000
"""Between views whose stamps say nothing."""

Message = tuple[str, str, int, Any]
"""Topic, type, stamp in nanoseconds, message."""


def record_scene(folder: Path, out: Path) -> Path:
    """Write one MCAP file. It appears whole or not at all.

    InvalidInput when the folder holds no scene, rosbags is not installed, or the file is there already or cannot be
    written.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
    except ImportError as error:
        raise InvalidInput(
            "recordings need rosbags, which is not installed: pip install -r requirements/bags.txt "
            "-c requirements/constraints.txt"
        ) from error
    if out.exists():
        raise InvalidInput(f"{out} is there already: choose another file")
    recording = Recording(folder)
    try:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".unfinished-") as scratch:
            bag = Path(scratch) / "recording"
            with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
                connections: dict[str, Any] = {}
                for topic, kind, stamp_ns, message in recording.messages():
                    if topic not in connections:
                        connections[topic] = writer.add_connection(topic, kind, typestore=recording.types)
                    cdr = recording.types.serialize_cdr(message, kind)
                    writer.write(connections[topic], stamp_ns, cdr)
            shutil.move(bag / "recording.mcap", out)
    except OSError as error:
        raise InvalidInput(f"cannot write {out} ({error.strerror or error}): choose another place") from error
    return out


class Recording:
    """The messages of one scene, in the order of time."""

    def __init__(self, folder: Path) -> None:
        """InvalidInput when the folder holds no scene."""
        meta = read_scene(folder)[2]
        self._views: Sequence[View] = scene_views(folder)
        self._scene: ShownScene = shown_scene(folder)
        in_camera = self._scene.up != (0.0, 0.0, 1.0)
        self._camera_frame = self._scene.frame_id if in_camera and self._scene.frame_id else CAMERA_FRAME
        self._fixed_frame = _FIXED_FRAME if in_camera or not self._scene.frame_id else self._scene.frame_id
        self._scene_frame = self._camera_frame if in_camera else self._fixed_frame
        stamps = [view.stamp_ns for view in self._views]
        if not all(stamps) or stamps != sorted(set(stamps)):
            stamps = [(i + 1) * _PAUSE_NS for i in range(len(stamps))]
        self._stamps = stamps
        self._made_ns = max([*stamps, int(meta["stamp_ns"])]) if stamps else int(meta["stamp_ns"]) or _PAUSE_NS

    @cached_property
    def types(self) -> Any:
        """rosbags' store of the types used."""
        from scenegen.recording_types import message_types

        return message_types()

    def messages(self) -> Iterator[Message]:
        """Views first, then what was made of them."""
        for view, stamp_ns in zip(self._views, self._stamps, strict=True):
            yield from self._view(view, stamp_ns)
        frames = [
            self._transform(self._made_ns, self._scene_frame, f"scenegen/{o.id}", o.T_world_object)
            for o in self._scene.objects
            if o.metric
        ]
        if frames:
            yield "/tf", "tf2_msgs/msg/TFMessage", self._made_ns, self._new("tf2_msgs/TFMessage", transforms=frames)
        entities = [self._entity(o) for o in self._scene.objects]
        forget = self._new("foxglove_msgs/SceneEntityDeletion", timestamp=self._time(self._made_ns), type=1, id="")
        update = self._new("foxglove_msgs/SceneUpdate", deletions=[forget], entities=entities)
        yield SCENE_TOPIC, "foxglove_msgs/msg/SceneUpdate", self._made_ns, update

    def _view(self, view: View, stamp_ns: int) -> Iterator[Message]:
        if view.T_world_camera is not None:
            frame = self._transform(stamp_ns, self._fixed_frame, self._camera_frame, view.T_world_camera)
            yield "/tf", "tf2_msgs/msg/TFMessage", stamp_ns, self._new("tf2_msgs/TFMessage", transforms=[frame])
        header = self._header(stamp_ns, self._camera_frame)
        yield "/camera_info", "sensor_msgs/msg/CameraInfo", stamp_ns, self._camera_info(header, view)
        wide = view.masks.max(initial=0) > np.iinfo(np.uint16).max
        masks = view.masks.astype(np.int32 if wide else np.uint16)
        planes = [("/image", view.image, "rgb8"), ("/masks", masks, "32SC1" if wide else "16UC1")]
        if view.depth_m is not None:
            planes.append(("/depth", np.nan_to_num(view.depth_m).astype(np.float32), "32FC1"))
        for topic, pixels, encoding in planes:
            yield topic, "sensor_msgs/msg/Image", stamp_ns, self._image(header, pixels, encoding)

    def _entity(self, o: ShownObject) -> Any:
        empty: list[Any] = []
        red, green, blue = (value / 255 for value in confidence_colour(o.confidence))
        colour = self._new("foxglove_msgs/Color", r=red, g=green, b=blue, a=1.0)
        box = self._new(
            "foxglove_msgs/LinePrimitive", type=2, pose=self._pose(o.T_world_box), thickness=2.0,
            scale_invariant=True, points=[self._point(p) for p in BOX_EDGES.reshape(-1, 3) * o.size], color=colour,
            colors=empty, indices=np.zeros(0, np.uint32),
        )  # fmt: skip
        top = o.T_world_box.copy()
        top[:3, 3] += 0.6 * float(np.linalg.norm(o.size)) * np.array(self._scene.up)
        label = self._new(
            "foxglove_msgs/TextPrimitive", pose=self._pose(top), billboard=True, font_size=14.0, scale_invariant=True,
            color=colour, text=o.caption,
        )  # fmt: skip
        models = []
        if o.glb is not None:
            # Foxglove turns glTF to z up by itself, unlike RViz: the pose is the object's.
            models.append(
                self._new(
                    "foxglove_msgs/ModelPrimitive",
                    pose=self._pose(o.T_world_object),
                    scale=self._vector(np.full(3, o.scale)),
                    color=colour,
                    override_color=False,
                    url="",
                    media_type="model/gltf-binary",
                    data=np.frombuffer(o.glb, np.uint8),
                )  # fmt: skip
            )
        said = {"label": o.label, "confidence": f"{o.confidence:.3f}", "detail": o.detail, "metric": str(o.metric)}
        return self._new(
            "foxglove_msgs/SceneEntity", timestamp=self._time(self._made_ns), frame_id=self._scene_frame,
            id=str(o.id), lifetime=self._new("builtin_interfaces/Duration", sec=0, nanosec=0), frame_locked=True,
            metadata=[self._new("foxglove_msgs/KeyValuePair", key=k, value=v) for k, v in said.items()],
            arrows=empty, cubes=empty, spheres=empty, cylinders=empty, lines=[box], triangles=empty, texts=[label],
            models=models,
        )  # fmt: skip

    def _new(self, kind: str, **fields: Any) -> Any:
        package, name = kind.split("/")
        return self.types.types[f"{package}/msg/{name}"](**fields)

    def _time(self, stamp_ns: int) -> Any:
        return self._new("builtin_interfaces/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        return self._new("std_msgs/Header", stamp=self._time(stamp_ns), frame_id=frame_id)

    def _image(self, header: Any, pixels: NDArray[Any], encoding: str) -> Any:
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).view(np.uint8).ravel()
        return self._new(
            "sensor_msgs/Image", header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
            step=data.size // height, data=data,
        )  # fmt: skip

    def _camera_info(self, header: Any, view: View) -> Any:
        K = np.zeros((3, 3)) if view.intrinsics is None else view.intrinsics
        zero = {name: 0 for name in ("x_offset", "y_offset", "height", "width")}
        return self._new(
            "sensor_msgs/CameraInfo", header=header, height=view.masks.shape[0], width=view.masks.shape[1],
            distortion_model="plumb_bob", d=np.zeros(5), k=K.ravel(), r=np.eye(3).ravel(),
            p=np.column_stack([K, np.zeros(3)]).ravel(), binning_x=0, binning_y=0,
            roi=self._new("sensor_msgs/RegionOfInterest", **zero, do_rectify=False),
        )  # fmt: skip

    def _transform(self, stamp_ns: int, parent: str, child: str, T: Floats) -> Any:
        transform = self._new("geometry_msgs/Transform", translation=self._vector(T[:3, 3]), rotation=self._turn(T))
        header = self._header(stamp_ns, parent)
        return self._new("geometry_msgs/TransformStamped", header=header, child_frame_id=child, transform=transform)

    def _pose(self, T: Floats) -> Any:
        return self._new("geometry_msgs/Pose", position=self._point(T[:3, 3]), orientation=self._turn(T))

    def _turn(self, T: Floats) -> Any:
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat().tolist()
        return self._new("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)

    def _vector(self, values: Floats) -> Any:
        x, y, z = values.tolist()
        return self._new("geometry_msgs/Vector3", x=x, y=y, z=z)

    def _point(self, values: Floats) -> Any:
        x, y, z = values.tolist()
        return self._new("geometry_msgs/Point", x=x, y=y, z=z)
