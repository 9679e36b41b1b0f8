"""sensor_msgs and geometry_msgs <-> numpy, judged at the edge.

Knows nothing about topics, pairing or the node. Reading takes any object with the message's fields, so it needs no
ROS; quaternions are wxyz inside scenegen and converted here only (DESIGN section 5).
"""

from __future__ import annotations

import array
import struct
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Pose, Transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image

from scenegen.scene import Floats, InvalidInput
from scenegen_ros.rectification import Lens

MAX_INSTANCES = 256
"""More ids than this in one image are not instances: the masks were blurred, resized or compressed with loss."""

_PIXEL = {  # encoding -> (numpy type, channels), sensor_msgs/image_encodings.hpp
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "8UC3": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32SC1": ("i4", 1),
    "32FC1": ("f4", 1),
}
_IMAGE = ("rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "mono8", "8UC1")
_MASKS = ("mono8", "8UC1", "mono16", "16UC1", "32SC1", "rgb8", "bgr8")
_DEPTH = ("32FC1", "16UC1", "mono16")


def read_header(cdr: bytes) -> tuple[int, str]:
    """Stamp in nanoseconds and frame id of a serialized message that starts with a std_msgs/Header.

    Reads the first bytes of the CDR (OMG DDSI-RTPS 10: 4 bytes of encapsulation, int32, uint32, string), so that a
    frame that will not be kept is never deserialized.
    """
    order = "<" if cdr[1] & 1 else ">"
    sec, nanosec, length = struct.unpack_from(order + "iII", cdr, 4)
    return sec * 1_000_000_000 + nanosec, cdr[16 : 16 + max(length - 1, 0)].decode(errors="replace")


def _pixels(message: Any, topic: str, accepted: tuple[str, ...]) -> NDArray[Any]:
    """[H, W] or [H, W, C] view of the message's data, native byte order, row padding removed."""
    if message.encoding not in accepted:
        raise InvalidInput(
            f"{topic} has encoding '{message.encoding}', accepted are {', '.join(accepted)}: "
            "convert it before it reaches this node (image_proc does)"
        )
    kind, channels = _PIXEL[message.encoding]
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    row = message.width * channels * dtype.itemsize
    step = message.step or row
    if not message.width or not message.height or step < row or len(message.data) < step * (message.height - 1) + row:
        raise InvalidInput(
            f"{topic} says {message.width}x{message.height} '{message.encoding}' with rows of {message.step} bytes but "
            f"carries {len(message.data)} bytes, {step * message.height} are needed: the publisher's message is broken"
        )
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(data, (message.height, row), (step, 1))
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(message.height, message.width, channels)
    return (pixels[..., 0] if channels == 1 else pixels).astype(dtype.newbyteorder("="), copy=False)


def decode_image(message: Any) -> NDArray[np.uint8]:
    """sensor_msgs/Image -> uint8 [H, W, 3] RGB. InvalidInput on another encoding or too few bytes."""
    pixels = _pixels(message, "image", _IMAGE)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    bgr = message.encoding in ("bgr8", "bgra8", "8UC3")
    return np.ascontiguousarray(pixels[..., 2::-1] if bgr else pixels[..., :3])


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """sensor_msgs/CompressedImage (JPEG, PNG, whatever OpenCV reads) -> uint8 [H, W, 3] RGB. InvalidInput if broken."""
    data = np.frombuffer(message.data, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise InvalidInput(
            f"image/compressed with format '{message.format}' and {data.size} bytes cannot be decoded: "
            "publish JPEG or PNG"
        )
    return np.ascontiguousarray(pixels[..., ::-1])


def decode_masks(message: Any) -> NDArray[np.int32]:
    """sensor_msgs/Image of instances -> int32 [H, W] ids, 0 = background.

    One channel: the value is the id, negative ones are background. rgb8/bgr8: every colour is an instance with the id
    red * 65536 + green * 256 + blue, black is background. InvalidInput on another encoding or more than MAX_INSTANCES.
    """
    pixels = _pixels(message, "masks", _MASKS)
    if pixels.ndim == 3:
        channels = pixels.astype(np.int32)
        red, blue = (0, 2) if message.encoding == "rgb8" else (2, 0)
        pixels = channels[..., red] << 16 | channels[..., 1] << 8 | channels[..., blue]
    ids = np.maximum(pixels.astype(np.int32), 0)
    sample = np.unique(ids[:: max(ids.shape[0] // 64, 1)])
    if sample.size > MAX_INSTANCES:
        raise InvalidInput(
            f"masks hold more than {MAX_INSTANCES} instances (encoding '{message.encoding}'): they look blurred, "
            "resized or compressed with loss; publish instance ids as 16UC1 or with nearest-neighbour resizing"
        )
    return ids


def decode_depth(message: Any) -> NDArray[np.float32]:
    """sensor_msgs/Image -> float32 [H, W] metres, 0 = no reading (32FC1 metres, 16UC1 millimetres, REP 118)."""
    pixels = _pixels(message, "depth", _DEPTH)
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * np.float32(1e-3)
    return np.where(np.isfinite(pixels) & (pixels > 0), pixels, 0).astype(np.float32)


def decode_camera_info(message: Any, size: tuple[int, int]) -> Floats | None:
    """sensor_msgs/CameraInfo -> float64 [3, 3] of the rectified image, or None where the camera is uncalibrated.

    size: (height, width) of the image it belongs to; InvalidInput when it is for another one. P holds the rectified
    intrinsics, K stands in where P is empty; both are of the full sensor, so region of interest and binning apply.
    """
    roi = message.roi
    bin_x, bin_y = _binning(message)
    width, height = (roi.width or message.width) // bin_x, (roi.height or message.height) // bin_y
    if (height, width) != tuple(size):
        raise InvalidInput(
            f"camera_info is for {width}x{height} but its image is {size[1]}x{size[0]}: both must come from the same "
            "camera at the same resolution"
        )
    P = np.asarray(message.p, float).reshape(3, 4)[:, :3]
    K = P if P[0, 0] else np.asarray(message.k, float).reshape(3, 3)
    if K[0, 0] == 0:  # sensor_msgs/CameraInfo: "K[0] == 0.0 means uncalibrated"
        return None
    return _of_window(K, message)


def decode_lens(message: Any, size: tuple[int, int]) -> Lens | None:
    """sensor_msgs/CameraInfo -> what its lens does to the image, or None where it does nothing or is not known.

    InvalidInput as decode_camera_info, and on a distortion that this project does not know.
    """
    P = decode_camera_info(message, size)
    if P is None:
        return None
    K = np.asarray(message.k, float).reshape(3, 3)
    R = np.asarray(message.r, float).reshape(3, 3)
    return Lens.of(message.distortion_model, size, _of_window(K, message) if K[0, 0] else P, message.d, R, P)


def _binning(message: Any) -> tuple[int, int]:
    return max(message.binning_x, 1), max(message.binning_y, 1)


def _of_window(K: Floats, message: Any) -> Floats:
    """A camera matrix of the full sensor -> of the region of interest, binned."""
    bin_x, bin_y = _binning(message)
    K = K.copy()
    K[0, 2] -= message.roi.x_offset
    K[1, 2] -= message.roi.y_offset
    K[0] /= bin_x
    K[1] /= bin_y
    return K


def read_transform(
    message: Any,
) -> tuple[str, str, int, tuple[float, float, float], tuple[float, float, float, float]]:
    """geometry_msgs/TransformStamped -> what TransformBuffer.add takes: parent, child, ns, translation, wxyz."""
    p, q = message.transform.translation, message.transform.rotation
    frames = message.header.frame_id, message.child_frame_id
    return *frames, stamp_ns(message.header.stamp), (p.x, p.y, p.z), (q.w, q.x, q.y, q.z)


def transform_message(T_parent_child: Floats) -> Transform:
    """Rigid float64 [4, 4] -> geometry_msgs/Transform."""
    pose, message = pose_message(T_parent_child), Transform()
    message.rotation = pose.orientation
    message.translation.x, message.translation.y, message.translation.z = T_parent_child[:3, 3].tolist()
    return message


def pose_message(T_parent_child: Floats) -> Pose:
    """Rigid float64 [4, 4] -> geometry_msgs/Pose."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = T_parent_child[:3, 3].tolist()
    q = message.orientation
    q.x, q.y, q.z, q.w = Rotation.from_matrix(T_parent_child[:3, :3]).as_quat().tolist()
    return message


def read_pose(message: Any) -> Floats:
    """geometry_msgs/Pose -> rigid float64 [4, 4]."""
    T, p, q = np.eye(4), message.position, message.orientation
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = p.x, p.y, p.z
    return T


def byte_array(values: NDArray[Any]) -> array.array[int]:
    """The bytes of an array as rclpy takes them for uint8[] without a slow copy (spec/ros.md section 3)."""
    out = array.array("B")
    out.frombytes(np.ascontiguousarray(values).data.cast("B"))
    return out


def image_message(pixels: NDArray[Any], encoding: str) -> Image:
    """[H, W] or [H, W, C] in little-endian byte order -> sensor_msgs/Image without stamp and frame."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels.shape[1] * int(np.prod(pixels.shape[2:], dtype=int)) * pixels.itemsize
    message.data = byte_array(pixels)
    return message


def camera_info_message(intrinsics: Floats | None, size: tuple[int, int]) -> CameraInfo:
    """Rectified intrinsics [3, 3] and (height, width) -> sensor_msgs/CameraInfo; zeros (uncalibrated) without them."""
    message = CameraInfo(height=size[0], width=size[1], distortion_model="plumb_bob", d=[0.0] * 5)
    if intrinsics is not None:
        message.k = intrinsics.ravel().tolist()
        message.r = np.eye(3).ravel().tolist()
        message.p = np.column_stack([intrinsics, np.zeros(3)]).ravel().tolist()
    return message


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
