"""A stored scene as ROS messages: Scene, markers, detections, transforms.

Pure functions; knows nothing about topics, QoS or the node.
"""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovariance, TransformStamped, Vector3
from std_msgs.msg import ColorRGBA, Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from scenegen.scene import ROTATION_YUP_ZUP, Asset, PlacedObject
from scenegen_ros.conversions import pose_message, transform_message
from scenegen_ros.msg import Scene, SceneObject
from scenegen_ros.scene_store import StoredScene

NAMESPACE = "scenegen"
NOT_METRIC_ALPHA = 0.5
"""How markers of objects without metric scale look: see-through, so that nobody takes them for measured."""


def object_frame(instance: int) -> str:
    """TF frame of an object."""
    return f"{NAMESPACE}/{instance}"


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds -> builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header_message(stored: StoredScene) -> Header:
    """Frame of the poses, and the stamp they hold at."""
    return Header(stamp=time_message(stored.stamp_ns), frame_id=stored.frame_id)


def scene_message(stored: StoredScene) -> Scene:
    """The whole scene as scenegen_ros/Scene."""
    return Scene(
        header=header_message(stored),
        id=stored.id,
        objects=[_object_message(stored, placed) for placed in stored.objects],
        query=stored.scene.assets[stored.scene.query].id,
        uri=stored.uri,
    )


def _object_message(stored: StoredScene, placed: PlacedObject) -> SceneObject:
    return SceneObject(
        id=placed.id,
        label=placed.label,
        pose=PoseWithCovariance(
            pose=pose_message(placed.T_world_object), covariance=placed.covariance.ravel().astype(float)
        ),
        size=_vector(placed.size_m),
        scale=float(placed.scale_m),
        metric=bool(placed.metric),
        confidence=float(placed.confidence),
        residual=float(placed.residual_m),
        mesh_uri=stored.mesh_uri(placed.id),
        detail=placed.asset.detail,
    )


def marker_array(stored: StoredScene) -> MarkerArray:
    """Meshes for RViz. The first marker deletes all earlier ones: also stale ones of a former process."""
    header = header_message(stored)
    markers = [Marker(header=header, ns=NAMESPACE, action=Marker.DELETEALL)]
    for placed in stored.objects:
        marker = Marker(header=header, ns=NAMESPACE, id=placed.id, type=Marker.MESH_RESOURCE, action=Marker.ADD)
        T_world_file = placed.T_world_object.copy()
        T_world_file[:3, :3] = T_world_file[:3, :3] @ ROTATION_YUP_ZUP.T  # the file is y-up, RViz takes it as it is
        marker.pose = pose_message(T_world_file)
        marker.scale = _vector(np.full(3, placed.scale_m))
        marker.mesh_resource = stored.mesh_uri(placed.id)
        marker.mesh_use_embedded_materials = placed.asset.detail == "textured"
        marker.color = _tint(placed)
        markers.append(marker)
    return MarkerArray(markers=markers)


def _tint(placed: PlacedObject) -> ColorRGBA:
    """The asset's mean colour, for RViz loads no vertex colours from files; white where a texture shows.

    All zeros means "as the file says" to RViz.
    """
    textured = placed.asset.detail == "textured"
    if textured and placed.metric:
        return ColorRGBA()
    red, green, blue = (1.0, 1.0, 1.0) if textured else _mean_colour(placed.asset)
    return ColorRGBA(r=red, g=green, b=blue, a=1.0 if placed.metric else NOT_METRIC_ALPHA)


def _mean_colour(asset: Asset) -> tuple[float, float, float]:
    colours = getattr(asset.mesh.visual, "vertex_colors", None)
    if colours is None or len(colours) == 0:
        return 0.7, 0.7, 0.7
    red, green, blue = (np.asarray(colours, float)[:, :3].mean(axis=0) / 255).tolist()
    return red, green, blue


def detections(stored: StoredScene) -> Detection3DArray:
    """The metric objects as boxes along their own axes. Others are left out: this message cannot say "not metric"."""
    header = header_message(stored)
    array = Detection3DArray(header=header)
    for placed in stored.objects:
        if not placed.metric:
            continue
        detection = Detection3D(header=header, id=str(placed.id))
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = placed.label
        result.hypothesis.score = float(placed.confidence)
        result.pose.pose = pose_message(placed.T_world_object)
        result.pose.covariance = placed.covariance.ravel().astype(float)
        detection.results = [result]
        T_object_box = np.eye(4)
        T_object_box[:3, 3] = placed.scale_m * placed.asset.mesh.bounds.mean(axis=0)
        detection.bbox.center = pose_message(placed.T_world_object @ T_object_box)
        detection.bbox.size = _vector(placed.size_m)
        array.detections.append(detection)
    return array


def transforms(stored: StoredScene, stamp: Time) -> TFMessage:
    """A frame per metric object, under the scene's frame. Others get none: TF is metres and cannot say otherwise."""
    message = TFMessage()
    for placed in stored.objects:
        if placed.metric:
            message.transforms.append(
                TransformStamped(
                    header=Header(stamp=stamp, frame_id=stored.frame_id),
                    child_frame_id=object_frame(placed.id),
                    transform=transform_message(placed.T_world_object),
                )
            )
    return message


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)
