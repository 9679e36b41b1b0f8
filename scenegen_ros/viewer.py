"""The viewer node: a browser page that shows what the node sees and makes, live, for who has no RViz.

The camera's picture where TF says it stands, a picture more each time it has moved, the scene as soon as it is
announced (coarse, then textured), and a line that says what the node does or waits for. When a scene is there, the
views it was made from take the place of the pictures. Only looks and listens: nothing here changes the node.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from scenegen.documents import VIEWS, scene_views
from scenegen.scene import Floats, InvalidInput, View
from scenegen.viewer import ShownObject, ShownScene, Viewer
from scenegen_ros.action import GenerateScene
from scenegen_ros.conversions import (
    decode_camera_info,
    decode_compressed,
    decode_image,
    read_header,
    read_pose,
    read_transform,
)
from scenegen_ros.msg import Scene, SceneObject
from scenegen_ros.qos import LATCHED, TF, TF_STATIC, sensor
from scenegen_ros.small_nodes import fixed_parameter, positive_parameter, run
from scenegen_ros.transforms import TransformBuffer, TransformError
from scenegen_ros.view_choice import motion

_MOST_PICTURES = 24
_LIVE = "live"


class ViewerNode(Node):
    """Feeds a Viewer from the node's topics."""

    def __init__(self, **kwargs: Any) -> None:
        """kwargs: as rclpy.node.Node takes them. InvalidInput when the page cannot be served."""
        super().__init__("viewer", **kwargs)
        parameter = partial(fixed_parameter, self)
        host: str = parameter("host", "127.0.0.1", "Address to serve on; 0.0.0.0 lets the whole network look.")
        port: int = parameter("port", 8080, "Port to serve on; the next free one is taken when it is in use.")
        rate_hz: float = positive_parameter(self, "rate_hz", 2.0, "How often the camera's picture is renewed.")
        self._fixed_frame: str = parameter("fixed_frame", "map", "Frame in which cameras are drawn, as the node's.")
        self._apart_m: float = parameter("min_translation_m", 0.1, "A picture stays when the camera moved this far")
        self._apart_deg: float = parameter("min_rotation_deg", 10.0, "or turned this much.")
        self._save_dir: str = parameter("save_dir", "", "Folder for an HTML file of each scene. Empty: none.")
        self._page = Viewer(host, port)
        self._transforms = TransformBuffer()
        self._image: tuple[bytes, type] | None = None
        self._info: CameraInfo | None = None
        self._poses: list[Floats] = []
        self._undocumented: Path | None = None
        for kind, topic in ((Image, "image"), (CompressedImage, "image/compressed")):
            self.create_subscription(kind, topic, partial(self._take_image, kind), sensor(), raw=True)
        self.create_subscription(CameraInfo, "camera_info", self._take_info, sensor())
        self.create_subscription(TFMessage, "/tf", lambda m: self._take_tf(m, static=False), TF)
        self.create_subscription(TFMessage, "/tf_static", lambda m: self._take_tf(m, static=True), TF_STATIC)
        self.create_subscription(Scene, "scenegen/scene", self._take_scene, LATCHED)
        feedback = GenerateScene.Impl.FeedbackMessage
        self.create_subscription(feedback, "scenegen/generate_scene/_action/feedback", self._take_feedback, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        self.create_timer(1.0 / rate_hz, self._renew)
        self.get_logger().info(f"point a browser at {self._page.address}")

    @property
    def page(self) -> Viewer:
        """What the browser shows."""
        return self._page

    def destroy_node(self) -> None:
        """Ends the page too."""
        self._page.stop()
        super().destroy_node()

    def _take_image(self, kind: type, cdr: bytes) -> None:
        self._image = (cdr, kind)

    def _take_info(self, message: CameraInfo) -> None:
        self._info = message

    def _take_tf(self, message: TFMessage, *, static: bool) -> None:
        for transform in message.transforms:
            try:
                self._transforms.add(*read_transform(transform), static=static)
            except InvalidInput as error:
                self.get_logger().warning(str(error), throttle_duration_sec=10.0)

    def _take_feedback(self, message: Any) -> None:
        self._page.say(f"generating: {message.feedback.stage} ({message.feedback.progress:.0%})")

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "scenegen: node":
                self._page.say(status.message)

    def _take_scene(self, message: Scene) -> None:
        objects = tuple(self._shown(o) for o in message.objects)
        metric = all(o.metric for o in objects)
        up = (0.0, 0.0, 1.0) if metric and "_optical" not in message.header.frame_id else (0.0, -1.0, 0.0)
        self._page.show_scene(ShownScene(message.id, message.header.frame_id, objects, up))
        path = _local_path(message.uri)
        self._undocumented = None if path is None else path.parent

    def _shown(self, o: SceneObject) -> ShownObject:
        path, glb = _local_path(o.mesh_uri), None
        try:
            glb = path.read_bytes() if path is not None else None
        except OSError as error:
            self.get_logger().warning(f"the mesh {path} cannot be read here ({error.strerror}): its box is shown")
        T = read_pose(o.pose.pose)
        size = np.array([o.size.x, o.size.y, o.size.z])
        return ShownObject(o.id, o.label, o.detail, glb, T, o.scale, size, o.confidence, o.metric)

    def _renew(self) -> None:
        """The camera's newest picture that TF can place; and the views of a scene once the node has written them."""
        self._show_stored_views()
        image, info = self._image, self._info
        if image is None:
            return
        cdr, kind = image
        stamp, frame_id = read_header(cdr)
        try:
            T = self._transforms.lookup(self._fixed_frame, frame_id, stamp)
        except TransformError:
            return  # the next picture, or the same one when TF has come
        self._image = None
        try:
            decode = decode_image if kind is Image else decode_compressed
            pixels = decode(deserialize_message(cdr, kind))
            size = (pixels.shape[0], pixels.shape[1])
            K = None if info is None else decode_camera_info(info, size)
        except InvalidInput as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)
            return
        view = View(pixels, np.zeros(size, np.int32), None, K, T, stamp)
        self._page.add_view(view, _LIVE)
        if all(self._apart(T, other) for other in self._poses) and len(self._poses) < _MOST_PICTURES:
            self._poses.append(T)
            self._page.add_view(view)

    def _show_stored_views(self) -> None:
        folder = self._undocumented
        if folder is None or not (folder / VIEWS).is_dir():
            return
        self._undocumented = None
        try:
            self._page.show_views(scene_views(folder))
        except InvalidInput as error:
            self.get_logger().warning(str(error))
        if self._save_dir:
            self._save(folder.name)

    def _apart(self, T: Floats, other: Floats) -> bool:
        moved_m, turned_deg = motion(T, other)
        return moved_m >= self._apart_m or turned_deg >= self._apart_deg

    def _save(self, scene_id: str) -> None:
        path = Path(self._save_dir).expanduser() / f"{scene_id}.html"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._page.html())
        except OSError as error:
            self.get_logger().error(f"cannot write {path} ({error.strerror}): choose another save_dir")


def _local_path(uri: str) -> Path | None:
    parts = urlparse(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def main(args: list[str] | None = None) -> int:
    """Runs the viewer until it is interrupted; 1 when the page cannot be served."""
    return run("viewer", ViewerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
